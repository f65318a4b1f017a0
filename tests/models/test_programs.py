"""Programs as models: what programs.py and system.py promise, on programs of a few lines."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.models.checker import Counterexample, Kind, check
from tests.models.programs import (
    EAGAIN,
    EINTR,
    SIGNAL,
    Jump,
    Program,
    Value,
    Violation,
    Word,
    add,
    cas,
    choose,
    fence,
    futex_wait,
    futex_wake,
    kill,
    load,
    store,
    swap,
    wait_until,
)
from tests.models.system import SC, TSO, Memory, Process, System, View


def ended(view: View) -> bool:
    return view.ended(*(name for name in ("a", "b") if name in view.names))


def found(system: System) -> Counterexample | None:
    return check(system).counterexample


# ---- memory ----


def writes_then_reads(mine: str, other: str, how: str) -> Program:
    """Half of Dekker's algorithm: at least one of two must see the other."""
    if how == "swap":
        yield swap(mine, 1)
    else:
        yield store(mine, 1)
    if how == "fence":
        yield fence()
    seen = yield load(other)
    yield store("seen_" + other, seen)


@pytest.mark.parametrize(
    ("memory", "how", "both_can_miss"),
    [(SC, "store", False), (TSO, "store", True), (TSO, "fence", False), (TSO, "swap", False)],
)
def test_a_store_and_a_later_load_change_places_under_tso_only(memory: Memory, how: str, both_can_miss: bool) -> None:
    def invariant(view: View) -> str | None:
        return "neither saw the other" if ended(view) and (view["seen_x"], view["seen_y"]) == (0, 0) else None

    words: dict[Word, Value] = {"x": 0, "y": 0, "seen_x": -1, "seen_y": -1}
    both = [Process("a", writes_then_reads, ("x", "y", how)), Process("b", writes_then_reads, ("y", "x", how))]
    counterexample = found(System(words, both, ended, invariant, memory))
    assert (counterexample is not None) == both_can_miss


def publishes() -> Program:
    yield store("data", 1)
    yield store("flag", 1)


def consumes() -> Program:
    yield wait_until(lambda flag: flag == 1, "flag")
    if (yield load("data")) != 1:
        raise Violation("the flag is seen before the data")


@pytest.mark.parametrize("memory", [SC, TSO])
def test_stores_are_seen_in_their_order(memory: Memory) -> None:
    assert (
        found(System({"data": 0, "flag": 0}, [Process("a", publishes), Process("b", consumes)], ended, memory=memory))
        is None
    )


def reads_its_own_store() -> Program:
    yield store("x", 1)
    if (yield load("x")) != 1:
        raise Violation("one's own store is not seen")


def test_ones_own_buffered_store_is_seen() -> None:
    assert found(System({"x": 0}, [Process("a", reads_its_own_store)], ended, memory=TSO)) is None


def counts(how: str) -> Program:
    if how == "add":
        yield add("n", 1)
    else:
        old = yield load("n")
        if how == "cas":
            while not (yield cas("n", old, old + 1)):
                old = yield load("n")
        else:
            yield store("n", old + 1)


@pytest.mark.parametrize(("how", "right"), [("add", True), ("cas", True), ("load and store", False)])
def test_read_modify_write_is_one_step(how: str, right: bool) -> None:
    def invariant(view: View) -> str | None:
        return "lost" if ended(view) and view["n"] != 2 else None

    both = [Process("a", counts, (how,)), Process("b", counts, (how,))]
    assert (found(System({"n": 0}, both, ended, invariant)) is None) == right


# ---- the kernel ----


def sleeps(expected: int) -> Program:
    result = yield futex_wait([("word", expected), ("other", 0)])
    yield store("result", result)


def wakes(change: bool) -> Program:
    if change:
        yield add("word", 1)
    yield futex_wake("word")


@pytest.mark.parametrize("memory", [SC, TSO])
def test_futex_wait_and_a_changed_word(memory: Memory) -> None:
    system = System(
        {"word": 0, "other": 0, "result": 1}, [Process("a", sleeps, (0,)), Process("b", wakes, (True,))], ended
    )
    assert found(system) is None


def test_a_wake_that_comes_before_the_sleep_is_lost() -> None:
    system = System(
        {"word": 0, "other": 0, "result": 1}, [Process("a", sleeps, (0,)), Process("b", wakes, (False,))], ended
    )
    counterexample = found(system)
    assert counterexample is not None
    assert counterexample.kind == Kind.STUCK


def test_futex_wait_answers_at_once_when_the_word_differs() -> None:
    def invariant(view: View) -> str | None:
        return None if not ended(view) or view["result"] == EAGAIN else "no EAGAIN"

    assert found(System({"word": 0, "other": 0, "result": 1}, [Process("a", sleeps, (5,))], ended, invariant)) is None


# ---- signals ----


def interrupted() -> Program:
    result = yield futex_wait([("word", 0), ("other", 0)])
    yield store("result", result)
    yield wait_until(bool, "handled")


def handler(what: str, signal: str) -> Program:
    assert signal == SIGNAL
    yield store("word", 1)
    yield store("handled", what)


def gives_up(what: str, _: str) -> Program:
    yield store("handled", what)
    return Jump(afterwards)


def afterwards() -> Program:
    yield store("result", "elsewhere")


def kills() -> Program:
    yield kill(0)


@pytest.mark.parametrize(("program", "results"), [(handler, {EINTR, EAGAIN}), (gives_up, {"elsewhere"})])
def test_a_signal_ends_a_sleep_and_its_handler_decides(program: Callable[..., Program], results: set[object]) -> None:
    seen = set()

    def invariant(view: View) -> str | None:
        if ended(view):
            seen.add(view["result"])
            if view["handled"] != "interrupted":
                return "the handler did not learn what it interrupted"
        return None

    words: dict[Word, Value] = {"word": 0, "other": 0, "result": 1, "handled": ""}
    system = System(words, [Process("a", interrupted, handler=program), Process("b", kills)], ended, invariant)
    assert found(system) is None
    assert seen == results


def loops(left: int) -> Program:
    if left == 0:
        return None
    kept = yield load("n")
    yield store("n", kept + 1)
    return Jump(loops, (left - 1,))


def test_a_jump_forgets_variables() -> None:
    result = check(System({"n": 0}, [Process("a", loops, (3,))], ended))
    assert (result.states, result.counterexample) == (7, None)


def tosses() -> Program:
    while (yield choose("coin", "heads", "tails")) == "tails":
        pass


def test_chance_is_fair() -> None:
    assert found(System({}, [Process("a", tosses)], ended)) is None


def keeps_a_function() -> Program:
    def square(n: int) -> int:
        return n * n

    yield store("n", square(2))
    yield store("n", square(3))


def test_a_function_in_a_variable_is_refused() -> None:
    with pytest.raises(TypeError, match="keeps_a_function"):
        check(System({"n": 0}, [Process("a", keeps_a_function)], ended))


def test_a_trace_can_be_read() -> None:
    both = [Process("a", counts, ("load and store",)), Process("b", counts, ("add",))]

    def invariant(view: View) -> str | None:
        return "lost" if ended(view) and view["n"] != 2 else None

    text = str(found(System({"n": 0}, both, ended, invariant)))
    assert "broken: lost" in text
    assert "add n = 0   [n 0→1]" in text
    assert "counts:" in text


# ---- the rule that makes states complete ----


def yields(node: ast.AST) -> Iterator[ast.Yield | ast.YieldFrom]:
    """Yield the yields of an expression or statement, not those of functions in it."""
    if isinstance(node, ast.Yield | ast.YieldFrom):
        yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield from yields(child)


def evaluated_first(expression: ast.expr) -> ast.expr:
    """Return the part of an expression whose value is there first and waits for the rest."""
    while True:
        match expression:
            case ast.Compare(left=first) | ast.BinOp(left=first) | ast.Subscript(value=first):
                expression = first
            case ast.Tuple(elts=[first, *_]):
                expression = first
            case ast.UnaryOp(operand=first):
                expression = first
            case _:
                return expression


def is_clean(expression: ast.expr) -> bool:
    """Tell whether nothing waits for a yield. ``and`` and ``or`` have dropped what stands before."""
    inside = list(yields(expression))
    if isinstance(expression, ast.BoolOp):
        return all(is_clean(value) for value in expression.values)
    return not inside or (len(inside) == 1 and evaluated_first(expression) is inside[0])


def faults(statement: ast.stmt) -> Iterator[str]:
    """Say which yields of a statement leave something behind that is not in a variable."""
    where = f"line {statement.lineno}"
    if isinstance(statement, ast.For | ast.With | ast.Try):
        if any(True for _ in yields(statement)):
            yield f"{where}: a yield within {type(statement).__name__}"
        return
    for _, value in ast.iter_fields(statement):
        if isinstance(value, ast.expr):
            if not is_clean(value):
                yield f"{where}: something waits for a yield"
            if isinstance(statement, ast.AugAssign) and any(True for _ in yields(value)):
                yield f"{where}: += around a yield"


def faults_of(source: str) -> list[str]:
    statements = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt))
    return [fault for statement in statements for fault in faults(statement)]


MODELS = sorted(path for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_"))


@pytest.mark.parametrize("path", [*MODELS, Path(__file__)], ids=lambda path: path.name)
def test_programs_keep_all_they_know_in_variables(path: Path) -> None:
    tests_of_this = "def yields(" if path == Path(__file__) else None
    source = path.read_text(encoding="utf-8")
    if tests_of_this is not None:
        source = source[: source.index(tests_of_this)]
    if path.name in ("checker.py", "system.py", "programs.py"):
        return  # their generators are no programs
    assert faults_of(source) == []


@pytest.mark.parametrize(
    "body",
    [
        "yield f((yield 1))",
        "x = a + (yield 1)",
        "x = (yield 1) + (yield 2)",
        "return a, (yield 1)",
        "x += yield 1",
        "for i in y:\n  yield i",
        "if a == (yield 1):\n  pass",
    ],
)
def test_the_rule_is_noticed(body: str) -> None:
    indented = "\n ".join(body.split("\n"))
    assert faults_of(f"def f():\n {indented}") != []


@pytest.mark.parametrize(
    "body",
    [
        "yield 1",
        "x = yield 1",
        "x = (yield 1) + a",
        "if not (yield 1):\n  yield 2",
        "return (yield 1) == 2",
        "x, y = yield 1",
    ],
)
def test_the_rule_lets_pass_what_is_right(body: str) -> None:
    indented = "\n ".join(body.split("\n"))
    assert faults_of(f"def f():\n {indented}") == []
