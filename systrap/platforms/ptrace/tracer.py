"""Tracer: one OS thread's half of the platform. It starts contexts on stub threads, and takes in what stops them.

Everything here runs on the tracer's own thread, except post(), ring() and wake(). There is no lock: where two threads meet, each
sets its own flag before it reads the other's, so at least one of them sees the other (the GIL keeps the order).
"""

import signal
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Final, TypeVar

from systrap.host import ptrace
from systrap.host.process import tgkill
from systrap.host.sys import NR, check
from systrap.host.timerfd import DeadlineTimer
from systrap.platform import INTERRUPTED_EVENT, ContextError, Event, EventKind, PlatformError, ProgrammingError
from systrap.platforms.ptrace import events
from systrap.platforms.ptrace.here import MACHINE
from systrap.platforms.ptrace.injection import OWN, Injector
from systrap.platforms.ptrace.jobs import Job
from systrap.platforms.ptrace.stub import (
    INTERRUPT_SIGNAL,
    SEIZE_OPTIONS,
    THREAD_FLAGS,
    Stub,
    StubDiedError,
    Tracee,
)

if TYPE_CHECKING:
    from systrap.platforms.ptrace.context import PtraceContext

_T = TypeVar("_T")

_SYSCALL_STATUS: Final = ptrace.SYSCALL_STOP << 8 | 0x7F
_STUB_CALL_STATUS: Final = ptrace.EVENT_SECCOMP << 16 | signal.SIGTRAP << 8 | 0x7F
_ESRCH: Final = 3
_EINTR: Final = 4
_EIO: Final = 5

BELL_BUFFER: Final = 0x100000
"""Where the bells' stub has a page for the timers' counts."""


class Tracer(Injector):
    """The stub threads that one OS thread traces, and the contexts that it runs on them.

    A wait for tracees has no time-out, and only a tracee ends it. So each tracer has a *bell*: a stub thread that sits in a
    read of a timer. The timer's deadline makes it stop, and so does a signal that any thread may send; either ends the wait.
    """

    def __init__(self, ident: int) -> None:
        """Make a tracer for the OS thread ``ident``. ``group`` and a bell must be given before it waits. Raises OSError."""
        super().__init__(ident)
        self.group = 0
        self.ready: deque[PtraceContext] = deque()
        self.counts = [0] * (max(EventKind) + 1)
        self.timer = DeadlineTimer()
        self._running = 0
        self._inbox: deque[Job] = deque()
        self._sleeping = False
        self._woken = False
        self._bell: Tracee | None = None
        self._armed: float | None = None

    # What other threads may call.

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function that must run on this tracer's thread. Raises ProgrammingError from another thread."""
        if get_ident() != self.ident:
            raise ProgrammingError("this context is served by the thread of next_ready(); ask from there")
        return function()

    def post(self, job: Job) -> None:
        """Have a job done on the tracer's thread soon. Any thread."""
        self._inbox.append(job)
        if self._sleeping:
            self.ring()

    def wake(self) -> None:
        """End a current wait, or the next. Any thread."""
        self._woken = True
        if self._sleeping:
            self.ring()

    def ring(self) -> None:
        """Stop the bell. Any thread."""
        bell = self._bell
        if bell is not None:
            tgkill(bell.stub.pid, bell.tid, INTERRUPT_SIGNAL)

    # Stub threads.

    def take(self, tid: int, stub: Stub) -> Tracee:
        """Attach to a stub thread that lend() let go on another tracer. Raises OSError, StubDiedError."""
        ptrace.demand(ptrace.SEIZE, tid, 0, SEIZE_OPTIONS)
        ptrace.demand(ptrace.INTERRUPT, tid)
        tracee = Tracee(tid, stub, self)
        self.adopt(tracee)
        return tracee

    def lend(self, stub: Stub) -> int:
        """Make a stub thread that nobody traces, for another tracer to take. Meanwhile it waits on the stub page."""
        stub.lent = True
        tracee = self.spawn(stub)
        MACHINE.pack_pause(self._call_buffer, stub.code)
        check(self._call_set.write(tracee.tid), "setting up a stub thread")
        ptrace.demand(ptrace.DETACH, tracee.tid)
        del self.tracees[tracee.tid]
        return tracee.tid

    def spawn(self, stub: Stub) -> Tracee:
        """Make one more stub thread, stopped. Raises OSError, StubDiedError."""
        parent = self.stopped(stub)
        if parent is None:
            return self.borrow(stub)
        tid = check(self.inject(parent, NR["clone"], THREAD_FLAGS), "clone of a stub thread")
        tracee = Tracee(tid, stub, self)
        self.adopt(tracee)
        return tracee

    def borrow(self, stub: Stub) -> Tracee:
        """Get a thread of a stub that this tracer has no stopped thread of."""
        raise StubDiedError(f"process {stub.pid} has no leader")

    def stopped(self, stub: Stub) -> Tracee | None:
        """Return a stopped thread of the stub for an injection, or None."""
        leader = stub.leader
        return leader if leader.tracer is self and not leader.dead else None

    def bury(self, tracee: Tracee, status: int | None) -> None:
        """Note that a thread does not exist any more, and let the context on it die."""
        context = self._gone(tracee, status)
        if context is not None:
            self.deliver(context)

    def _gone(self, tracee: Tracee, status: int | None) -> "PtraceContext | None":
        """Note that a thread does not exist any more; its context, if one ran on it, has its last event and is returned."""
        self.tracees.pop(tracee.tid, None)
        tracee.dead = True
        stub = tracee.stub
        if status is not None:
            stub.death = events.describe_death(status)
        stub.death = stub.death or "it vanished"
        if tracee is self._bell:
            self._bell = None
        context = tracee.context
        if context is None:
            return None
        return self._stop(tracee, context, events.death_event(stub))

    # Contexts.

    def start(self, context: "PtraceContext", stub: Stub) -> None:
        """Run a context; its event comes out of a wait, or is there at once. Never raises for what a guest did."""
        if context.interrupted:
            context.interrupted = False
            self.finish(context, INTERRUPTED_EVENT)
            return
        tracee = context.tracee
        if tracee is None or tracee.stub is not stub or tracee.tracer is not self or tracee.dead:
            try:
                tracee = self._bind(context, stub)
            except StubDiedError:
                self.finish(context, events.death_event(stub))
                return
            except OSError as error:
                death = ContextError(f"no stub thread for a context: {error}", error.errno or _EIO)
                self.finish(context, Event(EventKind.DEATH, error=death))
                return
        tid = tracee.tid
        if context.load and not self._load(context, tid):
            self.finish(context, events.bad_fp_event())
            return
        MACHINE.prepare(context.regs)
        tracee.context = context
        context.running = tracee
        self._running += 1
        if context.registers.write(tid) or ptrace.request(MACHINE.resume, tid):
            stub.kill()
        context.repeat_interrupt()

    def _bind(self, context: "PtraceContext", stub: Stub) -> Tracee:
        """Give a context a thread of ``stub``, taking its FP state along from where it ran before (P-058)."""
        self.part(context)
        if stub.death:
            raise StubDiedError(stub.death)
        idle = stub.idle.get(self)
        tracee = idle.pop() if idle else self.spawn(stub)
        context.tracee = tracee
        context.load = True
        return tracee

    @staticmethod
    def part(context: "PtraceContext") -> None:
        """Take a context off its thread, FP state included. On that thread's tracer, or on any thread if it is the broker's."""
        tracee = context.tracee
        if tracee is not None:
            if context.stale and not tracee.dead:
                tracee.tracer.call(context.fetch_fp)
            context.part()

    def _load(self, context: "PtraceContext", tid: int) -> bool:
        """Load the FP state of a context (P-060). False when the host refuses the image, which is then made loadable."""
        context.load = False
        if context.fp_state.write(tid) in (0, -_ESRCH):
            return True
        context.load = True
        MACHINE.sanitize_fp(context.fp)
        if context.fp_state.write(tid):
            context.fp[:] = MACHINE.initial_fp(len(context.fp))
        return False

    def _stop(self, tracee: Tracee, context: "PtraceContext", event: Event) -> "PtraceContext":
        """End the run of a context with an event. An interrupt that came meanwhile has had its effect."""
        tracee.context = None
        context.running = None
        context.interrupted = False
        context.stale = not tracee.dead
        context.event = event
        tracee.stub.spare = tracee
        self._running -= 1
        return context

    def collect(self, tid: int, status: int) -> "PtraceContext | None":
        """Take in one result of a wait. Returns the context that has an event now, if any."""
        tracee = self.tracees.get(tid)
        if tracee is None:
            return None
        if status & 0xFF != 0x7F:
            return self._gone(tracee, status)
        context = tracee.context
        if context is None:
            if tracee is self._bell:
                self._listen(tracee, set_up=status != _STUB_CALL_STATUS)
            return None
        if status == _SYSCALL_STATUS:
            event = events.syscall_event(context, tid)
        elif status == _STUB_CALL_STATUS:
            MACHINE.at_stub_call(tid)
            event = events.syscall_event(context, tid)
        else:
            event = events.signal_event(context, tracee.stub, tid, status)
            if event is None and ptrace.request(MACHINE.resume, tid):
                tracee.stub.kill()
        return None if event is None else self._stop(tracee, context, event)

    def finish(self, context: "PtraceContext", event: Event) -> None:
        """Give a context an event without a run."""
        context.event = event
        self.deliver(context)

    def deliver(self, context: "PtraceContext") -> None:
        """Hand a context with an event over."""
        self.count(context)
        self.ready.append(context)

    def count(self, context: "PtraceContext") -> None:
        """Count the event that a context has."""
        self.counts[context.event.kind] += 1
        context.events += 1

    # Waiting.

    def hang(self, bell: Tracee) -> None:
        """Use a stopped thread of the bells' stub as this tracer's bell."""
        self._bell = bell
        self._listen(bell)

    def _listen(self, bell: Tracee, set_up: bool = True) -> None:
        """Send the bell back into its read; without ``set_up`` it is on its way there."""
        error = 0
        if set_up:
            self._armed = None
            MACHINE.pack_call(self._call_buffer, bell.stub.code, NR["read"], (self.timer.fd, BELL_BUFFER, 8))
            error = self._call_set.write(bell.tid)
        if error or ptrace.request(ptrace.SINGLESTEP, bell.tid):
            bell.stub.kill()

    def sleep(self, options: int) -> int:
        """Wait for tracees: a thread's id and ``status``, 0 when there is something else to do, or −errno.

        Polls for some microseconds first, where there is a second CPU: to wake a sleeping one, there and back, costs three times
        the rest of a round trip.

        The wait is for our process group only: no other child of this process is touched.
        """
        if self._bell is None:
            raise PlatformError("the platform's stub processes were killed, or it is closed")
        if self._running:
            spin = options | ptrace.WNOHANG
            for _ in range(self._spins):
                tid = self._waiter.wait(-self.group, spin)
                if tid or self._inbox or self._woken:
                    return tid
        self._sleeping = True
        if self._inbox or self._woken:
            self._sleeping = False
            return 0
        tid = self._waiter.wait(-self.group, options)
        self._sleeping = False
        return tid

    def sweep(self) -> None:
        """Collect whatever else has stopped.

        The kernel reports the latest born thread first: a busy one would hide the others.
        """
        while self._running:
            tid = self._waiter.wait(-self.group, OWN | ptrace.WNOHANG)
            if tid <= 0:
                return
            context = self.collect(tid, self._waiter.status)
            if context is not None:
                self.deliver(context)
