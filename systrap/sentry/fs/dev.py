"""/dev: the devices programs need."""

import errno
import os
import stat as stats
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import Inode, Location, Stat
from systrap.sentry.fs.synthetic import DirectoryInode, LinkInode, SyntheticInode
from systrap.sentry.mappable import Mappable
from systrap.sentry.pages import ZeroPages

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_zero_pages = ZeroPages()


class _Device(PathFile):
    """A character device that is always ready. Reads and writes ignore the position."""

    __slots__ = ()

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile: everything vanishes."""
        return len(data)

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        return self.read(count)

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile."""
        return self.write(data)

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile."""
        return 0

    def truncate(self, length: int) -> None:
        """See OpenFile."""
        raise SyscallError(errno.EINVAL)


class NullFile(_Device):
    """/dev/null."""

    __slots__ = ()

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        return b""


class ZeroFile(_Device):
    """/dev/zero."""

    __slots__ = ()

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        return bytes(count)

    def mappable(self) -> Mappable:
        """See OpenFile: anonymous memory."""
        return _zero_pages


class FullFile(ZeroFile):
    """/dev/full."""

    __slots__ = ()

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        raise SyscallError(errno.ENOSPC)


class RandomFile(_Device):
    """/dev/random and /dev/urandom: the host's."""

    __slots__ = ()

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        return os.urandom(count)


def _tty(task: "Task", location: Location, flags: int) -> OpenFile:
    from systrap.sentry import tty

    return tty.open_controlling(task, flags)


def _ptmx(task: "Task", location: Location, flags: int) -> OpenFile:
    from systrap.sentry import tty

    return tty.open_ptmx(task, flags)


Opener = Callable[["Task", Location, int], OpenFile]
DEVICES: Final[dict[tuple[int, int], Opener]] = {
    (1, 3): lambda task, location, flags: NullFile(location, flags),
    (1, 5): lambda task, location, flags: ZeroFile(location, flags),
    (1, 7): lambda task, location, flags: FullFile(location, flags),
    (1, 8): lambda task, location, flags: RandomFile(location, flags),
    (1, 9): lambda task, location, flags: RandomFile(location, flags),
    (5, 0): _tty,
    (5, 2): _ptmx,
}
"""What a device number opens, whatever the node's name."""


def open_device(task: "Task", location: Location, rdev: int, flags: int) -> OpenFile:
    """Open a device node. ENXIO for devices that are not there."""
    opener = DEVICES.get((os.major(rdev), os.minor(rdev)))
    if opener is None:
        raise SyscallError(errno.ENXIO)
    return opener(task, location, flags)


class DeviceInode(SyntheticInode):
    """A device node of /dev."""

    __slots__ = ("rdev",)

    def __init__(self, major: int, minor: int, mode: int = 0o666) -> None:
        super().__init__(stats.S_IFCHR | mode, dev=5)
        self.rdev = os.makedev(major, minor)

    def stat(self) -> Stat:
        """See Inode."""
        return super().stat()._replace(rdev=self.rdev, blksize=4096)

    def truncate(self, length: int) -> None:
        """See Inode: O_TRUNC means nothing to a device."""

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return open_device(task, location, self.rdev, flags)


def mount_root(kernel: "Kernel") -> Inode:
    """Return the root of /dev."""
    from systrap.sentry.fs.nodes import new_tree

    links = {b"stdin": b"/proc/self/fd/0", b"stdout": b"/proc/self/fd/1", b"stderr": b"/proc/self/fd/2", b"fd": b"/proc/self/fd"}
    devices = {
        b"null": (1, 3), b"zero": (1, 5), b"full": (1, 7), b"random": (1, 8), b"urandom": (1, 9), b"tty": (5, 0), b"ptmx": (5, 2),
    }  # fmt: skip
    table: dict[bytes, Callable[[], Inode]] = {}
    for name, (major, minor) in devices.items():
        table[name] = lambda major=major, minor=minor: DeviceInode(major, minor)  # type: ignore[misc] # bound here
    for name, target in links.items():
        table[name] = lambda target=target: LinkInode(lambda: target)  # type: ignore[misc] # bound here
    table[b"shm"] = lambda: new_tree(kernel.memory, 0x23, 0o1777)
    table[b"pts"] = lambda: _pts(kernel)
    return DirectoryInode(table, mode=0o755)


def _pts(kernel: "Kernel") -> Inode:
    from systrap.sentry import tty

    return tty.pts_directory(kernel)
