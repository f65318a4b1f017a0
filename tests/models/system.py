"""A model's processes put together: shared words, a memory that may reorder, a kernel with futexes and signals.

The memories are ``SC`` (a store is seen at once) and ``TSO`` (x86-64: stores wait in a queue while later loads go ahead).
A weaker one is another class like ``StoreBuffers``: it says which stores it keeps back, and which may be seen next.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.models.checker import State, Step
from tests.models.programs import EAGAIN, EINTR, SIGNAL, Automata, Jump, Node, Op, Program, Value, Word

Buffer = tuple[tuple[int, Value], ...]
"""Stores that others do not see yet, oldest first: where, and what."""


class Process(NamedTuple):
    """A process: its name in traces, its program, and, if it gets signals, its handler.

    The handler is called with the process's arguments, the name of the program (not function) it interrupts, and the signal.
    When it returns, that goes on; when it answers a Jump, that is forgotten.

    Meanwhile the signal is blocked. ``nests``: only in handlers that the signal itself entered, not in those of traps; and the
    handler is told the name of the innermost function it interrupts.
    """

    name: str
    program: Callable[..., Program]
    arguments: tuple[Hashable, ...] = ()
    handler: Callable[..., Program] | None = None
    nests: bool = False
    blocks_itself: bool = True


class Proc:
    """The state of a process: the running program above interrupted ones, its buffered stores, what it sleeps on.

    Made by System only, one for each combination: so they are told apart by identity.
    """

    __slots__ = ("asleep", "buffer", "frames", "pending")

    def __init__(self, frames: tuple[Node, ...], buffer: Buffer, asleep: tuple[int, ...], pending: bool) -> None:
        """See the class."""
        self.frames = frames
        self.buffer = buffer
        self.asleep = asleep
        self.pending = pending

    @property
    def node(self) -> Node:
        """Where it stands."""
        return self.frames[-1]

    @property
    def blocked(self) -> bool:
        """Whether the signal is blocked: while its handler runs."""
        return len(self.frames) > 1


class View:
    """A state, for those who ask about it: words by name, and where processes are."""

    __slots__ = ("_index", "names", "state")

    def __init__(self, index: Mapping[Word, int], names: Mapping[str, int]) -> None:
        self._index = index
        self.names = names
        self.state: State = ()

    def __getitem__(self, word: Word) -> Value:
        return self.state[self._index[word]]

    def ended(self, *names: str) -> bool:
        """Tell whether these processes have ended."""
        return all(self.proc(name).node.op is None and not self.proc(name).buffer for name in names)

    def proc(self, name: str) -> Proc:
        """Return the state of a process."""
        proc = self.state[self.names[name]]
        assert isinstance(proc, Proc)
        return proc


@dataclass
class Memory:
    """Sequential consistency: a store is seen at once."""

    name: str = "sc"

    def buffers(self, op: Op) -> bool:
        """Tell whether an operation's values go into the store buffer."""
        return False

    def leaving(self, buffer: Buffer) -> Iterator[int]:
        """Yield which of the buffered stores may become visible next."""
        yield from ()


@dataclass
class StoreBuffers(Memory):
    """x86-64: plain stores wait in a queue, in order, while later loads go ahead (TSO)."""

    name: str = "tso"

    def buffers(self, op: Op) -> bool:
        return op.buffered

    def leaving(self, buffer: Buffer) -> Iterator[int]:
        if buffer:
            yield 0


SC: Final = Memory()
TSO: Final = StoreBuffers()


@dataclass
class System:
    """A model: words with their first values, processes, and what is right. See checker.Model."""

    words: Mapping[Word, Value]
    processes: Sequence[Process]
    is_done: Callable[[View], bool]
    invariant: Callable[[View], str | None] = lambda _: None
    memory: Memory = field(default_factory=lambda: SC)

    def __post_init__(self) -> None:
        """Give words and processes their places: a state is a tuple of the ones, then of the others."""
        self._index = {word: number for number, word in enumerate(self.words)}
        self._first = len(self._index)
        self._automata = Automata(self._index)
        self._names = {process.name: self._first + number for number, process in enumerate(self.processes)}
        self._view = View(self._index, self._names)
        self._procs: dict[Hashable, Proc] = {}

    def initial(self) -> State:
        frames = [(self._automata.start(process.program, process.arguments),) for process in self.processes]
        return (*self.words.values(), *(self._make(each, (), (), False) for each in frames))

    def broken(self, state: State) -> str | None:
        for number, process in enumerate(self.processes):
            error = self._proc(state, number).node.error
            if error is not None:
                return f"{process.name}: {error}"
        self._view.state = state
        return self.invariant(self._view)

    def done(self, state: State) -> bool:
        self._view.state = state
        return self.is_done(self._view)

    def steps(self, state: State) -> Iterator[Step]:
        count = len(self.processes)
        for number in range(count):
            proc = self._proc(state, number)
            for place in self.memory.leaving(proc.buffer):
                yield count + number, False, ("seen", place), self._leave(state, number, proc, place)
            if proc.pending and not self._is_blocked(number, proc):
                yield number, False, "signal", self._deliver(state, number, proc)
            op = proc.node.op
            if op is None or proc.asleep or (op.drains and proc.buffer):
                continue
            yield from self._operate(state, number, proc, op)

    def _is_blocked(self, number: int, proc: Proc) -> bool:
        """Tell whether the signal has to wait."""
        process = self.processes[number]
        if not process.nests:
            return proc.blocked
        return process.blocks_itself and any(frame.arguments[-1:] == (SIGNAL,) for frame in proc.frames[1:])

    def _operate(self, state: State, number: int, proc: Proc, op: Op) -> Iterator[Step]:
        """Yield the steps of one process's next operation."""
        if op.run is not None:
            values = [self._read(state, proc, index) for index in proc.node.indices]
            answer = op.run(*values)
            if answer is not None:
                yield number, False, answer[0], self._write(state, number, proc, op, answer, values)
        elif op.name == "futex_wait":
            yield self._futex_wait(state, number, proc, op)
        elif op.name == "futex_wake":
            yield from self._futex_wake(state, number, proc)
        elif op.name == "kill":
            target = op.argument
            changed = self._change(state, target, pending=True)
            yield number, False, None, self._advance(changed, number, None)
        elif op.name == "trap":
            yield number, False, op.argument, self._enter_handler(state, number, proc, op.argument)
        else:
            for result in op.argument:
                yield number, True, result, self._advance(state, number, result)

    def _read(self, state: State, proc: Proc, index: int) -> Value:
        for place, value in reversed(proc.buffer):
            if place == index:
                return value
        return state[index]

    def _write(
        self, state: State, number: int, proc: Proc, op: Op, answer: tuple[Value, tuple[Value, ...]], old: list[Value]
    ) -> State:
        result, new = answer
        cells = list(state)
        if self.memory.buffers(op):
            buffer = (*proc.buffer, (proc.node.indices[0], new[0]))
            cells[self._first + number] = self._make(proc.frames, buffer, proc.asleep, proc.pending)
        elif new != tuple(old):
            for index, value in zip(proc.node.indices, new, strict=True):
                cells[index] = value
        if op.ghost and not (op.name == "cas" and not result):
            for word, value in op.ghost:
                cells[self._index[word]] = value
        return self._advance(tuple(cells), number, result)

    def _futex_wait(self, state: State, number: int, proc: Proc, op: Op) -> Step:
        if any(state[i] != value for i, value in zip(proc.node.indices, op.argument, strict=True)):
            return number, False, EAGAIN, self._advance(state, number, EAGAIN)
        return number, False, "sleeps", self._change(state, number, asleep=proc.node.indices)

    def _futex_wake(self, state: State, number: int, proc: Proc) -> Iterator[Step]:
        word = proc.node.indices[0]
        sleepers = [n for n in range(len(self.processes)) if word in self._proc(state, n).asleep]
        if not sleepers:
            yield number, False, 0, self._advance(state, number, 0)
        for sleeper in sleepers:
            yield number, False, 1, self._advance(self._awaken(state, sleeper, 0), number, 1)

    def _awaken(self, state: State, number: int, result: int) -> State:
        return self._advance(self._change(state, number, asleep=()), number, result)

    def _deliver(self, state: State, number: int, proc: Proc) -> State:
        if proc.asleep:
            state = self._awaken(state, number, EINTR)
            proc = self._proc(state, number)
        return self._change(self._enter_handler(state, number, proc, SIGNAL), number, pending=False)

    def _enter_handler(self, state: State, number: int, proc: Proc, signal: str) -> State:
        process = self.processes[number]
        assert process.handler is not None
        interrupted = proc.node.where.partition(":")[0] if process.nests else proc.node.function
        handler = self._automata.start(process.handler, (*process.arguments, interrupted, signal))
        return self._change(state, number, frames=(*proc.frames, handler))

    def _leave(self, state: State, number: int, proc: Proc, place: int) -> State:
        index, value = proc.buffer[place]
        cells = list(state)
        cells[index] = value
        rest = proc.buffer[:place] + proc.buffer[place + 1 :]
        cells[self._first + number] = self._make(proc.frames, rest, proc.asleep, proc.pending)
        return tuple(cells)

    def _advance(self, state: State, number: int, result: Value) -> State:
        """Let a process go on behind its operation; over the ends of programs, too."""
        proc = self._proc(state, number)
        frames = (*proc.frames[:-1], self._automata.follow(proc.node, result))
        while frames[-1].op is None and frames[-1].error is None:
            value = frames[-1].value
            if isinstance(value, Jump):
                frames = (self._automata.start(value.program, value.arguments),)
            elif len(frames) > 1:
                frames = frames[:-1]
            else:
                break
        return self._change(state, number, frames=frames)

    def _proc(self, state: State, number: int) -> Proc:
        proc = state[self._first + number]
        assert isinstance(proc, Proc)
        return proc

    def _change(
        self,
        state: State,
        number: int,
        frames: tuple[Node, ...] | None = None,
        asleep: tuple[int, ...] | None = None,
        pending: bool | None = None,
    ) -> State:
        """Return ``state`` with something of one process changed."""
        proc = self._proc(state, number)
        changed = self._make(
            proc.frames if frames is None else frames,
            proc.buffer,
            proc.asleep if asleep is None else asleep,
            proc.pending if pending is None else pending,
        )
        place = self._first + number
        return (*state[:place], changed, *state[place + 1 :])

    def _make(self, frames: tuple[Node, ...], buffer: Buffer, asleep: tuple[int, ...], pending: bool) -> Proc:
        """Return the one Proc with these values."""
        key = (frames, buffer, asleep, pending)
        found = self._procs.get(key)
        if found is None:
            found = self._procs[key] = Proc(frames, buffer, asleep, pending)
        return found

    def format(self, before: State, step: Step) -> str:
        """Describe a step: who, where in which function, what, and which words changed."""
        actor, _, label, after = step
        number = actor % len(self.processes)
        changes = [f"{_name(word)} {before[i]}→{after[i]}" for word, i in self._index.items() if before[i] != after[i]]
        changed = f"   [{', '.join(changes)}]" if changes else ""
        name = self.processes[number].name
        if actor >= len(self.processes):
            return f"{name:10} a store of its is seen{changed}"
        if label == "signal":
            return f"{name:10} gets the signal"
        node = self._proc(before, number).node
        assert node.op is not None
        words = ", ".join(_name(word) for word in node.op.words)
        argument = f" {node.op.argument}" if node.op.argument is not None and not changes else ""
        result = f" = {label}" if label is not None else ""
        return f"{name:10} {node.where:28} {node.op.name} {words}{argument}{result}{changed}"


def _name(word: Word) -> str:
    return word if isinstance(word, str) else f"{word[0]}{''.join(f'[{index}]' for index in word[1:])}"
