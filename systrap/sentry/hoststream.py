"""The guest's standard streams over host descriptors that are no terminal: files, pipes, sockets, /dev/null.

The descriptors' open descriptions are shared with whoever started us, so they are never made non-blocking. Nothing here
blocks either: pipes and sockets are read and written with RWF_NOWAIT where the host has it; else the descriptor is polled
first, and written in pieces that fit.
"""

import errno
import os
import select
import stat as stats
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_ACCMODE, O_APPEND, FDTable, OpenFile
from systrap.sentry.wait import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRNORM,
    Waiter,
    WaitQueue,
)

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Stat
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

T = TypeVar("T")

_PIECE: Final = 4096
_READ_MOST: Final = 65536
_FIONREAD: Final = 0x541B


def host_call(call: Callable[[], T]) -> T:
    """Make a host call; its error becomes the guest's."""
    try:
        return call()
    except BlockingIOError:
        raise WouldBlockError from None
    except OSError as error:
        raise SyscallError(error.errno or errno.EIO) from error


class HostStream(OpenFile):
    """A host descriptor as an open file description of the guest.

    The descriptor is watched only while somebody waits for what it cannot do: who looks (poll, a failed read or write)
    arms the watch anew, so that a stream which is ready all the time costs nothing.
    """

    __slots__ = ("_armed", "_kernel", "_nowait", "_seen", "fd", "is_channel")

    def __init__(self, kernel: "Kernel", fd: int, flags: int) -> None:
        """Take a descriptor of our own (a duplicate); ``flags``: its access mode and O_APPEND."""
        super().__init__(flags)
        self.fd = fd
        self._kernel = kernel
        mode = os.fstat(fd).st_mode
        self.is_channel = stats.S_ISFIFO(mode) or stats.S_ISSOCK(mode)
        self._nowait = self.is_channel
        self._armed = 0
        self._seen = 0
        self.queue = _WatchedQueue(self)

    def _ready(self, events: int) -> int:
        """Return which of ``events`` (POLL… bits) hold now, errors included."""
        poller = select.poll()
        poller.register(self.fd, events)
        found = poller.poll(0)
        return found[0][1] if found else 0

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        try:
            return self._read_now(min(count, _READ_MOST))
        except WouldBlockError:
            self._looked(self._seen & ~POLLIN)
            raise

    def _read_now(self, count: int) -> bytes:
        if self._nowait:
            buffer = bytearray(count)
            try:
                got = host_call(lambda: os.preadv(self.fd, [buffer], -1, os.RWF_NOWAIT))
                return bytes(buffer[:got])
            except SyscallError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._nowait = False
        if not self._ready(POLLIN):
            raise WouldBlockError
        return host_call(lambda: os.read(self.fd, count))

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        try:
            return self._write_now(data)
        except WouldBlockError:
            self._looked(self._seen & ~POLLOUT)
            raise

    def _write_now(self, data: "bytes | memoryview[int]") -> int:
        """Write what fits. A host pipe that polls writable takes at least PIPE_BUF without blocking."""
        if self._nowait:
            try:
                return host_call(lambda: os.pwritev(self.fd, [data], -1, os.RWF_NOWAIT))
            except SyscallError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._nowait = False
        total = 0
        while total < len(data) and self._ready(POLLOUT):
            piece = data[total : total + _PIECE]
            try:
                total += host_call(lambda piece=piece: os.write(self.fd, piece))  # type: ignore[misc] # binds piece now
            except SyscallError:
                if total:
                    break
                raise
        if not total and len(data):
            raise WouldBlockError
        return total

    def poll(self) -> int:
        """See OpenFile."""
        wanted = (POLLIN | POLLRDNORM | POLLRDHUP if self.readable else 0) | (
            POLLOUT | POLLWRNORM if self.writable else 0
        )
        ready = self._ready(wanted)
        self._looked(ready)
        return ready & (wanted | POLLHUP | POLLERR | POLLNVAL)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile: FIONREAD for streams."""
        if request == _FIONREAD:
            import fcntl

            buffer = bytearray(4)
            host_call(lambda: fcntl.ioctl(self.fd, _FIONREAD, buffer))
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

    def _looked(self, ready: int) -> None:
        """Note what was possible when somebody looked."""
        self._seen = ready
        if self.queue.waiters:
            self.watch()

    def watch(self) -> None:
        """Have the helper thread tell the queue when the descriptor can do what it could not at the last look.

        What became possible since then is told at once, so that nothing is missed between a look and a wait.
        """
        wanted = (POLLIN if self.readable else 0) | (POLLOUT if self.writable else 0)
        missing = wanted & ~self._seen | POLLHUP | POLLERR
        if self._seen & (POLLHUP | POLLERR) or missing == self._armed:
            # What hung up changes no more; and it is ready for everything.
            return
        self._armed = missing
        self._kernel.host_events.watch(self.fd, self._happened, missing)

    def _happened(self, events: int) -> None:
        self._armed = 0
        self.queue.notify(events | POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

    def release(self) -> None:
        """See OpenFile: our duplicate is closed; the original stays open for our parent's sake."""
        self._kernel.host_events.unwatch(self.fd)
        os.close(self.fd)
        self.fd = -1


class HostFile(HostStream):
    """A host file or device that is ready all the time. The position is the host's, shared with our parent."""

    __slots__ = ()
    pollable = False

    def _ready(self, events: int) -> int:
        return events

    def _read_now(self, count: int) -> bytes:
        return host_call(lambda: os.read(self.fd, count))

    def _write_now(self, data: "bytes | memoryview[int]") -> int:
        return host_call(lambda: os.write(self.fd, data))

    def watch(self) -> None:
        """See HostStream: nothing to wait for."""
        return

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        return host_call(lambda: os.pread(self.fd, count, offset))

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile."""
        return host_call(lambda: os.pwrite(self.fd, data, offset))

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile: the position is the host's, shared with our parent."""
        return host_call(lambda: os.lseek(self.fd, offset, whence))

    def truncate(self, length: int) -> None:
        """See OpenFile."""
        host_call(lambda: os.ftruncate(self.fd, length))

    def sync(self) -> None:
        """See OpenFile."""
        host_call(lambda: os.fsync(self.fd))


class _WatchedQueue(WaitQueue):
    """A queue whose descriptor is watched when somebody comes to wait."""

    __slots__ = ("_stream",)

    def __init__(self, stream: HostStream) -> None:
        super().__init__()
        self._stream = stream

    def add(self, waiter: Waiter) -> None:
        """See WaitQueue."""
        super().add(waiter)
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
    if _always_ready(own):
        return HostFile(kernel, own, flags)
    return HostStream(kernel, own, flags)


def _always_ready(fd: int) -> bool:
    """Tell whether a descriptor is of a kind that epoll does not take."""
    with select.epoll() as probe:
        try:
            probe.register(fd, 0)
        except PermissionError:
            return True
    return False


def holds_output(fds: FDTable) -> bool:
    """Tell whether somebody who reads the run's output would still wait for more: a pipe or socket is open for writing."""
    return any(
        isinstance(file, HostStream) and file.is_channel and file.writable for file in map(fds.get, fds.numbers())
    )
