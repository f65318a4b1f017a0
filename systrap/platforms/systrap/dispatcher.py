"""Handing contexts to stubs and getting them back: submit, next_ready, switch (20-platform §5, §6; architecture.md).

One thread serves many contexts: it submits them, and next_ready() returns the next one with an event. Where to look it is
told by each space's *ready ring*. The wait itself is one call of machine code; its parameters are the dispatch block.

``switch`` is the original's way: one thread waits for one context, on the futex word in its slot. Any number of threads may.
"""

import errno
import threading
import time
from collections import deque
from typing import Final

from systrap.host import futex, process
from systrap.host.sys import NR, syscall
from systrap.platform import (
    INTERRUPTED_EVENT,
    AddressSpace,
    ContextError,
    Event,
    EventKind,
    ProgrammingError,
    QuickCalls,
)
from systrap.platforms.systrap import abi, fast_path
from systrap.platforms.systrap import machine_code as block
from systrap.platforms.systrap.abi import ContextSlot, ContextState
from systrap.platforms.systrap.context import RUN_AGAIN, SystrapContext, death
from systrap.platforms.systrap.foreign import Announcers
from systrap.platforms.systrap.machine_code import SentryCode
from systrap.platforms.systrap.quick import QUICK_CONTEXT, Quick
from systrap.platforms.systrap.subprocess import Subprocess
from systrap.platforms.systrap.tick_clock import TickClock

TIME_SLICE: Final = 0.010
"""A context that kept a stub thread this long, while others wait for one, gives it up (20-platform §6.6)."""

ANSWER_LIMIT: Final = 10.0
"""A stub thread that an interrupt does not bring back within so many seconds is stopped, frozen, or led astray by its guest in a
way that it cannot be interrupted any more: the guest ends (S-144)."""
QUEUED_ANSWER_LIMIT: Final = 60.0
"""The same for a context that no thread seems to have taken yet: thousands may be waiting in front of it."""

_POLL_INTERVAL: Final = 0.0005
_LIVENESS_INTERVAL: Final = 0.05
_WOKEN: Final = 0
# What next_ready of the sentry image answers is a sum of these, when it is positive.
_CONTEXT: Final = 1
_PERIOD: Final = 2
_THREAD: Final = 4
_ASKS: Final = _CONTEXT | _PERIOD | _THREAD
_FULL_QUEUE: Final = "corrupted shared memory: its context queue says it is full"
_NO_LATENCIES: Final = memoryview(bytes(4 * block.LATENCY_BUCKETS)).cast("I")


class Dispatcher:
    """One per platform. ``submit`` and ``next_ready`` belong to one thread; ``switch``, ``interrupt``, ``wake`` to any."""

    def __init__(self, code: SentryCode, max_threads: int, spin_limit: int, has_ready_ring: bool = True) -> None:
        """``code``: an instance of the sentry image of our own, with its dispatch block.

        ``spin_limit``: at most so many stub threads may be awake when anybody spins; 0: nobody ever does.
        ``has_ready_ring``: stubs announce contexts in their ready rings; else the sentry does it for them (foreign.py).
        """
        self._code = code
        self._u32 = code.u32
        self._u64 = code.u64
        self._i64 = code.i64
        self._max_threads = max_threads
        self._lock = threading.Lock()
        self._announcers = None if has_ready_ring else Announcers(self._lock)
        self._notify = abi.NOTIFY_RING if has_ready_ring else abi.NOTIFY_FUTEX
        self._spaces: list[Subprocess] = []
        self._overflow: list[Subprocess] = []
        self._crowded: dict[Subprocess, set[int]] = {}
        self._unanswered: dict[SystrapContext, float] = {}
        self._ready: deque[SystrapContext] = deque()
        self._deaths: deque[Subprocess] = deque()
        self._woken = False
        self._server = 0
        self._clock: TickClock | None = None
        self.events = [0, 0, 0, 0, 0]
        self.preempted = 0
        self.interrupts = 0
        self._u32[block.MAX_THREADS >> 2] = max_threads
        self._u32[block.STUB_SPIN_OFF >> 2] = 1
        self._u32[block.SPIN_LIMIT >> 2] = spin_limit
        ticks = fast_path.ticks(code.counter_frequency)
        self._spin_ticks = 10 * ticks.deep_sleep
        self._u64[block.HANDSHAKE >> 3] = ticks.handshake
        # Without a period the machine code measures nothing, and the controller is never asked.
        self._u64[block.PERIOD >> 3] = ticks.period if spin_limit else 0
        self.controller = fast_path.Controller(max_threads)
        self._quick: Quick | None = None
        if syscall(NR["futex_waitv"], 0, 0, 0, 0, 0) == -errno.ENOSYS:
            self._u64[block.POLL_NS >> 3] = int(_POLL_INTERVAL * 1e9)

    # Handing over.

    def submit(self, context: SystrapContext, space: Subprocess) -> None:
        """Let ``context`` run; next_ready() will return it (platform.Platform.submit)."""
        if context.running:
            raise ProgrammingError("this context runs already")
        if context.interrupted:
            context.interrupted = False
            self._ready_at_once(context, INTERRUPTED_EVENT)
            return
        with self._lock:
            event = self._start(context, space, self._notify)
            if self._announcers is not None and event is None:
                self._announcers.announce(context, space)
        if event is not None:
            self._ready_at_once(context, event)
        elif space.index < 0:
            self._activate(space)

    def _ready_at_once(self, context: SystrapContext, event: Event) -> None:
        """Let next_ready() return ``context`` without a look at a ring."""
        self._report(context, event)
        self._ready.append(context)

    def _report(self, context: SystrapContext, event: Event) -> None:
        """Note and count what the caller is told."""
        context.event = event
        context.events += 1
        self.events[event.kind] += 1

    def _start(self, context: SystrapContext, space: Subprocess, notify: int) -> Event | None:
        """Queue a context to its stub. Returns the event if it cannot run at all. Lock held."""
        if space.dead:
            return death(space.why_dead())
        try:
            slot = context.enter(space)
        except ContextError as error:
            return Event(EventKind.DEATH, error=error)
        u32, u64 = self._u32, self._u64
        stub = space.stub
        u64[block.QUEUE >> 3] = stub.queue_address
        u64[block.CONTEXT >> 3] = slot.address
        u32[block.CONTEXT_ID >> 2] = slot.stub_id
        u32[block.THREADS >> 2] = len(stub.threads)
        u32[block.NOTIFY >> 2] = notify
        outstanding = space.outstanding
        outstanding[slot.stub_id] = context
        context.running = True
        result = self._code.submit()
        if result:
            event = self._react(space, result)
            if event is not None:
                if notify == abi.NOTIFY_RING:
                    self._count(-1)
                self._finish(context, space, slot)
                return event
        if len(outstanding) == self._max_threads + 1:
            self._crowded[space] = set()
        # An interrupt may have come before `running` was set: its sender relies on us.
        if context.interrupted:
            self.interrupt(context)
        return None

    def _react(self, space: Subprocess, result: int) -> Event | None:
        """Do what submit() asks for: another stub thread. Returns a death where there is no going on."""
        if result < 0:
            space.condemn(_FULL_QUEUE)
            return death(space.why_dead())
        if not self._create_thread(space) and not space.stub.threads:
            return death("the host does not let its stub have a thread", errno.EAGAIN)
        if space.index >= 0:
            self._set_threads(space, len(space.stub.threads))
        return None

    def _create_thread(self, space: Subprocess) -> bool:
        """Give a space another stub thread.

        It may take a context before it is in the books: who interrupted that context then found no thread to signal.
        """
        created = space.stub.create_thread()
        for context in list(space.outstanding.values()):
            if context.interrupted:
                self.interrupt(context)
        return created

    def _count(self, change: int) -> None:
        """Correct the sentry image's count of contexts that are out there, for what it does not see itself."""
        self._u32[block.OUTSTANDING >> 2] = max(self._u32[block.OUTSTANDING >> 2] + change, 0)

    def _finish(self, context: SystrapContext, space: Subprocess, slot: ContextSlot) -> None:
        """Take a context back into the sentry's hands. Lock held, or on the only thread."""
        context.running = False
        slot.clear_interrupt()
        outstanding = space.outstanding
        outstanding.pop(slot.stub_id, None)
        if self._unanswered:
            self._unanswered.pop(context, None)
        if self._crowded and len(outstanding) <= self._max_threads:
            self._crowded.pop(space, None)

    # Getting back.

    def next_ready(self, deadline: float | None) -> SystrapContext | None:
        """Return the next context with an event (platform.Platform.next_ready)."""
        self._server = self._server or threading.get_ident()
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._deaths:
                self._bury(self._deaths.popleft())
                continue
            if self._woken:
                self._woken = False
                return None
            until = self._wait_until(deadline)
            result = self._code.next_ready()
            if self._quick is not None and result & QUICK_CONTEXT == QUICK_CONTEXT:
                result, context = self._quick.serve(result)
                if context is not None:
                    return self._hand_over(context)
            if result > 0:
                context = self._ready_context() if result & _ASKS == _CONTEXT else self._attend(result)
                if context is not None:
                    return context
                # One that runs again and again, which nobody is told, must not keep the caller from its timers (P-053).
                if deadline is not None and time.monotonic() >= deadline:
                    return None
            elif result == -errno.EPERM:
                # What is out there comes back with that death.
                self._spaces[self._u32[block.READY_SPACE >> 2]].condemn(_FULL_QUEUE)
            elif not self._look_elsewhere(result, until, deadline):
                return None

    def _ready_context(self) -> SystrapContext | None:
        """Return the context that next_ready of the sentry image found."""
        return self._take(self._spaces[self._u32[block.READY_SPACE >> 2]], self._u32[block.READY_CONTEXT >> 2])

    def answer_quickly(self, calls: QuickCalls) -> None:
        """Answer these system calls within next_ready() from now on (platform.Platform.answer_quickly)."""
        self._quick = Quick(self._code.answer, self._u64, self._spaces, calls)

    def _hand_over(self, context: SystrapContext) -> SystrapContext:
        """Take a context out of the books whose quick call is answered, but which is not to run on at once."""
        if context.slot is None or context.space is None:
            raise ProgrammingError("a context without a slot cannot have run")
        with self._lock:
            self._finish(context, context.space, context.slot)
        context.interrupted = context.preempted = False
        self._report(context, INTERRUPTED_EVENT)
        return context

    def _attend(self, result: int) -> SystrapContext | None:
        """Do what the sentry image asks for besides: another stub thread, a look at the measurements."""
        context = self._ready_context() if result & _CONTEXT else None
        if result & _THREAD:
            self._add_thread(self._spaces[self._u32[block.THREAD_SPACE >> 2]])
        if result & _PERIOD:
            self._end_period()
        return context

    def _add_thread(self, space: Subprocess) -> None:
        """Give a space another stub thread. Where the host refuses, it is not asked again."""
        with self._lock:
            created = self._create_thread(space)
            self._set_threads(space, len(space.stub.threads) if created else self._max_threads)

    def _end_period(self) -> None:
        """Let the controller decide who may spin, from what was measured (20-platform §7)."""
        u32 = self._u32
        histograms: list[list[int]] = []
        for offset in (block.STUB_LATENCY, block.SENTRY_LATENCY):
            buckets = u32[offset >> 2 : (offset >> 2) + block.LATENCY_BUCKETS]
            histograms.append(buckets.tolist())
            buckets[:] = _NO_LATENCIES
        stub_spun = False
        for space in self._spaces:
            if space.stub.queue[abi.QUEUE_USED_FAST_PATH >> 2]:
                space.stub.queue[abi.QUEUE_USED_FAST_PATH >> 2] = 0
                stub_spun = True
        sentry_spun = u32[block.USED_SPIN >> 2] != 0
        u32[block.USED_SPIN >> 2] = 0
        controller = self.controller
        controller.period(histograms[0], histograms[1], stub_spun, sentry_spun)
        self._u64[block.SPIN >> 3] = self._spin_ticks if controller.sentry.is_on else 0
        u32[block.STUB_SPIN_OFF >> 2] = not controller.stub.is_on

    def _wait_until(self, deadline: float | None) -> float | None:
        """Set the wait's deadline: the caller's, or an earlier one for what cannot ring."""
        if self._crowded or self._overflow or self._unanswered:
            interval = _POLL_INTERVAL if self._overflow else TIME_SLICE if self._crowded else _LIVENESS_INTERVAL
            soon = time.monotonic() + interval
            deadline = soon if deadline is None else min(deadline, soon)
        if deadline is None:
            self._i64[block.DEADLINE_SEC >> 3] = -1
        else:
            self._i64[block.DEADLINE_SEC >> 3] = max(0, int(deadline))
            self._i64[block.DEADLINE_NSEC >> 3] = max(0, int(deadline % 1 * 1e9))
        return deadline

    def _look_elsewhere(self, result: int, until: float | None, deadline: float | None) -> bool:
        """After a wait that found nothing: tell whether there is reason to go on inside next_ready()."""
        if result < 0 and result not in (-errno.ETIMEDOUT, -errno.EINTR, -errno.EAGAIN):
            raise ProgrammingError(f"next_ready of the sentry image answered {result}")
        for space in list(self._overflow):
            context_id = self._take_entry(space)
            if context_id is not None:
                self._count(-1)
                context = self._take(space, context_id)
                if context is not None:
                    self._ready.append(context)
        if result == -errno.ETIMEDOUT:
            if self._crowded:
                self._end_time_slices()
            if self._unanswered:
                self._end_the_deaf()
        if self._ready or self._deaths or self._woken:
            return True
        return result == _WOKEN or (result == -errno.ETIMEDOUT and until != deadline)

    def _take(self, space: Subprocess, context_id: int) -> SystrapContext | None:
        """Check a ring's word against our books, and return the context with its event set; None when there is none to tell.

        The id comes from memory that guests can write. An entry for a context that is not out there, or has not come
        back, was forged: that guest ends (S-141, P-105).
        """
        context = space.outstanding.get(context_id)
        event = context.collect() if context is not None else None
        if context is None or event is None or context.slot is None:
            self._count(1)
            space.condemn(
                f"corrupted shared memory: its ready ring named context {context_id:#x}, which has not come back"
            )
            return None
        with self._lock:
            self._finish(context, space, context.slot)
        if context.goes_on(event):
            # To the end of the queue.
            self.submit(context, space)
            return None
        self._report(context, event)
        return context

    def kicks(self) -> int:
        """Return how often submit() woke a sleeping stub thread."""
        return self._u32[block.KICKS >> 2]

    def clock(self) -> TickClock:
        """Return what turns time stamps of contexts into time. Made when somebody asks for the first time: for tracing."""
        if self._clock is None:
            self._clock = TickClock(self._code)
        return self._clock

    def statistics(self) -> dict[str, int]:
        """Return counters; docs/metrics.md says what they mean, and what upstream calls them."""
        return {
            **{f"events_{kind.name.lower()}": self.events[kind] for kind in EventKind},
            "calls_answered_quickly": self._quick.answered if self._quick is not None else 0,
            "stubs_kicked": self._u32[block.KICKS >> 2],
            "interrupts_sent": self.interrupts,
            "time_slices_ended": self.preempted,
            **self.controller.statistics(),
        }

    # Spaces that can ring.

    def _activate(self, space: Subprocess) -> None:
        """Let next_ready() look at this space from now on. Spaces with nothing out there make room when it gets crowded."""
        if len(self._spaces) == block.MAX_SPACES:
            for idle in [s for s in self._spaces if not s.outstanding]:
                self.forget(idle)
        if len(self._spaces) == block.MAX_SPACES:
            if space not in self._overflow:
                self._overflow.append(space)
            return
        if space in self._overflow:
            self._overflow.remove(space)
        space.index = len(self._spaces)
        self._spaces.append(space)
        self._write_entry(space)
        self._u32[block.NR_SPACES >> 2] = len(self._spaces)

    def _write_entry(self, space: Subprocess) -> None:
        """Tell the sentry image of a space that is in the table."""
        entry = block.SPACES + block.SPACE_SIZE * space.index
        self._u64[entry >> 3] = space.stub.ring_address
        self._u64[(entry + 8) >> 3] = space.stub.queue_address
        self._u64[(entry + 16) >> 3] = space.stub.contexts_address
        self._u32[(entry + 24) >> 2] = space.stub.head
        self._set_threads(space, len(space.stub.threads))

    def _set_threads(self, space: Subprocess, threads: int) -> None:
        """Tell the sentry image how many stub threads a space has, or may be believed to have."""
        self._u32[(block.SPACES + block.SPACE_SIZE * space.index + 28) >> 2] = threads

    def _head(self, space: Subprocess) -> int:
        """Return the index that the sentry image will read next in a space's ring."""
        return self._u32[(block.SPACES + block.SPACE_SIZE * space.index + 24) >> 2]

    def forget(self, space: Subprocess) -> None:
        """Do not look at a space any more. On the thread of next_ready()."""
        if space in self._overflow:
            self._overflow.remove(space)
        if space.index < 0:
            return
        last = self._spaces.pop()
        for moved in {space, last}:
            moved.stub.head = self._head(moved)
        if last is not space:
            last.index = space.index
            self._spaces[last.index] = last
            self._write_entry(last)
        space.index = -1
        self._u32[block.NR_SPACES >> 2] = len(self._spaces)

    def _take_entry(self, space: Subprocess) -> int | None:
        """Take the next entry of a space's ready ring: in Python what next_ready does in machine code (take_entry)."""
        stub = space.stub
        offset = abi.RING_SLOTS + 8 * (stub.head % abi.QUEUE_ENTRIES)
        entry = self._code.acquire64(stub.ring_address + offset)
        if entry >> 32 != (stub.head + 1) & 0xFFFFFFFF:
            return None
        stub.head = (stub.head + 1) & 0xFFFFFFFF
        return entry & 0xFFFFFFFF

    # Deaths, interrupts, time slices.

    def space_died(self, space: Subprocess) -> None:
        """Note that a stub died. Any thread."""
        self._deaths.append(space)
        self._ring()

    def _bury(self, space: Subprocess) -> None:
        """Give the contexts of a dead space back: with what they brought back before it died, else with their death."""
        reason = space.why_dead()
        self.forget(space)
        with self._lock:
            for context in list(space.outstanding.values()):
                if context.slot is None or context.waiter:
                    continue
                self._count(-1)
                found = context.collect()
                event = death(reason) if found is None or found is RUN_AGAIN else found
                self._finish(context, space, context.slot)
                self._ready_at_once(context, event)

    def interrupt(self, context: SystrapContext) -> None:
        """Make a running context come back (20-platform §5.5). Any thread.

        The flag is stored with a full barrier before the thread is looked up: either we see who runs the context, or the
        thread that takes it sees the flag.
        """
        slot, space = context.slot, context.space
        if slot is None or space is None or space.dead:
            return
        self.interrupts += 1
        self._code.exchange32(slot.address + abi.INTERRUPT, 1)
        self._unanswered.setdefault(context, time.monotonic())
        if not context.waiter and threading.get_ident() != self._server:
            # It sleeps, perhaps without a deadline: now it needs one.
            self._ring()
        tid = space.stub.threads.get(slot.thread_id())
        if tid is not None and not process.tgkill(tid, tid, abi.SIGCHLD):
            self._code.compare_exchange32(slot.address + abi.STATE, ContextState.NONE, ContextState.UNEXPECTED_DEATH)
            space.kill()
            futex.wake(slot.address + abi.STATE)

    def _end_time_slices(self) -> None:
        """Preempt the contexts that had a stub thread for a whole slice, in spaces where others wait for one."""
        for space, seen in list(self._crowded.items()):
            running = {
                i for i, context in space.outstanding.items() if context.slot is not None and context.slot.acked()
            }
            for context_id in running & seen:
                context = space.outstanding[context_id]
                context.preempted = True
                self.preempted += 1
                self.interrupt(context)
            self._crowded[space] = running - seen

    def _end_the_deaf(self) -> None:
        """Kill the stubs whose threads took no notice of an interrupt for long: their contexts come back with that death."""
        now = time.monotonic()
        for context, since in list(self._unanswered.items()):
            slot, space = context.slot, context.space
            if not context.running or slot is None or space is None:
                # It came back just before the request was noted.
                self._unanswered.pop(context, None)
            elif now - since > (ANSWER_LIMIT if slot.acked() else QUEUED_ANSWER_LIMIT):
                space.condemn(f"a stub thread did not answer an interrupt for {now - since:.0f} s")

    def wake(self) -> None:
        """Make next_ready() return (platform.Platform.wake). Any thread.

        The request is a flag of its own: a death that rings at the same time must not swallow it.
        """
        self._woken = True
        self._ring()

    def _ring(self) -> None:
        address = self._code.block_address + block.WAKE
        self._code.add32(address, 1)
        futex.wake(address)

    # One thread for one context.

    def switch(self, context: SystrapContext, space: AddressSpace) -> Event:
        """Run one context and wait for it (platform.Context.switch)."""
        if not isinstance(space, Subprocess):
            raise ProgrammingError("the address space belongs to another platform")
        if context.running:
            raise ProgrammingError("this context runs already")
        context.waiter = True
        event = self._switch_once(context, space)
        while context.goes_on(event):
            event = self._switch_once(context, space)
        context.waiter = False
        self._report(context, event)
        return event

    def _switch_once(self, context: SystrapContext, space: Subprocess) -> Event:
        """Run a context until it comes back, whatever for; not at all if it was interrupted before."""
        if context.interrupted:
            return INTERRUPTED_EVENT
        with self._lock:
            event = self._start(context, space, abi.NOTIFY_FUTEX)
        return self._await(context, space) if event is None else event

    def _await(self, context: SystrapContext, space: Subprocess) -> Event:
        """Sleep on the context's state word until it comes back or its stub is dead."""
        slot = context.slot
        if slot is None:
            raise ProgrammingError("a context without a slot cannot be waited for")
        timeout = TIME_SLICE
        while True:
            futex.wait(slot.address + abi.STATE, ContextState.NONE, timeout)
            # Dead is asked first: what the context brought back before its stub died still counts.
            dead = space.dead
            # What the stub wrote before the state is seen behind this load; Python's own loads promise nothing.
            came_back = self._code.acquire32(slot.address + abi.STATE) != ContextState.NONE
            event = context.collect() if came_back else None
            if event is None and dead:
                event = death(space.why_dead())
            if event is not None:
                with self._lock:
                    self._finish(context, space, slot)
                return event
            if self._unanswered:
                self._end_the_deaf()
            if timeout == TIME_SLICE and len(space.outstanding) > self._max_threads and slot.acked():
                context.preempted = True
                self.preempted += 1
                self.interrupt(context)
                timeout = _LIVENESS_INTERVAL
