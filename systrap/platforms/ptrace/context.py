"""Contexts of the ptrace platform: registers, FP state, and which stub thread has them."""

from _thread import LockType
from typing import TYPE_CHECKING

from systrap.host.process import tgkill
from systrap.platform import INTERRUPTED_EVENT, AddressSpace, Context, Event, ProgrammingError
from systrap.platforms.ptrace.here import MACHINE
from systrap.platforms.ptrace.stub import INTERRUPT_SIGNAL, Tracee
from systrap.platforms.x86_faults import LastFault

if TYPE_CHECKING:
    from systrap.platforms.ptrace.platform import PtracePlatform


class PtraceContext(Context):
    """One guest thread's registers. See platform.Context; here only what the tracer needs besides.

    ``tracee`` is the stub thread that has this context's FP state: the one it ran on last. ``running`` is it while it runs.
    ``stale``: the thread's FP state is newer than ``fp``. ``load``: ``fp`` must be loaded before the next run.
    """

    __slots__ = (
        "_platform",
        "events",
        "fp_state",
        "interrupted",
        "interrupts",
        "last_fault",
        "load",
        "registers",
        "running",
        "stale",
        "tracee",
        "waiter",
    )  # fmt: skip

    def __init__(self, platform: "PtracePlatform", fp_kind: int, fp_size: int) -> None:
        """Make a context with zeroed registers and an initial FP state of the host's size (P-060)."""
        self._platform = platform
        buffer = MACHINE.register_buffer()
        self.regs = memoryview(buffer).cast("Q")
        self.registers = MACHINE.registers(buffer)
        self.fp = MACHINE.initial_fp(fp_size)
        self.fp_state = MACHINE.fp_state(fp_kind, self.fp)
        self.event = INTERRUPTED_EVENT
        self.owner = None
        self.tracee: Tracee | None = None
        self.running: Tracee | None = None
        self.events = self.interrupts = 0
        self.interrupted = False
        self.load = True
        self.stale = False
        self.waiter: LockType | None = None
        self.last_fault = LastFault()

    def switch(self, space: AddressSpace) -> Event:
        """Run and block (Switch). The broker runs it; other contexts' switches run meanwhile."""
        return self._platform.switch(self, space)

    def pull_full_state(self) -> None:
        """Make ``fp`` current (PullFullState; P-062). Hops to the broker unless the context was submitted from here."""
        if self.running is not None:
            raise ProgrammingError("pull_full_state() of a running context")
        tracee = self.tracee
        if self.stale and tracee is not None:
            tracee.tracer.call(self.fetch_fp)

    def fetch_fp(self) -> None:
        """Read the FP state from the stub thread, on its tracer's thread. A dead thread leaves ``fp`` as it is."""
        if self.stale and self.tracee is not None:
            self.fp_state.read(self.tracee.tid)
        self.stale = False

    def full_state_changed(self) -> None:
        """Load ``fp`` before the next run (FullStateChanged; P-063)."""
        self.stale = False
        self.load = True

    def interrupt(self) -> None:
        """End the current or next run (Interrupt; P-070…P-072). The flag is set before ``running`` is read: see Tracer."""
        self.interrupted = True
        self.interrupts += 1
        tracee = self.running
        if tracee is not None:
            tgkill(tracee.stub.pid, tracee.tid, INTERRUPT_SIGNAL)

    def repeat_interrupt(self) -> None:
        """Interrupt the run that just began if somebody asked for it while it began."""
        if self.interrupted:
            self.interrupt()

    def statistics(self) -> "dict[str, int]":
        """See platform.Context."""
        return {"events": self.events, "interrupts": self.interrupts}

    def release(self) -> None:
        """Leave the stub thread to other contexts (Release)."""
        if self.running is not None:
            raise ProgrammingError("release() of a running context")
        self._platform.forget(self)
        self.part()

    def part(self) -> None:
        """Give up the stub thread. Its FP state is lost unless it was fetched."""
        tracee = self.tracee
        self.tracee = None
        if tracee is not None and not tracee.dead:
            tracee.stub.idle.setdefault(tracee.tracer, []).append(tracee)
