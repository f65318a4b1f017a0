"""eventfd, signalfd and timerfd: counters, signals and time as files."""

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_RDWR, OpenFile
from systrap.sentry.wait import POLLIN, POLLOUT, Waiter, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Stat
    from systrap.sentry.signals import Info
    from systrap.sentry.task import Task
    from systrap.sentry.timers import Timer, Timers

_MAX: Final = (1 << 64) - 2
_SIGINFO_SIZE: Final = 128


class AnonymousFile(OpenFile):
    """A file without a name or contents on a file system. ``KIND`` is what /proc/self/fd shows."""

    __slots__ = ()
    KIND = "unknown"

    def stat(self) -> "Stat":
        """See OpenFile."""
        from systrap.sentry.fs.inode import anonymous_stat

        return anonymous_stat()

    def describe(self) -> str:
        """See OpenFile."""
        return f"anon_inode:[{self.KIND}]"


class EventFile(AnonymousFile):
    """An eventfd."""

    __slots__ = ("_count", "_semaphore")
    KIND = "eventfd"

    def __init__(self, count: int, semaphore: bool, flags: int) -> None:
        """Start at ``count``; a semaphore is read one by one."""
        super().__init__(O_RDWR | flags)
        self._count = count
        self._semaphore = semaphore

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        if count < 8:
            raise SyscallError(errno.EINVAL)
        if not self._count:
            raise WouldBlockError
        value = 1 if self._semaphore else self._count
        self._count -= value
        self.queue.notify(POLLOUT)
        return struct.pack("<Q", value)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        if len(data) < 8:
            raise SyscallError(errno.EINVAL)
        (value,) = struct.unpack("<Q", data[:8])
        if value > _MAX:
            raise SyscallError(errno.EINVAL)
        if self._count + value > _MAX:
            raise WouldBlockError
        self._count += value
        if value:
            self.queue.notify(POLLIN)
        return 8

    def poll(self) -> int:
        """See OpenFile."""
        return (POLLIN if self._count else 0) | (POLLOUT if self._count < _MAX else 0)


class _SignalQueue(WaitQueue):
    """A signalfd's queue: in the process's own queue while somebody waits in it."""

    __slots__ = ("_file",)

    def __init__(self, file: "SignalFile") -> None:
        super().__init__()
        self._file = file

    def add(self, waiter: Waiter) -> None:
        """See WaitQueue."""
        super().add(waiter)
        self._file.maker.group.signal_queue.add(self._file)


class SignalFile(AnonymousFile):
    """A signalfd. It reads the pending signals of whoever reads; ``maker`` made it, and stands in where nobody is known."""

    __slots__ = ("maker", "mask")
    KIND = "signalfd"

    def __init__(self, maker: "Task", mask: int, flags: int) -> None:
        """Take the signals to read, as a mask."""
        super().__init__(O_RDWR | flags)
        self.maker = maker
        self.mask = mask
        self.queue = _SignalQueue(self)

    def _reader(self) -> "Task":
        current = self.maker.kernel.current
        return current if current is not None else self.maker

    def notified(self, events: int) -> None:
        """Pass a signal's arrival on (wait.Waiter of the process's signal queue)."""
        self.queue.notify(POLLIN)

    def read(self, count: int) -> bytes:
        """See OpenFile: as many struct signalfd_siginfo as fit and are there."""
        if count < _SIGINFO_SIZE:
            raise SyscallError(errno.EINVAL)
        task, found = self._reader(), b""
        while len(found) + _SIGINFO_SIZE <= count:
            info = task.kernel.signals.dequeue(task, self.mask)
            if info is None:
                break
            found += _pack_signal(info)
        if not found:
            raise WouldBlockError
        return found

    def poll(self) -> int:
        """See OpenFile."""
        task = self._reader()
        pending = task.pending.bits | task.group.pending.bits
        return POLLIN if pending & self.mask else 0

    def release(self) -> None:
        """See OpenFile."""
        self.maker.group.signal_queue.discard(self)


def _pack_signal(info: "Info") -> bytes:
    """Return a struct signalfd_siginfo."""
    head = struct.pack(
        "<IiiIIiIIIIiiQQQQ",
        info.signo, 0, info.code, info.pid, info.uid, 0, info.timerid, 0, info.overrun, info.trapno, info.status,
        info.value & 0x7FFFFFFF, info.value, info.utime, info.stime, info.addr,
    )  # fmt: skip
    return head.ljust(_SIGINFO_SIZE, b"\0")


class TimerFile(AnonymousFile):
    """A timerfd. Times are seconds: of time.monotonic(), or with ``realtime`` of time.time()."""

    __slots__ = ("_deadline", "_expirations", "_interval", "_timer", "_timers", "realtime")
    KIND = "timerfd"

    def __init__(self, timers: "Timers", realtime: bool, flags: int) -> None:
        """Make a disarmed timer."""
        super().__init__(O_RDWR | flags)
        self._timers = timers
        self.realtime = realtime
        self._deadline = 0.0
        self._interval = 0.0
        self._expirations = 0
        self._timer: Timer | None = None

    def set(self, value: float, interval: float, absolute: bool) -> tuple[float, float]:
        """Arm (or with value 0 disarm) the timer; return the old rest and interval."""
        old = self.get()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._expirations = 0
        self._interval = interval
        if value:
            now = time.monotonic()
            if absolute:
                value -= time.time() if self.realtime else now
            self._deadline = now + max(value, 0.0)
            self._timer = self._timers.add(self._deadline, self._expired)
        return old

    def get(self) -> tuple[float, float]:
        """Return the time until the next expiration (0: disarmed) and the interval."""
        if self._timer is None:
            return 0.0, self._interval
        return max(self._deadline - time.monotonic(), 1e-9), self._interval

    def _expired(self) -> None:
        self._timer = None
        self._expirations += 1
        if self._interval:
            behind = time.monotonic() - self._deadline
            missed = int(behind / self._interval)
            self._expirations += missed
            self._deadline += self._interval * (missed + 1)
            self._timer = self._timers.add(self._deadline, self._expired)
        self.queue.notify(POLLIN)

    def read(self, count: int) -> bytes:
        """See OpenFile: the number of expirations since the last read."""
        if count < 8:
            raise SyscallError(errno.EINVAL)
        if not self._expirations:
            raise WouldBlockError
        data = struct.pack("<Q", self._expirations)
        self._expirations = 0
        return data

    def poll(self) -> int:
        """See OpenFile."""
        return POLLIN if self._expirations else 0

    def release(self) -> None:
        """See OpenFile."""
        if self._timer is not None:
            self._timer.cancel()
