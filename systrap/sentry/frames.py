"""The signal frame of x86-64, as Linux lays it out on the guest's stack: struct rt_sigframe, and the way back.

::

    pretcode (8)  ucontext (304)  siginfo (128)   … gap …   fpstate (64-aligned: XSAVE image, magic2)   red zone
    ^ rsp at the handler's entry, 16n + 8
"""

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.arch import x86_64 as r
from systrap.arch import x86_fp
from systrap.sentry.errors import SyscallError

if TYPE_CHECKING:
    from systrap.sentry.signals import Action, Info
    from systrap.sentry.task import Task

SS_ONSTACK: Final = 1
SS_DISABLE: Final = 2
SS_AUTODISARM: Final = 1 << 31
MINSIGSTKSZ: Final = 2048
SA_ONSTACK: Final = 0x08000000
SA_RESTORER: Final = 0x04000000

_UCONTEXT: Final = 304
_SIGINFO: Final = 128
_RED_ZONE: Final = 128
_UC_FLAGS: Final = 7  # UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
_MAGIC1: Final = 0x46505853
_MAGIC2: Final = 0x46505845
_SOFTWARE: Final = 464
_MXCSR: Final = 24
_GREGS: Final = (
    r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.RDI, r.RSI, r.RBP, r.RBX, r.RDX, r.RAX, r.RCX, r.RSP, r.RIP,
)  # fmt: skip
_USER_FLAGS: Final = 0x40DD5  # AC, OF, DF, TF, SF, ZF, AF, PF, CF: what sigreturn may change
_KEPT_FLAGS: Final = 0x202
_U64: Final = (1 << 64) - 1
_TRAPS: Final = {(4, 2): 6, (5, 0x80): 3, (5, 1): 3, (5, 2): 1, (5, 4): 1, (7, 1): 17, (11, 0x80): 13} | {
    (8, code): 19 for code in range(2, 9)
}
"""Trap numbers by signal and code, for faults that the platform tells no number of: #UD, #BP, #DB, #AC, #GP, #XM."""


def within_altstack(task: "Task", sp: int) -> bool:
    """Tell whether a stack pointer is on the alternate stack."""
    start, _, size = task.altstack
    return start < sp <= start + size


def on_altstack(task: "Task") -> bool:
    """Tell whether a task runs on its alternate stack. One that disarms itself is never in use."""
    return not task.altstack[1] & SS_AUTODISARM and within_altstack(task, task.context.regs[r.RSP])


def _choose_stack(task: "Task", action: "Action") -> tuple[int, bool]:
    """Return where the frame goes below, and whether that is the alternate stack: else it is below the red zone."""
    start, _, size = task.altstack
    nested = on_altstack(task)
    if action.flags & SA_ONSTACK and size and not nested:
        return start + size, True
    return task.context.regs[r.RSP] - _RED_ZONE, nested


def push(task: "Task", info: "Info", action: "Action", old_mask: int) -> bool:
    """Put a frame on the guest's stack and set the registers to run the handler. Returns False when there is no room."""
    if not action.flags & SA_RESTORER:
        return False
    context, regs = task.context, task.context.regs
    top, alternate = _choose_stack(task, action)
    context.pull_full_state()
    fp = bytearray(context.fp)
    size = len(fp)
    if size >= x86_fp.HEADER_END:
        struct.pack_into("<IIQI", fp, _SOFTWARE, _MAGIC1, size + 4, x86_fp.FEATURES, size)
        fp += struct.pack("<I", _MAGIC2)
    fp_address = (top - len(fp)) & ~63
    frame = ((fp_address - 8 - _UCONTEXT - _SIGINFO) & ~15) - 8
    if alternate and not within_altstack(task, frame):
        return False
    if frame < 0 or top > _U64:
        # The guest's stack pointer, or its alternate stack, leads out of the address space: there is no room there.
        return False
    uc_address, info_address = frame + 8, frame + 8 + _UCONTEXT
    fault = (info.err, info.trapno or _TRAPS.get((info.signo, info.code), 0), info.addr if info.trapno else 0)
    selectors = regs[r.CS] & 0xFFFF | (regs[r.SS] & 0xFFFF) << 48
    start, flags, length = task.altstack
    ucontext = struct.pack("<QQQi4xQ", _UC_FLAGS, 0, start, flags - (1 << 32) if flags >> 31 else flags, length)
    ucontext += struct.pack("<17Q", *(regs[index] for index in _GREGS))
    ucontext += struct.pack("<6QQ", regs[r.EFLAGS], selectors, fault[0], fault[1], old_mask, fault[2], fp_address)
    ucontext = ucontext.ljust(_UCONTEXT - 8, b"\0") + struct.pack("<Q", old_mask)
    try:
        task.mm.write(fp_address, bytes(fp))
        task.mm.write(frame, struct.pack("<Q", action.restorer) + ucontext + info.pack())
    except SyscallError:
        return False
    if task.altstack[1] & SS_AUTODISARM:
        task.altstack = (0, SS_DISABLE, 0)
    regs[r.RSP] = frame
    regs[r.RIP] = action.handler
    regs[r.RDI] = info.signo
    regs[r.RSI] = info_address
    regs[r.RDX] = uc_address
    regs[r.RAX] = 0
    regs[r.ORIG_RAX] = _U64
    regs[r.EFLAGS] &= ~(r.EFLAGS_DF | r.EFLAGS_TF | r.EFLAGS_RF)
    return True


def sigreturn(task: "Task") -> bool:
    """Restore what push() saved, from the guest's stack (rt_sigreturn). Returns False for a frame that makes no sense."""
    regs, mm = task.context.regs, task.mm
    try:
        # The handler's return has taken pretcode off the stack.
        data = mm.read(regs[r.RSP], _UCONTEXT)
        start, flags, length = struct.unpack_from("<QI4xQ", data, 16)
        gregs = struct.unpack_from("<17Q", data, 40)
        eflags, _, _, _, _, _, fp_address = struct.unpack_from("<6QQ", data, 40 + 17 * 8)
        (mask,) = struct.unpack_from("<Q", data, _UCONTEXT - 8)
        image = _read_fp(task, fp_address)
    except SyscallError:
        return False
    for index, value in zip(_GREGS, gregs, strict=True):
        regs[index] = value
    if regs[r.RIP] >> 47:
        return False
    regs[r.EFLAGS] = eflags & _USER_FLAGS | _KEPT_FLAGS
    regs[r.ORIG_RAX] = _U64
    task.signal_mask = mask & ~(1 << 8 | 1 << 18)
    set_altstack(task, start, flags, length)
    task.context.fp[:] = image
    task.context.full_state_changed()
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
    elif size < MINSIGSTKSZ:
        return errno.ENOMEM
    task.altstack = (start, flags, size)
    return 0


def _read_fp(task: "Task", address: int) -> bytearray:
    """Return the FP image a frame points to; without one, the initial state. EFAULT for one that cannot be loaded."""
    size = len(task.context.fp)
    if not address:
        return x86_fp.initial(size)
    legacy = task.mm.read(address, x86_fp.LEGACY_SIZE)
    (mxcsr,) = struct.unpack_from("<I", legacy, _MXCSR)
    if mxcsr & ~x86_fp.mxcsr_mask(size):
        raise SyscallError(errno.EFAULT)
    magic, extended, _, xstate = struct.unpack_from("<IIQI", legacy, _SOFTWARE)
    image = bytearray(size)
    if magic == _MAGIC1 and x86_fp.HEADER_END <= xstate <= size and extended >= xstate + 4:
        whole = task.mm.read(address, xstate + 4)
        if whole[xstate:] == struct.pack("<I", _MAGIC2):
            image[:xstate] = whole[:xstate]
            x86_fp.sanitize(image)
            return image
    # Only the legacy part counts: x87 and SSE, everything else in its initial state.
    image[: x86_fp.LEGACY_SIZE] = legacy
    if size >= x86_fp.HEADER_END:
        x86_fp.sanitize(image)
        struct.pack_into("<Q", image, x86_fp.LEGACY_SIZE, 3)
    return image
