"""/proc/PID/maps, smaps, mem."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import Location
from systrap.sentry.fs.proc_status import memory_of
from systrap.sentry.task import State
from systrap.sentry.vma import PROT_EXEC, PROT_READ, PROT_WRITE, VM_GROWSDOWN, VM_SHARED

if TYPE_CHECKING:
    from systrap.sentry.mm import MemoryManager
    from systrap.sentry.task import Task

_FIELDS: Final = (
    "Size", "KernelPageSize", "MMUPageSize", "Rss", "Pss", "Pss_Dirty", "Shared_Clean", "Shared_Dirty", "Private_Clean",
    "Private_Dirty", "Referenced", "Anonymous", "KSM", "LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped",
    "Shared_Hugetlb", "Private_Hugetlb", "Swap", "SwapPss", "Locked",
)  # fmt: skip


def maps(task: "Task") -> bytes:
    """Return /proc/PID/maps: empty for what has no memory any more."""
    return memory_of(task).maps_text() if task.state is not State.DEAD else b""


def _resident(mm: "MemoryManager", start: int, end: int) -> tuple[int, int]:
    """Return bytes present in a range, and how many of them are the process's own."""
    present = own = 0
    for run in mm.runs.overlapping(start, end):
        length = min(run.end, end) - max(run.start, start)
        present += length
        if run.owned:
            own += length
    return present, own


def smaps(task: "Task") -> bytes:
    """Return /proc/PID/smaps."""
    if task.state is State.DEAD:
        return b""
    mm = memory_of(task)
    pieces: list[bytes] = []
    for line, vma in zip(mm.maps_text().splitlines(True), mm.vmas.items, strict=False):
        present, own = _resident(mm, vma.start, vma.end)
        shared = present - own
        flags = [name for bit, name in ((PROT_READ, "rd"), (PROT_WRITE, "wr"), (PROT_EXEC, "ex")) if vma.prot & bit]
        flags += ["sh"] if vma.flags & VM_SHARED else []
        flags += ["mr", "mw", "me"] + (["gd"] if vma.flags & VM_GROWSDOWN else ["ac"])
        pieces.append(line)
        pieces.append(_smaps_fields(vma.end - vma.start, present, shared, own).encode())
        pieces.append(f"THPeligible:           0\nVmFlags: {' '.join(flags)} \n".encode())
    return b"".join(pieces)


def _smaps_fields(size: int, present: int, shared: int, own: int) -> str:
    values = {
        "Size": size, "KernelPageSize": PAGE_SIZE, "MMUPageSize": PAGE_SIZE, "Rss": present, "Pss": present, "Pss_Dirty": own,
        "Shared_Clean": shared, "Private_Dirty": own, "Referenced": present, "Anonymous": own,
    }  # fmt: skip
    return "".join(f"{name + ':':<16}{values.get(name, 0) // 1024:>8} kB\n" for name in _FIELDS)


def smaps_rollup(task: "Task") -> bytes:
    """Return /proc/PID/smaps_rollup."""
    if task.state is State.DEAD:
        return b""
    mm = memory_of(task)
    present, own = _resident(mm, 0, mm.max_address)
    areas = mm.vmas.items
    start, end = (areas[0].start, areas[-1].end) if areas else (0, 0)
    head = f"{start:08x}-{end:08x} ---p 00000000 00:00 0".ljust(73) + "[rollup]\n"
    lines = _smaps_fields(0, present, present - own, own).splitlines(True)[3:]
    return (head + "".join(lines)).encode()


class MemoryFile(PathFile):
    """An open /proc/PID/mem: positions are addresses."""

    __slots__ = ("task",)
    pollable = False

    def __init__(self, location: Location, flags: int, task: "Task") -> None:
        super().__init__(location, flags)
        self.task = task

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        data = self.pread(count, self.offset)
        self.offset += len(data)
        return data

    def pread(self, count: int, offset: int) -> bytes:
        """See OpenFile. EIO where nothing can be read."""
        if self.task.state is State.DEAD or not count:
            return b""
        data = self.task.mm.read_partial(offset, count)
        if not data:
            raise SyscallError(errno.EIO)
        return data

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        count = self.pwrite(data, self.offset)
        self.offset += count
        return count

    def pwrite(self, data: "bytes | memoryview[int]", offset: int) -> int:
        """See OpenFile. EIO where nothing can be written; read-only pages are not written either."""
        if self.task.state is State.DEAD or not data:
            return 0
        count = self.task.mm.write_partial(offset, data)
        if not count:
            raise SyscallError(errno.EIO)
        return count

    def seek(self, offset: int, whence: int) -> int:
        """See OpenFile."""
        if whence == 1:
            offset += self.offset
        elif whence != 0:
            raise SyscallError(errno.EINVAL)
        self.offset = offset & (1 << 64) - 1
        return self.offset
