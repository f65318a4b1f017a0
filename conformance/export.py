"""The cases as canonical JSON, for runners in other languages: one object, keys sorted, everything written out.

What the TOML files leave to defaults is there; ``$code`` in mappings is replaced by the code; hex is lower case without blanks.
Equal cases give equal bytes. See schemas/cases.schema.json.
"""

import json
import tomllib
from collections.abc import Sequence
from typing import Final

from conformance.case import Case
from conformance.protocol import PROTOCOL, SPEC, SUITE
from conformance.shapes import Table

_KEPT: Final = ("asm", "note")


def export(cases: Sequence[Case]) -> str:
    """Return the JSON text of cases."""
    head = {"suite": SUITE, "protocol": PROTOCOL, "spec": SPEC}
    whole = {**head, "cases": [_case(case) for case in cases]}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _case(case: Case) -> Table:
    source: Table = tomllib.loads(case.path.read_text(encoding="utf-8"))
    code = case.code.hex()
    found: Table = {name: source[name] for name in _KEPT if name in source}
    refs = source.get("refs", [])
    return {
        **found,
        "id": case.id,
        "title": case.title,
        "require": list(case.require),
        "level": case.level,
        "tier": case.tier,
        "arch": case.arch,
        "need": list(case.need),
        "timeout_ms": case.timeout_ms,
        "refs": refs if isinstance(refs, list) else [],
        "code": code,
        "spaces": list(case.spaces),
        "contexts": dict(case.contexts),
        "maps": [
            {
                "space": one.space,
                "addr": one.addr,
                "len": one.length,
                "prot": one.prot,
                "data": one.data.hex(),
                "at": one.at,
                "src": {"object": one.object, "offset": one.offset} if one.object else {"anon": True},
            }
            for one in case.maps
        ],
        "steps": [_step(step, code) for step in _tables(source.get("step"))],
    }


def _tables(value: object) -> list[Table]:
    """Return a list of tables as such."""
    found = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    return [{str(name): field for name, field in one.items()} for one in found]


def _step(step: Table, code: str) -> Table:
    """Return a step with its defaults, and the steps within it likewise."""
    whole: Table = {"do": "switch", "repeat": 1, **step}
    if "data" in whole:
        data = str(whole["data"])
        whole["data"] = code if data == "$code" else bytes.fromhex(data).hex()
    if "step" in whole:
        whole["step"] = [_step(one, code) for one in _tables(step["step"])]
    return whole
