"""Files whose contents are computed: what /proc and /dev are made of."""

import errno
import stat as stats
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.fs.contents import DirectoryFile, PathFile
from systrap.sentry.fs.inode import Inode, Location, Stat, d_type_of, new_ino

if TYPE_CHECKING:
    from systrap.sentry.task import Task

Text = Callable[["Task"], bytes]
Write = Callable[["Task", bytes], None]
_STARTED = time.time_ns()


class SyntheticInode(Inode):
    """Something that exists because code says so. ``owner``: (uid, gid)."""

    __slots__ = ("dev", "ino", "mode", "owner")

    def __init__(self, mode: int, owner: tuple[int, int] = (0, 0), dev: int = 0x22) -> None:
        self.mode = mode
        self.owner = owner
        self.dev = dev
        self.ino = new_ino()

    def stat(self) -> Stat:
        """See Inode."""
        nlink = 2 if stats.S_ISDIR(self.mode) else 1
        uid, gid = self.owner
        return Stat(self.dev, self.ino, self.mode, nlink, uid, gid, 0, 0, 1024, 0, _STARTED, _STARTED, _STARTED)

    def chmod(self, mode: int) -> None:
        """See Inode: accepted for nodes that belong to the run."""
        self.mode = self.mode & 0o170000 | mode

    def statfs_magic(self) -> int:
        """See Inode."""
        return 0x9FA0


class TextInode(SyntheticInode):
    """A file whose contents are made when it is opened."""

    __slots__ = ("_text", "_write")

    def __init__(self, text: Text, write: Write | None = None, mode: int = 0o444, owner: tuple[int, int] = (0, 0)) -> None:
        super().__init__(stats.S_IFREG | mode, owner)
        self._text = text
        self._write = write

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        file = TextFile(location, flags, task, self._write)
        if file.readable:
            file.data = self._text(task)
        return file

    def truncate(self, length: int) -> None:
        """See Inode: writing begins with O_TRUNC often; there is nothing to cut."""
        if self._write is None:
            raise SyscallError(errno.EACCES)


class TextFile(PathFile):
    """An open text: a snapshot."""

    __slots__ = ("_task", "_write", "data")
    pollable = False

    def __init__(self, location: Location, flags: int, task: "Task", write: Write | None) -> None:
        super().__init__(location, flags)
        self.data = b""
        self._task = task
        self._write = write

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        found = self.data[self.offset : self.offset + count]
        self.offset += len(found)
        return found

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        return self.data[offset : offset + count]

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        if self._write is None:
            raise SyscallError(errno.EINVAL)
        self._write(self._task, bytes(data))
        return len(data)

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile."""
        if whence == 1:
            offset += self.offset
        elif whence == 2:
            offset += len(self.data)
        if offset < 0:
            raise SyscallError(errno.EINVAL)
        self.offset = offset
        return offset


class LinkInode(SyntheticInode):
    """A symbolic link whose text is computed; ``magic`` may say where it really leads."""

    __slots__ = ("_magic", "_target")

    def __init__(
        self,
        target: Callable[[], bytes],
        magic: "Callable[[Task], Location | None] | None" = None,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(stats.S_IFLNK | 0o777, owner)
        self._target = target
        self._magic = magic

    def readlink(self) -> bytes:
        """See Inode."""
        return self._target()

    def follow(self, task: "Task") -> Location | None:
        """See Inode."""
        return self._magic(task) if self._magic is not None else None


Maker = Callable[[], Inode]


class DirectoryInode(SyntheticInode):
    """A directory of a table: name → what makes the inode, once. ``more`` adds names that come and go."""

    __slots__ = ("_find", "_list", "_made", "_table")

    def __init__(
        self,
        table: dict[bytes, Maker],
        names: Callable[[], list[bytes]] | None = None,
        find: "Callable[[bytes], Inode | None] | None" = None,
        mode: int = 0o555,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(stats.S_IFDIR | mode, owner)
        self._table = table
        self._list = names
        self._find = find
        self._made: dict[bytes, Inode] = {}

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        made = self._made.get(name)
        if made is not None:
            return made
        if name in self._table:
            made = self._made[name] = self._table[name]()
            return made
        found = self._find(name) if self._find is not None else None
        if found is None:
            raise SyscallError(errno.ENOENT)
        return found

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        names = list(self._table) + (self._list() if self._list is not None else [])
        found = []
        for name in names:
            try:
                stat = self.lookup(name).stat()
            except SyscallError:
                continue
            found.append((name, stat.ino, d_type_of(stat.mode)))
        return found

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return DirectoryFile(location, flags)

    def create(self, name: bytes, mode: int, creds: object, rdev: int = 0) -> Inode:
        """See Inode."""
        raise SyscallError(errno.EEXIST if name in self._table else errno.EACCES)
