"""Clocks, interval timers and POSIX timers."""

import errno
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.signals import SI_KERNEL, SI_TIMER, SIGALRM, SIGPROF, SIGVTALRM, Info

if TYPE_CHECKING:
    from systrap.sentry.task import Task, ThreadGroup
    from systrap.sentry.timers import Timer

REALTIME: Final = 0
MONOTONIC: Final = 1
PROCESS_CPU: Final = 2
THREAD_CPU: Final = 3
KNOWN: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11)
REALTIME_CLOCKS: Final = (0, 5, 8, 11)
ITIMER_SIGNALS: Final = (SIGALRM, SIGVTALRM, SIGPROF)


def now_ns(clock: int, task: "Task") -> int:
    """Return a clock's time in nanoseconds. EINVAL for clocks that are not there."""
    if clock in (PROCESS_CPU, THREAD_CPU) or clock < 0:
        group = task.group
        return int((group.user_time + group.system_time) * 1e9)
    if clock not in KNOWN:
        raise SyscallError(errno.EINVAL)
    return time.time_ns() if clock in REALTIME_CLOCKS else time.monotonic_ns()


def deadline_for(clock: int, seconds: float, absolute: bool) -> float:
    """Return when a time on a clock comes, in time.monotonic() seconds."""
    now = time.monotonic()
    if not absolute:
        return now + seconds
    return now + seconds - (time.time() if clock in REALTIME_CLOCKS else now)


def unpack_time(data: bytes) -> float:
    """Return a struct timespec in seconds. EINVAL."""
    seconds, nanos = struct.unpack("<2q", data)
    if seconds < 0 or not 0 <= nanos < 1_000_000_000:
        raise SyscallError(errno.EINVAL)
    return float(seconds + nanos / 1e9)


def pack_time(seconds: float) -> bytes:
    """Return seconds as a struct timespec."""
    nanos = max(0, round(seconds * 1e9))
    return struct.pack("<2q", *divmod(nanos, 1_000_000_000))


class Repeating:
    """A timer that calls back once or again and again, and knows how much is left. Missed calls are counted."""

    __slots__ = ("_callback", "_deadline", "_timer", "group", "interval", "overrun")

    def __init__(self, group: "ThreadGroup", callback: Callable[["Repeating"], None]) -> None:
        self.group = group
        self._callback = callback
        self._timer: Timer | None = None
        self._deadline = 0.0
        self.interval = 0.0
        self.overrun = 0

    def set(self, deadline: float | None, interval: float) -> None:
        """Arm for a deadline, or disarm."""
        self.cancel()
        self.interval = interval
        if deadline is not None:
            self._deadline = deadline
            self._timer = self.group.kernel.timers.add(deadline, self._expired)

    def left(self) -> float:
        """Return the seconds until it expires, 0 when it is not armed."""
        return max(self._deadline - time.monotonic(), 1e-9) if self._timer is not None else 0.0

    def cancel(self) -> None:
        """Disarm."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        if self.group.zombie:
            return
        self.overrun = 0
        if self.interval:
            missed = max(0, int((time.monotonic() - self._deadline) / self.interval))
            self.overrun = missed
            self._deadline += self.interval * (missed + 1)
            self._timer = self.group.kernel.timers.add(self._deadline, self._expired)
        self._callback(self)


def itimer(group: "ThreadGroup", which: int) -> Repeating:
    """Return an interval timer of a process (setitimer): the CPU-time ones run on elapsed time (docs/limits.md)."""
    found = group.timers.get(which)
    if found is None:
        signo = ITIMER_SIGNALS[which]

        def expired(timer: Repeating) -> None:
            group.kernel.signals.send_group(group, signo, Info(signo, SI_KERNEL))

        found = group.timers[which] = Repeating(group, expired)
    return found


class PosixTimer(Repeating):
    """A timer of timer_create. ``signo`` 0: it notifies nobody; ``tid`` 0: the process."""

    __slots__ = ("clock", "signo", "tid", "timer_id", "value")

    def __init__(self, group: "ThreadGroup", timer_id: int, clock: int, signo: int, value: int, tid: int) -> None:
        super().__init__(group, lambda timer: self._notify())
        self.timer_id = timer_id
        self.clock = clock
        self.signo = signo
        self.value = value
        self.tid = tid

    def _notify(self) -> None:
        if not self.signo:
            return
        kernel = self.group.kernel
        info = Info(self.signo, SI_TIMER, timerid=self.timer_id, overrun=self.overrun, value=self.value)
        task = kernel.tasks.get(self.tid) if self.tid else None
        if task is not None:
            kernel.signals.send_task(task, self.signo, info)
        else:
            kernel.signals.send_group(self.group, self.signo, info)
