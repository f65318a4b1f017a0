"""The signal frame of x86-64, as Linux lays it out on the guest's stack: struct rt_sigframe, and the way back.

::

    pretcode (8)  ucontext (304)  siginfo (128)   … gap …   fpstate (64-aligned: XSAVE image, magic2)   red zone
    ^ rsp at the handler's entry, 16n + 8
"""

import struct
from typing import Final

from systrap.arch import x86_64 as r
from systrap.arch import x86_fp
from systrap.arch.frame import BadFrameError, Delivery, Frame, Read, Restored, signed32

_UCONTEXT: Final = 304
_SIGINFO: Final = 128
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


def build(regs: "memoryview[int]", fp: bytearray, top: int, delivery: Delivery) -> Frame | None:
    """See frame.FrameFormat."""
    image = bytearray(fp)
    size = len(image)
    if size >= x86_fp.HEADER_END:
        struct.pack_into("<IIQI", image, _SOFTWARE, _MAGIC1, size + 4, x86_fp.FEATURES, size)
        image += struct.pack("<I", _MAGIC2)
    fp_address = (top - len(image)) & ~63
    sp = ((fp_address - 8 - _UCONTEXT - _SIGINFO) & ~15) - 8
    if sp < 0:
        return None
    uc_address, info_address = sp + 8, sp + 8 + _UCONTEXT
    trapno = delivery.trapno or _TRAPS.get((delivery.signo, delivery.code), 0)
    selectors = regs[r.CS] & 0xFFFF | (regs[r.SS] & 0xFFFF) << 48
    start, flags, length = delivery.altstack
    ucontext = struct.pack("<QQQi4xQ", _UC_FLAGS, 0, start, signed32(flags), length)
    ucontext += struct.pack("<17Q", *(regs[index] for index in _GREGS))
    fault_address = delivery.addr if delivery.trapno else 0
    ucontext += struct.pack(
        "<6QQ", regs[r.EFLAGS], selectors, delivery.err, trapno, delivery.mask, fault_address, fp_address
    )
    ucontext = ucontext.ljust(_UCONTEXT - 8, b"\0") + struct.pack("<Q", delivery.mask)
    entry = {
        r.RSP: sp,
        r.RIP: delivery.handler,
        r.RDI: delivery.signo,
        r.RSI: info_address,
        r.RDX: uc_address,
        r.RAX: 0,
        r.ORIG_RAX: _U64,
        r.EFLAGS: regs[r.EFLAGS] & ~(r.EFLAGS_DF | r.EFLAGS_TF | r.EFLAGS_RF),
    }
    frame = struct.pack("<Q", delivery.restorer) + ucontext + delivery.siginfo
    return Frame(sp, ((fp_address, bytes(image)), (sp, frame)), entry)


def restore(regs: "memoryview[int]", fp_size: int, read: Read) -> Restored:
    """See frame.FrameFormat. The handler's return has taken pretcode off the stack."""
    data = read(regs[r.RSP], _UCONTEXT)
    start, flags, length = struct.unpack_from("<QI4xQ", data, 16)
    gregs = struct.unpack_from("<17Q", data, 40)
    eflags, _, _, _, _, _, fp_address = struct.unpack_from("<6QQ", data, 40 + 17 * 8)
    (mask,) = struct.unpack_from("<Q", data, _UCONTEXT - 8)
    image = _read_fp(fp_size, fp_address, read)
    for index, value in zip(_GREGS, gregs, strict=True):
        regs[index] = value
    if regs[r.RIP] >> 47:
        raise BadFrameError("the instruction pointer is not a user's")
    regs[r.EFLAGS] = eflags & _USER_FLAGS | _KEPT_FLAGS
    regs[r.ORIG_RAX] = _U64
    return Restored(mask, (start, flags, length), image)


def _read_fp(size: int, address: int, read: Read) -> bytearray:
    """Return the FP image a frame points to; without one, the initial state."""
    if not address:
        return x86_fp.initial(size)
    legacy = read(address, x86_fp.LEGACY_SIZE)
    (mxcsr,) = struct.unpack_from("<I", legacy, _MXCSR)
    if mxcsr & ~x86_fp.mxcsr_mask(size):
        raise BadFrameError("an MXCSR that cannot be loaded")
    magic, extended, _, xstate = struct.unpack_from("<IIQI", legacy, _SOFTWARE)
    image = bytearray(size)
    if magic == _MAGIC1 and x86_fp.HEADER_END <= xstate <= size and extended >= xstate + 4:
        whole = read(address, xstate + 4)
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
