"""What mremap does: areas that grow, shrink and move with their pages. A layer above mm_map.py."""

import errno
from typing import Final

from systrap.host.sys import PAGE_SIZE
from systrap.platform import UnmapRequest
from systrap.sentry.errors import SyscallError
from systrap.sentry.mm_limits import RLIMIT_AS
from systrap.sentry.mm_map import MAX_MAP_COUNT, Mappings, committable, page_up
from systrap.sentry.mm_pages import PAGE_MASK
from systrap.sentry.vma import VM_LOCKED, VM_NORESERVE, Vma

MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MREMAP_DONTUNMAP: Final = 4


class MovableMappings(Mappings):
    """mremap, and its checks."""

    def remap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0) -> int:
        """Resize or move a mapping (mremap), and return where it is now."""
        keep = flags & MREMAP_DONTUNMAP != 0
        fixed = flags & MREMAP_FIXED != 0
        old_size, new_size = page_up(old_length), page_up(new_length)
        if (
            flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)
            or addr & PAGE_MASK
            or ((fixed or keep) and not flags & MREMAP_MAYMOVE)
            or (keep and old_size != new_size)
            or not 0 < new_size <= self.max_address
        ):
            raise SyscallError(errno.EINVAL)
        if fixed:
            self._check_target(addr, old_size, new_addr, new_size)
            if old_size > new_size:
                self._remove(addr + new_size, addr + old_size)
                old_size = new_size
        area = self.vmas.find(addr)
        if area is None:
            raise SyscallError(errno.EFAULT)
        if old_size == 0 and not area.shared:
            raise SyscallError(errno.EINVAL)
        in_place = not (fixed or keep)
        if in_place and old_size >= new_size:
            if old_size > new_size:
                self.unmap(addr + new_size, old_size - new_size)
            return addr
        if old_size > area.end - addr:
            raise SyscallError(errno.EFAULT)
        if new_size > old_size:
            self._check_growth(area, new_size - old_size)
        if in_place:
            if old_size and addr + old_size == area.end and self._grow_in_place(area, addr + new_size):
                return addr
            if not flags & MREMAP_MAYMOVE:
                raise SyscallError(errno.ENOMEM)
        return self._move(area, addr, old_size, new_size, new_addr if fixed else None, keep)

    def _check_target(self, addr: int, old_size: int, new_addr: int, new_size: int) -> None:
        if new_addr & PAGE_MASK or new_addr > self.max_address - new_size:
            raise SyscallError(errno.EINVAL)
        if addr + old_size > new_addr and new_addr + new_size > addr:
            raise SyscallError(errno.EINVAL)
        if new_addr < self.min_address:
            raise SyscallError(errno.EPERM)

    def _check_growth(self, area: Vma, more: int) -> None:
        if area.mappable is not None and area.offset + area.length + more >= 1 << 63:
            raise SyscallError(errno.EINVAL)
        if self.vmas.size + more > self.limits.soft(RLIMIT_AS):
            raise SyscallError(errno.ENOMEM)
        if area.is_data:
            self._check_data_limit(more)
            if not area.flags & VM_NORESERVE and more > committable():
                raise SyscallError(errno.ENOMEM)
        if area.flags & VM_LOCKED:
            self._check_lock_limit(more)

    def _grow_in_place(self, area: Vma, end: int) -> bool:
        """Extend an area to ``end`` if nothing is there."""
        if end > self.max_address or not self._is_roomy(area.end, end):
            return False
        more = area.moved(area.end, end, area.offset + area.length if area.mappable is not None else 0)
        self.vmas.count(more)
        self.vmas.add(more)
        self._forget_hits()
        return True

    def _move(self, area: Vma, addr: int, old_size: int, new_size: int, target: int | None, keep: bool) -> int:
        """Move pages and area to ``target`` (or a gap): the pages change their address, not their contents."""
        if len(self.vmas.items) >= MAX_MAP_COUNT - 3:
            raise SyscallError(errno.ENOMEM)
        outermost = self._batch is None
        self.begin_batch()
        if target is None:
            target = self._find_gap(new_size)
        else:
            self._remove(target, target + new_size)
        old = area.part(addr, addr + max(old_size, PAGE_SIZE))
        new = old.moved(target, target + new_size, old.offset)
        self.vmas.count(new)
        self._forget_hits()
        runs = self.runs.cut(addr, addr + old_size)
        if runs:
            self._apply([UnmapRequest(addr, old_size)])
        if not keep and old_size:
            self._let_go(self.vmas.cut(addr, addr + old_size))
        self.vmas.add(new)
        for run in runs:
            self._show(new, self.runs.add(run.at(run.start + target - addr)))
        if outermost:
            self.end_batch()
        return target
