"""The checker finds what it must, and nothing else: tiny models whose faults are plain."""

import itertools
from collections.abc import Iterable, Mapping

import pytest

from tests.models.checker import Kind, State, Step, TooManyStatesError, check


class Table:
    """A model as a table: state → (actor, chance, next state)."""

    def __init__(self, table: Mapping[str, list[tuple[int, bool, str]]], done: str = "", broken: str = "") -> None:
        self.table = table
        self.good = set(done)
        self.bad = set(broken)

    def initial(self) -> State:
        return (next(iter(self.table)),)

    def steps(self, state: State) -> Iterable[Step]:
        for actor, chance, target in self.table.get(str(state[0]), []):
            yield actor, chance, None, (target,)

    def broken(self, state: State) -> str | None:
        return "a bad one" if state[0] in self.bad else None

    def done(self, state: State) -> bool:
        return state[0] in self.good

    def format(self, before: State, step: Step) -> str:
        return f"{before[0]}{step[3][0]}"


def test_all_states_are_found() -> None:
    result = check(
        Table({"a": [(0, False, "b"), (1, False, "c")], "b": [(1, False, "d")], "c": [(0, False, "d")]}, "d")
    )
    assert (result.states, result.steps, result.depth, result.counterexample) == (4, 4, 2, None)


def test_the_shortest_way_to_a_broken_state() -> None:
    table = {
        "a": [(0, False, "b"), (0, False, "e")],
        "b": [(0, False, "c")],
        "c": [(0, False, "x")],
        "e": [(0, False, "x")],
    }
    found = check(Table(table, "x", broken="x")).counterexample
    assert found is not None
    assert (found.kind, found.trace) == (Kind.BROKEN, ["ae", "ex"])
    assert str(found) == "broken: a bad one\n   1  ae\n   2  ex"


def test_stuck_unless_done() -> None:
    table = {"a": [(0, False, "b")], "b": [(0, False, "c")]}
    assert check(Table(table, done="c")).counterexample is None
    found = check(Table(table)).counterexample
    assert found is not None
    assert (found.kind, found.trace) == (Kind.STUCK, ["ab", "bc"])


def test_trapped_although_steps_go_on() -> None:
    table = {"a": [(0, False, "b"), (0, False, "d")], "b": [(0, False, "c")], "c": [(0, False, "b")]}
    found = check(Table(table, done="d")).counterexample
    assert found is not None
    assert (found.kind, found.trace) == (Kind.TRAPPED, ["ab"])


def test_a_cycle_that_need_not_be_left() -> None:
    table = {"a": [(0, False, "b")], "b": [(0, False, "a"), (0, False, "d")]}
    found = check(Table(table, done="d")).counterexample
    assert found is not None
    assert (found.kind, found.cycle) == (Kind.LIVELOCK, ["ab", "ba"])
    assert "and then for ever" in str(found)


def test_a_self_loop_is_a_cycle() -> None:
    found = check(Table({"a": [(0, False, "a"), (0, False, "d")]}, done="d")).counterexample
    assert found is not None
    assert (found.kind, found.cycle) == (Kind.LIVELOCK, ["aa"])


@pytest.mark.parametrize("way_out", ["another actor's turn", "chance"])
def test_a_cycle_that_fairness_leaves(way_out: str) -> None:
    """Actor 1 can leave in every state of the cycle, or chance can in one of them."""
    leave = (1, False, "d") if way_out == "another actor's turn" else (0, True, "d")
    table = {"a": [(0, False, "b"), leave], "b": [(0, True, "a"), leave]}
    assert check(Table(table, done="d")).counterexample is None


def test_a_cycle_in_which_the_other_is_kept_from_moving_now_and_then_is_fair() -> None:
    """Weak fairness: actor 1 could move in ``a`` only."""
    table = {"a": [(0, False, "b"), (1, False, "d")], "b": [(0, False, "a")]}
    found = check(Table(table, done="d")).counterexample
    assert found is not None
    assert found.kind == Kind.LIVELOCK


def test_components_are_told_apart() -> None:
    """Two cycles, one behind the other: the second is the one that cannot be left."""
    table = {
        "a": [(0, True, "b")],
        "b": [(0, True, "a"), (0, True, "c")],
        "c": [(0, False, "e")],
        "e": [(0, False, "c")],
    }
    table["c"].append((0, False, "d"))
    found = check(Table(table, done="d")).counterexample
    assert found is not None
    assert (found.kind, found.trace, found.cycle) == (Kind.LIVELOCK, ["ab", "bc"], ["ce", "ec"])


class Counter:
    """Counts for ever."""

    def initial(self) -> State:
        return (0,)

    def steps(self, state: State) -> Iterable[Step]:
        assert isinstance(state[0], int)
        yield 0, False, None, (state[0] + 1,)

    def broken(self, state: State) -> str | None:
        return None

    def done(self, state: State) -> bool:
        return False

    def format(self, before: State, step: Step) -> str:
        return next(itertools.chain(["count"]))


def test_a_model_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooManyStatesError, match="more than 1000"):
        check(Counter(), limit=1000)
