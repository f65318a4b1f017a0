"""An explicit-state model checker: every state that a small model can reach, breadth first.

It knows nothing of threads or memory: a model is a first state, the steps out of a state, and what is right (``Model``).
Four things can be wrong, and each comes with the shortest way there, as text:

* ``broken``: a state that must not be (an invariant, or an assertion of the model's own);
* ``stuck``: nobody can take a step and the work is not done: a lost wake-up of those who sleep;
* ``trapped``: steps can go on for ever but the work cannot be done any more: a lost wake-up of those who spin;
* ``livelock``: the work could be done, but need not: a cycle in which everybody gets his turns, and nothing comes of it.

The last is decided under weak fairness: whoever can take a step all the time takes one some time. A choice (what time or
chance decides) is fair, too: a cycle that a choice can leave is left.
"""

import enum
import itertools
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

State = tuple[object, ...]
Step = tuple[int, bool, object, State]
"""Who takes it (a small number), whether chance decides it, a label that the model can read, and the next state."""


class Model(Protocol):
    """What the checker needs to know."""

    def initial(self) -> State:
        """Return the first state. States are hashable."""

    def steps(self, state: State) -> Iterable[Step]:
        """Yield every step that is possible in ``state``."""

    def broken(self, state: State) -> str | None:
        """Say what is wrong with ``state``, or None."""

    def done(self, state: State) -> bool:
        """Tell whether the work is done in ``state``: it is no harm if nothing happens any more."""

    def format(self, before: State, step: Step) -> str:
        """Describe a step in one line."""


class Kind(enum.StrEnum):
    """What a counterexample shows."""

    BROKEN = "broken"
    STUCK = "stuck"
    TRAPPED = "trapped"
    LIVELOCK = "livelock"


@dataclass(frozen=True)
class Counterexample:
    """How it goes wrong: the steps from the first state on, and the steps that repeat, if any."""

    kind: Kind
    message: str
    trace: list[str]
    cycle: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.message}", *self._numbered(self.trace, 1)]
        if self.cycle:
            lines += ["and then for ever:", *self._numbered(self.cycle, len(self.trace) + 1)]
        return "\n".join(lines)

    @staticmethod
    def _numbered(steps: list[str], first: int) -> Iterator[str]:
        for number, step in enumerate(steps, first):
            yield f"{number:4}  {step}"


@dataclass(frozen=True)
class Result:
    """How much there was to look at, and the first counterexample."""

    states: int
    steps: int
    depth: int
    counterexample: Counterexample | None

    def __str__(self) -> str:
        size = f"{self.states} states, {self.steps} steps, depth {self.depth}"
        return f"{size}: {self.counterexample if self.counterexample is not None else 'nothing wrong'}"


class TooManyStatesError(Exception):
    """The model is larger than the caller wanted to wait for."""


_CHANCE: Final = 1
"""Bit of a recorded edge's actor: chance decided this step."""


class _Graph:
    """The states found so far, numbered in the order of breadth-first search, and the steps between them."""

    def __init__(self, model: Model, limit: int) -> None:
        self.model = model
        self.limit = limit
        self.numbers: dict[State, int] = {}
        self.states: list[State] = []
        self.parents = array("q")
        self.depths = array("L")
        self.first_edge = array("Q", [0])
        self.targets = array("L")
        self.actors = array("H")
        self.done = bytearray()

    def add(self, state: State, parent: int) -> int:
        """Return the number of a state; a new one is recorded as found from ``parent``."""
        number = self.numbers.get(state, -1)
        if number < 0:
            number = len(self.states)
            if number >= self.limit:
                raise TooManyStatesError(f"more than {self.limit} states")
            self.numbers[state] = number
            self.states.append(state)
            self.parents.append(parent)
            self.depths.append(0 if parent < 0 else self.depths[parent] + 1)
            self.done.append(self.model.done(state))
        return number

    def explore(self) -> Counterexample | None:
        """Find all states. Stops at the first that is broken or stuck."""
        model = self.model
        self.add(model.initial(), -1)
        number = 0
        while number < len(self.states):
            state = self.states[number]
            message = model.broken(state)
            if message is not None:
                return Counterexample(Kind.BROKEN, message, self.trace(number))
            for actor, chance, _, successor in model.steps(state):
                self.targets.append(self.add(successor, number))
                self.actors.append(actor << 1 | chance)
            if self.first_edge[-1] == len(self.targets) and not self.done[number]:
                return Counterexample(Kind.STUCK, "nobody can go on, and the work is not done", self.trace(number))
            self.first_edge.append(len(self.targets))
            number += 1
        return None

    def edges(self, number: int) -> range:
        """Return the indices of the edges out of a state."""
        return range(self.first_edge[number], self.first_edge[number + 1])

    def trace(self, number: int) -> list[str]:
        """Return the shortest way to a state."""
        path = [number]
        while self.parents[path[-1]] >= 0:
            path.append(self.parents[path[-1]])
        path.reverse()
        return [self._describe(a, b) for a, b in itertools.pairwise(path)]

    def _describe(self, number: int, successor: int) -> str:
        before, after = self.states[number], self.states[successor]
        step = next(step for step in self.model.steps(before) if step[3] == after)
        return self.model.format(before, step)

    def cycle(self, start: int, inside: frozenset[int]) -> list[str]:
        """Return a shortest way from a state back to itself."""
        came_from: dict[int, int] = {}
        queue = deque([start])
        while queue:
            number = queue.popleft()
            for target in (self.targets[edge] for edge in self.edges(number)):
                if target == start:
                    path = [start, number] if number != start else [start]
                    while path[-1] != start or len(path) == 1:
                        path.append(came_from.get(path[-1], start))
                    path.reverse()
                    return [self._describe(a, b) for a, b in itertools.pairwise(path)]
                if target in inside and target not in came_from:
                    came_from[target] = number
                    queue.append(target)
        raise AssertionError("no cycle")


def _trapped(graph: _Graph) -> Counterexample | None:
    """Find the first state from which no state leads on to one where the work is done."""
    count = len(graph.states)
    sources: list[list[int]] = [[] for _ in range(count)]
    for number in range(count):
        for edge in graph.edges(number):
            sources[graph.targets[edge]].append(number)
    good = bytearray(graph.done)
    todo = [number for number in range(count) if good[number]]
    while todo:
        for source in sources[todo.pop()]:
            if not good[source]:
                good[source] = 1
                todo.append(source)
    trapped = good.find(0)
    if trapped < 0:
        return None
    return Counterexample(Kind.TRAPPED, "from here on the work cannot be done any more", graph.trace(trapped))


def _components(graph: _Graph) -> Iterator[list[int]]:
    """Yield the strongly connected components among the states where the work is not done (Tarjan, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack = bytearray(len(graph.states))
    for root in range(len(graph.states)):
        if graph.done[root] or root in order:
            continue
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack[root] = 1
        calls = [(root, iter(graph.edges(root)))]
        while calls:
            number, edges = calls[-1]
            for edge in edges:
                target = graph.targets[edge]
                if graph.done[target]:
                    continue
                if target not in order:
                    order[target] = low[target] = len(order)
                    stack.append(target)
                    on_stack[target] = 1
                    calls.append((target, iter(graph.edges(target))))
                    break
                if on_stack[target]:
                    low[number] = min(low[number], order[target])
            else:
                calls.pop()
                if calls:
                    parent = calls[-1][0]
                    low[parent] = min(low[parent], low[number])
                if low[number] == order[number]:
                    component = stack[-_depth_of(stack, number) :]
                    del stack[-len(component) :]
                    for member in component:
                        on_stack[member] = 0
                    yield component


def _depth_of(stack: list[int], number: int) -> int:
    """Return how far from its end ``number`` lies in ``stack``."""
    depth = 1
    while stack[-depth] != number:
        depth += 1
    return depth


def _is_fair(graph: _Graph, component: list[int], inside: frozenset[int]) -> bool:
    """Tell whether one can stay in a component for ever although everybody gets his turns."""
    moved: set[int] = set()
    always: set[int] | None = None
    edges = 0
    for number in component:
        able = set()
        for edge in graph.edges(number):
            actor, chance = graph.actors[edge] >> 1, graph.actors[edge] & _CHANCE
            able.add(actor)
            if graph.targets[edge] in inside:
                moved.add(actor)
                edges += 1
            elif chance:
                return False
        always = able if always is None else always & able
    return edges > 0 and not (always or set()) - moved


def _livelock(graph: _Graph) -> Counterexample | None:
    for component in _components(graph):
        inside = frozenset(component)
        if _is_fair(graph, component, inside):
            start = min(component)
            message = f"{len(component)} states that need never be left"
            return Counterexample(Kind.LIVELOCK, message, graph.trace(start), graph.cycle(start, inside))
    return None


def check(model: Model, limit: int = 1_000_000) -> Result:
    """Look at every state of ``model``. Raises TooManyStatesError when there are more than ``limit``."""
    graph = _Graph(model, limit)
    found = graph.explore() or _trapped(graph) or _livelock(graph)
    return Result(len(graph.states), len(graph.targets), max(graph.depths), found)
