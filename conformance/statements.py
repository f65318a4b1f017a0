"""The statements of the specification that cases name, as far as docs/spec.md lies beside the suite."""

import re
from functools import cache
from pathlib import Path
from typing import Final

_SPEC: Final = Path(__file__).parents[1] / "docs" / "spec.md"
_ROW: Final = re.compile(r"^\| ([SP]-\d{3}) \|.*\| ([^|]+) \|$")


@cache
def statements() -> dict[str, str]:
    """Return each statement's text by id; nothing where the suite was copied without the document."""
    try:
        lines = _SPEC.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    # The first table that has an id is the statement itself; later ones comment on it.
    found: dict[str, str] = {}
    for line in lines:
        matched = _ROW.match(line)
        if matched and line.count(" | ") == 5:
            found.setdefault(matched[1], matched[2])
    return found
