"""A context: one guest thread's registers, in a slot of the space it runs in (20-platform §5, §6.1).

The registers the caller sees *are* the slot's: nothing is copied on the way in or out. A context that changes its space
(execve) takes its registers along into a slot there. The FP state stays in the slot until somebody asks for it.

This is x86-64's, and what all have in common; aarch64_context.py has what is different on arm64.
"""

import errno
import time
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from systrap.arch import x86_64, x86_fp
from systrap.arch.aarch64 import AArch64
from systrap.platform import (
    INTERRUPTED_EVENT,
    SYSCALL_EVENT,
    Access,
    AddressSpace,
    Context,
    ContextError,
    Event,
    EventKind,
    ProgrammingError,
    Run,
    SignalInfo,
)
from systrap.platforms.systrap import abi, cpuid
from systrap.platforms.systrap.abi import ContextSlot, ContextState
from systrap.platforms.systrap.subprocess import Subprocess
from systrap.platforms.systrap.usertrap import Fixed
from systrap.platforms.x86_faults import SEGV_ACCERR, SEGV_MAPERR, LastFault

if TYPE_CHECKING:
    from systrap.platforms.systrap.dispatcher import Dispatcher


VSYSCALLS: Final = (96, 201, 309)
"""gettimeofday, time, getcpu: what x86-64's vsyscall page offers."""


RUN_AGAIN: Final = Event(EventKind.INTERRUPTED)
"""What collect() answers when the platform dealt with the event itself: the context goes on, and nobody is told."""


def death(message: str, number: int = errno.EPERM) -> Event:
    """Return the event that ends a guest."""
    return Event(EventKind.DEATH, error=ContextError(message, number))


class FpFormat(Protocol):
    """What a context has to know of the CPU's FP state: the modules arch/*_fp.py."""

    def initial(self, size: int) -> bytearray:
        """Return the image that a program starts with."""

    def sanitize(self, image: bytearray) -> None:
        """Make an image from an untrusted source loadable."""


class SystrapContext(Context):
    """See platform.Context. ``slot`` is None until the context first enters a space."""

    __slots__ = (
        "_asleep", "_dispatcher", "_last_fault", "_pull", "_restore", "events", "interrupted", "interrupts", "moves",
        "preempted", "running", "slot", "space", "waiter",
    )  # fmt: skip

    MACHINE: ClassVar[type[x86_64.X86_64] | type[AArch64]] = x86_64.X86_64
    FP: ClassVar[FpFormat] = x86_fp

    def __init__(self, dispatcher: "Dispatcher", fp_len: int) -> None:
        """Take what runs contexts, and the size of the FP state."""
        self._dispatcher = dispatcher
        self.regs = memoryview(bytearray(8 * self.MACHINE.REG_COUNT)).cast("Q")
        self.fp = self.FP.initial(fp_len)
        self.event = INTERRUPTED_EVENT
        self.owner: object = None
        self.space: Subprocess | None = None
        self.slot: ContextSlot | None = None
        self._restore = True
        self._pull = False
        self._asleep = True
        self._last_fault: LastFault | None = None
        self.events = self.interrupts = self.moves = 0
        self.running = False
        self.interrupted = False
        self.preempted = False
        self.waiter = False

    def enter(self, space: Subprocess) -> ContextSlot:
        """Make ready to run in ``space``: a slot there, host selectors, FP state if the sentry changed it.

        Raises ContextError when the space has no slot left.
        """
        slot = self.slot
        if space is not self.space or slot is None:
            slot = self._move(space)
        if self._asleep:
            self._asleep = False
            space.count_awake(1)
        self._put_registers(slot)
        if self._restore:
            self.FP.sanitize(self.fp)
            slot.load_fp(self.fp)
            self._restore = False
        # From here on the slot may hold a newer state: the stub's, or at least the one that was just put there.
        self._pull = True
        return slot

    def _put_registers(self, slot: ContextSlot) -> None:
        """Make the registers such as the stub can load them: the host's selectors, whatever the guest had."""
        regs = self.regs
        regs[x86_64.CS] = x86_64.USER_CS
        regs[x86_64.SS] = x86_64.USER_SS
        if regs[x86_64.FS] | regs[x86_64.GS]:
            regs[x86_64.FS] = regs[x86_64.GS] = 0

    def _live_in(self, slot: ContextSlot) -> None:
        """Let the slot's registers be this context's, with the values it has."""
        slot.regs[:] = self.regs
        self.regs = slot.regs

    def _move(self, space: Subprocess) -> ContextSlot:
        """Change to a slot of another space, with registers and FP state."""
        if self.slot is not None:
            self.pull_full_state()
        slot = space.bind(self)
        self.moves += 1
        self._live_in(slot)
        self._leave()
        self.slot = slot
        self.space = space
        self._restore = True
        return slot

    def _leave(self) -> None:
        if self.slot is not None and self.space is not None:
            self.prepare_sleep()
            self.space.unbind(self.slot.stub_id)
            self.slot = None

    def switch(self, space: AddressSpace) -> Event:
        """Run until an event (platform.Context.switch)."""
        return self._dispatcher.switch(self, space)

    def collect(self) -> Event | None:
        """Read what the stub left in the slot: the event, or None when the context is still running (P-040…P-050, P-105).

        Each word is read once; what makes no sense ends the guest.
        """
        slot = self.slot
        if slot is None:
            raise ProgrammingError("a context without a slot cannot have run")
        state = slot.state()
        if state == ContextState.NONE:
            return None
        thread_id = slot.thread_id()
        if thread_id != abi.INVALID_ID:
            return self._corrupt(thread_id)
        if state in (ContextState.SYSCALL, ContextState.SYSCALL_TRAP, ContextState.SYSCALL_NEED_TRAP):
            return self._syscall(slot, state)
        if state == ContextState.FAULT:
            return self._fault(slot)
        if state == ContextState.UNEXPECTED_DEATH:
            return death("the stub process died", errno.ECHILD)
        return self._condemn(f"context state {state:#x}")

    def _syscall(self, slot: ContextSlot, state: int) -> Event:
        """Report a system call; the number is in both places where one may look for it."""
        regs = slot.regs
        nr = regs[x86_64.ORIG_RAX]
        regs[x86_64.RAX] = nr
        if state == ContextState.SYSCALL_NEED_TRAP:
            self._patchable(regs)
        elif nr in VSYSCALLS and state == ContextState.SYSCALL:
            return self._vsyscall(slot) or SYSCALL_EVENT
        return SYSCALL_EVENT

    @staticmethod
    def _vsyscall(slot: ContextSlot) -> Event | None:
        """Report a call into the vsyscall page as the execute fault it is (P-049); None for an ordinary call.

        seccomp traps such a call after the host kernel has emulated the return: that is undone here.
        """
        address = slot.si_addr()
        if not abi.VSYSCALL_START <= address < abi.VSYSCALL_END:
            return None
        regs = slot.regs
        regs[x86_64.RIP] = address
        regs[x86_64.RSP] = (regs[x86_64.RSP] - 8) & (1 << 64) - 1
        return Event(EventKind.SIGNAL, SignalInfo(abi.SIGSEGV, 1, address), Access.EXECUTE)

    def _fault(self, slot: ContextSlot) -> Event:
        info = slot.siginfo()
        if info.signo == abi.SIGCHLD:
            return INTERRUPTED_EVENT
        if info.signo not in abi.SIGNALS:
            return self._condemn(f"signal {info.signo}")
        if info.signo == abi.SIGSEGV:
            access = abi.access_of_fault(info.err) or self._guess_access(slot, info)
            if access is Access.NONE and self._was_cpuid(slot):
                return RUN_AGAIN
            return Event(EventKind.SIGNAL, info, access)
        if info.signo in (abi.SIGILL, abi.SIGTRAP):
            fixed = self._of_a_patch(slot, info.signo)
            if fixed is not Fixed.NO:
                return RUN_AGAIN if fixed is Fixed.RUN_AGAIN else SYSCALL_EVENT
        return Event(EventKind.SIGNAL, info)

    def _guess_access(self, slot: ContextSlot, info: SignalInfo) -> Access:
        """Guess what a page fault was about whose error word is missing: an image older than that word ([seed]; P-043)."""
        space = self.space
        if space is None or info.code not in (SEGV_MAPERR, SEGV_ACCERR):
            return Access.NONE
        if self._last_fault is None:
            self._last_fault = LastFault()
        return self._last_fault.guess(info.code, info.addr, slot.regs[self.MACHINE.IP], space.unmaps)

    def _was_cpuid(self, slot: ContextSlot) -> bool:
        """Answer the instruction CPUID, if it was that which faulted, and if it faults at all on this host (P-051)."""
        space = self.space
        if space is None or space.environment.cpuid is None or space.code is None:
            return False
        return cpuid.emulate(space.environment.cpuid, space.code, slot.regs)

    def _patchable(self, regs: "memoryview[int]") -> None:
        """Let the site of this system call be patched, if that may be."""
        space = self.space
        if space is not None and space.sites is not None and space.code is not None:
            space.sites.trapped(space.code, regs)

    def _of_a_patch(self, slot: ContextSlot, signo: int) -> Fixed:
        """Ask whether a SIGILL or SIGTRAP comes from a patched call site."""
        space = self.space
        if space is None or space.sites is None or space.code is None:
            return Fixed.NO
        look = space.sites.fix_up if signo == abi.SIGILL else space.sites.stepped
        return look(space.code, slot.regs)

    def _corrupt(self, thread_id: int) -> Event:
        """Explain a context that came back with a thread still on it: the thread reported an error, or memory was scribbled."""
        said = self.space.stub.report(thread_id) if self.space is not None else None
        if said is not None:
            return death(f"stub thread {thread_id} gave up: {said}")
        return self._condemn(f"the context names thread {thread_id:#x} after it came back")

    def _condemn(self, what: str) -> Event:
        """End the guest, whose stub's memory says something impossible, and let nobody have that stub after it."""
        reason = f"corrupted shared memory: {what}"
        if self.space is not None:
            self.space.condemn(reason)
        return death(reason)

    def pull_full_state(self) -> None:
        """Copy the FP state out of the slot if it may be newer (P-062)."""
        if self._pull and self.slot is not None:
            self.fp[:] = self.slot.fpstate[: len(self.fp)]
            self._pull = False

    def full_state_changed(self) -> None:
        """Load ``fp`` before the next run, and do not overwrite it before (P-063)."""
        self._restore = True
        self._pull = False

    def interrupt(self) -> None:
        """See platform.Context.interrupt. The flag comes first; it covers every moment in which no thread is found (§5.5)."""
        self.interrupted = True
        self.interrupts += 1
        if self.running:
            self._dispatcher.interrupt(self)

    def goes_on(self, event: Event) -> bool:
        """Tell of a context that came back with ``event`` whether nobody is to be told: it runs again.

        So it is when its time slice was over and nothing else, or when the platform has dealt with the event itself. Then
        ``interrupted`` is left alone: a request that comes at this very moment counts for the next run. With any other
        event the request is answered.
        """
        preempted, self.preempted = self.preempted, False
        if event is RUN_AGAIN or (event is INTERRUPTED_EVENT and preempted and not self.interrupted):
            return True
        self.interrupted = False
        return False

    def prepare_sleep(self) -> None:
        """Stop counting as awake until the next run: stub threads spin only for contexts that may come soon (§6.7, P-086)."""
        if not self._asleep and self.space is not None:
            self._asleep = True
            self.space.count_awake(-1)

    def last_run(self) -> Run | None:
        """See platform.Context. The two times are put in order, and not behind now: a guest can have written anything there."""
        slot = self.slot
        if slot is None:
            return None
        taken, published = slot.stamps()
        clock = self._dispatcher.clock()
        now = time.monotonic_ns()
        end = min(clock.nanoseconds(published), now)
        state = slot.state()
        name = ContextState(state).name if state <= ContextState.INVALID else f"{state:#x}"
        return Run(
            min(clock.nanoseconds(taken), end), end, slot.last_thread_id(), name, state == ContextState.SYSCALL_TRAP
        )

    def statistics(self) -> dict[str, int]:
        """See platform.Context."""
        return {"events": self.events, "interrupts": self.interrupts, "spaces": self.moves}

    def release(self) -> None:
        """Give the slot back (Release)."""
        if self.running:
            raise ProgrammingError("a running context cannot be released")
        self._leave()
        self.space = None
