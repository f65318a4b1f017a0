"""Case files: TOML, read into typed records, with every mistake told (README.md, "A case")."""

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

CASES: Final = Path(__file__).parent / "cases"

_T = TypeVar("_T")

_ID: Final = re.compile(r"[A-Z]+(-[A-Z0-9]+)*-[0-9]{3}")
_LEVELS: Final = ("must", "should", "may")
_CASE_FIELDS: Final = frozenset(
    "id title require level tier arch timeout_ms refs code asm map space context step need note".split()
)
_MAP_FIELDS: Final = frozenset("space addr len prot data object offset".split())
_STEP_FIELDS: Final = {
    "switch": frozenset("context set expect one_of timeout_ms interrupt_after_us interrupt_first".split()),
    "parallel": frozenset("contexts set expect one_of timeout_ms".split()),
    "interrupt": frozenset(("context",)),
    "regs": frozenset("context set expect".split()),
    "fp": frozenset("context part set expect".split()),
    "memory": frozenset("space addr write expect len".split()),
    "map": _MAP_FIELDS,
    "unmap": frozenset("space addr len".split()),
    "protect": frozenset("space addr len prot".split()),
    "release": frozenset("context space".split()),
}
_COMMON: Final = frozenset(("do", "repeat"))

Table = dict[str, object]


class CaseError(Exception):
    """A case file is not as it must be."""


class Mapping(NamedTuple):
    """A mapping to make: anonymous with ``data`` at its start, or of a named object."""

    space: str
    addr: str
    length: int
    prot: str
    data: bytes
    object: str
    offset: str


class Step(NamedTuple):
    """One step: what to do, and the fields for it, already checked by name. ``mapping`` is set for "map"."""

    do: str
    repeat: int
    fields: Table
    mapping: Mapping | None


class Case(NamedTuple):
    """A case. ``contexts`` maps names to the spaces they run in; "main" is always there, as a space and as a context."""

    id: str
    title: str
    require: tuple[str, ...]
    level: str
    tier: int
    arch: str
    timeout_ms: int
    need: tuple[str, ...]
    code: bytes
    maps: tuple[Mapping, ...]
    spaces: tuple[str, ...]
    contexts: dict[str, str]
    steps: tuple[Step, ...]
    path: Path


def load_all(arch: str, root: Path = CASES) -> Iterator[Case]:
    """Yield the cases for an architecture, by id. Raises CaseError."""
    cases = [load(path) for path in sorted((root / arch).glob("*.toml"))]
    seen: set[str] = set()
    for case in sorted(cases, key=lambda case: (case.tier, case.id)):
        if case.id in seen:
            raise CaseError(f"{case.path}: the id {case.id} is taken")
        seen.add(case.id)
        yield case


def load(path: Path) -> Case:
    """Read one case file. Raises CaseError."""
    try:
        with path.open("rb") as file:
            table: Table = tomllib.load(file)
        return _case(table, path)
    except (CaseError, tomllib.TOMLDecodeError) as error:
        raise CaseError(f"{path.name}: {error}") from error


def _case(table: Table, path: Path) -> Case:
    _known(table, _CASE_FIELDS, "case")
    identity = _get(table, "id", str)
    if not _ID.fullmatch(identity) or path.stem != identity.lower():
        raise CaseError(f"id {identity!r} must look like AREA-NAME-001, and name the file")
    level = _get(table, "level", str)
    if level not in _LEVELS:
        raise CaseError(f"level must be one of {', '.join(_LEVELS)}")
    code = _hex(_get(table, "code", str), "code")
    contexts = {"main": "main"}
    for given in _tables(table, "context"):
        _known(given, frozenset(("name", "space")), "context")
        contexts[_get(given, "name", str)] = _get(given, "space", str, lambda: "main")
    spaces = ("main", *(_get(given, "name", str) for given in _tables(table, "space")))
    steps = tuple(_step(step, code) for step in _tables(table, "step"))
    if not steps:
        raise CaseError("a case without steps tests nothing")
    return Case(
        identity,
        _get(table, "title", str),
        tuple(_texts(table, "require")),
        level,
        _get(table, "tier", int),
        _get(table, "arch", str),
        _get(table, "timeout_ms", int, lambda: 2000),
        tuple(_texts(table, "need")),
        code,
        tuple(_mapping(given, code) for given in _tables(table, "map")),
        spaces,
        contexts,
        steps,
        path,
    )


def _step(table: Table, code: bytes) -> Step:
    do = _get(table, "do", str, lambda: "switch")
    if do not in _STEP_FIELDS:
        raise CaseError(f"no step does {do!r}")
    _known(table, _STEP_FIELDS[do] | _COMMON, f"step {do}")
    fields = {name: value for name, value in table.items() if name not in _COMMON}
    mapping = _mapping(fields, code) if do == "map" else None
    return Step(do, _get(table, "repeat", int, lambda: 1), fields, mapping)


def _mapping(table: Table, code: bytes) -> Mapping:
    _known(table, _MAP_FIELDS, "map")
    data = _get(table, "data", str, lambda: "")
    return Mapping(
        _get(table, "space", str, lambda: "main"),
        _get(table, "addr", str),
        _get(table, "len", int),
        _get(table, "prot", str),
        code if data == "$code" else _hex(data, "map.data"),
        _get(table, "object", str, lambda: ""),
        _get(table, "offset", str, lambda: "0x0"),
    )


def _known(table: Table, names: frozenset[str], where: str) -> None:
    unknown = sorted(table.keys() - names)
    if unknown:
        raise CaseError(f"{where}: unknown field {unknown[0]!r}")


def _get(table: Table, name: str, kind: type[_T], default: "Callable[[], _T] | None" = None) -> _T:
    if name not in table and default is not None:
        return default()
    value = table.get(name)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise CaseError(f"field {name!r} must be there, and of type {kind.__name__}")
    return value


def _tables(table: Table, name: str) -> list[Table]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise CaseError(f"field {name!r} must be a list of tables")
    return [{str(key): field for key, field in item.items()} for item in value]


def _texts(table: Table, name: str) -> list[str]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CaseError(f"field {name!r} must be a list of strings")
    return [str(item) for item in value]


def _hex(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise CaseError(f"{where}: {error}") from error
