"""Sets of disjoint address ranges, kept sorted: the shape that mappings, page runs and page references share."""

from bisect import bisect_left, bisect_right
from typing import Generic, Protocol, Self, TypeVar


class Interval(Protocol):
    """A range ``[start, end)`` with a meaning. Never changed once it is in a set: parts and unions are new objects."""

    start: int
    end: int

    def part(self, start: int, end: int) -> Self:
        """Return what this interval says about a range inside it."""

    def joined(self, after: Self) -> Self | None:
        """Return this interval and the one that begins at its end as one, or None when they differ in meaning."""


T = TypeVar("T", bound=Interval)


class IntervalSet(Generic[T]):
    """Disjoint intervals in order. The starts stand in a list of their own, so that bisect needs no key."""

    __slots__ = ("items", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.items: list[T] = []

    def __len__(self) -> int:
        return len(self.items)

    def find(self, address: int) -> T | None:
        """Return the interval that contains ``address``."""
        index = bisect_right(self.starts, address) - 1
        if index >= 0:
            item = self.items[index]
            if item.end > address:
                return item
        return None

    def index_from(self, address: int) -> int:
        """Return the index of the first interval that ends behind ``address``."""
        index = bisect_right(self.starts, address)
        if index and self.items[index - 1].end > address:
            return index - 1
        return index

    def overlapping(self, start: int, end: int) -> list[T]:
        """Return the intervals that share an address with ``[start, end)``, whole."""
        if start >= end:
            return []
        low = self.index_from(start)
        return self.items[low : bisect_left(self.starts, end, low)]

    def is_free(self, start: int, end: int) -> bool:
        """Tell whether no interval overlaps ``[start, end)``."""
        index = self.index_from(start)
        return index == len(self.starts) or self.starts[index] >= end

    def is_covered(self, start: int, end: int) -> bool:
        """Tell whether every address of ``[start, end)`` is in an interval."""
        for item in self.overlapping(start, end):
            if item.start > start:
                return False
            start = item.end
        return start >= end

    def gap_around(self, address: int, low: int, high: int) -> tuple[int, int]:
        """Return the widest range around ``address``, which is in no interval, that has none either, within [low, high)."""
        index = bisect_right(self.starts, address)
        if index:
            low = max(low, self.items[index - 1].end)
        if index < len(self.starts):
            high = min(high, self.starts[index])
        return low, high

    def cut(self, start: int, end: int) -> list[T]:
        """Take ``[start, end)`` out and return what was there, clipped to it."""
        if start >= end:
            return []
        low = self.index_from(start)
        high = bisect_left(self.starts, end, low)
        taken = self.items[low:high]
        if not taken:
            return taken
        rest: list[T] = []
        first, last = taken[0], taken[-1]
        if first.start < start:
            rest.append(first.part(first.start, start))
        if last.end > end:
            rest.append(last.part(end, last.end))
            taken[-1] = last.part(max(last.start, start), end)
        if first.start < start:
            taken[0] = first.part(start, min(first.end, end))
        self.items[low:high] = rest
        self.starts[low:high] = [item.start for item in rest]
        return taken

    def add(self, item: T) -> T:
        """Put ``item`` where nothing is, joining it with its neighbours where they agree. Returns what is there now."""
        index = bisect_left(self.starts, item.start)
        low = high = index
        if index < len(self.items) and self.items[index].start == item.end:
            joined = item.joined(self.items[index])
            if joined is not None:
                item = joined
                high = index + 1
        if index and self.items[index - 1].end == item.start:
            joined = self.items[index - 1].joined(item)
            if joined is not None:
                item = joined
                low = index - 1
        self.items[low:high] = [item]
        self.starts[low:high] = [item.start]
        return item

    def clear(self) -> list[T]:
        """Empty the set and return what was in it."""
        items = self.items
        self.items = []
        self.starts = []
        return items
