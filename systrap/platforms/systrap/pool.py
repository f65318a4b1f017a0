"""Stub processes between two address spaces (20-platform §2.4, §9.3; P-102, P-109, P-110).

To make a process costs a clone, a dozen system calls in it and a thread; to empty one costs an munmap. So a stub whose space was
released, and whose last context has left, waits here for the next space, with its threads asleep.

What a guest left behind must not reach the next one. Its memory is unmapped and the slots of its contexts are cleared; a stub
whose shared memory does not look as the sentry left it is killed instead. What remains is said in docs/limits.md.
"""

import threading
from typing import Final

from systrap.platform import PlatformError
from systrap.platforms.systrap.environment import Environment, Modes
from systrap.platforms.systrap.stub_process import StubProcess
from systrap.platforms.systrap.subprocess import Observer, Subprocess

MAX_IDLE: Final = 16
"""More stubs than this are not kept: each is a process, its threads, and some hundred kilobytes of shared memory."""


class Pool:
    """The idle stubs of one platform. Any thread.

    ``created``, ``reused``, ``poisoned`` count processes made, spaces that got a used one, and stubs that were not to be
    used again.
    """

    def __init__(self, environment: Environment, modes: Modes, observer: Observer) -> None:
        self.environment = environment
        self._modes = modes
        self._observer = observer
        self._lock = threading.Lock()
        self._idle: list[StubProcess] = []
        self._closed = False
        self.created = 0
        self.reused = 0
        self.poisoned = 0

    def new_space(self) -> Subprocess:
        """Return an empty space. Raises PlatformError."""
        while (stub := self._take()) is not None:
            space = Subprocess(stub, self._observer, self.give_back)
            if not space.dead:
                self.reused += 1
                return space
            stub.discard()
        stub = StubProcess(self.environment, self._modes)
        self.created += 1
        space = Subprocess(stub, self._observer, self.give_back)
        if space.dead:
            stub.discard()
            raise PlatformError("no new address space: its stub process died at once")
        return space

    def _take(self) -> StubProcess | None:
        """Return the stub that came last: its pages are the warmest."""
        with self._lock:
            return self._idle.pop() if self._idle else None

    def give_back(self, space: Subprocess) -> None:
        """Keep a space's stub for the next one if it is alive, and clean; else end it."""
        stub = space.stub
        stub.owner = None
        clean = not stub.dead and not space.abandoned and not space.corrupt and stub.looks_untouched()
        if not (clean or stub.dead or space.abandoned):
            self.poisoned += 1
        with self._lock:
            keep = clean and not self._closed and len(self._idle) < MAX_IDLE
            if keep:
                stub.forget_guest()
                self._idle.append(stub)
        if not keep:
            stub.discard()

    @property
    def idle(self) -> int:
        """How many stubs wait here."""
        return len(self._idle)

    def close(self) -> None:
        """End every idle stub, and those that come back from now on. Returns when they are gone."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for stub in idle:
            stub.discard()
        for stub in idle:
            stub.wait_until_gone()
