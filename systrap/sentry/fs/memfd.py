"""memfd: a file in memory without a name in any file system, with seals."""

import errno
import time
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_APPEND, O_RDWR, OpenFile
from systrap.sentry.fs.contents import MAX_FILE, SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET
from systrap.sentry.fs.inode import BLOCK_SIZE, Inode, Location, Stat, new_ino
from systrap.sentry.mappable import Mappable
from systrap.sentry.pages import PageStore

if TYPE_CHECKING:
    from systrap.sentry.task import Task

F_SEAL_SEAL: Final = 1
F_SEAL_SHRINK: Final = 2
F_SEAL_GROW: Final = 4
F_SEAL_WRITE: Final = 8
F_SEAL_FUTURE_WRITE: Final = 16
F_SEAL_EXEC: Final = 32
_ALL_SEALS: Final = 63
_S_IFREG: Final = 0o100000
_DEV: Final = 0x01


class MemoryInode(Inode):
    """What a memfd refers to: contents, attributes and seals; opened again through /proc/self/fd it is the same."""

    __slots__ = ("_gid", "_ino", "_mode", "_times", "_uid", "name", "seals", "store")

    def __init__(self, task: "Task", name: bytes, mode: int, seals: int) -> None:
        self.name = name
        self.seals = seals
        self.store = PageStore(task.kernel.memory)
        self._ino = new_ino()
        self._mode = mode
        self._uid, self._gid = task.creds.fsuid, task.creds.fsgid
        now = time.time_ns()
        self._times = (now, now, now)

    def stat(self) -> Stat:
        """See Inode."""
        atime, mtime, ctime = self._times
        size = self.store.size
        return Stat(
            _DEV, self._ino, self._mode | _S_IFREG, 0, self._uid, self._gid, 0, size, BLOCK_SIZE,
            self.store.allocated // 512, atime, mtime, ctime, ctime,
        )  # fmt: skip

    def changed(self) -> None:
        """Note that the contents changed."""
        now = time.time_ns()
        self._times = (self._times[0], now, now)

    def chmod(self, mode: int) -> None:
        """See Inode. The execute bits may be sealed."""
        if self.seals & F_SEAL_EXEC and (mode ^ self._mode) & 0o111:
            raise SyscallError(errno.EPERM)
        self._mode = mode & 0o7777

    def chown(self, uid: int, gid: int) -> None:
        """See Inode."""
        self._uid = uid if uid != -1 else self._uid
        self._gid = gid if gid != -1 else self._gid

    def utimens(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See Inode."""
        atime, mtime, _ = self._times
        self._times = (
            atime if atime_ns is None else atime_ns,
            mtime if mtime_ns is None else mtime_ns,
            time.time_ns(),
        )

    def truncate(self, length: int) -> None:
        """See Inode. EPERM as the seals say."""
        if length < self.store.size and self.seals & F_SEAL_SHRINK:
            raise SyscallError(errno.EPERM)
        if length > self.store.size and self.seals & F_SEAL_GROW:
            raise SyscallError(errno.EPERM)
        self.store.truncate(length)
        self.changed()

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return MemoryDescriptor(self, flags)


class MemoryDescriptor(OpenFile):
    """An open memfd. ``memory`` is its inode."""

    __slots__ = ("memory",)
    pollable = False

    def __init__(self, memory: MemoryInode, flags: int) -> None:
        super().__init__(flags)
        self.memory = memory

    @property
    def inode(self) -> MemoryInode:
        """The inode, for what looks at attributes."""
        return self.memory

    @property
    def store(self) -> PageStore:
        """The contents."""
        return self.memory.store

    def stat(self) -> Stat:
        """See OpenFile."""
        return self.memory.stat()

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        data = self.memory.store.read(self.offset, count)
        self.offset += len(data)
        return data

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile."""
        return self.memory.store.read(offset, count)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        if self.flags & O_APPEND:
            self.offset = self.memory.store.size
        count = self.pwrite(data, self.offset)
        self.offset += count
        return count

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile. EPERM as the seals say; a write that would grow a sealed file is cut short."""
        memory = self.memory
        if not data:
            return 0
        if memory.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
            raise SyscallError(errno.EPERM)
        if memory.seals & F_SEAL_GROW and offset + len(data) > memory.store.size:
            data = data[: max(memory.store.size - offset, 0)]
            if not data:
                raise SyscallError(errno.EPERM)
        count = memory.store.write(offset, data)
        memory.changed()
        return count

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile."""
        store = self.memory.store
        if whence == SEEK_CUR:
            offset += self.offset
        elif whence == SEEK_END:
            offset += store.size
        elif whence in (SEEK_DATA, SEEK_HOLE):
            found = store.next_data(offset) if whence == SEEK_DATA else store.next_hole(offset)
            if not 0 <= offset < store.size or found is None or (whence == SEEK_DATA and found >= store.size):
                raise SyscallError(errno.ENXIO)
            offset = found
        elif whence != SEEK_SET:
            raise SyscallError(errno.EINVAL)
        if not 0 <= offset <= MAX_FILE:
            raise SyscallError(errno.EINVAL)
        self.offset = offset
        return offset

    def truncate(self, length: int) -> None:
        """See OpenFile."""
        self.memory.truncate(length)

    def check_punch(self) -> None:
        """Raise EPERM if the seals forbid holes."""
        if self.memory.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
            raise SyscallError(errno.EPERM)

    def sync(self) -> None:
        """See OpenFile: nothing to do."""

    def mappable(self) -> Mappable:
        """See OpenFile."""
        return self.memory.store

    def add_seals(self, seals: int) -> None:
        """F_ADD_SEALS. EPERM when sealed against seals or not writable; EBUSY for F_SEAL_WRITE while it is mapped."""
        if not self.writable:
            raise SyscallError(errno.EPERM)
        if seals & ~_ALL_SEALS:
            raise SyscallError(errno.EINVAL)
        if self.memory.seals & F_SEAL_SEAL:
            raise SyscallError(errno.EPERM)
        if seals & F_SEAL_WRITE and not self.memory.seals & F_SEAL_WRITE and self.memory.store.users:
            raise SyscallError(errno.EBUSY)
        if seals & F_SEAL_EXEC and not self.memory.seals & F_SEAL_EXEC and self.memory.stat().mode & 0o111:
            seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE
        self.memory.seals |= seals

    def describe(self) -> str:
        """See OpenFile."""
        return f"/memfd:{self.memory.name.decode('utf-8', 'surrogateescape')} (deleted)"


def create(task: "Task", name: bytes, mode: int, seals: int) -> MemoryDescriptor:
    """Return a new, empty memfd."""
    return MemoryDescriptor(MemoryInode(task, name, mode, seals), O_RDWR)
