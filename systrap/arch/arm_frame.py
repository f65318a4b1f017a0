"""The signal frame of arm64, as Linux lays it out on the guest's stack: struct rt_sigframe, and the way back.

::

    siginfo (128)  ucontext: flags, link, altstack (40)  mask (8)  unused (120)  pad (8)  sigcontext (4384)    x29, x30
    ^ sp at the handler's entry, 16n              fault address, x0…x30, sp, pc, pstate, pad, records (4096)   ^ x29 then

Records follow each other: magic and size, then contents; magic 0 ends them. We write the FP registers and, for a fault, its
syndrome; what else Linux has there (SVE, SME, GCS, POE …) is for state that guests are not told of (arm_hwcap.py).
"""

import struct
from typing import Final

from systrap.arch import aarch64 as r
from systrap.arch import arm_fp
from systrap.arch.frame import BadFrameError, Delivery, Frame, Read, Restored, signed32

_SIGINFO: Final = 128
_UC_STACK: Final = _SIGINFO + 16
_UC_MASK: Final = _SIGINFO + 40
_CONTEXT: Final = _SIGINFO + 176
_REGISTERS: Final = _CONTEXT + 8
_RECORDS: Final = _CONTEXT + 288
_RECORDS_SIZE: Final = 4096
SIZE: Final = _RECORDS + _RECORDS_SIZE
"""sizeof(struct rt_sigframe)."""
_FRAME_RECORD: Final = 16
_HEAD: Final = struct.Struct("<II")

FPSIMD_MAGIC: Final = 0x46508001
FPSIMD_SIZE: Final = 528
ESR_MAGIC: Final = 0x45535201
ESR_SIZE: Final = 16

_LINK_REGISTER: Final = 30
_FRAME_POINTER: Final = 29
_PSTATE_MODE: Final = 0x1F
_PSTATE_MASKS: Final = 0xF << 6  # D, A, I, F


def build(regs: "memoryview[int]", fp: bytearray, top: int, delivery: Delivery) -> Frame | None:
    """See frame.FrameFormat. Above the frame, at a fixed place for unwinders, stands one more record of the call chain."""
    chain = (top - _FRAME_RECORD) & ~15
    sp = chain - SIZE
    if sp < 0:
        return None
    start, flags, length = delivery.altstack
    frame = bytearray(SIZE)
    frame[:_SIGINFO] = delivery.siginfo
    struct.pack_into("<Qi4xQ", frame, _UC_STACK, start, signed32(flags), length)
    struct.pack_into("<Q", frame, _UC_MASK, delivery.mask)
    struct.pack_into("<Q", frame, _CONTEXT, delivery.addr if delivery.err else 0)
    struct.pack_into(f"<{r.PTREGS}Q", frame, _REGISTERS, *regs[: r.PTREGS])
    records = _HEAD.pack(FPSIMD_MAGIC, FPSIMD_SIZE) + bytes(fp[: arm_fp.USED])
    if delivery.err:
        records += _HEAD.pack(ESR_MAGIC, ESR_SIZE) + struct.pack("<Q", delivery.err)
    frame[_RECORDS : _RECORDS + len(records)] = records
    entry = {
        r.SP: sp,
        r.PC: delivery.handler,
        r.X0: delivery.signo,
        _FRAME_POINTER: chain,
        _LINK_REGISTER: delivery.restorer,
        r.PSTATE: regs[r.PSTATE] & ~(r.PSTATE_TCO | r.PSTATE_BTYPE),
    }
    if delivery.wants_info:
        entry |= {1: sp, 2: sp + _SIGINFO}
    caller = struct.pack("<QQ", regs[_FRAME_POINTER], regs[_LINK_REGISTER])
    return Frame(sp, ((chain, caller), (sp, bytes(frame))), entry)


def restore(regs: "memoryview[int]", fp_size: int, read: Read) -> Restored:
    """See frame.FrameFormat."""
    sp = regs[r.SP]
    if sp % 16:
        raise BadFrameError("the stack pointer is not aligned")
    data = read(sp, SIZE)
    start, flags, length = struct.unpack_from("<QI4xQ", data, _UC_STACK)
    (mask,) = struct.unpack_from("<Q", data, _UC_MASK)
    values = struct.unpack_from(f"<{r.PTREGS}Q", data, _REGISTERS)
    if values[r.PSTATE] & (_PSTATE_MODE | _PSTATE_MASKS):
        raise BadFrameError("PSTATE is not of 64-bit user mode")
    image = bytearray(fp_size)
    image[: arm_fp.USED] = find_fp(data[_RECORDS:])
    arm_fp.sanitize(image)
    for index, value in enumerate(values):
        regs[index] = value
    regs[r.PSTATE] &= r.PSTATE_USER
    return Restored(mask, (start, flags, length), image)


def find_fp(records: bytes) -> bytes:
    """Return the contents of the FP record: walks the records as Linux does, with their bounds. Raises BadFrameError.

    A record of state that guests are not told of is what it is on a CPU without: a bad frame.
    """
    found: bytes | None = None
    offset = 0
    while True:
        if len(records) - offset < _HEAD.size:
            raise BadFrameError("the records have no end")
        magic, size = _HEAD.unpack_from(records, offset)
        if magic == 0:
            if size:
                raise BadFrameError("the end of the records has a size")
            break
        if size < _HEAD.size or size % 8 or size > len(records) - offset:
            raise BadFrameError(f"a record of {size} bytes")
        if magic == FPSIMD_MAGIC:
            if found is not None or size != FPSIMD_SIZE:
                raise BadFrameError("two FP records, or one of a wrong size")
            found = records[offset + _HEAD.size : offset + size]
        elif magic != ESR_MAGIC:
            raise BadFrameError(f"a record {magic:#x}")
        offset += size
    if found is None:
        raise BadFrameError("no FP record")
    return found
