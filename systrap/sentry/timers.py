"""Deadlines: one heap for everything the kernel has to do at a certain time."""

import heapq
from collections.abc import Callable


class Timer:
    """A deadline that is set. Times are seconds of time.monotonic()."""

    __slots__ = ("callback", "deadline", "order")

    def __init__(self, deadline: float, order: int, callback: Callable[[], None]) -> None:
        self.deadline = deadline
        self.order = order
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call back any more. Idempotent, also after the deadline."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)


class Timers:
    """The heap. Belongs to the kernel's thread."""

    __slots__ = ("_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._order = 0

    def add(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` in the loop when ``deadline`` has passed; same deadlines in the order they were set."""
        self._order += 1
        timer = Timer(deadline, self._order, callback)
        heapq.heappush(self._heap, timer)
        return timer

    def next_deadline(self) -> float | None:
        """Return the next deadline, None when there is none."""
        heap = self._heap
        while heap and heap[0].callback is None:
            heapq.heappop(heap)
        return heap[0].deadline if heap else None

    def expire(self, now: float) -> None:
        """Call back everything that is due."""
        heap = self._heap
        while heap and heap[0].deadline <= now:
            callback = heapq.heappop(heap).callback
            if callback is not None:
                callback()
