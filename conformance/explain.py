"""``explain ID``: all there is to know about a case, for somebody whose driver fails it."""

import difflib
import inspect
import json
import textwrap
import tomllib
from collections.abc import Iterator
from typing import Final

from conformance.case import Case
from conformance.checks import Check
from conformance.selection import SelectionError, everything
from conformance.statements import statements
from conformance.verdict import TIERS, Item

_LEVELS: Final = {
    "must": "a driver that fails it does not conform",
    "should": "there may be a good reason to fail it",
    "may": "implementations differ here",
}


def explain(identity: str, arch: str) -> str:
    """Return the text. Raises SelectionError when there is no such case."""
    known = {item.id: item for item in everything(arch)}
    item = known.get(identity.upper())
    if item is None:
        near = difflib.get_close_matches(identity.upper(), known, 3)
        raise SelectionError(f"there is no case {identity}" + (f"; there is {', '.join(near)}" if near else ""))
    body = _case(item) if isinstance(item, Case) else _check(item)
    run = ("", f"run it: python3 -m conformance run --only {item.id} --driver ...")
    return "\n".join((*_head(item), *body, *run)) + "\n"


def _head(item: Item) -> Iterator[str]:
    yield f"{item.id}  {item.title}"
    yield ""
    yield f"tier {item.tier}: {TIERS.get(item.tier, '')}"
    yield f"level {item.level}: {_LEVELS[item.level]}"
    if item.need:
        yield f"needs {', '.join(item.need)}: unsupported without"
    texts = statements()
    for name in item.require:
        yield f"shows {name}: {texts.get(name, '(see the specification)')}"


def _case(case: Case) -> Iterator[str]:
    source = tomllib.loads(case.path.read_text(encoding="utf-8"))
    for name in ("note", "refs"):
        if name in source:
            value = source[name]
            yield f"{name}: {'; '.join(map(str, value)) if isinstance(value, list) else value}"
    if case.code:
        yield ""
        yield f"code, {len(case.code)} bytes:"
        yield from (f"    {line}" for line in textwrap.wrap(case.code.hex(" "), 96))
        yield from (
            f"    {line.strip()}" for line in str(source.get("asm", "")).replace(";", "\n").splitlines() if line.strip()
        )
    if case.maps:
        yield ""
        yield "memory:"
    for one in case.maps:
        what = f"object {one.object} from {one.offset}" if one.object else "zeros"
        data = f", then {len(one.data)} bytes at +{one.at:#x}" if one.data else ""
        yield f"    {one.space}: {one.addr} +{one.length:#x} {one.prot or '---'}  {what}{data}"
    yield ""
    yield "steps:"
    yield from _steps(source.get("step", []), "")
    yield ""
    yield f"file: {case.path}"


def _steps(steps: object, prefix: str) -> Iterator[str]:
    """Yield a line for each step, numbered as verdicts number them."""
    for index, step in enumerate(steps if isinstance(steps, list) else []):
        fields = {name: value for name, value in step.items() if name not in ("do", "step")}
        yield f"    {prefix}{index}: {step.get('do', 'switch')} {_fields(fields)}".rstrip()
        yield from _steps(step.get("step", []), f"    {prefix}{index}.")


def _fields(fields: dict[str, object]) -> str:
    return "  ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())


def _check(check: Check) -> Iterator[str]:
    yield ""
    yield "a check in Python, in conformance/checks.py:"
    yield from (f"    {line}" for line in inspect.getsource(check.carry_out).splitlines())
