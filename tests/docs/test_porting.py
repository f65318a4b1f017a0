"""The porter's guide: the driver that it quotes is the driver that there is, and the change that it proposes is a cure."""

import re
import sys
from pathlib import Path

import pytest

from conformance.case import load_all
from conformance.runner import Runner
from conformance.selection import everything
from conformance.statements import statements
from conformance.verdict import Status
from tests.conformance.test_tutorial import PATH, needs_x86

GUIDE = Path(__file__).parents[2] / "docs" / "porting.md"
TEXT = GUIDE.read_text(encoding="utf-8")


def fenced(language: str) -> list[str]:
    """Return the blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def patched(text: str, change: str) -> str:
    """Return a text with a unified diff applied."""
    for hunk in re.split(r"^@@.*@@\n", change, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] or "\n" for line in lines if not line.startswith("+"))
        new = "".join(line[1:] or "\n" for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_pieces_are_the_file() -> None:
    assert "".join(fenced("python")) == PATH.read_text(encoding="utf-8")


@needs_x86
@pytest.mark.parametrize("identity", ["FP-LEAK-001", "FP-LEAK-002", "FP-MXCSR-001", "FP-X87-001"])
def test_the_change_is_a_cure(tmp_path: Path, identity: str) -> None:
    """P-060, P-061: what fails without it passes with it."""
    (change,) = fenced("diff")
    driver = tmp_path / "with_fp.py"
    driver.write_text(patched(PATH.read_text(encoding="utf-8"), change), encoding="utf-8")
    case = next(case for case in load_all("x86_64") if case.id == identity)
    found = []
    for path in (PATH, driver):
        runner = Runner([sys.executable, str(path)])
        (verdict,) = runner.run([case])
        runner.close()
        found.append(verdict.status)
    assert found == [Status.FAIL, Status.PASS]


def test_every_case_that_is_named_exists() -> None:
    """Ids in code font, also with a glob at the end."""
    known = [*(item.id for item in everything("x86_64")), *statements()]
    for name in re.findall(r"`([A-Z]+(?:-[A-Z0-9]+)*-(?:[0-9]{3}|\*))`", TEXT):
        assert any(identity.startswith(name.rstrip("*")) for identity in known), name
