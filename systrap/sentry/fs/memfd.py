"""memfd_create: a regular file without a name, with seals."""

import errno
import os
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_RDWR
from systrap.sentry.fs.contents import MemoryFileHandle
from systrap.sentry.fs.inode import Location
from systrap.sentry.fs.nodes import Attributes, FileSystem, Regular
from systrap.sentry.pages import PageStore

if TYPE_CHECKING:
    from systrap.sentry.task import Task

F_SEAL_SEAL: Final = 1
F_SEAL_SHRINK: Final = 2
F_SEAL_GROW: Final = 4
F_SEAL_WRITE: Final = 8
F_SEAL_FUTURE_WRITE: Final = 16
_ALL: Final = 0x3F


class MemFD(MemoryFileHandle):
    """A memfd's description."""

    __slots__ = ("name", "seals")

    def __init__(self, task: "Task", name: bytes, sealable: bool) -> None:
        fs = FileSystem(task.kernel.memory, 1)
        node = Regular(fs, 0o100000)
        node.own = Attributes(0o777, task.creds.fsuid, task.creds.fsgid)
        node.own.nlink = 0
        node.store = PageStore(task.kernel.memory)
        super().__init__(Location(node), O_RDWR, node, node.store)
        self.name = name
        self.seals = 0 if sealable else F_SEAL_SEAL

    def add_seals(self, seals: int) -> int:
        """Add seals (F_ADD_SEALS). EPERM when sealed against that."""
        if seals & ~_ALL:
            raise SyscallError(errno.EINVAL)
        if self.seals & F_SEAL_SEAL:
            raise SyscallError(errno.EPERM)
        if seals & F_SEAL_WRITE and self.store.users:
            raise SyscallError(errno.EBUSY)
        self.seals |= seals
        return 0

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile."""
        if self.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
            raise SyscallError(errno.EPERM)
        if self.seals & F_SEAL_GROW and offset + len(data) > self.store.size:
            raise SyscallError(errno.EPERM)
        return super().pwrite(data, offset)

    def truncate(self, length: int) -> None:
        """See OpenFile."""
        size = self.store.size
        if (length < size and self.seals & F_SEAL_SHRINK) or (length > size and self.seals & F_SEAL_GROW):
            raise SyscallError(errno.EPERM)
        super().truncate(length)

    def describe(self) -> str:
        """See OpenFile."""
        return f"/memfd:{os.fsdecode(self.name)} (deleted)"
