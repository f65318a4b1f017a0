"""Clocks, interval timers and POSIX timers."""

import errno
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.limits import INFINITY, RLIMIT_CPU
from systrap.sentry.signals import SI_KERNEL, SI_TIMER, SIGALRM, SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU, Info
from systrap.sentry.task import State

if TYPE_CHECKING:
    from systrap.sentry.task import Task, ThreadGroup
    from systrap.sentry.timers import Timer

REALTIME: Final = 0
MONOTONIC: Final = 1
PROCESS_CPU: Final = 2
THREAD_CPU: Final = 3
KNOWN: Final = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11)
"""Clock ids there are. The two alarm clocks (8, 9) are known, but this machine has no device for them."""
ITIMER_SIGNALS: Final = (SIGALRM, SIGVTALRM, SIGPROF)
_READABLE: Final = (0, 1, 4, 5, 6, 7, 11)
_SLEEPABLE: Final = (0, 1, 2, 7, 11)
_CPU_LIMIT: Final = 3
"""The timer of RLIMIT_CPU, beside the three interval timers."""
MAX_SECONDS: Final = (1 << 63) // 1_000_000_000
"""The longest time: 292 years, as Linux's ktime_t has it."""
_FOREVER: Final = 1 << 40
_MAX_OVERRUN: Final = (1 << 31) - 1
_CPU_TICK: Final = 0.004
"""How often, at most, a timer looks at CPU time: a tick of Linux."""


def cpu_seconds(group: "ThreadGroup") -> float:
    """Return the CPU time of a process, with what its running threads have used since they were let go."""
    used = group.user_time + group.system_time
    now = time.monotonic()
    for task in group.tasks:
        if task.state is State.GUEST:
            used += now - task.started
    return used


def _cpu_group(clock: int, task: "Task") -> "ThreadGroup":
    """Return whose CPU time a clock id is about: ``~pid << 3``, 4 for a thread's, and what is counted. EINVAL."""
    if clock in (PROCESS_CPU, THREAD_CPU):
        return task.group
    pid, thread = ~(clock >> 3), clock & 4
    if clock & 3 == 3:
        raise SyscallError(errno.EINVAL)
    if pid == 0:
        return task.group
    found = task.kernel.tasks.get(pid)
    if found is None or (found.group is not task.group if thread else found.group.pid != pid):
        raise SyscallError(errno.EINVAL)
    return found.group


def now_ns(clock: int, task: "Task") -> int:
    """Return a clock's time in nanoseconds. EINVAL for clocks that are not there. A thread's CPU time is its process's."""
    if clock in (PROCESS_CPU, THREAD_CPU) or clock < 0:
        return int(cpu_seconds(_cpu_group(clock, task)) * 1e9)
    if clock not in _READABLE:
        raise SyscallError(errno.EINVAL)
    return time.clock_gettime_ns(clock)


def check_waitable(clock: int, task: "Task", thread: bool) -> None:
    """Raise EINVAL for a clock that is not there, EOPNOTSUPP for one nobody can wait on. ``thread``: its CPU time will do."""
    if clock < 0:
        _cpu_group(clock, task)
    elif clock not in KNOWN:
        raise SyscallError(errno.EINVAL)
    elif clock not in _SLEEPABLE and not (thread and clock == THREAD_CPU):
        raise SyscallError(errno.EOPNOTSUPP)


def deadline_for(clock: int, seconds: float, absolute: bool) -> float:
    """Return when a time on a clock comes, in time.monotonic() seconds (CPU clocks: as if they ran all the time)."""
    now = time.monotonic()
    if not absolute:
        return now + seconds
    if clock == MONOTONIC or clock not in _READABLE:
        return seconds
    return now + seconds - time.clock_gettime(clock)


def unpack_time(data: bytes) -> float:
    """Return a struct timespec in seconds. EINVAL."""
    seconds, nanos = struct.unpack("<2q", data)
    if seconds < 0 or not 0 <= nanos < 1_000_000_000:
        raise SyscallError(errno.EINVAL)
    return float(min(seconds, MAX_SECONDS) + nanos / 1e9)


def pack_time(seconds: float) -> bytes:
    """Return seconds as a struct timespec."""
    nanos = max(0, round(min(seconds, MAX_SECONDS) * 1e9))
    return struct.pack("<2q", *divmod(nanos, 1_000_000_000))


class Repeating:
    """A timer that calls back once or again and again, and knows how much is left. Missed calls are counted.

    Its times are time.monotonic() seconds, or seconds of its process's CPU time when ``cpu``.
    """

    __slots__ = ("_callback", "_deadline", "_timer", "cpu", "group", "interval", "overrun")

    def __init__(self, group: "ThreadGroup", callback: Callable[["Repeating"], None], cpu: bool = False) -> None:
        self.group = group
        self.cpu = cpu
        self._callback = callback
        self._timer: Timer | None = None
        self._deadline = 0.0
        self.interval = 0.0
        self.overrun = 0

    def now(self) -> float:
        """Return the time its deadlines are measured in."""
        return cpu_seconds(self.group) if self.cpu else time.monotonic()

    def set(self, deadline: float | None, interval: float) -> None:
        """Arm for a deadline, or disarm."""
        self.cancel()
        self.interval = interval
        if deadline is not None:
            self._deadline = deadline
            self._arm()

    def _arm(self) -> None:
        when = self._deadline
        if self.cpu:
            # CPU time runs no faster than this many threads let it; it may stand still, so look again then.
            left = (self._deadline - self.now()) / max(1, len(self.group.tasks))
            when = time.monotonic() + max(left, _CPU_TICK)
        self._timer = self.group.kernel.timers.add(when, self._expired)

    def left(self) -> float:
        """Return the seconds until it expires, 0 when it is not armed."""
        return max(self._deadline - self.now(), 1e-9) if self._timer is not None else 0.0

    def cancel(self) -> None:
        """Disarm."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        if self.group.zombie:
            return
        now = self.now()
        if self.cpu and now < self._deadline:
            self._arm()
            return
        self.overrun = 0
        if self.interval:
            self.overrun = max(0, int((now - self._deadline) / self.interval))
            self._deadline += self.interval * (self.overrun + 1)
            self._arm()
        self._callback(self)


def itimer(group: "ThreadGroup", which: int) -> Repeating:
    """Return an interval timer of a process (setitimer). Both CPU-time ones count user and system time (docs/limits.md)."""
    found = group.timers.get(which)
    if found is None:
        signo = ITIMER_SIGNALS[which]

        def expired(timer: Repeating) -> None:
            group.kernel.signals.send_group(group, signo, Info(signo, SI_KERNEL))

        found = group.timers[which] = Repeating(group, expired, cpu=which != 0)
    return found


def watch_cpu_limit(group: "ThreadGroup") -> None:
    """Enforce RLIMIT_CPU from now on: SIGXCPU at the soft limit and every second after it, SIGKILL at the hard one.

    Called when a process begins and when its limit changes.
    """
    found = group.timers.get(_CPU_LIMIT)
    soft, hard = group.limits.get(RLIMIT_CPU)
    if min(soft, hard) == INFINITY:
        if found is not None:
            found.cancel()
        return
    if found is None:

        def expired(timer: Repeating) -> None:
            _, hard = group.limits.get(RLIMIT_CPU)
            signo = SIGKILL if timer.now() >= hard else SIGXCPU
            group.kernel.signals.send_group(group, signo, Info(signo, SI_KERNEL))

        found = group.timers[_CPU_LIMIT] = Repeating(group, expired, cpu=True)
    found.set(float(max(1, min(soft, hard, _FOREVER))), 1.0)


class PosixTimer(Repeating):
    """A timer of timer_create. ``signo`` 0: it notifies nobody; ``tid`` 0: the process.

    One signal of it is pending at a time; what expires meanwhile is counted and told with it (timer_getoverrun).
    """

    __slots__ = ("_missed", "clock", "signo", "tid", "timer_id", "value")

    def __init__(self, group: "ThreadGroup", timer_id: int, clock: int, signo: int, value: int, tid: int) -> None:
        super().__init__(group, lambda timer: self._notify(), clock < 0 or clock in (PROCESS_CPU, THREAD_CPU))
        self.timer_id = timer_id
        self.clock = clock
        self.signo = signo
        self.value = value
        self.tid = tid
        self._missed = 0

    def _notify(self) -> None:
        if not self.signo:
            return
        kernel = self.group.kernel
        task = kernel.tasks.get(self.tid) if self.tid else None
        pending = self.group.pending if task is None else task.pending
        if pending.holds_timer(self.signo, self.timer_id):
            self._missed += 1 + self.overrun
            return
        self._missed = self.overrun
        info = Info(self.signo, SI_TIMER, timerid=self.timer_id, value=self.value)
        if task is not None:
            kernel.signals.send_task(task, self.signo, info)
        else:
            kernel.signals.send_group(self.group, self.signo, info)

    def taken(self) -> int:
        """Return the overrun count, as its signal is taken."""
        self.overrun, self._missed = min(self._missed, _MAX_OVERRUN), 0
        return self.overrun
