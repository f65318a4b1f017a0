"""eventfd, signalfd, timerfd."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.eventfd import EventFile, SignalFile, TimerFile
from systrap.sentry.file import O_CLOEXEC, O_NONBLOCK
from systrap.sentry.signals import UNBLOCKABLE
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_EFD_SEMAPHORE: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_TFD_TIMER_CANCEL_ON_SET: Final = 2
_CLOCK_REALTIME: Final = 0
_CLOCKS: Final = (0, 1, 7, 8, 9)
_REALTIME_CLOCKS: Final = (0, 8)


@syscall("eventfd")
def sys_eventfd(task: Task, count: u32) -> Result:
    """eventfd(2)."""
    return task.fds.add(EventFile(count, False, 0))


@syscall("eventfd2")
def sys_eventfd2(task: Task, count: u32, flags: i32) -> Result:
    """eventfd2(2)."""
    if flags & ~(_EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK):
        raise SyscallError(errno.EINVAL)
    file = EventFile(count, bool(flags & _EFD_SEMAPHORE), flags & O_NONBLOCK)
    return task.fds.add(file, bool(flags & O_CLOEXEC))


@syscall("signalfd")
def sys_signalfd(task: Task, fd: i32, mask: addr, size: u64) -> Result:
    """signalfd(2)."""
    return _signalfd(task, fd, mask, size, 0)


@syscall("signalfd4")
def sys_signalfd4(task: Task, fd: i32, mask: addr, size: u64, flags: i32) -> Result:
    """signalfd4(2)."""
    return _signalfd(task, fd, mask, size, flags)


def _signalfd(task: Task, fd: int, mask: int, size: int, flags: int) -> int:
    if size != 8 or flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise SyscallError(errno.EINVAL)
    signals = task.mm.read_u64(mask) & ~UNBLOCKABLE
    if fd == -1:
        return task.fds.add(SignalFile(task, signals, flags & O_NONBLOCK), bool(flags & O_CLOEXEC))
    file = task.fds.get(fd)
    if not isinstance(file, SignalFile):
        raise SyscallError(errno.EINVAL)
    file.mask = signals
    return fd


@syscall("timerfd_create")
def sys_timerfd_create(task: Task, clock: i32, flags: i32) -> Result:
    """timerfd_create(2)."""
    if clock not in _CLOCKS or flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise SyscallError(errno.EINVAL)
    file = TimerFile(task.kernel.timers, clock in _REALTIME_CLOCKS, flags & O_NONBLOCK)
    return task.fds.add(file, bool(flags & O_CLOEXEC))


def _timer(task: Task, fd: int) -> TimerFile:
    file = task.fds.get(fd)
    if not isinstance(file, TimerFile):
        raise SyscallError(errno.EINVAL)
    return file


def _pack(value: float, interval: float) -> bytes:
    """Return a struct itimerspec."""
    parts: list[int] = []
    for seconds in (interval, value):
        parts += [int(seconds), int(seconds % 1 * 1e9)]
    return struct.pack("<4q", *parts)


@syscall("timerfd_settime")
def sys_timerfd_settime(task: Task, fd: i32, flags: i32, new: addr, old: addr) -> Result:
    """timerfd_settime(2)."""
    if flags & ~(_TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET):
        raise SyscallError(errno.EINVAL)
    timer = _timer(task, fd)
    fields = struct.unpack("<4q", task.mm.read(new, 32))
    if any(field < 0 for field in fields) or fields[1] >= 1_000_000_000 or fields[3] >= 1_000_000_000:
        raise SyscallError(errno.EINVAL)
    interval, value = fields[0] + fields[1] / 1e9, fields[2] + fields[3] / 1e9
    rest = timer.set(value, interval, bool(flags & _TFD_TIMER_ABSTIME))
    if old:
        task.mm.write(old, _pack(*rest))
    return 0


@syscall("timerfd_gettime")
def sys_timerfd_gettime(task: Task, fd: i32, current: addr) -> Result:
    """timerfd_gettime(2)."""
    task.mm.write(current, _pack(*_timer(task, fd).get()))
    return 0
