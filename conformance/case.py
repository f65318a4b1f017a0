"""Case files: TOML, read into typed records, with every mistake told (README.md, "A case")."""

import fnmatch
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
_MAP_FIELDS: Final = frozenset("space addr len prot data at object offset".split())
_STEP_FIELDS: Final = {
    "switch": frozenset("context space set expect one_of timeout_ms interrupt_after_us interrupt_first".split()),
    "start": frozenset("context set timeout_ms interrupt_after_us".split()),
    "wait": frozenset("context expect one_of timeout_ms".split()),
    "parallel": frozenset("contexts set expect one_of timeout_ms interrupt_after_us".split()),
    "repeat": frozenset("times step".split()),
    "request": frozenset("op fields expect".split()),
    "line": frozenset("text expect".split()),
    "pause": frozenset(("ms",)),
    "interrupt": frozenset(("context",)),
    "new": frozenset("context space".split()),
    "regs": frozenset("context set expect".split()),
    "fp": frozenset("context part at set expect".split()),
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
    """A mapping to make: anonymous or of a named object, with ``data`` at the offset ``at`` in it."""

    space: str
    addr: str
    length: int
    prot: str
    data: bytes
    at: int
    object: str
    offset: str


class Step(NamedTuple):
    """One step: what to do, and the fields for it, already checked by name.

    ``mapping`` is set for "map"; ``steps`` are those within a "repeat", which is done ``times`` times.
    """

    do: str
    repeat: int
    fields: Table
    mapping: Mapping | None
    times: int = 1
    steps: "tuple[Step, ...]" = ()


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
        _known(given, frozenset(("name", "space", "count")), "context")
        where = _get(given, "space", str, lambda: "main")
        contexts.update(zip(_family(given), (where.replace("#", str(i)) for i in range(_count(given))), strict=True))
    spaces = ["main"]
    for given in _tables(table, "space"):
        _known(given, frozenset(("name", "count")), "space")
        spaces += _family(given)
    unknown = sorted(set(contexts.values()) - set(spaces))
    if unknown:
        raise CaseError(f"there is no space {unknown[0]!r}")
    steps = tuple(_step(step, code) for step in _tables(table, "step"))
    if not steps:
        raise CaseError("a case without steps tests nothing")
    _check_names(steps, set(contexts), set(spaces))
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
        tuple(one for given in _tables(table, "map") for one in _mappings(given, code, spaces)),
        tuple(spaces),
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
    if do != "repeat":
        return Step(do, _get(table, "repeat", int, lambda: 1), fields, mapping)
    inner = tuple(_step(step, code) for step in _tables(table, "step"))
    if not inner or "repeat" in table:
        raise CaseError("repeat has steps, and times")
    return Step(do, 1, {}, None, _get(table, "times", int), inner)


def _count(table: Table) -> int:
    return _get(table, "count", int, lambda: 1)


def _family(table: Table) -> list[str]:
    """Return the names that an entry stands for: "#" in it is the number."""
    name = _get(table, "name", str)
    if ("count" in table) != ("#" in name):
        raise CaseError(f"{name!r}: count and # belong together")
    return [name.replace("#", str(i)) for i in range(_count(table))]


def _check_names(steps: tuple[Step, ...], contexts: set[str], spaces: set[str]) -> None:
    """Refuse steps about contexts and spaces that are not there. Names with # are known only when the step is done."""
    for step in steps:
        _check_names(step.steps, contexts, spaces)
        if step.do == "new":
            (contexts if "context" in step.fields else spaces).add(
                str(step.fields.get("context", step.fields.get("space")))
            )
            continue
        for field, known in (("context", contexts), ("space", spaces)):
            name = str(step.fields.get(field, "main"))
            if "#" not in name and name not in known:
                raise CaseError(f"step {step.do}: there is no {field} {name!r}")


def _mappings(table: Table, code: bytes, spaces: list[str]) -> Iterator[Mapping]:
    """Yield a mapping for each space that its pattern names."""
    mapping = _mapping(table, code)
    found = fnmatch.filter(spaces, mapping.space)
    if not found:
        raise CaseError(f"map: there is no space {mapping.space!r}")
    for name in found:
        yield mapping._replace(space=name)


def _mapping(table: Table, code: bytes) -> Mapping:
    _known(table, _MAP_FIELDS, "map")
    data = _get(table, "data", str, lambda: "")
    return Mapping(
        _get(table, "space", str, lambda: "main"),
        _get(table, "addr", str),
        _get(table, "len", int),
        _get(table, "prot", str),
        code if data == "$code" else _hex(data, "map.data"),
        _get(table, "at", int, lambda: 0),
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
