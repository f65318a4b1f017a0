"""Directories, files and links whose contents are made by functions: what /proc and /dev are built of.

A text file's contents are made when it is read from its beginning, and stay until it is read from there again, so that reading
in pieces gives one consistent text.
"""

import errno
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.fs.contents import DirectoryFile, PathFile
from systrap.sentry.fs.inode import BLOCK_SIZE, Inode, Location, Stat, d_type_of

if TYPE_CHECKING:
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.task import Task

PROC_DEV: Final = 0x26
"""The device number of /proc."""
PROC_MAGIC: Final = 0x9FA0
S_IFDIR: Final = 0o040000
S_IFREG: Final = 0o100000
S_IFLNK: Final = 0o120000
S_IFCHR: Final = 0o020000

Read = Callable[[], bytes]
Write = Callable[["Task", bytes], None]

_started: Final = time.time_ns()


def ino_of(*key: object) -> int:
    """Return the inode number that belongs to a key: the same for the same key during a run."""
    return hash(key) & 0x7FFFFFFF | 0x80000000


class SyntheticInode(Inode):
    """What all share: attributes that do not change. ``owner`` gives uid and gid when asked; None is root."""

    __slots__ = ("dev", "ino", "mode", "owner")

    def __init__(
        self, mode: int, ino: int, dev: int = PROC_DEV, owner: "Callable[[], tuple[int, int]] | None" = None
    ) -> None:
        """``mode`` with format bits."""
        self.mode = mode
        self.ino = ino
        self.dev = dev
        self.owner = owner

    @property
    def format(self) -> int:
        """See Inode."""
        return self.mode & 0o170000

    @property
    def is_directory(self) -> bool:
        """See Inode."""
        return self.mode & 0o170000 == S_IFDIR

    @property
    def is_symlink(self) -> bool:
        """See Inode."""
        return self.mode & 0o170000 == S_IFLNK

    def stat(self) -> Stat:
        """See Inode."""
        uid, gid = self.owner() if self.owner is not None else (0, 0)
        nlink = 2 if self.is_directory else 1
        return Stat(
            self.dev, self.ino, self.mode, nlink, uid, gid, self.rdev(), 0, self.block_size(), 0, _started, _started, _started,
            _started,
        )  # fmt: skip

    def rdev(self) -> int:
        """Return the device number of a device."""
        return 0

    def block_size(self) -> int:
        """Return st_blksize."""
        return 1024 if self.dev == PROC_DEV else BLOCK_SIZE

    def statfs_magic(self) -> int:
        """See Inode."""
        return PROC_MAGIC if self.dev == PROC_DEV else 0x01021994

    def truncate(self, length: int) -> None:
        """See Inode: O_TRUNC has no effect on what is made by functions."""
        if self.is_directory:
            raise SyscallError(errno.EISDIR)

    def chmod(self, mode: int) -> None:
        """See Inode."""
        if self.dev == PROC_DEV:
            raise SyscallError(errno.EPERM)
        self.mode = self.mode & 0o170000 | mode & 0o7777

    def utimens(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See Inode: allowed, and without effect."""

    def create(self, name: bytes, mode: int, creds: "Credentials", rdev: int = 0) -> Inode:
        """See Inode: /proc answers as if the place did not exist."""
        raise SyscallError(errno.ENOENT if self.dev == PROC_DEV else errno.EPERM)


class TextInode(SyntheticInode):
    """A file with the text ``read`` makes. ``write``, if given, takes what is written."""

    __slots__ = ("read", "write")

    def __init__(
        self,
        read: Read,
        ino: int,
        mode: int = 0o444,
        write: Write | None = None,
        owner: "Callable[[], tuple[int, int]] | None" = None,
    ) -> None:
        super().__init__(S_IFREG | mode, ino, owner=owner)
        self.read = read
        self.write = write

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return TextFile(location, flags, task, self.read, self.write)


class TextFile(PathFile):
    """An open text file."""

    __slots__ = ("_make", "_task", "_text", "_write")
    pollable = False

    def __init__(self, location: Location, flags: int, task: "Task", make: Read, write: Write | None) -> None:
        super().__init__(location, flags)
        self._make = make
        self._write = write
        self._task = task
        self._text: bytes | None = None

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        data = self.pread(count, self.offset)
        self.offset += len(data)
        return data

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        if self._text is None or not offset:
            self._text = self._make()
        return self._text[offset : offset + count]

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile: each write is one whole value."""
        if self._write is None:
            raise SyscallError(errno.EIO)
        task = self._task.kernel.current or self._task
        self._write(task, bytes(data))
        self.offset += len(data)
        return len(data)

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile."""
        if self._write is None:
            raise SyscallError(errno.EIO)
        self._write(self._task.kernel.current or self._task, bytes(data))
        return len(data)

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile: there is no end to count from."""
        if whence == 1:
            offset += self.offset
        elif whence != 0:
            raise SyscallError(errno.EINVAL)
        if offset < 0:
            raise SyscallError(errno.EINVAL)
        self.offset = offset
        return offset


class Directory(SyntheticInode):
    """A directory of fixed children."""

    __slots__ = ("children",)

    def __init__(self, children: "Mapping[bytes, Inode]", ino: int, mode: int = 0o555, dev: int = PROC_DEV) -> None:
        super().__init__(S_IFDIR | mode, ino, dev)
        self.children: dict[bytes, Inode] = dict(children)

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        try:
            return self.children[name]
        except KeyError:
            raise SyscallError(errno.ENOENT) from None

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        found: list[tuple[bytes, int, int]] = []
        for name, inode in self.children.items():
            if isinstance(inode, SyntheticInode):
                found.append((name, inode.ino, d_type_of(inode.mode)))
            else:
                stat = inode.stat()
                found.append((name, stat.ino, d_type_of(stat.mode)))
        return found

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return DirectoryFile(location, flags)


class Link(SyntheticInode):
    """A symbolic link whose text is made by a function. ``lead``, if given, tells where it leads whatever the text says."""

    __slots__ = ("lead", "target")

    def __init__(
        self,
        target: Read,
        ino: int,
        lead: "Callable[[Task], Location] | None" = None,
        mode: int = 0o777,
        dev: int = PROC_DEV,
        owner: "Callable[[], tuple[int, int]] | None" = None,
    ) -> None:
        super().__init__(S_IFLNK | mode, ino, dev, owner)
        self.target = target
        self.lead = lead

    def readlink(self) -> bytes:
        """See Inode."""
        return self.target()

    def stat(self) -> Stat:
        """See Inode. Links of descriptors have the size Linux gives them."""
        found = super().stat()
        return found if self.mode & 0o077 else found._replace(size=64)

    def follow(self, task: "Task") -> Location | None:
        """See Inode."""
        return self.lead(task) if self.lead is not None else None


def fixed_link(text: bytes, ino: int, dev: int = PROC_DEV) -> Link:
    """Return a link with an unchanging text."""
    return Link(lambda: text, ino, dev=dev)


def tree(path: str, contents: "Mapping[str, Read | Inode | Mapping[str, object]]") -> Directory:
    """Return a directory made from a nested table of names and functions (or ready inodes)."""
    children: dict[bytes, Inode] = {}
    for name, item in contents.items():
        key = os.fsencode(name)
        if isinstance(item, Inode):
            children[key] = item
        elif isinstance(item, Mapping):
            children[key] = tree(f"{path}/{name}", item)  # type: ignore[arg-type] # nested tables have the same form
        else:
            children[key] = TextInode(item, ino_of(path, name))
    return Directory(children, ino_of(path))
