"""Calls as lines of text, column for column as strace writes them."""

import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TextIO

from systrap.trace import signals
from systrap.trace.call import number
from systrap.trace.constants_more import ERRNO_TEXT, ERRORS
from systrap.trace.log import Made

_FLUSH_NS: Final = 200_000_000


class Look(NamedTuple):
    """How lines look.

    ``clock``: 0 none, 1 -t, 2 -tt, 3 -ttt; ``pids``: 0 never, 1 when there are several, 2 always; ``quiet``: 1 no word of new
    tasks, 2 none of their ends; ``column``: where results begin (-a).
    """

    clock: int = 0
    relative: bool = False
    durations: bool = False
    pids: int = 1
    quiet: int = 0
    column: int = 40
    numbers: bool = False
    pointers: bool = False


class Lines:
    """Writes lines. A call that waits is written as far as it is known; others that come in between make it unfinished."""

    def __init__(self, out: TextIO, look: Look, live: bool, per_task: Callable[[int], TextIO] | None = None) -> None:
        """``live``: somebody watches, so nothing is held back. ``per_task`` opens a file of its own for a task (-ff)."""
        self._out = out
        self._look = look
        self._live = live
        self._per_task = per_task
        self._files: dict[int, TextIO] = {}
        self._tasks: set[int] = set()
        # The line that is begun in a file and not ended, and how long it is: by task with -ff, else there is one file.
        self._hanging: dict[int, tuple[Made, int]] = {}
        self._last = time.monotonic_ns()
        self._flushed = self._last

    # Pieces.

    def _to(self, tid: int) -> TextIO:
        if self._per_task is None:
            return self._out
        found = self._files.get(tid)
        if found is None:
            found = self._files[tid] = self._per_task(tid)
        return found

    def _leader(self, tid: int) -> str:
        """Return what stands in front of a line, and end the line that hangs."""
        if self._hanging:
            self._break(tid)
        look = self._look
        text = ""
        if look.pids == 2:
            text = f"{tid:<5} "
        elif look.pids == 1 and len(self._tasks) > 1:
            text = f"[pid {tid:5}] "
        if look.clock:
            text += _clock(look.clock)
        if look.relative:
            now = time.monotonic_ns()
            text += f"{(now - self._last) / 1e9:12.6f} "
            self._last = now
        return text

    def _file(self, tid: int) -> int:
        return tid if self._per_task is not None else 0

    def _break(self, tid: int) -> None:
        """Leave the call unfinished that hangs in the file of a task."""
        hanging = self._hanging.pop(self._file(tid), None)
        if hanging is not None:
            hanging[0].shown = True
            self._to(hanging[0].tid).write(" <unfinished ...>\n")

    def _start(self, made: Made) -> str:
        """Return a call up to what is known of its arguments when it begins."""
        text = ", ".join(made.head)
        if made.more and made.form.joined:
            text += ", "
        look = self._look
        front = f"[{made.nr:4}] " if look.numbers else ""
        if look.pointers:
            front += f"[{made.ip:016x}] "
        return f"{front}{made.call.name}({text}"

    def _outcome(self, made: Made) -> str:
        call, result = made.call, made.result
        if result is None:
            text = "?"
        elif -4096 < result < -511:
            name, meaning = ERRNO_TEXT.get(-result, (str(-result), "interrupted"))
            text = f"? {name} ({meaning})"
        elif call.error:
            error = call.error
            name = ERRORS.get(error, f"E{error}")
            text = f"-1 {name} ({os.strerror(error)})"
        else:
            returns = made.form.returns
            text = str(result) if returns is number else returns(call)
        if made.note:
            text += made.note
        if self._look.durations:
            text += f" <{(made.ended - made.began) / 1e9:.6f}>"
        return text

    # log.Sink.

    def waits(self, made: Made) -> None:
        """See log.Sink: what is known is written now, so that who watches sees what a program waits for."""
        hanging = self._hanging.get(self._file(made.tid))
        if made.shown or (hanging is not None and hanging[0] is made):
            return
        line = self._leader(made.tid) + self._start(made)
        self._to(made.tid).write(line)
        self._hanging[self._file(made.tid)] = made, len(line)
        self._settle(True)

    def ended(self, made: Made) -> None:
        """See log.Sink."""
        tail = ", ".join(made.tail)
        if tail and made.head and not made.form.joined:
            tail = f", {tail}"
        hanging = self._hanging.get(self._file(made.tid)) if self._hanging else None
        if hanging is not None and hanging[0] is made:
            del self._hanging[self._file(made.tid)]
            front, width = "", hanging[1]
        elif made.shown:
            front = f"{self._leader(made.tid)}<... {made.call.name} resumed>"
            width = len(front)
        else:
            front = self._leader(made.tid) + self._start(made)
            width = len(front)
        if made.result is None and not made.shown and made.more and made.form.joined:
            front = front.removesuffix(", ")
        close = f"{tail})" if made.result is not None or not made.shown else ")"
        pad = " " * max(self._look.column - width - len(close), 1)
        self._to(made.tid).write(f"{front}{close}{pad}= {self._outcome(made)}\n")
        if self._live or made.ended - self._flushed > _FLUSH_NS:
            self._settle(False)

    def signal(self, tid: int, signo: int, info: bytes) -> None:
        """See log.Sink."""
        self._to(tid).write(f"{self._leader(tid)}--- {signals.name(signo)} {signals.siginfo_text(info)} ---\n")
        self._settle(False)

    def attached(self, tid: int) -> None:
        """See log.Sink."""
        first = not self._tasks
        self._tasks.add(tid)
        if not first and self._look.quiet < 1 and self._live and self._per_task is None:
            self._break(tid)
            self._out.write(f"systrap: Process {tid} attached\n")

    def exited(self, tid: int, status: int) -> None:
        """See log.Sink."""
        if self._look.quiet < 2:
            low = status & 0x7F
            core = " (core dumped)" if status & 0x80 else ""
            text = f"killed by {signals.name(low)}{core}" if low else f"exited with {status >> 8 & 0xFF}"
            self._to(tid).write(f"{self._leader(tid)}+++ {text} +++\n")
        self._tasks.discard(tid)
        self._settle(False)

    def flush(self) -> None:
        """See log.Sink."""
        for made, _ in list(self._hanging.values()):
            self._break(made.tid)
        for out in (self._out, *self._files.values()):
            out.flush()

    def _settle(self, waits: bool) -> None:
        """Write out what is held back, if somebody watches, or it is old."""
        now = time.monotonic_ns()
        if self._live or waits or now - self._flushed > _FLUSH_NS:
            self._flushed = now
            self._out.flush()
            for out in self._files.values():
                out.flush()


def _clock(kind: int) -> str:
    now = time.time()
    if kind == 3:
        return f"{now:.6f} "
    text = time.strftime("%H:%M:%S", time.localtime(now))
    return f"{text}.{int(now % 1 * 1e6):06d} " if kind == 2 else f"{text} "
