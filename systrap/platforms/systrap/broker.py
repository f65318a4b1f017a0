"""The broker: one thread that lives as long as the process, parent of all stubs, and the one that learns of their death.

Two facts of the kernel make it necessary. PDEATHSIG fires when the *thread* that cloned a process ends, so the thread that
clones the source must never end; later stubs are cloned with CLONE_PARENT and have the same parent. And a dead stub
must be noticed and reaped while the sentry waits for other things: the broker sleeps on the pidfds of all stubs.

When a stub dies its sysmsg threads are killed with it. They are processes of their own to the kernel and take a moment
longer; until they are gone they can still touch the memory they shared. So a death is told twice: when the stub cannot
be used any more, and when none of its threads is left. The sentry is a subreaper, so that it can collect them, and all
stub processes and threads are in the source's process group, so that it collects nobody else's children.

Upstream also needs a fixed thread for each ptrace window. We have none: see docs/images.md.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from systrap.host import process

T = TypeVar("T")

_COLLECT_INTERVAL: Final = 0.002
_MAX_UNCLAIMED: Final = 64


class Watched(NamedTuple):
    """What the broker knows of a stub: ``threads`` is the live table of its host thread ids."""

    pid: int
    pidfd: int
    threads: "dict[int, int]"
    on_death: Callable[[process.Death], None]
    on_gone: Callable[[], None]


class Broker:
    """Runs functions on its immortal thread, and tells of deaths. All methods may be called from any thread."""

    def __init__(self) -> None:
        """Start the thread. Descriptors: an epoll instance and an eventfd, kept until the process ends."""
        self.group = 0
        self._closed = False
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._jobs: deque[Callable[[], object]] = deque()
        # A stub may die while watch() is under way: it is in the table and in the epoll instance, or in neither.
        self._table = threading.Lock()
        self._watched: dict[int, Watched] = {}
        self._unclaimed: dict[int, process.Death] = {}
        self._dying: list[tuple[set[int], Callable[[], None]]] = []
        process.become_subreaper()
        self._thread = threading.Thread(target=self._run, name="systrap-broker", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` on the broker's thread and return its result, or raise what it raised."""
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def job() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)
            done.set()

        self._jobs.append(job)
        os.eventfd_write(self._bell, 1)
        done.wait()
        if errors:
            raise errors[0]
        return results[0]

    def watch(self, stub: Watched) -> None:
        """Tell of a stub's death: ``on_death`` when it is dead and reaped, ``on_gone`` when its threads are too.

        Both are called on the broker's thread, once. ``pidfd`` belongs to the broker from now on.
        """
        with self._table:
            self._watched[stub.pid] = stub
            self._epoll.register(stub.pidfd, select.EPOLLIN | select.EPOLLONESHOT)
        # It may have died, and been reaped by a broker that woke for another reason, before it stood in the table.
        if process.pidfd_is_dead(stub.pidfd) and stub.pid in self._unclaimed:
            self._jobs.append(lambda: self._tell(stub.pid, self._unclaimed.pop(stub.pid, process.Death(0, 0))))
            os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """End the thread and close the descriptors: only for a broker that has no child."""
        self._closed = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._bell)

    def _run(self) -> None:
        while not self._closed:
            for fd, _ in self._epoll.poll(_COLLECT_INTERVAL if self._dying else None):
                if fd == self._bell:
                    os.eventfd_read(self._bell)
            self._collect()
            while self._jobs:
                self._jobs.popleft()()

    def _collect(self) -> None:
        """Reap every dead stub process and thread, and tell those who want to know."""
        dead: set[int] = set()
        while self.group and (found := process.reap_of_group(self.group)) is not None:
            pid, death = found
            dead.add(pid)
            # In this order: watch() does the reverse, so that one of the two sees the other.
            self._unclaimed[pid] = death
            if self._tell(pid, death):
                del self._unclaimed[pid]
            elif len(self._unclaimed) > _MAX_UNCLAIMED:
                del self._unclaimed[next(iter(self._unclaimed))]
        if self._dying:
            self._finish(dead)

    def _tell(self, pid: int, death: process.Death) -> bool:
        """Tell of a stub's death, once. Returns False when this pid is not a stub that is watched: a thread, as a rule."""
        with self._table:
            stub = self._watched.pop(pid, None)
            if stub is None:
                return False
            self._epoll.unregister(stub.pidfd)
            os.close(stub.pidfd)
        stub.on_death(death)
        self._dying.append((set(stub.threads.values()), stub.on_gone))
        return True

    def _finish(self, dead: set[int]) -> None:
        """Drop collected threads from the stubs they belonged to. One that is nobody's zombie any more counts as well."""
        still: list[tuple[set[int], Callable[[], None]]] = []
        for threads, on_gone in self._dying:
            threads -= dead
            threads -= {tid for tid in threads if not process.exists(tid)}
            if threads:
                still.append((threads, on_gone))
            else:
                on_gone()
        self._dying = still
