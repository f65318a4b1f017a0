"""What a stop of a guest thread means: the event it becomes, or nothing."""

import signal
from typing import TYPE_CHECKING, Final

from systrap.arch.x86_64 import ORIG_RAX, RAX, RIP
from systrap.host import ptrace
from systrap.platform import INTERRUPTED_EVENT, SYSCALL_EVENT, Access, ContextError, Event, EventKind, SignalInfo
from systrap.platforms.ptrace import x86_64 as machine
from systrap.platforms.ptrace.stub import INTERRUPT_SIGNAL, Stub
from systrap.platforms.x86_faults import SEGV_MAPERR

if TYPE_CHECKING:
    from systrap.platforms.ptrace.context import PtraceContext

_EPERM: Final = 1
_SI_KERNEL: Final = 0x80
_SYS_SECCOMP: Final = 1
_GUEST_SIGNALS: Final = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)
)


def syscall_event(context: "PtraceContext", tid: int) -> Event | None:
    """Take in a system call (P-040): None when the thread was killed, which a later wait tells.

    The call is neither native nor valid when it came through the 32-bit gate (P-050); asking costs a request, so it is asked
    only where the registers are not as a native call leaves them.
    """
    if context.full_set.read(tid):
        return None
    regs = context.regs
    number = regs[ORIG_RAX]
    if not machine.looks_native(regs) and ptrace.syscall_arch(tid) not in (None, machine.NATIVE):
        number = regs[ORIG_RAX] = (number & 0xFFFFFFFF) + machine.FOREIGN_OFFSET
    regs[RAX] = number
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
        if not context.interrupted or context.full_set.read(tid):
            return None
        context.last_fault.forget()
        return INTERRUPTED_EVENT
    if info.code <= 0 or signo not in _GUEST_SIGNALS or context.full_set.read(tid):
        return None
    if signo == signal.SIGSYS:
        return _vsyscall_event(context, info)
    if signo != signal.SIGSEGV:
        context.last_fault.forget()
        return Event(EventKind.SIGNAL, SignalInfo(signo, info.code, info.addr))
    ip = context.regs[RIP]
    if info.code == _SI_KERNEL and machine.VSYSCALL[0] <= ip < machine.VSYSCALL[1]:
        # A jump into the page beside its entries: the kernel only says that it does not like it.
        info = ptrace.SignalStop(signo, SEGV_MAPERR, ip)
    access = context.last_fault.guess(info.code, info.addr, ip, stub.unmaps)
    return Event(EventKind.SIGNAL, SignalInfo(signo, info.code, info.addr), access)


def _vsyscall_event(context: "PtraceContext", info: ptrace.SignalStop) -> Event:
    """Turn what the filter caught into the fault it would be without a vsyscall page (P-049).

    The host kernel emulates calls into the page without a system call stop, so only the filter sees them.
    """
    context.last_fault.forget()
    low, high = machine.VSYSCALL
    if info.code != _SYS_SECCOMP or not low <= info.addr < high:
        return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSYS), info.code, info.addr))
    machine.undo_vsyscall(context.regs, info.addr)
    return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSEGV), SEGV_MAPERR, info.addr), Access.EXECUTE)


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
