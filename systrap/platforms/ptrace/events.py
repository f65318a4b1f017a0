"""What a stop of a guest thread means: the event it becomes, or nothing."""

import signal
from typing import TYPE_CHECKING, Final

from systrap.host import ptrace
from systrap.platform import INTERRUPTED_EVENT, SYSCALL_EVENT, ContextError, Event, EventKind, SignalInfo
from systrap.platforms.ptrace.here import MACHINE
from systrap.platforms.ptrace.stub import INTERRUPT_SIGNAL, Stub

if TYPE_CHECKING:
    from systrap.platforms.ptrace.context import PtraceContext

_EPERM: Final = 1
_SI_KERNEL: Final = 0x80
_GUEST_SIGNALS: Final = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)
)


def syscall_event(context: "PtraceContext", tid: int) -> Event | None:
    """Take in a system call (P-040): None when the thread was killed, which a later wait tells."""
    if context.registers.read(tid):
        return None
    MACHINE.at_call(context.regs, tid)
    context.last_fault.forget()
    return SYSCALL_EVENT


def signal_event(context: "PtraceContext", stub: Stub, tid: int, status: int) -> Event | None:
    """Take in any other stop; None when the guest is to go on as if nothing had been.

    Only signals that the hardware caused, and interrupt() when it was called, are the guest's business. Whatever else the
    host or its users send to a stub is dropped (20-platform §12, end), and so are stops of ptrace's own.
    """
    signo = ptrace.stop_signal(status)
    info = None if ptrace.stop_event(status) else ptrace.siginfo(tid)
    if info is None:
        return None
    if signo == INTERRUPT_SIGNAL:
        if not context.interrupted or context.registers.read(tid):
            return None
        context.last_fault.forget()
        return INTERRUPTED_EVENT
    if info.code <= 0 or signo not in _GUEST_SIGNALS or context.registers.read(tid):
        return None
    if signo == signal.SIGSEGV:
        return MACHINE.at_segv(context.regs, info, context.last_fault, stub)
    context.last_fault.forget()
    if signo == signal.SIGSYS:
        return MACHINE.at_sigsys(context.regs, info)
    return Event(EventKind.SIGNAL, SignalInfo(signo, info.code, info.addr))


def bad_fp_event() -> Event:
    """Return the fault of a guest whose FP image the host refuses to load."""
    return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSEGV), _SI_KERNEL, 0))


def death_event(stub: Stub) -> Event:
    """Return the event of every context of a dead stub (P-100)."""
    return Event(EventKind.DEATH, error=ContextError(f"stub process {stub.pid} is dead: {stub.death}", _EPERM))


def describe_death(status: int) -> str:
    """Put the wait status of a dead stub thread into words."""
    number = status & 0x7F
    if not number:
        return f"it exited with status {status >> 8 & 0xFF}"
    return f"killed by {signal.Signals(number).name if number in signal.valid_signals() and number < 32 else number}"
