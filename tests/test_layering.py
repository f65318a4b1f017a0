"""The layers of CONTRIBUTING.md, enforced by reading every module's imports."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "systrap"

LAYERS = (
    ("systrap.__main__",),
    ("systrap.cli",),
    ("systrap.bench",),
    ("systrap.sentry",),
    ("systrap.platforms.systrap", "systrap.platforms.ptrace"),
    ("systrap.platforms",),
    ("systrap.trace",),
    ("systrap.platform",),
    ("systrap.memory",),
    ("systrap.arch",),
    ("systrap.host", "systrap.version", "systrap.blobs"),
)
"""From top to bottom. A module may import its own room and what is below; rooms of one layer do not know each other."""

MAY_USE_CTYPES = ("systrap.host", "systrap.platforms.systrap", "systrap.platforms.ptrace", "systrap.memory")
"""Where ctypes is allowed (memory.py punches holes and maps)."""

MAY_ASK_FOR_THE_CPU = (
    "systrap.arch",
    "systrap.host",
    "systrap.platforms.systrap.abi",
    "systrap.platforms.systrap.blob",
    "systrap.cli",
)
"""Where os.uname().machine may be read: to choose a module or an image, to refuse to run elsewhere, or to report it."""

HEAVY = frozenset(
    ("dataclasses", "inspect", "logging", "subprocess", "asyncio", "pathlib", "tempfile", "socket", "selectors", "json")
) | {"argparse"}
"""Modules that cost more to import than a guest to start: only in cli/ and bench/, and there only where they are used."""

MAY_USE_DATACLASSES = ("systrap.trace.events",)
"""What only a traced run imports (tests/trace/test_traced_runs.py)."""

START = ("systrap.cli.main", "systrap.cli.run")
"""Where `systrap run` begins: what these import at their top is its start-up time."""


class Import(NamedTuple):
    """An import in a module. ``at_top`` tells whether it happens when the module is imported; ``star`` is *."""

    module: str
    names: tuple[str, ...]
    line: int
    at_top: bool


def modules() -> dict[str, Path]:
    """Return every module of the package by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def is_type_checking(node: ast.AST) -> bool:
    """Tell whether a statement is ``if TYPE_CHECKING:``: what is imported there is not imported."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(name: str) -> Iterator[Import]:
    """Yield the imports of a module, also those in functions; not those for type checkers."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]

    def walk(node: ast.AST, at_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, (), child.lineno, at_top)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, base] if base else above)
                yield Import(base, tuple(alias.name for alias in child.names), child.lineno, at_top)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, at_top and not inside)

    yield from walk(tree, True)


def within(module: str, rooms: tuple[str, ...]) -> bool:
    """Tell whether a module is one of these rooms, or in one."""
    return any(module == room or module.startswith(room + ".") for room in rooms)


def room_of(module: str) -> tuple[int, str] | None:
    """Return layer and room of a module of ours; the longest name wins."""
    rooms = [(index, room) for index, layer in enumerate(LAYERS) for room in layer if within(module, (room,))]
    return max(rooms, key=lambda found: len(found[1]), default=None)


def targets(found: Import) -> Iterator[str]:
    """Yield the modules that an import names: ``from package import module`` names the module."""
    for name in found.names:
        inner = f"{found.module}.{name}"
        yield inner if inner in MODULES else found.module
    if not found.names:
        yield found.module


def where(name: str, found: Import) -> str:
    """Return the place of an import."""
    return f"{MODULES[name].relative_to(ROOT)}:{found.line}: {name} imports {found.module}"


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name: str) -> None:
    own = room_of(name)
    if own is None:
        assert name == "systrap", f"{name} is in no layer"
        return
    for found in imports_of(name):
        for target in targets(found):
            other = room_of(target)
            if other is None or other[1] == own[1]:
                continue
            assert other[0] > own[0], f"{where(name, found)}: that is not below"


def test_the_sentry_knows_no_platform_but_the_contract() -> None:
    for name in MODULES:
        if within(name, ("systrap.sentry",)):
            for found in imports_of(name):
                assert not any(within(target, ("systrap.platforms",)) for target in targets(found)), where(name, found)


def test_ctypes_stays_below() -> None:
    for name in MODULES:
        if not within(name, MAY_USE_CTYPES):
            for found in imports_of(name):
                assert found.module.split(".")[0] not in ("ctypes", "_ctypes"), where(name, found)


def test_nothing_else_asks_which_cpu_this_is() -> None:
    for name, path in MODULES.items():
        if within(name, MAY_ASK_FOR_THE_CPU):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asks = isinstance(node, ast.Attribute) and node.attr == "machine" and not isinstance(node.ctx, ast.Store)
            assert not (
                asks and is_uname(node)
            ), f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} asks for the CPU"


def is_uname(node: ast.AST) -> bool:
    """Tell whether an attribute is of a call to uname()."""
    value = node.value if isinstance(node, ast.Attribute) else None
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "uname"


def test_no_star_imports() -> None:
    for name in MODULES:
        for found in imports_of(name):
            assert "*" not in found.names, where(name, found)


def test_only_the_standard_library() -> None:
    for name in MODULES:
        for found in imports_of(name):
            root = found.module.split(".")[0]
            assert root == "systrap" or root in sys.stdlib_module_names, where(name, found)


@pytest.mark.parametrize("name", [name for name in MODULES if not within(name, ("systrap.cli", "systrap.bench"))])
def test_no_heavy_modules(name: str) -> None:
    for found in imports_of(name):
        if found.module == "dataclasses" and name in MAY_USE_DATACLASSES:
            continue
        assert found.module.split(".")[0] not in HEAVY or not found.at_top, where(name, found)


def test_start_up_path() -> None:
    """What `systrap run` imports before it knows anything: everything reachable from START by imports at the top."""
    seen: set[str] = set()
    todo = [name for name in START if name in MODULES]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for found in imports_of(name):
            if not found.at_top:
                continue
            assert found.module.split(".")[0] not in HEAVY, where(name, found)
            todo += [target for target in targets(found) if target in MODULES]
    assert "systrap.cli.main" in seen


def test_no_module_is_a_secret() -> None:
    """Every module says what it is for."""
    for path in MODULES.values():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
