"""The guest's standard streams over host descriptors that are no terminal: files, pipes, sockets, /dev/null.

The descriptors' open descriptions are shared with whoever started us, so they are never made non-blocking. Nothing here
blocks either: the descriptor is polled before it is read or written, and a host pipe is written in pieces that fit.
"""

import errno
import os
import select
import stat as stats
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_ACCMODE, O_APPEND, FDTable, OpenFile
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, Waiter, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Stat
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

T = TypeVar("T")

_PIECE: Final = 4096
_FIONREAD: Final = 0x541B


def _host_call(call: Callable[[], T]) -> T:
    """Make a host call; its error becomes the guest's."""
    try:
        return call()
    except OSError as error:
        raise SyscallError(error.errno or errno.EIO) from error


class HostStream(OpenFile):
    """A host descriptor as an open file description of the guest."""

    __slots__ = ("_always_ready", "_kernel", "_seekable", "fd", "is_channel")

    def __init__(self, kernel: "Kernel", fd: int, flags: int) -> None:
        """Take a descriptor of our own (a duplicate); ``flags``: its access mode and O_APPEND."""
        super().__init__(flags)
        self.fd = fd
        self._kernel = kernel
        mode = os.fstat(fd).st_mode
        self._always_ready = stats.S_ISREG(mode) or stats.S_ISDIR(mode)
        self._seekable = stats.S_ISREG(mode)
        self.is_channel = stats.S_ISFIFO(mode) or stats.S_ISSOCK(mode)
        self.queue = _WatchedQueue(self)

    def _ready(self, events: int) -> int:
        """Return which of ``events`` (POLL… bits) hold now, errors included."""
        if self._always_ready:
            return events
        poller = select.poll()
        poller.register(self.fd, events)
        found = poller.poll(0)
        return found[0][1] if found else 0

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        if not self._ready(select.POLLIN):
            raise WouldBlockError
        return _host_call(lambda: os.read(self.fd, count))

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile. What a host pipe takes without blocking is at least PIPE_BUF when it polls writable."""
        if self._always_ready:
            return _host_call(lambda: os.write(self.fd, data))
        total = 0
        while total < len(data):
            if not self._ready(select.POLLOUT):
                break
            try:
                total += self._write_piece(data[total : total + _PIECE])
            except SyscallError:
                if total:
                    break
                raise
        if not total and len(data):
            raise WouldBlockError
        return total

    def _write_piece(self, piece: "bytes | memoryview[int]") -> int:
        return _host_call(lambda: os.write(self.fd, piece))

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        if not self._seekable:
            raise SyscallError(errno.ESPIPE)
        return _host_call(lambda: os.pread(self.fd, count, offset))

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile."""
        if not self._seekable:
            raise SyscallError(errno.ESPIPE)
        return _host_call(lambda: os.pwrite(self.fd, data, offset))

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile: the position is the host's, shared with our parent."""
        return _host_call(lambda: os.lseek(self.fd, offset, whence))

    def truncate(self, length: int) -> None:
        """See OpenFile."""
        _host_call(lambda: os.ftruncate(self.fd, length))

    def sync(self) -> None:
        """See OpenFile."""
        _host_call(lambda: os.fsync(self.fd))

    def poll(self) -> int:
        """See OpenFile."""
        wanted = (POLLIN if self.readable else 0) | (POLLOUT if self.writable else 0)
        return self._ready(wanted) & (wanted | POLLHUP | POLLERR | POLLNVAL)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile: FIONREAD for streams."""
        if request == _FIONREAD:
            import fcntl

            buffer = bytearray(4)
            _host_call(lambda: fcntl.ioctl(self.fd, _FIONREAD, buffer))
            task.mm.write(argument, bytes(buffer))
            return 0
        return super().ioctl(task, request, argument)

    def stat(self) -> "Stat":
        """See OpenFile: the host's."""
        from systrap.sentry.fs.inode import from_host

        return from_host(os.fstat(self.fd))

    def describe(self) -> str:
        """See OpenFile."""
        try:
            return os.readlink(f"/proc/self/fd/{self.fd}")
        except OSError:
            return f"host:[{self.fd}]"

    def watch(self) -> None:
        """Have the helper thread tell the queue when the descriptor becomes ready: somebody waits."""
        events = (select.EPOLLIN if self.readable else 0) | (select.EPOLLOUT if self.writable else 0)
        # A stream that is writable all the time must not wake those who want to read.
        if self.readable and self.writable:
            events = select.EPOLLIN if not self._ready(select.POLLIN) else select.EPOLLOUT
        if not self._kernel.host_events.watch(self.fd, self._happened, events):
            self._always_ready = True
            self.queue.notify()

    def _happened(self, events: int) -> None:
        self.queue.notify(events | POLLIN | POLLOUT)
        if self.queue.waiters:
            self.watch()

    def release(self) -> None:
        """See OpenFile: our duplicate is closed; the original stays open for our parent's sake."""
        self._kernel.host_events.unwatch(self.fd)
        os.close(self.fd)
        self.fd = -1


class _WatchedQueue(WaitQueue):
    """A queue that has its descriptor watched while somebody is in it."""

    __slots__ = ("_stream",)

    def __init__(self, stream: HostStream) -> None:
        super().__init__()
        self._stream = stream

    def add(self, waiter: Waiter) -> None:
        """See WaitQueue."""
        first = not self.waiters
        super().add(waiter)
        if first:
            self._stream.watch()


def open_standard(kernel: "Kernel", fd: int) -> OpenFile | None:
    """Return the description of a standard stream for a new guest; None when the host descriptor is closed."""
    import fcntl

    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    except OSError:
        return None
    flags &= O_ACCMODE | O_APPEND
    if os.isatty(own):
        from systrap.sentry import tty

        return tty.host_terminal(kernel, own, flags)
    return HostStream(kernel, own, flags)


def holds_output(fds: FDTable) -> bool:
    """Tell whether somebody who reads the run's output would still wait for more: a pipe or socket is open for writing."""
    return any(
        isinstance(file, HostStream) and file.is_channel and file.writable for file in map(fds.get, fds.numbers())
    )
