"""Signal frames on the guest's stack: which stack, writing one, the way back. Their bytes: arch/x86_frame.py, arm_frame.py."""

import errno
from typing import TYPE_CHECKING, Final

from systrap import arch
from systrap.arch import arm_frame, x86_frame
from systrap.arch.aarch64 import AArch64
from systrap.arch.frame import BadFrameError, Delivery, FrameFormat
from systrap.arch.x86_64 import X86_64
from systrap.sentry.errors import SyscallError

if TYPE_CHECKING:
    from systrap.sentry.signals import Action, Info
    from systrap.sentry.task import Task

SS_ONSTACK: Final = 1
SS_DISABLE: Final = 2
SS_AUTODISARM: Final = 1 << 31
SA_SIGINFO: Final = 4
SA_ONSTACK: Final = 0x08000000
SA_RESTORER: Final = 0x04000000

_ARCH: Final = arch.current()
_LINUX: Final = _ARCH.LINUX
_FORMATS: Final[dict[str, FrameFormat]] = {X86_64.NAME: x86_frame, AArch64.NAME: arm_frame}
_FORMAT: Final = _FORMATS[_ARCH.NAME]
_U64: Final = (1 << 64) - 1


def within_altstack(task: "Task", sp: int) -> bool:
    """Tell whether a stack pointer is on the alternate stack."""
    start, _, size = task.altstack
    return start < sp <= start + size


def on_altstack(task: "Task") -> bool:
    """Tell whether a task runs on its alternate stack. One that disarms itself is never in use."""
    return not task.altstack[1] & SS_AUTODISARM and within_altstack(task, task.context.regs[_ARCH.SP])


def _choose_stack(task: "Task", action: "Action") -> tuple[int, bool]:
    """Return where the frame goes below, and whether that is the alternate stack: else it is below the red zone."""
    start, _, size = task.altstack
    nested = on_altstack(task)
    if action.flags & SA_ONSTACK and size and not nested:
        return start + size, True
    return task.context.regs[_ARCH.SP] - _LINUX.red_zone, nested


def _restorer(task: "Task", action: "Action") -> int | None:
    """Return where the handler returns to: where the program says, or the page that stands for the vDSO; None without one."""
    return action.restorer if action.flags & SA_RESTORER else task.mm.sigreturn


def push(task: "Task", info: "Info", action: "Action", old_mask: int) -> bool:
    """Put a frame on the guest's stack and set the registers to run the handler. Returns False when there is no room."""
    restorer = _restorer(task, action)
    if restorer is None:
        return False
    context = task.context
    top, alternate = _choose_stack(task, action)
    if top > _U64:
        # The alternate stack leads out of the address space: there is no room there.
        return False
    context.pull_full_state()
    delivery = Delivery(
        info.signo, info.pack(), bool(action.flags & SA_SIGINFO), action.handler, restorer, old_mask, task.altstack,
        info.code, info.trapno, info.err, info.addr,
    )  # fmt: skip
    frame = _FORMAT.build(context.regs, context.fp, top, delivery)
    if frame is None:
        return False
    if alternate and _LINUX.keeps_to_altstack and not within_altstack(task, frame.sp):
        return False
    try:
        for address, data in frame.pieces:
            task.mm.write(address, data)
    except SyscallError:
        return False
    if task.altstack[1] & SS_AUTODISARM:
        task.altstack = (0, SS_DISABLE, 0)
    for index, value in frame.registers.items():
        context.regs[index] = value
    return True


def sigreturn(task: "Task") -> bool:
    """Restore what push() saved, from the guest's stack (rt_sigreturn). Returns False for a frame that makes no sense."""
    context = task.context
    try:
        restored = _FORMAT.restore(context.regs, len(context.fp), task.mm.read)
    except (SyscallError, BadFrameError):
        return False
    task.signal_mask = restored.mask & ~(1 << 8 | 1 << 18)
    set_altstack(task, *restored.altstack)
    context.fp[:] = restored.fp
    context.full_state_changed()
    return True


def set_altstack(task: "Task", start: int, flags: int, size: int) -> int:
    """Set the alternate stack (sigaltstack, sigreturn). Returns 0 or the errno of why not."""
    if on_altstack(task):
        return errno.EPERM
    mode = flags & ~SS_AUTODISARM
    if mode not in (0, SS_ONSTACK, SS_DISABLE):
        return errno.EINVAL
    if mode == SS_DISABLE:
        start = size = 0
    elif size < _LINUX.min_altstack:
        return errno.ENOMEM
    task.altstack = (start, flags, size)
    return 0
