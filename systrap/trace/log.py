"""The log of calls: what begins, waits, ends, is broken off; signals; ends of tasks. It decides what is told, and to whom.

The guest kernel calls it on its one thread. What is told goes to a *sink* (lines.py, json_lines.py) and to the summary.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from systrap.trace.call import Call, Files, Memory, Shape, Style, begin, finish
from systrap.trace.calls import CALLS, UNKNOWN
from systrap.trace.summary import Summary


class Selected(NamedTuple):
    """What is to be told: calls by name, signals by number, outcomes; None: all of them."""

    calls: frozenset[str] | None = None
    signals: frozenset[int] | None = None
    statuses: frozenset[str] | None = None


class Made:
    """A call that was begun, and what is known of it.

    ``head``: arguments known at the beginning, ``more``: others follow. ``result`` is None while there is none; ``status`` is
    the errno of a broken-off call above 511. Times are in nanoseconds of the monotonic clock; ``waited`` is what it was
    parked for. ``shown`` is the sink's: its beginning stands in a line of its own.
    """

    __slots__ = (
        "began", "call", "ended", "form", "head", "ip", "more", "note", "nr", "parked", "result", "shown", "tail", "tid",
        "waited",
    )  # fmt: skip

    def __init__(self, tid: int, nr: int, call: Call, form: Shape, ip: int) -> None:
        self.tid = tid
        self.nr = nr
        self.call = call
        self.form = form
        self.ip = ip
        self.head: list[str] = []
        self.tail: list[str] = []
        self.more = False
        self.result: int | None = None
        self.note = ""
        self.began = self.ended = self.parked = 0
        self.waited = 0
        self.shown = False

    @property
    def status(self) -> str:
        """The outcome, in the words of -e status=."""
        if self.result is None:
            return "unavailable" if self.ended else "unfinished"
        return "failed" if self.call.error else "successful"


class Sink(Protocol):
    """Who writes what is told."""

    def waits(self, made: Made) -> None:
        """Learn that a call waits: others may be told before it ends."""

    def ended(self, made: Made) -> None:
        """Learn that a call ended; without a result when its task did not come back from it."""

    def signal(self, tid: int, signo: int, info: bytes) -> None:
        """Learn of a signal that a task takes."""

    def attached(self, tid: int) -> None:
        """There is a new task."""

    def exited(self, tid: int, status: int) -> None:
        """Learn that a task is gone; ``status`` as wait4 has it."""

    def flush(self) -> None:
        """Write out what was held back."""


class CallLog:
    """See the module."""

    def __init__(
        self,
        numbers: Mapping[int, str],
        style: Style,
        selected: Selected,
        sink: Sink | None,
        summary: Summary | None,
        wall: bool,
    ) -> None:
        """``numbers``: names of calls by number; ``wall``: the summary counts the time that calls wait, too."""
        self._style = style
        self._signals = selected.signals
        self._statuses = selected.statuses
        self._sink = sink
        self._summary = summary
        self._wall = wall
        self._calls = selected.calls
        self._plans: dict[int, tuple[str, Shape]] = {
            nr: (name, CALLS[name]) for nr, name in numbers.items() if selected.calls is None or name in selected.calls
        }
        self._numbers = numbers
        self._open: dict[int, Made] = {}

    def wants(self, nr: int) -> bool:
        """Tell whether a call is to be told: a number without a name is when everything is."""
        return nr in self._plans or (self._calls is None and nr not in self._numbers)

    def began(self, tid: int, memory: Memory, files: Files, nr: int, args: tuple[int, ...], ip: int) -> None:
        """Take note of a call that begins, from the instruction in front of ``ip``."""
        plan = self._plans.get(nr)
        if plan is None:
            if not self.wants(nr):
                return
            plan = f"syscall_{nr:#x}", UNKNOWN
        name, form = plan
        made = Made(tid, nr, Call(name, args, memory, files, self._style), form, ip)
        if self._sink is not None:
            made.head, made.more = begin(made.call, form)
        made.began = time.monotonic_ns()
        self._open[tid] = made

    def parked(self, tid: int) -> None:
        """Take note that a task's call waits."""
        made = self._open.get(tid)
        if made is not None:
            made.parked = time.monotonic_ns()
            if self._sink is not None and self._statuses is None:
                self._sink.waits(made)

    def goes_on(self, tid: int) -> None:
        """Take note that a task's call does not wait any more."""
        made = self._open.get(tid)
        if made is not None and made.parked:
            made.waited += time.monotonic_ns() - made.parked
            made.parked = 0

    def note(self, tid: int, text: str) -> None:
        """Have a remark written behind the result of a task's call."""
        made = self._open.get(tid)
        if made is not None:
            made.note += text

    def ended(self, tid: int, result: int | None) -> None:
        """Take note of a call that ended; None: its task did not come back from it. A result below -511 is a restart code."""
        made = self._open.pop(tid, None)
        if made is None:
            return
        made.ended = time.monotonic_ns()
        call = made.call
        if result is not None:
            made.result = result
            call.end(result)
        if self._summary is not None:
            spent = made.ended - made.began - (0 if self._wall else made.waited)
            self._summary.add(call.name, spent / 1e9, bool(call.error))
        if self._sink is None or (self._statuses is not None and made.status not in self._statuses):
            return
        if made.more and result is not None:
            made.tail = finish(call, made.form)
        self._sink.ended(made)

    def signal(self, tid: int, signo: int, info: bytes) -> None:
        """Take note of a signal that a task takes."""
        if self._sink is not None and (self._signals is None or signo in self._signals):
            self._sink.signal(tid, signo, info)

    def attached(self, tid: int) -> None:
        """Take note of a new task."""
        if self._sink is not None:
            self._sink.attached(tid)

    def exited(self, tid: int, status: int) -> None:
        """Take note of the end of a task. A call that it was in did not return."""
        if tid in self._open:
            self.ended(tid, None)
        if self._sink is not None:
            self._sink.exited(tid, status)

    def close(self) -> str:
        """Write out everything; return the summary, if there is one."""
        if self._sink is not None:
            self._sink.flush()
        return self._summary.text() if self._summary is not None else ""
