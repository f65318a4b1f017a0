"""System V shared memory: segments by key, attached as shared mappings of a page store."""

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.mm_map import MAP_FIXED, MAP_SHARED, page_up
from systrap.sentry.mm_pages import PAGE_MASK
from systrap.sentry.pages import PageStore
from systrap.sentry.vma import PROT_EXEC, PROT_READ, PROT_WRITE, VM_SHARED, Vma

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

IPC_PRIVATE: Final = 0
IPC_CREAT: Final = 0o1000
IPC_EXCL: Final = 0o2000

IPC_RMID: Final = 0
IPC_SET: Final = 1
IPC_STAT: Final = 2
IPC_INFO: Final = 3
SHM_LOCK: Final = 11
SHM_UNLOCK: Final = 12
SHM_STAT: Final = 13
SHM_INFO: Final = 14
SHM_STAT_ANY: Final = 15

SHM_RDONLY: Final = 0o10000
SHM_RND: Final = 0o20000
SHM_REMAP: Final = 0o40000
SHM_EXEC: Final = 0o100000
_SHM_DEST: Final = 0o1000

_SHMMNI: Final = 4096
_SHMMAX: Final = (1 << 64) - (1 << 24) - 1
_IDS: Final = 32768

# struct shmid64_ds: ipc64_perm, then size, three times, two pids, the number of attachments.
_DS: Final = struct.Struct("<iIIIIIHHIQQQqqqiiQQQ")
_INFO: Final = struct.Struct("<QQQQQQQQQ")
_SHM_INFO: Final = struct.Struct("<iIQQQQQ")


class Segment:
    """One segment. ``doomed``: removed, it ends with its last attachment."""

    __slots__ = (
        "atime", "cgid", "cpid", "ctime", "cuid", "doomed", "dtime", "gid", "ident", "key", "lpid", "mode", "seq", "size",
        "store", "uid",
    )  # fmt: skip

    def __init__(self, ident: int, key: int, size: int, mode: int, store: PageStore, task: "Task") -> None:
        self.ident = ident
        self.key = key
        self.size = size
        self.mode = mode
        self.store = store
        self.doomed = False
        self.uid = self.cuid = task.creds.euid
        self.gid = self.cgid = task.creds.egid
        self.cpid = task.group.pid
        self.lpid = 0
        self.atime = self.dtime = 0
        self.ctime = int(time.time())
        self.seq = ident // _IDS & 0xFFFF

    @property
    def attached(self) -> int:
        """How often it is attached."""
        return sum(self.store.users.values())

    def check(self, task: "Task", wanted: int) -> None:
        """EACCES unless the mode grants ``wanted`` (bits of one rwx group)."""
        creds = task.creds
        if creds.euid == 0:
            return
        if creds.euid in (self.uid, self.cuid):
            granted = self.mode >> 6
        elif creds.egid in (self.gid, self.cgid):
            granted = self.mode >> 3
        else:
            granted = self.mode
        if wanted & ~granted & 7:
            raise SyscallError(errno.EACCES)


class Shm:
    """The segments of a kernel."""

    _of: "dict[Kernel, Shm]" = {}  # noqa: RUF012 - one registry per kernel, found by it

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}
        self._next = 0

    @classmethod
    def of(cls, kernel: "Kernel") -> "Shm":
        """Return the registry of a kernel."""
        found = cls._of.get(kernel)
        if found is None:
            found = cls._of[kernel] = cls()
        return found

    def _purge(self) -> None:
        """Forget removed segments that nobody has attached any more."""
        for segment in list(self._segments.values()):
            if segment.doomed and not segment.store.users:
                del self._segments[segment.ident]

    def _find(self, ident: int) -> Segment:
        self._purge()
        segment = self._segments.get(ident)
        if segment is None:
            raise SyscallError(errno.EINVAL)
        return segment

    def get(self, task: "Task", key: int, size: int, flags: int) -> int:
        """Carry out shmget."""
        self._purge()
        if key != IPC_PRIVATE:
            for segment in self._segments.values():
                if segment.key == key and not segment.doomed:
                    if flags & IPC_CREAT and flags & IPC_EXCL:
                        raise SyscallError(errno.EEXIST)
                    if size > segment.size:
                        raise SyscallError(errno.EINVAL)
                    segment.check(task, flags >> 6 & 7 | flags >> 3 & 7 | flags & 7)
                    return segment.ident
            if not flags & IPC_CREAT:
                raise SyscallError(errno.ENOENT)
        if not 0 < size <= _SHMMAX:
            raise SyscallError(errno.EINVAL)
        if len(self._segments) >= _SHMMNI:
            raise SyscallError(errno.ENOSPC)
        if size > task.mm.max_address:
            raise SyscallError(errno.ENOMEM)
        ident = self._next
        self._next = (ident + 1) & 0x7FFFFFFF
        store = PageStore(task.kernel.memory, page_up(size))
        self._segments[ident] = Segment(ident, key, size, flags & 0o777, store, task)
        return ident

    def attach(self, task: "Task", ident: int, address: int, flags: int) -> int:
        """Carry out shmat."""
        if ident < 0:
            raise SyscallError(errno.EINVAL)
        if address & PAGE_MASK:
            if not flags & SHM_RND:
                raise SyscallError(errno.EINVAL)
            address &= ~PAGE_MASK
        if flags & SHM_REMAP and not address:
            raise SyscallError(errno.EINVAL)
        segment = self._find(ident)
        prot, wanted = (PROT_READ, 4) if flags & SHM_RDONLY else (PROT_READ | PROT_WRITE, 6)
        if flags & SHM_EXEC:
            prot |= PROT_EXEC
            wanted |= 1
        segment.check(task, wanted)
        mm = task.mm
        size = page_up(segment.size)
        if address and not flags & SHM_REMAP and not mm.vmas.is_free(address, address + size):
            raise SyscallError(errno.EINVAL)
        max_prot = prot | PROT_EXEC
        area = Vma(
            0, size, prot, VM_SHARED, max_prot, segment.store, 0, name=f"/SYSV{segment.key & 0xFFFFFFFF:08x} (deleted)"
        )
        found = mm.map_area(address, area, MAP_SHARED | (MAP_FIXED if address else 0))
        segment.atime = int(time.time())
        segment.lpid = task.group.pid
        return found

    def detach(self, task: "Task", address: int) -> int:
        """Carry out shmdt."""
        mm = task.mm
        area = mm.vmas.find(address)
        stores = {segment.store: segment for segment in self._segments.values()}
        segment = stores.get(area.mappable) if area is not None and isinstance(area.mappable, PageStore) else None
        if area is None or segment is None or address & PAGE_MASK or area.start != address:
            raise SyscallError(errno.EINVAL)
        base = area.start - area.offset
        for piece in mm.vmas.overlapping(address, base + page_up(segment.size)):
            if piece.mappable is segment.store and piece.start - piece.offset == base:
                mm.unmap(piece.start, piece.length)
        segment.dtime = int(time.time())
        segment.lpid = task.group.pid
        self._purge()
        return 0

    def control(self, task: "Task", ident: int, command: int, buffer: int) -> int:
        """Carry out shmctl."""
        command &= ~0x100  # IPC_64: the only layout on 64-bit machines
        if command == IPC_INFO:
            task.mm.write(buffer, _INFO.pack(_SHMMAX, 1, _SHMMNI, _SHMMNI, _SHMMAX >> 12, 0, 0, 0, 0))
            return max(self._segments, default=0)
        if command == SHM_INFO:
            pages = sum(page_up(s.size) for s in self._segments.values()) >> 12
            task.mm.write(buffer, _SHM_INFO.pack(len(self._segments), 0, pages, pages, 0, 0, 0))
            return max(self._segments, default=0)
        segment = self._find(ident)
        if command in (IPC_STAT, SHM_STAT, SHM_STAT_ANY):
            if command != SHM_STAT_ANY:
                segment.check(task, 4)
            task.mm.write(buffer, _describe(segment))
            return 0 if command == IPC_STAT else segment.ident
        if command in (SHM_LOCK, SHM_UNLOCK):
            return 0
        if command not in (IPC_RMID, IPC_SET):
            raise SyscallError(errno.EINVAL)
        if task.creds.euid not in (0, segment.uid, segment.cuid):
            raise SyscallError(errno.EPERM)
        if command == IPC_SET:
            _, segment.uid, segment.gid, _, _, mode = struct.unpack("<iIIIII", task.mm.read(buffer, 24))
            segment.mode = mode & 0o777
            segment.ctime = int(time.time())
            return 0
        if not segment.doomed:
            segment.doomed = True
            segment.key = IPC_PRIVATE
            segment.store.release()
        self._purge()
        return 0


def _describe(segment: Segment) -> bytes:
    """Return struct shmid_ds."""
    mode = segment.mode | (_SHM_DEST if segment.doomed else 0)
    return _DS.pack(
        segment.key, segment.uid, segment.gid, segment.cuid, segment.cgid, mode, segment.seq, 0, 0, 0, 0,
        segment.size, segment.atime, segment.dtime, segment.ctime, segment.cpid, segment.lpid, segment.attached, 0, 0,
    )  # fmt: skip
