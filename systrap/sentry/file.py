"""Open file descriptions, and the table of descriptors that refers to them.

Methods of a description never wait: what is not possible now raises WouldBlockError, and ``queue`` is notified when that
may have changed. Waiting is the business of the system call layer (wait.py). What a kind of file cannot do
raises the errno Linux gives.
"""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from systrap import arch
from systrap.sentry.errors import SyscallError
from systrap.sentry.mappable import Mappable
from systrap.sentry.wait import POLLIN, POLLOUT, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.epoll import Epoll
    from systrap.sentry.fs.inode import Stat
    from systrap.sentry.task import Task

_LINUX = arch.current().LINUX

O_ACCMODE = 0o3
O_RDONLY = 0
O_WRONLY = 1
O_RDWR = 2
O_CREAT = 0o100
O_EXCL = 0o200
O_NOCTTY = 0o400
O_TRUNC = 0o1000
O_APPEND = 0o2000
O_NONBLOCK = 0o4000
O_DSYNC = 0o10000
O_ASYNC = 0o20000
O_DIRECT = _LINUX.o_direct
O_LARGEFILE = _LINUX.o_largefile
O_DIRECTORY = _LINUX.o_directory
O_NOFOLLOW = _LINUX.o_nofollow
O_NOATIME = 0o1000000
O_CLOEXEC = 0o2000000
O_PATH = 0o10000000
O_TMPFILE = 0o20000000 | O_DIRECTORY


class OpenFile:
    """An open file description: status flags, position, and the operations of its kind of file.

    Reference-counted by descriptors (and by mappings, epoll entries and messages in flight, which hold the object);
    ``release`` runs when the last descriptor is gone, after ``on_release``. ``owner``: who is told of input, as (kind, pid,
    signal) of F_SETOWN and F_SETSIG.
    """

    __slots__ = ("flags", "offset", "on_release", "owner", "queue", "refs", "watchers")

    pollable = True
    """Whether epoll takes it; plain files and directories are always ready, and it does not."""

    @property
    def read_timeout(self) -> float | None:
        """How many seconds a blocking read waits (SO_RCVTIMEO); None: until there is something."""
        return None

    @property
    def write_timeout(self) -> float | None:
        """How many seconds a blocking write waits (SO_SNDTIMEO)."""
        return None

    def __init__(self, flags: int) -> None:
        """Take access mode and status flags (O_…); creation flags are dropped."""
        self.flags = flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC)
        self.offset = 0
        self.refs = 0
        self.queue = WaitQueue()
        self.watchers: dict[Epoll, int] = {}
        self.owner = (1, 0, 0)
        self.on_release: Callable[[OpenFile], None] | None = None

    @property
    def nonblocking(self) -> bool:
        """O_NONBLOCK is set."""
        return bool(self.flags & O_NONBLOCK)

    @property
    def readable(self) -> bool:
        """The access mode allows reading."""
        return self.flags & O_ACCMODE in (O_RDONLY, O_RDWR) and not self.flags & O_PATH

    @property
    def writable(self) -> bool:
        """The access mode allows writing."""
        return self.flags & O_ACCMODE in (O_WRONLY, O_RDWR) and not self.flags & O_PATH

    def read(self, count: int) -> bytes:
        """Read up to ``count`` bytes at the position and move it; b"" at the end. WouldBlockError when nothing is there yet."""
        raise SyscallError(errno.EINVAL)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """Write at the position (or the end, with O_APPEND) and move it; return how much. WouldBlockError when full."""
        raise SyscallError(errno.EINVAL)

    def pread(self, count: int, offset: int) -> bytes:
        """Read at ``offset``; the position stays. ESPIPE where there is no position."""
        raise SyscallError(errno.ESPIPE)

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """Write at ``offset``; the position stays. ESPIPE where there is no position."""
        raise SyscallError(errno.ESPIPE)

    def seek(self, offset: int, whence: int) -> int:
        """Move the position (SEEK_…) and return it."""
        raise SyscallError(errno.ESPIPE)

    def poll(self) -> int:
        """Return what is possible now, as POLL… bits."""
        return POLLIN | POLLOUT

    def stat(self) -> "Stat":
        """Return the attributes of what is open."""
        raise NotImplementedError

    def truncate(self, length: int) -> None:
        """Set the length. EINVAL for what has none."""
        raise SyscallError(errno.EINVAL)

    def sync(self) -> None:
        """Fsync and fdatasync. EINVAL for what cannot be synchronised."""
        raise SyscallError(errno.EINVAL)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """Carry out an ioctl; ``argument`` is a guest address or a number. ENOTTY for unknown requests."""
        raise SyscallError(errno.ENOTTY)

    def mappable(self) -> Mappable:
        """Return what mmap maps. ENODEV for what cannot be mapped."""
        raise SyscallError(errno.ENODEV)

    def describe(self) -> str:
        """Return what /proc/self/fd shows: a path, or a name like "pipe:[7]"."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of what the description holds. Called once, when no descriptor refers to it any more."""


class FDTable:
    """The descriptors of a process: numbers to descriptions, with close-on-exec flags."""

    __slots__ = ("_files", "cloexec", "limit", "on_close", "refs")

    def __init__(self, limit: int = 1024) -> None:
        """``limit``: RLIMIT_NOFILE, the first number that may not be given out."""
        self._files: dict[int, OpenFile] = {}
        self.cloexec: set[int] = set()
        self.limit = limit
        self.refs = 1
        self.on_close: Callable[[FDTable, OpenFile], None] | None = None

    def get(self, fd: int) -> OpenFile:
        """Return the description of ``fd``. EBADF."""
        try:
            return self._files[fd]
        except KeyError:
            raise SyscallError(errno.EBADF) from None

    def numbers(self) -> list[int]:
        """Return the open descriptors, sorted."""
        return sorted(self._files)

    def add(self, file: OpenFile, cloexec: bool = False, lowest: int = 0) -> int:
        """Give ``file`` the lowest free number from ``lowest`` on. EMFILE; EINVAL when ``lowest`` is past the limit."""
        if lowest >= self.limit:
            raise SyscallError(errno.EINVAL if lowest else errno.EMFILE)
        fd = lowest
        while fd in self._files:
            fd += 1
        if fd >= self.limit:
            raise SyscallError(errno.EMFILE)
        self.set(fd, file, cloexec)
        return fd

    def set(self, fd: int, file: OpenFile, cloexec: bool = False) -> None:
        """Make ``fd`` refer to ``file``, closing what it referred to (dup2). EBADF outside the limit."""
        if not 0 <= fd < self.limit:
            raise SyscallError(errno.EBADF)
        file.refs += 1
        old = self._files.get(fd)
        self._files[fd] = file
        if cloexec:
            self.cloexec.add(fd)
        else:
            self.cloexec.discard(fd)
        if old is not None:
            self._let_go(old)

    def close(self, fd: int) -> None:
        """Close ``fd``. EBADF."""
        file = self._files.pop(fd, None)
        if file is None:
            raise SyscallError(errno.EBADF)
        self.cloexec.discard(fd)
        self._let_go(file)

    def _let_go(self, file: OpenFile) -> None:
        """Give up a descriptor's reference; record locks on the file go (fs.locks)."""
        if self.on_close is not None:
            self.on_close(self, file)
        drop(file)

    def copy(self) -> "FDTable":
        """Return a table of its own with the same descriptions (fork)."""
        table = FDTable(self.limit)
        table._files = dict(self._files)
        table.cloexec = set(self.cloexec)
        for file in table._files.values():
            file.refs += 1
        return table

    def close_on_exec(self) -> None:
        """Close what is marked so (execve)."""
        for fd in sorted(self.cloexec):
            self.close(fd)

    def close_all(self) -> None:
        """Close everything (exit)."""
        for fd in self.numbers():
            self.close(fd)


def drop(file: OpenFile) -> None:
    """Give up one reference to a description; the last one releases it."""
    file.refs -= 1
    if file.refs == 0:
        for epoll in list(file.watchers):
            epoll.forget(file)
        if file.on_release is not None:
            file.on_release(file)
        file.release()
