"""/dev: the devices programs need."""

import errno
import os
import stat as stats
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import Inode, Location
from systrap.sentry.fs.synthetic import Directory, SyntheticInode, fixed_link, ino_of
from systrap.sentry.mappable import Mappable
from systrap.sentry.pages import ZeroPages

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_DEV: Final = 5
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

    __slots__ = ("_number",)

    def __init__(self, name: bytes, major: int, minor: int, mode: int = 0o666) -> None:
        super().__init__(stats.S_IFCHR | mode, ino_of("dev", name), _DEV)
        self._number = os.makedev(major, minor)

    def rdev(self) -> int:
        """See SyntheticInode."""
        return self._number

    def truncate(self, length: int) -> None:
        """See Inode: O_TRUNC means nothing to a device."""

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return open_device(task, location, self._number, flags)


_NODES: Final = {
    b"null": (1, 3), b"zero": (1, 5), b"full": (1, 7), b"random": (1, 8), b"urandom": (1, 9), b"tty": (5, 0),
    b"ptmx": (5, 2),
}  # fmt: skip
_LINKS: Final = {
    b"stdin": b"/proc/self/fd/0", b"stdout": b"/proc/self/fd/1", b"stderr": b"/proc/self/fd/2", b"fd": b"/proc/self/fd",
}  # fmt: skip


def mount_root(kernel: "Kernel") -> Inode:
    """Return the root of /dev."""
    from systrap.sentry import tty
    from systrap.sentry.fs.nodes import new_tree

    children: dict[bytes, Inode] = {name: DeviceInode(name, *number) for name, number in _NODES.items()}
    children |= {name: fixed_link(target, ino_of("dev", name), _DEV) for name, target in _LINKS.items()}
    children[b"shm"] = new_tree(kernel.memory, 0x23, 0o1777)
    children[b"pts"] = tty.pts_directory(kernel)
    return Directory(children, 1, 0o755, _DEV)
