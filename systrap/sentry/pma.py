"""Which pages are behind which addresses (pma: physical memory area), and who else has them.

A *run* says that a range of addresses is backed by consecutive offsets of one platform file. Private pages live in the
kernel's MemoryFile; *frames* counts how many address spaces share them after a fork, so that copy-on-write copies
only what somebody else still sees, and the last owner frees.
"""

from systrap.memory import MemoryFile
from systrap.platform import MappableFile
from systrap.sentry.intervals import IntervalSet


class Run:
    """``[start, end)`` is backed by ``file`` from ``offset``.

    ``memory``: the file is the MemoryFile, the sentry touches the bytes directly. ``owned``: private pages, counted by the
    frames of the memory manager; otherwise they belong to what is mapped. ``writable``: they may be mapped writable, if the
    area allows it; private pages that others see, or that belong to a file, are copied first.
    """

    __slots__ = ("end", "file", "memory", "offset", "owned", "start", "writable")

    def __init__(
        self, start: int, end: int, file: MappableFile, offset: int, memory: bool, owned: bool, writable: bool
    ) -> None:
        self.start = start
        self.end = end
        self.file = file
        self.offset = offset
        self.memory = memory
        self.owned = owned
        self.writable = writable

    def part(self, start: int, end: int) -> "Run":
        """Return the part ``[start, end)``."""
        offset = self.offset + start - self.start
        return Run(start, end, self.file, offset, self.memory, self.owned, self.writable)

    def joined(self, after: "Run") -> "Run | None":
        """Return both as one if the second continues the first in every respect."""
        if (
            self.offset + self.end - self.start != after.offset
            or self.file is not after.file
            or self.owned != after.owned
            or self.writable != after.writable
        ):
            return None
        return Run(self.start, after.end, self.file, self.offset, self.memory, self.owned, self.writable)

    def at(self, start: int) -> "Run":
        """Return the same pages at another address (mremap)."""
        return Run(
            start, start + self.end - self.start, self.file, self.offset, self.memory, self.owned, self.writable
        )  # fmt: skip

    def with_writable(self, writable: bool) -> "Run":
        """Return the same pages with or without the right to write them."""
        return Run(self.start, self.end, self.file, self.offset, self.memory, self.owned, writable)


RunSet = IntervalSet[Run]


class _Shared:
    """A range of the MemoryFile that ``count`` (two or more) address spaces have."""

    __slots__ = ("count", "end", "start")

    def __init__(self, start: int, end: int, count: int) -> None:
        self.start = start
        self.end = end
        self.count = count

    def part(self, start: int, end: int) -> "_Shared":
        return _Shared(start, end, self.count)

    def joined(self, after: "_Shared") -> "_Shared | None":
        return _Shared(self.start, after.end, self.count) if self.count == after.count else None


class Frames:
    """The private pages of address spaces that descend from one by fork: allocation, sharing, and the end.

    Only what is shared is recorded: an allocated page that is in no interval has one owner.
    """

    __slots__ = ("_shared", "memory")

    def __init__(self, memory: MemoryFile) -> None:
        self.memory = memory
        self._shared: IntervalSet[_Shared] = IntervalSet()

    def allocate(self, length: int) -> int:
        """Return the offset of ``length`` zeroed bytes with one owner. Raises OutOfMemoryFileError."""
        return self.memory.allocate(length)

    def share(self, start: int, end: int) -> None:
        """Give the pages ``[start, end)`` one owner more."""
        shared = self._shared
        for piece in shared.cut(start, end):
            if piece.start > start:
                shared.add(_Shared(start, piece.start, 2))
            shared.add(_Shared(piece.start, piece.end, piece.count + 1))
            start = piece.end
        if start < end:
            shared.add(_Shared(start, end, 2))

    def exclusive_around(self, offset: int, low: int, high: int) -> tuple[int, int] | None:
        """Return the widest range around ``offset`` within ``[low, high)`` that has one owner, None if that page has more."""
        if self._shared.find(offset) is not None:
            return None
        return self._shared.gap_around(offset, low, high)

    def drop(self, ranges: list[tuple[int, int]]) -> None:
        """Take one owner off the pages of each ``(start, end)``; pages without one are freed.

        They are out of the caller's address space before (rule of order, 20-platform §4.2).
        """
        free: list[tuple[int, int]] = []
        shared = self._shared
        for start, end in ranges:
            if not shared.items:
                free.append((start, end))
                continue
            for piece in shared.cut(start, end):
                if piece.start > start:
                    free.append((start, piece.start))
                if piece.count > 2:
                    shared.add(_Shared(piece.start, piece.end, piece.count - 1))
                start = piece.end
            if start < end:
                free.append((start, end))
        self._free(free)

    def _free(self, ranges: list[tuple[int, int]]) -> None:
        """Free ranges, those that touch in one go."""
        if not ranges:
            return
        ranges.sort()
        start, end = ranges[0]
        for low, high in ranges:
            if low > end:
                self.memory.free(start, end - start)
                start = low
            end = high
        self.memory.free(start, end - start)
