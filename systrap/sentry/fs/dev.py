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
_zero_pages: Final = ZeroPages()


class _Device(PathFile):
    """A character device that is always ready. Reads and writes ignore the position."""

    __slots__ = ()
    pollable = False

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
    pollable = True

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        return os.urandom(count)


def _tty(task: "Task", location: Location, flags: int) -> OpenFile:
    from systrap.sentry import tty

    return tty.open_controlling(task, flags)


def _console(task: "Task", location: Location, flags: int) -> OpenFile:
    """Open the run's terminal, which is the console of its guests. EIO where the run has none."""
    from systrap.sentry import tty

    return tty.open_console(task, flags)


def _ptmx(task: "Task", location: Location, flags: int) -> OpenFile:
    from systrap.sentry import tty

    return tty.open_ptmx(task, flags)


_Opener = Callable[["Task", Location, int], OpenFile]
_DEVICES: Final[dict[tuple[int, int], _Opener]] = {
    (1, 3): lambda task, location, flags: NullFile(location, flags),
    (1, 5): lambda task, location, flags: ZeroFile(location, flags),
    (1, 7): lambda task, location, flags: FullFile(location, flags),
    (1, 8): lambda task, location, flags: RandomFile(location, flags),
    (1, 9): lambda task, location, flags: RandomFile(location, flags),
    (5, 0): _tty,
    (5, 1): _console,
    (5, 2): _ptmx,
}
"""What a device number opens, whatever the node's name."""


def open_device(task: "Task", location: Location, rdev: int, flags: int) -> OpenFile:
    """Open a device node. ENXIO for devices that are not there."""
    opener = _DEVICES.get((os.major(rdev), os.minor(rdev)))
    if opener is None:
        raise SyscallError(errno.ENXIO)
    return opener(task, location, flags)


class DeviceInode(SyntheticInode):
    """A device node of /dev."""

    __slots__ = ("number",)

    def __init__(self, name: bytes, major: int, minor: int, mode: int) -> None:
        super().__init__(stats.S_IFCHR | mode, ino_of("dev", name), _DEV)
        self.number = os.makedev(major, minor)

    def rdev(self) -> int:
        """See SyntheticInode."""
        return self.number

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return open_device(task, location, self.number, flags)


_NODES: Final = (
    (b"console", 5, 1, 0o600), (b"full", 1, 7, 0o666), (b"null", 1, 3, 0o666), (b"ptmx", 5, 2, 0o666), (b"random", 1, 8, 0o666),
    (b"tty", 5, 0, 0o666), (b"urandom", 1, 9, 0o666), (b"zero", 1, 5, 0o666),
)  # fmt: skip
_LINKS: Final = (
    (b"fd", b"/proc/self/fd"), (b"stdin", b"/proc/self/fd/0"), (b"stdout", b"/proc/self/fd/1"), (b"stderr", b"/proc/self/fd/2"),
)  # fmt: skip


class DevRoot(Directory):
    """The root of /dev. pts/ is made when it is first looked at."""

    __slots__ = ("_kernel", "_pts")

    def __init__(self, kernel: "Kernel") -> None:
        from systrap.sentry.fs.nodes import new_tree

        children: dict[bytes, Inode] = {
            name: DeviceInode(name, major, minor, mode) for name, major, minor, mode in _NODES
        }
        children |= {name: fixed_link(target, ino_of("dev", name), _DEV) for name, target in _LINKS}
        children[b"shm"] = new_tree(kernel.memory, 0x23, 0o1777)
        super().__init__(children, ino_of("dev"), 0o755, _DEV)
        self._kernel = kernel
        self._pts: Inode | None = None

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        if name == b"pts":
            if self._pts is None:
                self._pts = _pts_directory(self._kernel)
            return self._pts
        return super().lookup(name)

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        return [*super().entries(), (b"pts", ino_of("dev", "pts"), 4)]


def _pts_directory(kernel: "Kernel") -> Inode:
    """Return the root of /dev/pts; an empty directory where there are no pseudo-terminals."""
    from systrap.sentry import tty

    try:
        return tty.pts_directory(kernel)
    except ImportError:
        return Directory({}, ino_of("dev", "pts"), 0o755, _DEV)


def mount_root(kernel: "Kernel") -> Inode:
    """Return the root of /dev."""
    return DevRoot(kernel)
