"""Models written as programs: processes that share words, a store buffer each, and a kernel with futexes and signals.

A process is a generator function that looks like the function it stands for. It yields one operation for each access to
shared words, and gets the result::

    def take_token() -> Program:
        tokens = yield load("tokens")
        while tokens != 0:
            if (yield cas("tokens", tokens, tokens - 1)):
                return True
            tokens = yield load("tokens")
        return False

Between two operations a program is a pure function of its local variables. So a process's state is where it stands and
what its variables hold, and the generators are turned into automata on the way: each pair (state, result) is run once, by
playing the results that led there to a new generator. For this to be right a program keeps all it knows in variables:
a ``yield`` is what its statement evaluates first, and there is none in a ``for``, ``with`` or ``try``
(test_programs.py reads all models for that). Variables of a function that has returned are forgotten; ``return
Jump(program, ...)`` starts over without any.

What a processor may reorder is not said here: operations carry the order that the C code gives them, and system.py has
the memories that make something of it.
"""

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, GeneratorType
from typing import Any, Final, NamedTuple

Value = Any
Word = str | tuple[str, int] | tuple[str, int, int]
"""A shared word: a name, or an element of an array (of arrays)."""

EAGAIN: Final = -11
EINTR: Final = -4
SIGNAL: Final = "SIGCHLD"


class Violation(Exception):  # noqa: N818 - what the model asserts, not a mistake in it
    """Raised by a program: what must not happen has happened."""


@dataclass(frozen=True)
class Op:
    """One atomic step. ``run`` maps the words' values to (result, new values), or to None: not now.

    ``buffered`` is a store that others may see later; ``drains`` says that all earlier ones are seen before this step.
    ``ghost`` are words that only the model has; they change with the step and at once.
    """

    name: str
    words: tuple[Word, ...] = ()
    run: Callable[..., tuple[Value, tuple[Value, ...]] | None] | None = None
    buffered: bool = False
    drains: bool = False
    ghost: tuple[tuple[Word, Value], ...] = ()
    argument: Value = None


Program = Generator[Op, Value, Value]


class Jump(NamedTuple):
    """The value of a program that goes on as another. Of a signal handler: what was interrupted is given up."""

    program: Callable[..., Program]
    arguments: tuple[Hashable, ...] = ()


def _ghost(ghost: Mapping[Word, Value] | None) -> tuple[tuple[Word, Value], ...]:
    return tuple((ghost or {}).items())


def load(word: Word, ghost: Mapping[Word, Value] | None = None) -> Op:
    """Read a word; one's own buffered store is seen."""
    return Op("load", (word,), lambda old: (old, (old,)), ghost=_ghost(ghost))


def store(word: Word, value: Value, ghost: Mapping[Word, Value] | None = None) -> Op:
    """Write a word, relaxed or release: on x86-64 a plain mov."""
    return Op("store", (word,), lambda _: (None, (value,)), buffered=True, ghost=_ghost(ghost), argument=value)


def swap(word: Word, value: Value, ghost: Mapping[Word, Value] | None = None) -> Op:
    """Exchange; also what a seq_cst store is (xchg)."""
    return Op("swap", (word,), lambda old: (old, (value,)), drains=True, ghost=_ghost(ghost), argument=value)


def add(word: Word, number: int, ghost: Mapping[Word, Value] | None = None) -> Op:
    """Add; the result is the old value, as with fetch_add."""
    return Op("add", (word,), lambda old: (old, (old + number,)), drains=True, ghost=_ghost(ghost), argument=number)


def cas(word: Word, old: Value, new: Value, ghost: Mapping[Word, Value] | None = None) -> Op:
    """Compare and swap; the result tells whether it was done. ``ghost`` changes only then."""
    return Op(
        "cas",
        (word,),
        lambda now: (True, (new,)) if now == old else (False, (now,)),
        drains=True,
        ghost=_ghost(ghost),
        argument=(old, new),
    )


def fence() -> Op:
    """Wait until all one's stores are seen."""
    return Op("fence", (), lambda: (None, ()), drains=True)


def atomically(name: str, words: Sequence[Word], run: Callable[..., tuple[Value, tuple[Value, ...]] | None]) -> Op:
    """Do in one step what the model does not look into: ``run`` maps values to (result, new values) or None (wait)."""
    return Op(name, tuple(words), run, drains=True)


def wait_until(condition: Callable[..., bool], *words: Word) -> Op:
    """Wait for a condition, by means that are not this model's business."""
    return Op("wait_until", words, lambda *values: (None, values) if condition(*values) else None, drains=True)


def choose(name: str, *results: Value) -> Op:
    """Let time or chance decide."""
    return Op(name, argument=results)


def futex_wait(words: Sequence[tuple[Word, Value]], barrier: bool = True) -> Op:
    """Sleep unless a word differs from its value: 0, or EAGAIN. One word is futex(WAIT), several are futex_waitv."""
    return Op(
        "futex_wait", tuple(word for word, _ in words), drains=barrier, argument=tuple(value for _, value in words)
    )


def futex_wake(word: Word) -> Op:
    """Wake one that sleeps on ``word``: any of them."""
    return Op("futex_wake", (word,), drains=True)


def kill(process: int) -> Op:
    """Send a process the signal (SIGNAL), which it gets when it is not in its handler."""
    return Op("kill", (), drains=True, argument=process)


def trap(signal: str) -> Op:
    """Enter one's own handler with a signal that one's instruction causes."""
    return Op("trap", (), argument=signal)


# ---- programs become automata ----


class Node:
    """A place in a program, with the values of its variables. ``op`` is what it does next; None: it has ended."""

    __slots__ = ("arguments", "edges", "error", "function", "history", "indices", "op", "program", "value", "where")

    def __init__(
        self, program: Callable[..., Program], arguments: tuple[Hashable, ...], history: tuple[Value, ...]
    ) -> None:
        """Take how to get there: the program, and the results of its operations so far."""
        self.program = program
        self.arguments = arguments
        self.history = history
        self.edges: dict[Value, Node] = {}
        self.op: Op | None = None
        self.indices: tuple[int, ...] = ()
        self.value: Value = None
        self.error: str | None = None
        self.where = ""
        self.function = program.__name__


class Automata:
    """All places of all programs, found on demand."""

    def __init__(self, index: Mapping[Word, int]) -> None:
        """``index``: where each word lies in a state."""
        self._index = index
        self._nodes: dict[Hashable, Node] = {}

    def start(self, program: Callable[..., Program], arguments: tuple[Hashable, ...] = ()) -> Node:
        """Return a program's first place."""
        return self._visit(program, arguments, ())

    def follow(self, node: Node, result: Value) -> Node:
        """Return the place behind a node's operation."""
        found = node.edges.get(result)
        if found is None:
            found = node.edges[result] = self._visit(node.program, node.arguments, (*node.history, result))
        return found

    def _visit(
        self, program: Callable[..., Program], arguments: tuple[Hashable, ...], history: tuple[Value, ...]
    ) -> Node:
        node = Node(program, arguments, history)
        generator = program(*arguments)
        key: Hashable
        try:
            node.op = next(generator)
            for result in history:
                node.op = generator.send(result)
            place, node.where = _place(generator)
            key = (place, node.op.name, node.op.words, node.op.argument, node.op.ghost)
            node.indices = tuple(self._index[word] for word in node.op.words)
        except StopIteration as end:
            node.op, node.value = None, end.value
            key = ("end", program, end.value)
        except Violation as violation:
            node.op, node.error = None, str(violation)
            key = ("violation", node.error)
        return self._nodes.setdefault(key, node)


def _place(generator: Program) -> tuple[Hashable, str]:
    """Return where a suspended generator stands, down to the innermost, and the innermost function's name."""
    key: list[Hashable] = []
    where = ""
    inner: object = generator
    while isinstance(inner, GeneratorType):
        frame = inner.gi_frame
        assert frame is not None
        variables = tuple(frame.f_locals.items())
        if any(isinstance(value, FunctionType) for _, value in variables):
            raise TypeError(f"{frame.f_code.co_name} keeps a function in a variable: no two of them are equal")
        key.append((frame.f_code, frame.f_lasti, variables))
        where = f"{frame.f_code.co_name}:{frame.f_lineno}"
        inner = inner.gi_yieldfrom
    return tuple(key), where
