"""What is mapped where in a guest's address space: virtual memory areas, and the search for free ranges."""

from bisect import bisect_left
from typing import Final

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.file import OpenFile, drop
from systrap.sentry.intervals import IntervalSet
from systrap.sentry.mappable import Mappable, MappingUser

PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
PROT_ALL: Final = 7

# Properties of an area beyond its protection.
VM_SHARED: Final = 0x01
VM_GROWSDOWN: Final = 0x02
VM_LOCKED: Final = 0x04
VM_DONTFORK: Final = 0x08
VM_WIPEONFORK: Final = 0x10
VM_NORESERVE: Final = 0x20
VM_DONTDUMP: Final = 0x40

STACK_GUARD_GAP: Final = 256 * PAGE_SIZE
"""What Linux keeps free below an area that grows down."""

# What the hardware grants for a protection: on x86 there is no write or execute without read.
_GRANTED: Final = (0, 1, 3, 3, 5, 5, 7, 7)


class Vma:
    """One area ``[start, end)``: protection, properties, and what its contents are.

    ``mappable`` and ``offset`` say what is mapped at ``start`` (None: private anonymous memory); ``file`` is the open
    description it came from, which the area keeps alive. ``access`` is the protection as the hardware grants it, in the
    bits of ``platform.Access``. An area is never changed: the set replaces it.
    """

    __slots__ = ("access", "end", "file", "flags", "mappable", "max_prot", "name", "offset", "prot", "start")

    def __init__(
        self,
        start: int,
        end: int,
        prot: int,
        flags: int = 0,
        max_prot: int = PROT_ALL,
        mappable: Mappable | None = None,
        offset: int = 0,
        file: OpenFile | None = None,
        name: str = "",
    ) -> None:
        self.start = start
        self.end = end
        self.prot = prot
        self.flags = flags
        self.max_prot = max_prot
        self.mappable = mappable
        self.offset = offset
        self.file = file
        self.name = name
        self.access = _GRANTED[prot]

    def moved(self, start: int, end: int, offset: int) -> "Vma":
        """Return the same kind of area elsewhere; ``offset`` is that of its first byte."""
        return Vma(
            start, end, self.prot, self.flags, self.max_prot, self.mappable, offset, self.file, self.name
        )  # fmt: skip

    def part(self, start: int, end: int) -> "Vma":
        """Return the part ``[start, end)`` (or, where it may grow, an extension)."""
        return self.moved(start, end, self.offset + start - self.start if self.mappable is not None else 0)

    def changed(self, prot: int | None = None, flags: int | None = None) -> "Vma":
        """Return the same range with another protection or other flags."""
        area = self.moved(self.start, self.end, self.offset)
        if prot is not None:
            area.prot = prot
            area.access = _GRANTED[prot]
        if flags is not None:
            area.flags = flags
        return area

    def joined(self, after: "Vma") -> "Vma | None":
        """Return both areas as one if they are alike (and their contents continue)."""
        if (
            self.prot != after.prot
            or self.flags != after.flags
            or self.mappable is not after.mappable
            or self.file is not after.file
            or self.max_prot != after.max_prot
            or self.name != after.name
            or (self.mappable is not None and self.offset + self.end - self.start != after.offset)
        ):
            return None
        return self.moved(self.start, after.end, self.offset)

    @property
    def length(self) -> int:
        """The size in bytes."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """Writes go to what is mapped, not to a private copy."""
        return bool(self.flags & VM_SHARED)

    @property
    def is_data(self) -> bool:
        """Counts against RLIMIT_DATA: private, writable, and no stack."""
        return self.prot & PROT_WRITE != 0 and not self.flags & (VM_SHARED | VM_GROWSDOWN)


class VmaSet(IntervalSet[Vma]):
    """The areas of one memory manager. Counts how many of them use each mappable and each open file.

    ``size`` is the sum of their lengths. What ``cut`` returns is still counted: it is either put back, perhaps changed,
    with ``add``, or let go with ``let_go`` (after its pages are out of the address space: rule of order).
    """

    __slots__ = ("_no_gap_below", "_no_gap_size", "_no_gap_top", "_owner", "size")

    def __init__(self, owner: MappingUser) -> None:
        super().__init__()
        self._owner = owner
        self.size = 0
        # No range of more than _no_gap_size bytes is free between _no_gap_below and _no_gap_top, where searches begin.
        self._no_gap_top = -1
        self._no_gap_below = 0
        self._no_gap_size = 0

    def count(self, area: Vma) -> None:
        """Count a new area's references, before it is added."""
        if area.file is not None:
            area.file.refs += 1
        if area.mappable is not None:
            area.mappable.add_user(self._owner)

    def let_go(self, areas: list[Vma]) -> None:
        """Give up the references of areas that were cut."""
        for area in areas:
            if area.mappable is not None:
                area.mappable.remove_user(self._owner)
            if area.file is not None:
                drop(area.file)

    def add(self, item: Vma) -> Vma:
        """Put a counted area where nothing is. It may become one with its neighbours."""
        before = len(self.items)
        whole = super().add(item)
        self.size += item.end - item.start
        for _ in range(before + 1 - len(self.items)):
            self.let_go([item])
        return whole

    def cut(self, start: int, end: int) -> list[Vma]:
        """Take a range out. The areas returned are still counted."""
        first = self.find(start)
        last = self.find(end - 1)
        taken = super().cut(start, end)
        # A border inside an area makes one area two.
        if first is not None and first.start < start:
            self._count_split(first)
        if last is not None and last.end > end:
            self._count_split(last)
        for area in taken:
            self.size -= area.end - area.start
        self._no_gap_top = -1
        return taken

    def _count_split(self, area: Vma) -> None:
        if area.mappable is not None or area.file is not None:
            self.count(area)

    def fork_from(self, other: "VmaSet", areas: list[Vma]) -> None:
        """Fill this empty set with (most of) another's areas."""
        self.items = areas
        self.starts = [area.start for area in areas]
        self.size = sum(area.end - area.start for area in areas)
        for area in areas:
            if area.mappable is not None or area.file is not None:
                self.count(area)

    def gap_below(self, length: int, low: int, high: int) -> int | None:
        """Return the highest start of ``length`` free bytes within ``[low, high)``, or None."""
        ceiling, largest = high, 0
        if high == self._no_gap_top and length > self._no_gap_size:
            ceiling, largest = self._no_gap_below, self._no_gap_size
        index = bisect_left(self.starts, ceiling) - 1
        while ceiling - length >= low:
            area = self.items[index] if index >= 0 else None
            floor = low if area is None else max(low, area.end)
            if ceiling - floor >= length:
                self._no_gap_top, self._no_gap_below, self._no_gap_size = high, ceiling, largest
                return ceiling - length
            largest = max(largest, ceiling - floor)
            if area is None:
                return None
            ceiling = min(ceiling, area.start - (STACK_GUARD_GAP if area.flags & VM_GROWSDOWN else 0))
            index -= 1
        return None

    def gap_above(self, length: int, low: int, high: int) -> int | None:
        """Return the lowest start of ``length`` free bytes within ``[low, high)``, or None."""
        index = self.index_from(low)
        floor = low
        while floor + length <= high:
            if index == len(self.items):
                return floor
            area = self.items[index]
            guard = STACK_GUARD_GAP if area.flags & VM_GROWSDOWN else 0
            if area.start - guard - floor >= length:
                return floor
            floor = max(floor, area.end)
            index += 1
        return None
