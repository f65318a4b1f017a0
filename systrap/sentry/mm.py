"""MemoryManager: the memory of a process, whole. Sharing and copying it, and what /proc tells of it.

The layers below: mm_pages.py (pages, faults), mm_io.py (the sentry's access), mm_map.py (mmap…), mm_remap.py (mremap),
mm_advice.py (madvise…).
"""

import errno
from typing import Final, NamedTuple

from systrap.host.holes import resident_bytes
from systrap.memory import MemoryFile
from systrap.platform import MapRequest, Platform, UnmapRequest
from systrap.sentry.code import MemoryCode
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile, drop
from systrap.sentry.mm_advice import AdvisedMappings
from systrap.sentry.mm_limits import DefaultLimits, MemoryLimits
from systrap.sentry.mm_pages import ACCESS, BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGSEGV, WRITE, SegvError
from systrap.sentry.pma import Frames, Run
from systrap.sentry.vma import PROT_EXEC, PROT_READ, PROT_WRITE, VM_DONTFORK, VM_SHARED, VM_WIPEONFORK, Vma

__all__ = [
    "BUS_ADRERR",
    "SEGV_ACCERR",
    "SEGV_MAPERR",
    "SIGBUS",
    "SIGSEGV",
    "DefaultLimits",
    "MemoryLimits",
    "MemoryManager",
    "MemoryStatistics",
    "SegvError",
]

_NAME_COLUMN: Final = 73
_REMAPPED_BY_FORK: Final = 64


class MemoryStatistics(NamedTuple):
    """Sizes in bytes, as /proc/PID/statm and status want them. ``resident`` is what the host really holds."""

    size: int
    resident: int
    shared: int
    text: int
    data: int
    stack: int
    locked: int


class MemoryManager(AdvisedMappings):
    """The address space of a process, and its parts that programs and /proc ask for.

    ``users``: how many processes use it (vfork, CLONE_VM): whoever adds one calls ``retain``, whoever leaves ``release``.
    ``executable`` is the program's open file; ``arg_start`` … ``auxv`` describe the first stack; ``sigreturn`` is where handlers
    return to when the program says nothing of it, None where it must.
    """

    def __init__(self, platform: Platform, memory: MemoryFile, frames: Frames | None = None) -> None:
        """Make an empty address space with one user. Raises PlatformError when the host cannot give one."""
        super().__init__(platform, memory, frames)
        self.space.code = MemoryCode(self)
        self.users = 1
        self.executable: OpenFile | None = None
        self.arg_start = self.arg_end = self.env_start = self.env_end = 0
        self.code_start = self.code_end = self.data_start = self.data_end = self.stack_start = 0
        self.auxv = b""
        self.sigreturn: int | None = None
        self.dumpable = 1

    # Life.

    def retain(self) -> "MemoryManager":
        """Add a user."""
        self.users += 1
        return self

    def release(self) -> None:
        """Remove a user. The last one's leaving ends the address space and frees its pages."""
        self.users -= 1
        if self.users > 0 or self.dead:
            return
        self.dead = True
        self._batch = None
        self._forget_hits()
        self.space.code = None
        self.space.release()
        self._give_up(self.runs.clear())
        self._drop_doomed()
        self.vmas.let_go(self.vmas.clear())
        if self.executable is not None:
            self.set_executable(None)

    def set_executable(self, file: OpenFile | None) -> None:
        """Set the program's file and keep it open."""
        if file is not None:
            file.refs += 1
        if self.executable is not None:
            drop(self.executable)
        self.executable = file

    def fork(self) -> "MemoryManager":
        """Return a copy with one user: private pages are shared until somebody writes. Raises PlatformError."""
        child = MemoryManager(self.platform, self.memory, self.frames)
        self.space.pre_fork()
        try:
            self._fork_into(child)
        finally:
            self.space.post_fork()
        child.limits = self.limits
        child.mmap_base = self.mmap_base
        child.brk_start, child.brk_end, child.data_size = self.brk_start, self.brk_end, self.data_size
        child.arg_start, child.arg_end, child.env_start, child.env_end = (
            self.arg_start,
            self.arg_end,
            self.env_start,
            self.env_end,
        )
        child.code_start, child.code_end = self.code_start, self.code_end
        child.data_start, child.data_end, child.stack_start = self.data_start, self.data_end, self.stack_start
        child.auxv = self.auxv
        child.sigreturn = self.sigreturn
        child.dumpable = self.dumpable
        child.set_executable(self.executable)
        return child

    def _fork_into(self, child: "MemoryManager") -> None:
        """Copy areas and runs; take the right to write private pages from both sides."""
        self._forget_hits()
        areas = [area for area in self.vmas.items if not area.flags & VM_DONTFORK]
        child.vmas.fork_from(self.vmas, areas)
        requests: list[MapRequest | UnmapRequest] = []
        whole = len(areas) == len(self.vmas.items) and not any(area.flags & VM_WIPEONFORK for area in areas)
        if whole:
            kept = self._protect_private(requests)
        else:
            kept = []
            for area in areas:
                if not area.flags & VM_WIPEONFORK:
                    kept += [
                        run.part(max(run.start, area.start), min(run.end, area.end))
                        for run in self.runs.overlapping(area.start, area.end)
                    ]
            self._protect_private(requests)
            kept = [run.with_writable(False) if run.owned else run for run in kept]
        for run in kept:
            if run.owned:
                self.frames.share(run.offset, run.offset + run.end - run.start)
        child.runs.items = kept
        child.runs.starts = [run.start for run in kept]
        child._unshown = True
        self._apply(requests if len(requests) <= _REMAPPED_BY_FORK else _as_unmaps(requests))

    def _protect_private(self, requests: "list[MapRequest | UnmapRequest]") -> list[Run]:
        """Make every private run read-only, asking for what the address space must change; return all runs then."""
        runs = self.runs.items
        for index, run in enumerate(runs):
            if run.owned and run.writable:
                runs[index] = readonly = run.with_writable(False)
                for area in self.vmas.overlapping(run.start, run.end):
                    if area.access & WRITE:
                        start, end = max(run.start, area.start), min(run.end, area.end)
                        at = run.offset + start - run.start
                        requests.append(MapRequest(start, end - start, readonly.file, at, ACCESS[area.access & ~WRITE]))
        return list(runs)

    # What others ask.

    def futex_key(self, addr: int, private: bool) -> tuple[object, int]:
        """Return what identifies the futex word at ``addr``: shared mappings of one file have it in common. EFAULT."""
        if private:
            if addr > self.max_address - 4:
                raise SyscallError(errno.EFAULT)
            return self, addr
        vma = self.vmas.find(addr)
        if vma is None or not vma.access:
            raise SyscallError(errno.EFAULT)
        if vma.mappable is not None and vma.flags & VM_SHARED:
            return vma.mappable, vma.offset + addr - vma.start
        return self, addr

    def describe(self, addr: int) -> str:
        """Return the mapping that contains ``addr``, the offset in it, and the nearest symbol, for crash reports."""
        vma = self.vmas.find(addr)
        if vma is None:
            return "not mapped"
        name = _name_of(vma) or "anonymous memory"
        if vma.file is None:
            return f"{name}+{addr - vma.start:#x} ({_permissions(vma)})"
        from systrap.sentry.symbols import nearest

        offset = vma.offset + addr - vma.start
        file = vma.file
        symbol = nearest(lambda at, count: file.pread(count, at), offset)
        where = f" in {symbol}" if symbol else ""
        return f"{name}+{offset:#x} ({_permissions(vma)}){where}"

    def maps_text(self) -> bytes:
        """Return /proc/PID/maps."""
        lines: list[bytes] = []
        for vma in self.vmas.items:
            device, ino = _identity(vma)
            offset = vma.offset if vma.mappable is not None else 0
            line = f"{vma.start:08x}-{vma.end:08x} {_permissions(vma)} {offset:08x} {device} {ino} "
            name = _name_of(vma)
            if name:
                line = line.ljust(_NAME_COLUMN) + name.replace("\n", "\\012")
            lines.append(line.encode("utf-8", "surrogateescape"))
        return b"".join(line + b"\n" for line in lines)

    def statistics(self) -> MemoryStatistics:
        """Return the sizes for statm and status."""
        resident = shared = 0
        for run in self.runs.items:
            length = run.end - run.start
            if run.memory:
                length = resident_bytes(self.memory.fd, run.offset, run.offset + length)
            resident += length
            if not run.owned:
                shared += length
        text = data = 0
        for area in self.vmas.items:
            if area.prot & PROT_EXEC and area.file is not None:
                text += area.length
            if area.prot & PROT_WRITE and not area.flags & VM_SHARED:
                data += area.length
        return MemoryStatistics(
            self.vmas.size, resident, shared, text, data, self.stack_size(), self.locked_size()
        )  # fmt: skip


def _as_unmaps(requests: "list[MapRequest | UnmapRequest]") -> "list[MapRequest | UnmapRequest]":
    """Return requests that unmap the same ranges, those that touch in one: the next fault of each maps it again."""
    merged: list[MapRequest | UnmapRequest] = []
    start = end = 0
    for request in requests:
        if request.addr != end:
            if start < end:
                merged.append(UnmapRequest(start, end - start))
            start = request.addr
        end = request.addr + request.length
    if start < end:
        merged.append(UnmapRequest(start, end - start))
    return merged


def _permissions(vma: Vma) -> str:
    prot = vma.prot
    return "".join(
        (
            "r" if prot & PROT_READ else "-",
            "w" if prot & PROT_WRITE else "-",
            "x" if prot & PROT_EXEC else "-",
            "s" if vma.flags & VM_SHARED else "p",
        )
    )


def _name_of(vma: Vma) -> str:
    if vma.name or vma.file is None:
        return vma.name
    try:
        return vma.file.describe()
    except (NotImplementedError, SyscallError):
        return ""


def _identity(vma: Vma) -> tuple[str, int]:
    """Return device and inode number of what is mapped, as /proc/PID/maps writes them."""
    if vma.file is not None:
        try:
            stat = vma.file.stat()
        except (NotImplementedError, SyscallError, OSError):
            return "00:00", 0
        return f"{stat.dev >> 8 & 0xFFF:02x}:{stat.dev & 0xFF | stat.dev >> 12 & 0xFFF00:02x}", stat.ino
    return "00:00", 0
