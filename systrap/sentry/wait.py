"""Waiting without threads: queues that are notified, and the awaitable that parks a task on them.

A system call that must wait is an ``async def``. It awaits :func:`wait`, which yields a :class:`Wait` to the kernel's
loop; the kernel adds the task to the queues and resumes the coroutine when one is notified, the deadline passes, or a
signal arrives. There is no event loop library and no thread: ``Kernel._turn`` is the whole scheduler.
"""

import time
from collections.abc import Awaitable, Generator, Sequence
from typing import Protocol

# Event bits of poll(2): what a file's queue is notified with, and what OpenFile.poll() returns.
POLLIN = 0x001
POLLPRI = 0x002
POLLOUT = 0x004
POLLERR = 0x008
POLLHUP = 0x010
POLLNVAL = 0x020
POLLRDNORM = 0x040
POLLRDBAND = 0x080
POLLWRNORM = 0x100
POLLWRBAND = 0x200
POLLRDHUP = 0x2000
ANY = 0xFFFF


class Waiter(Protocol):
    """Something that wants to know: a parked task, or an entry of an epoll instance."""

    def notified(self, events: int) -> None:
        """React to events (POLL… bits). Called while the notifier works: queue work, do not run it."""


class WaitQueue:
    """Waiters for one condition, in order of arrival. Any object that can be waited for has one."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}

    def add(self, waiter: Waiter) -> None:
        """Add a waiter at the end; adding it twice has no effect."""
        self.waiters[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Remove a waiter if it is there."""
        self.waiters.pop(waiter, None)

    def notify(self, events: int = ANY) -> None:
        """Tell every waiter. They may remove themselves meanwhile."""
        if self.waiters:
            for waiter in list(self.waiters):
                waiter.notified(events)


class Wait:
    """What a parked system call waits for. Awaiting it gives True when a queue was notified, False at the deadline.

    ``deadline`` is in seconds of time.monotonic(). ``uninterruptible`` waits see fatal signals only. Raises Interrupted.
    """

    __slots__ = ("deadline", "queues", "uninterruptible")

    def __init__(
        self, queues: Sequence[WaitQueue], deadline: float | None = None, uninterruptible: bool = False
    ) -> None:
        self.queues = queues
        self.deadline = deadline
        self.uninterruptible = uninterruptible

    def __await__(self) -> Generator["Wait", bool, bool]:
        return (yield self)


def wait(*queues: WaitQueue, deadline: float | None = None) -> Awaitable[bool]:
    """Park the calling task until a queue is notified (True) or the deadline passes (False). Raises Interrupted."""
    return Wait(queues, deadline)


def deadline_of(timeout: float | None) -> float | None:
    """Return when a time-out in seconds that starts now ends; None for one that never does."""
    return None if timeout is None else time.monotonic() + timeout
