"""What mmap, munmap, mprotect, mremap and brk do to an address space: the third layer of a memory manager."""

import errno
import os
from typing import Final

from systrap import arch
from systrap.host.sys import PAGE_SIZE
from systrap.memory import MemoryFile
from systrap.platform import MapRequest, Platform, UnmapRequest
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.mappable import Mappable
from systrap.sentry.mm_io import GuestMemory
from systrap.sentry.mm_limits import RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK
from systrap.sentry.mm_pages import PAGE_MASK
from systrap.sentry.pages import PageStore, ZeroPages
from systrap.sentry.pma import Frames
from systrap.sentry.vma import (
    PROT_ALL,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    STACK_GUARD_GAP,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_NORESERVE,
    VM_SHARED,
    Vma,
)

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_SHARED_VALIDATE: Final = 0x03
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_32BIT: Final = arch.current().LINUX.map_32bit
MAP_GROWSDOWN: Final = 0x100
MAP_DENYWRITE: Final = 0x800
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_NONBLOCK: Final = 0x10000
MAP_HUGETLB: Final = 0x40000
MAP_SYNC: Final = 0x80000
MAP_FIXED_NOREPLACE: Final = 0x100000
# What MAP_SHARED_VALIDATE knows; MAP_SYNC is refused by files that are not on persistent memory.
_VALIDATED: Final = 0x3FFF0 & ~MAP_SYNC | MAP_HUGETLB | MAP_FIXED_NOREPLACE | MAP_SHARED_VALIDATE

_PROT_SEM: Final = 8
PROT_GROWSDOWN: Final = 0x01000000
PROT_GROWSUP: Final = 0x02000000

MAX_MAP_COUNT: Final = 65530
_LOW_32BIT: Final = (0x40000000, 0x80000000)
# Areas up to this size get their pages when they are made: they will be touched, and a fault costs more.
_EAGER: Final = 2 << 20
_EAGER_COPY: Final = 256 << 10
# More runs than this are not remapped one by one when a protection changes.
_EAGER_RUNS: Final = 16

_memory_size: int | None = None


def committable() -> int:
    """Return how much memory one request may ask for: what the machine has (overcommit_memory = 0)."""
    global _memory_size
    if _memory_size is None:
        _memory_size = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    return _memory_size


def page_up(n: int) -> int:
    """Round up to a page."""
    return n + PAGE_MASK & ~PAGE_MASK


class Mappings(GuestMemory):
    """Changes of what is mapped. Arguments are as hostile as a guest likes; errors are Linux's."""

    def __init__(self, platform: Platform, memory: MemoryFile, frames: Frames | None = None) -> None:
        super().__init__(platform, memory, frames)
        self.mmap_base = self.max_address - (self.max_address >> 3) & ~PAGE_MASK
        self.brk_start = 0
        self.brk_end = 0
        self.data_size = 0
        self.lock_future = False

    # mmap.

    def map(
        self,
        addr: int,
        length: int,
        prot: int,
        flags: int,
        file: OpenFile | None = None,
        offset: int = 0,
        name: str = "",
    ) -> int:
        """Map memory as mmap(2) does, and return its address. ``file`` is None for anonymous memory."""
        shared = _check_type(flags, file is not None)
        if length == 0 or offset & PAGE_MASK:
            raise SyscallError(errno.EINVAL)
        size = page_up(length)
        if size > self.max_address:
            raise SyscallError(errno.ENOMEM)
        prot &= PROT_ALL
        mappable: Mappable | None = None
        max_prot = PROT_ALL
        if file is not None:
            if offset + size >= 1 << 63:
                raise SyscallError(errno.EOVERFLOW)
            max_prot = _check_file(file, prot, flags, shared)
            mappable = file.mappable()
        elif flags & MAP_HUGETLB:
            raise SyscallError(errno.ENOMEM)
        store: PageStore | None = None
        if file is not None and isinstance(mappable, ZeroPages):
            name = name or (file.describe() if shared else "")
            file = mappable = None
        if file is None:
            offset = 0
            if shared:
                mappable = store = PageStore(self.memory, size)
                name = name or "/dev/zero (deleted)"
        try:
            area = Vma(0, size, prot, VM_SHARED if shared else 0, max_prot, mappable, offset, file, name)
            return self.map_area(addr, area, flags)
        finally:
            if store is not None:
                store.release()

    def map_area(self, addr: int, area: Vma, flags: int) -> int:
        """Map what ``area`` says (its addresses only tell its size) where ``addr`` and MAP_… flags want it."""
        size = area.end - area.start
        addr = self._choose(addr, size, flags)
        bits = area.flags
        if flags & MAP_NORESERVE:
            bits |= VM_NORESERVE
        if flags & MAP_GROWSDOWN:
            bits |= VM_GROWSDOWN
        if flags & MAP_LOCKED or self.lock_future:
            self._check_lock_limit(size)
            bits |= VM_LOCKED
        self._check_room(addr, size, area.prot, bits, area.file is not None)
        area = area.changed(flags=bits).moved(addr, addr + size, area.offset)
        self.place(area, self._wants_pages(area, flags))
        return addr

    def _wants_pages(self, area: Vma, flags: int) -> bool:
        """Tell whether an area gets its pages at once."""
        if flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE or area.flags & VM_LOCKED:
            return True
        if area.mappable is None:
            return area.prot & PROT_WRITE != 0 and area.end - area.start <= _EAGER and not area.flags & VM_GROWSDOWN
        if area.flags & VM_SHARED:
            return False
        if area.prot & PROT_WRITE:
            # The dynamic linker's: the data of a library, which it is about to relocate.
            return flags & MAP_DENYWRITE != 0 and area.end - area.start <= _EAGER_COPY
        return area.prot != 0

    def _choose(self, addr: int, size: int, flags: int) -> int:
        """Return where a new area goes: exactly ``addr`` if fixed, near it if that is free, else the highest gap."""
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE):
            if addr & PAGE_MASK:
                raise SyscallError(errno.EINVAL)
            if addr > self.max_address - size:
                raise SyscallError(errno.ENOMEM)
            if addr < self.min_address:
                raise SyscallError(errno.EPERM)
            if flags & MAP_FIXED_NOREPLACE and not self.vmas.is_free(addr, addr + size):
                raise SyscallError(errno.EEXIST)
            return addr
        if addr:
            hint = max(page_up(addr), self.min_address)
            if hint <= self.max_address - size and self._is_roomy(hint, hint + size):
                return hint
        return self._find_gap(size, flags)

    def _is_roomy(self, start: int, end: int) -> bool:
        """Tell whether nothing is in a range, nor a stack's guard."""
        vmas = self.vmas
        index = vmas.index_from(start)
        if index == len(vmas.items):
            return True
        area = vmas.items[index]
        return area.start - (STACK_GUARD_GAP if area.flags & VM_GROWSDOWN else 0) >= end

    def _find_gap(self, size: int, flags: int = 0) -> int:
        """Return the start of ``size`` free bytes, as high as there are below the mmap base. ENOMEM."""
        if flags & MAP_32BIT:
            found = self.vmas.gap_above(size, max(_LOW_32BIT[0], self.min_address), _LOW_32BIT[1])
        else:
            found = self.vmas.gap_below(size, self.min_address, self.mmap_base)
            if found is None:
                found = self.vmas.gap_above(size, self.max_address // 3 & ~PAGE_MASK, self.max_address)
        if found is None:
            raise SyscallError(errno.ENOMEM)
        return found

    def _check_room(self, addr: int, size: int, prot: int, bits: int, is_file: bool) -> None:
        """Raise ENOMEM when limits forbid a new area in place of what is there."""
        vmas = self.vmas
        if len(vmas.items) >= MAX_MAP_COUNT:
            raise SyscallError(errno.ENOMEM)
        limit = self.limits.soft(RLIMIT_AS)
        if vmas.size + size > limit:
            replaced = sum(
                min(v.end, addr + size) - max(v.start, addr) for v in vmas.overlapping(addr, addr + size)
            )  # fmt: skip
            if vmas.size - replaced + size > limit:
                raise SyscallError(errno.ENOMEM)
        if prot & PROT_WRITE and not bits & (VM_SHARED | VM_GROWSDOWN):
            self._check_data_limit(size)
        charged = not is_file if bits & VM_SHARED else prot & PROT_WRITE != 0
        if charged and not bits & VM_NORESERVE and size > committable():
            raise SyscallError(errno.ENOMEM)

    def _check_data_limit(self, more: int) -> None:
        limit = self.limits.soft(RLIMIT_DATA)
        if limit < 1 << 62 and sum(v.length for v in self.vmas.items if v.is_data) + more > limit:
            raise SyscallError(errno.ENOMEM)

    def _check_lock_limit(self, more: int) -> None:
        limit = self.limits.soft(RLIMIT_MEMLOCK)
        if limit < 1 << 62 and sum(v.length for v in self.vmas.items if v.flags & VM_LOCKED) + more > limit:
            raise SyscallError(errno.EAGAIN)

    def place(self, area: Vma, populate: bool = False) -> None:
        """Put a new area in place of whatever is there, in one go."""
        outermost = self._batch is None
        self.begin_batch()
        self.vmas.count(area)
        self._remove(area.start, area.end)
        self.vmas.add(area)
        if populate:
            self.populate(area.start, area.end)
        if outermost:
            self.end_batch()

    def populate(self, start: int, end: int) -> None:
        """Put pages behind a range as its areas allow, as far as that is possible (and as memory goes)."""
        end = min(end, start + committable())
        outermost = self._batch is None
        self.begin_batch()
        for vma in self.vmas.overlapping(start, end):
            page = max(start, vma.start)
            stop = min(end, vma.end)
            write = vma.prot & PROT_WRITE != 0
            while vma.access and page < stop:
                known = self.runs.find(page)
                try:
                    run = self.commit(vma, page, write)
                except SyscallError:
                    break
                if run is known:
                    self._show(vma, run)
                page = run.end
        if outermost:
            self.end_batch()

    # munmap.

    def unmap(self, addr: int, length: int) -> None:
        """Unmap a range (munmap). EINVAL; ENOMEM when it would make too many areas."""
        if addr & PAGE_MASK or length == 0 or addr > self.max_address or length > self.max_address - addr:
            raise SyscallError(errno.EINVAL)
        end = addr + page_up(length)
        if len(self.vmas.items) >= MAX_MAP_COUNT:
            area = self.vmas.find(addr)
            if area is not None and area.start < addr and area.end > end:
                raise SyscallError(errno.ENOMEM)
        self._remove(addr, end)

    def _remove(self, start: int, end: int) -> None:
        """Take areas and pages out of a range."""
        areas = self.vmas.cut(start, end)
        if areas:
            self._discard_pages(start, end)
            self._forget_hits()
            self._let_go(areas)

    # mprotect.

    def protect(self, addr: int, length: int, prot: int) -> None:
        """Change the protection of a range (mprotect). EINVAL, ENOMEM, EACCES; what lies before the trouble is changed."""
        grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
        prot &= ~grows
        if grows == PROT_GROWSDOWN | PROT_GROWSUP or addr & PAGE_MASK:
            raise SyscallError(errno.EINVAL)
        if length == 0:
            return
        end = addr + page_up(length)
        if end > 1 << 64 or end <= addr:
            raise SyscallError(errno.ENOMEM)
        if prot & ~(PROT_ALL | _PROT_SEM):
            raise SyscallError(errno.EINVAL)
        prot &= PROT_ALL
        areas = self.vmas.overlapping(addr, end)
        if grows:
            if grows == PROT_GROWSUP or not areas or not areas[0].flags & VM_GROWSDOWN:
                raise SyscallError(errno.EINVAL)
            addr = areas[0].start
        if not areas or areas[0].start > addr:
            raise SyscallError(errno.ENOMEM)
        for area in areas:
            if area.start > addr:
                raise SyscallError(errno.ENOMEM)
            if prot & ~area.max_prot:
                raise SyscallError(errno.EACCES)
            stop = min(area.end, end)
            if area.prot != prot:
                self._protect_area(area, addr, stop, prot)
            addr = stop
        if addr < end:
            raise SyscallError(errno.ENOMEM)

    def _protect_area(self, area: Vma, start: int, end: int, prot: int) -> None:
        """Change the protection of (a part of) one area, and of its pages that the guest may see."""
        if len(self.vmas.items) >= MAX_MAP_COUNT and (area.start < start or area.end > end):
            raise SyscallError(errno.ENOMEM)
        if prot & PROT_WRITE and not area.prot & PROT_WRITE and not area.flags & VM_SHARED:
            self._check_data_limit(end - start)
            if not area.flags & VM_NORESERVE and end - start > committable():
                raise SyscallError(errno.ENOMEM)
        self._forget_hits()
        changed = self.vmas.add(self.vmas.cut(start, end)[0].changed(prot=prot))
        runs = self.runs.overlapping(start, end)
        requests: list[MapRequest | UnmapRequest] = []
        if len(runs) > _EAGER_RUNS or not changed.access:
            requests.append(UnmapRequest(start, end - start))
        else:
            part = changed.part(start, end)
            for run in runs:
                request = self._map_request(part, run)
                if request is not None:
                    requests.append(request)
        if runs:
            self._apply(requests)

    # brk.

    def brk(self, addr: int) -> int:
        """Move the end of the heap to ``addr`` if that is possible, and return where it is."""
        start, old = self.brk_start, self.brk_end
        if addr < start or addr > self.max_address:
            return old
        old_end, new_end = page_up(old), page_up(addr)
        if addr - start + self.data_size > self.limits.soft(RLIMIT_DATA):
            return old
        if new_end < old_end:
            self._remove(new_end, old_end)
        elif new_end > old_end:
            try:
                if not self._is_roomy(old_end, new_end + PAGE_SIZE):
                    return old
                self._check_room(old_end, new_end - old_end, PROT_READ | PROT_WRITE, 0, False)
            except SyscallError:
                return old
            bits = VM_LOCKED if self.lock_future else 0
            area = Vma(old_end, new_end, PROT_READ | PROT_WRITE, bits, name="[heap]")
            self.place(area, area.length <= _EAGER)
        self.brk_end = addr
        return addr


def _check_type(flags: int, is_file: bool) -> bool:
    """Return whether flags ask for a shared mapping. EINVAL, EOPNOTSUPP."""
    kind = flags & MAP_TYPE
    if kind == MAP_SHARED_VALIDATE and is_file:
        if flags & ~_VALIDATED:
            raise SyscallError(errno.EOPNOTSUPP)
    elif kind not in (MAP_SHARED, MAP_PRIVATE):
        raise SyscallError(errno.EINVAL)
    if flags & MAP_GROWSDOWN and (kind != MAP_PRIVATE or is_file):
        raise SyscallError(errno.EINVAL)
    return kind != MAP_PRIVATE


def _check_file(file: OpenFile, prot: int, flags: int, shared: bool) -> int:
    """Return the most protection that a mapping of ``file`` may ever have. EACCES, EINVAL."""
    if not file.readable:
        raise SyscallError(errno.EACCES)
    if flags & MAP_HUGETLB:
        raise SyscallError(errno.EINVAL)
    if not shared or file.writable:
        return PROT_ALL
    if prot & PROT_WRITE:
        raise SyscallError(errno.EACCES)
    return PROT_READ | PROT_EXEC
