"""Contexts in stubs whose image is not ours: it has upstream's exports, and no ready ring (10-stub §8.3; docs/foreign.md).

Such a stub announces a context in one way only, on the futex word in the context's slot. So somebody has to sleep there for
each context that runs: a thread. It does nothing but what our own stub would have done, an entry in the ready ring of the
space (which lies in its slot of the memory file whether or not the stub knows of it) and a ring of its bell; from there
on everything is as always, and the thread that serves the platform is the only one that looks at guests.

Threads are kept for a while, since the next context will want one at once, and end by themselves.
"""

import threading
from typing import TYPE_CHECKING, Final

from systrap.host import futex
from systrap.platform import ProgrammingError
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ContextSlot, ContextState
from systrap.platforms.systrap.subprocess import Subprocess

if TYPE_CHECKING:
    from systrap.platforms.systrap.context import SystrapContext

LIVENESS_INTERVAL: Final = 1.0
"""How often a waiting thread looks whether the stub is alive. The broker tells the dispatcher of deaths; this ends the thread."""

IDLE_TIME: Final = 5.0
"""How long a thread without work is kept."""


class _Run:
    """One stay of a context in its stub, from submit to its announcement."""

    __slots__ = ("context", "slot", "space")

    def __init__(self, context: "SystrapContext", slot: ContextSlot, space: Subprocess) -> None:
        self.context = context
        self.slot = slot
        self.space = space


class _Worker:
    """A thread that waits for one run after the other."""

    __slots__ = ("awake", "run")

    def __init__(self) -> None:
        self.awake = threading.Semaphore(0)
        self.run: _Run | None = None


class Announcers:
    """The threads that wait for contexts of foreign stubs. One per dispatcher, whose lock it shares."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._idle: list[_Worker] = []
        # The current run of each context that is out there: a thread whose run is not here any more has nothing to say.
        self._runs: dict[SystrapContext, _Run] = {}

    def announce(self, context: "SystrapContext", space: Subprocess) -> None:
        """Have ``context``, which was just queued with NOTIFY_FUTEX, announced when it comes back. Lock held."""
        if context.slot is None:
            raise ProgrammingError("a context without a slot cannot be waited for")
        run = self._runs[context] = _Run(context, context.slot, space)
        if self._idle:
            worker = self._idle.pop()
            worker.run = run
            worker.awake.release()
        else:
            worker = _Worker()
            worker.run = run
            threading.Thread(target=self._serve, args=(worker,), name="systrap-announcer", daemon=True).start()

    def _serve(self, worker: _Worker) -> None:
        """Wait for runs until there are none for long."""
        while True:
            run, worker.run = worker.run, None
            if run is not None:
                self._wait(run)
                with self._lock:
                    announced = self._announce(run)
                    self._idle.append(worker)
                if not announced:
                    # The word may be another context's by now, and the wake-up that came here meant for its thread.
                    futex.wake(run.slot.address + abi.STATE)
            del run
            if worker.awake.acquire(timeout=IDLE_TIME):
                continue
            with self._lock:
                if worker in self._idle:
                    self._idle.remove(worker)
                    return

    def _wait(self, run: _Run) -> None:
        """Sleep until the context is back, its stub is dead, or it was taken back without our doing."""
        address = run.slot.address + abi.STATE
        while not run.space.dead and self._runs.get(run.context) is run:
            futex.wait(address, ContextState.NONE, LIVENESS_INTERVAL)
            if run.slot.state() != ContextState.NONE:
                return

    def _announce(self, run: _Run) -> bool:
        """Put the context into the ready ring of its space, and ring. Lock held.

        Not for a context that was taken back meanwhile: its space may be gone, and the ring another one's. Returns False then.
        """
        if self._runs.get(run.context) is not run:
            return False
        del self._runs[run.context]
        space = run.space
        if space.dead or space.outstanding.get(run.slot.stub_id) is not run.context:
            return False
        words, slots = space.stub.ring.cast("I"), space.stub.ring[abi.RING_SLOTS :].cast("Q")
        tail = words[abi.RING_TAIL >> 2]
        words[abi.RING_TAIL >> 2] = tail + 1 & 0xFFFFFFFF
        slots[tail % abi.QUEUE_ENTRIES] = (tail + 1 & 0xFFFFFFFF) << 32 | run.slot.stub_id
        bell = space.stub.ring_address + abi.RING_BELL
        space.environment.code.add32(bell, 1)
        futex.wake(bell)
        return True
