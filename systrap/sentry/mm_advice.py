"""What madvise, msync, mincore and the mlock family do: the top layer but one of a memory manager."""

import errno
from typing import Final

from systrap.host.holes import punch_hole
from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.mm_limits import RLIMIT_MEMLOCK
from systrap.sentry.mm_map import page_up
from systrap.sentry.mm_pages import PAGE_MASK
from systrap.sentry.mm_remap import MovableMappings
from systrap.sentry.pages import PageStore
from systrap.sentry.vma import (
    PROT_WRITE,
    VM_DONTDUMP,
    VM_DONTFORK,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_SHARED,
    VM_WIPEONFORK,
    Vma,
)

MADV_NORMAL: Final = 0
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24

# Advice about speed that needs no action here: NORMAL, RANDOM, SEQUENTIAL, (UN)MERGEABLE, (NO)HUGEPAGE.
_ACCEPTED: Final = frozenset((0, 1, 2, 12, 13, 14, 15))

# Advice that sets or clears a property: bits to set, bits to clear.
_FLAGS: Final = {
    MADV_DONTFORK: (VM_DONTFORK, 0),
    MADV_DOFORK: (0, VM_DONTFORK),
    MADV_DONTDUMP: (VM_DONTDUMP, 0),
    MADV_DODUMP: (0, VM_DONTDUMP),
    MADV_WIPEONFORK: (VM_WIPEONFORK, 0),
    MADV_KEEPONFORK: (0, VM_WIPEONFORK),
}
_ACTIONS: Final = frozenset((3, 4, 8, 9, 20, 21, 22, 23, 24))

MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4

_U64: Final = (1 << 64) - 1

MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4


class AdvisedMappings(MovableMappings):
    """Advice, synchronisation and locking of ranges."""

    def advise(self, addr: int, length: int, advice: int) -> None:
        """Carry out madvise(2). Holes in the range are ENOMEM, after what is mapped was served."""
        if addr & PAGE_MASK or not (advice in _ACCEPTED or advice in _FLAGS or advice in _ACTIONS):
            raise SyscallError(errno.EINVAL)
        end = addr + page_up(length)
        if end >= 1 << 64:
            raise SyscallError(errno.EINVAL)
        if end == addr:
            return
        areas = self.vmas.overlapping(addr, end)
        position, holes = addr, False
        for area in areas:
            holes = holes or area.start > position
            start, stop = max(area.start, addr), min(area.end, end)
            position = stop
            if advice in _FLAGS:
                self._set_flags(area, start, stop, advice)
            elif advice in _ACTIONS:
                self._act(area, start, stop, advice)
        if holes or position < end:
            raise SyscallError(errno.ENOMEM)

    def _set_flags(self, area: Vma, start: int, end: int, advice: int) -> None:
        on, off = _FLAGS[advice]
        if advice == MADV_WIPEONFORK and (area.mappable is not None or area.flags & VM_SHARED):
            raise SyscallError(errno.EINVAL)
        flags = (area.flags | on) & ~off
        if flags != area.flags:
            self._change_flags(start, end, flags)

    def _change_flags(self, start: int, end: int, flags: int) -> None:
        self._forget_hits()
        for piece in self.vmas.cut(start, end):
            self.vmas.add(piece.changed(flags=flags))

    def _act(self, area: Vma, start: int, end: int, advice: int) -> None:
        anonymous = area.mappable is None
        if advice in (MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE):
            if area.flags & VM_LOCKED and advice != MADV_DONTNEED_LOCKED:
                raise SyscallError(errno.EINVAL)
            if advice == MADV_FREE:
                if not anonymous:
                    raise SyscallError(errno.EINVAL)
                return
            self._drop_contents(area, start, end)
        elif advice == MADV_REMOVE:
            self._punch(area, start, end)
        elif advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
            if not area.access or (advice == MADV_POPULATE_WRITE and not area.prot & PROT_WRITE):
                raise SyscallError(errno.EINVAL)
            self.populate(start, end)

    def _drop_contents(self, area: Vma, start: int, end: int) -> None:
        """MADV_DONTNEED: private pages are as new. Pages nobody else has are emptied where they are: no fault follows."""
        for run in self.runs.overlapping(start, end):
            low, high = max(run.start, start), min(run.end, end)
            delta = run.offset - run.start
            # Private anonymous memory only: a private copy of a file's page must go back to the file's.
            if (
                run.owned
                and area.mappable is None
                and self.frames.exclusive_around(low + delta, low + delta, high + delta) == (low + delta, high + delta)
            ):
                punch_hole(self.memory.fd, low + delta, high - low)
            else:
                self._discard_pages(low, high)

    def _punch(self, area: Vma, start: int, end: int) -> None:
        """MADV_REMOVE: holes in what is mapped."""
        if area.flags & VM_LOCKED or area.mappable is None:
            raise SyscallError(errno.EINVAL)
        if not area.flags & VM_SHARED or not area.max_prot & PROT_WRITE:
            raise SyscallError(errno.EACCES)
        if not isinstance(area.mappable, PageStore):
            raise SyscallError(errno.EOPNOTSUPP)
        area.mappable.punch(area.offset + start - area.start, end - start)

    def sync(self, addr: int, length: int, flags: int) -> None:
        """Carry out msync(2). Shared pages are the file's own, so only the file itself may have to be synchronised."""
        if addr & PAGE_MASK or flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or flags & 5 == 5:
            raise SyscallError(errno.EINVAL)
        end = addr + (page_up(length) & _U64)
        if end > _U64:
            raise SyscallError(errno.ENOMEM)
        position, hole = addr, False
        for area in self.vmas.overlapping(addr, end):
            hole = hole or area.start > position
            position = min(area.end, end)
            if flags & MS_INVALIDATE and area.flags & VM_LOCKED:
                raise SyscallError(errno.EBUSY)
            if flags & MS_SYNC and area.file is not None and area.flags & VM_SHARED and area.prot & PROT_WRITE:
                area.file.sync()
        if hole or position < end:
            raise SyscallError(errno.ENOMEM)

    def residency(self, addr: int, length: int) -> bytes:
        """Return mincore's answer, a byte per page: 1 where pages are behind the address."""
        if addr & PAGE_MASK:
            raise SyscallError(errno.EINVAL)
        if addr > self.max_address or length > self.max_address - addr:
            raise SyscallError(errno.ENOMEM)
        end = addr + page_up(length)
        if not self.vmas.is_covered(addr, end):
            raise SyscallError(errno.ENOMEM)
        result = bytearray((end - addr) // PAGE_SIZE)
        for run in self.runs.overlapping(addr, end):
            low = (max(run.start, addr) - addr) // PAGE_SIZE
            high = (min(run.end, end) - addr) // PAGE_SIZE
            result[low:high] = b"\1" * (high - low)
        return bytes(result)

    def lock(self, addr: int, length: int, populate: bool, privileged: bool) -> None:
        """Carry out mlock(2): nothing is ever swapped by us, so it is accounting, and pages at once."""
        start, end = _locked_range(addr, length)
        if start == end:
            return
        if not privileged:
            limit = self.limits.soft(RLIMIT_MEMLOCK)
            if limit == 0:
                raise SyscallError(errno.EPERM)
            fresh = sum(
                min(v.end, end) - max(v.start, start)
                for v in self.vmas.overlapping(start, end)
                if not v.flags & VM_LOCKED
            )
            if self.locked_size() + fresh > limit:
                raise SyscallError(errno.ENOMEM)
        self._mark_locked(start, end, True)
        if populate:
            self.populate(start, end)

    def unlock(self, addr: int, length: int) -> None:
        """Carry out munlock(2)."""
        start, end = _locked_range(addr, length)
        self._mark_locked(start, end, False)

    def _mark_locked(self, start: int, end: int, locked: bool) -> None:
        covered = self.vmas.is_covered(start, end)
        for area in self.vmas.overlapping(start, end):
            flags = area.flags | VM_LOCKED if locked else area.flags & ~VM_LOCKED
            if flags != area.flags:
                self._change_flags(max(start, area.start), min(end, area.end), flags)
        if not covered:
            raise SyscallError(errno.ENOMEM)

    def lock_all(self, flags: int, privileged: bool) -> None:
        """Carry out mlockall(2)."""
        if flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags in (0, MCL_ONFAULT):
            raise SyscallError(errno.EINVAL)
        if not privileged:
            limit = self.limits.soft(RLIMIT_MEMLOCK)
            if limit == 0:
                raise SyscallError(errno.EPERM)
            if flags & MCL_CURRENT and self.vmas.size > limit:
                raise SyscallError(errno.ENOMEM)
        self.lock_future = bool(flags & MCL_FUTURE)
        if flags & MCL_CURRENT:
            for area in list(self.vmas.items):
                self._change_flags(area.start, area.end, area.flags | VM_LOCKED)

    def unlock_all(self) -> None:
        """Carry out munlockall(2)."""
        self.lock_future = False
        for area in list(self.vmas.items):
            if area.flags & VM_LOCKED:
                self._change_flags(area.start, area.end, area.flags & ~VM_LOCKED)

    def locked_size(self) -> int:
        """Return how many bytes are locked (VmLck)."""
        return sum(area.length for area in self.vmas.items if area.flags & VM_LOCKED)

    def stack_size(self) -> int:
        """Return the size of the areas that grow down (VmStk)."""
        return sum(area.length for area in self.vmas.items if area.flags & VM_GROWSDOWN)


def _locked_range(addr: int, length: int) -> tuple[int, int]:
    """Return the pages a range touches. EINVAL when it wraps around (but a length that itself does is 0, as in Linux)."""
    start = addr & ~PAGE_MASK
    end = start + (page_up(length + (addr & PAGE_MASK)) & _U64)
    if end > _U64:
        raise SyscallError(errno.EINVAL)
    return start, end
