"""The signal frame of arm64: its bytes next to the kernel's headers, the way there and back, and frames no kernel made."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.arch import aarch64 as r
from systrap.arch import arm_fp, arm_frame
from systrap.arch.frame import BadFrameError, Delivery, Frame
from tests.arch.headers import evaluate

HANDLER, RESTORER, TOP = 0x500000, 0x600004, 0x7FFF_0000_1238
FPSIMD = struct.pack("<II", arm_frame.FPSIMD_MAGIC, arm_frame.FPSIMD_SIZE) + bytes(520)
END = bytes(8)
U64 = st.integers(0, (1 << 64) - 1)
INFO = bytes(range(128))


def registers(pstate: int = 0x6000_0000) -> "memoryview[int]":
    regs = memoryview(bytearray(8 * r.AArch64.REG_COUNT)).cast("Q")
    for index in range(r.AArch64.REG_COUNT):
        regs[index] = 0x1000 + index
    regs[r.PSTATE] = pstate
    return regs


def delivery(*, wants_info: bool = True, err: int = 0, addr: int = 0, mask: int = 0xABC) -> Delivery:
    return Delivery(11, INFO, wants_info, HANDLER, RESTORER, mask, (0x1000, 1 << 31, 0x4000), 1, 0, err, addr)


class Stack:
    """Memory with one frame in it."""

    def __init__(self, frame: Frame) -> None:
        self.base = frame.sp
        self.data = bytearray(0x3000)
        for address, piece in frame.pieces:
            self.data[address - self.base : address - self.base + len(piece)] = piece

    def read(self, address: int, length: int) -> bytes:
        assert self.base <= address <= self.base + len(self.data) - length
        return bytes(self.data[address - self.base : address - self.base + length])


def built(regs: "memoryview[int]", fp: bytearray, asked: Delivery) -> tuple[Frame, Stack]:
    frame = arm_frame.build(regs, fp, TOP, asked)
    assert frame is not None
    return frame, Stack(frame)


def enter(regs: "memoryview[int]", frame: Frame) -> None:
    for index, value in frame.registers.items():
        regs[index] = value


C_FRAME = "((struct { siginfo_t info; struct ucontext uc; } *)0)"


def test_layout_is_the_kernels() -> None:
    """A frame (struct rt_sigframe) is a siginfo and a ucontext; everything in it where C has it."""
    includes = ["asm/signal.h", "asm-generic/siginfo.h", "asm/sigcontext.h", "asm/ucontext.h"]
    context = f"(unsigned long)&{C_FRAME}->uc.uc_mcontext"
    questions = [
        f"sizeof(*{C_FRAME})",
        f"&{C_FRAME}->uc",
        f"&{C_FRAME}->uc.uc_stack",
        f"&{C_FRAME}->uc.uc_sigmask",
        context,
        f"&{C_FRAME}->uc.uc_mcontext.regs",
        f"&{C_FRAME}->uc.uc_mcontext.sp",
        f"&{C_FRAME}->uc.uc_mcontext.pstate",
        f"&{C_FRAME}->uc.uc_mcontext.__reserved",
        "FPSIMD_MAGIC",
        "sizeof(struct fpsimd_context)",
        "offsetof(struct fpsimd_context, vregs)",
        "ESR_MAGIC",
        "sizeof(struct esr_context)",
    ]
    expected = [
        arm_frame.SIZE,
        128,
        arm_frame._UC_STACK,
        arm_frame._UC_MASK,
        arm_frame._CONTEXT,
        arm_frame._REGISTERS,
        arm_frame._REGISTERS + 8 * r.SP,
        arm_frame._REGISTERS + 8 * r.PSTATE,
        arm_frame._RECORDS,
        arm_frame.FPSIMD_MAGIC,
        arm_frame.FPSIMD_SIZE,
        16,
        arm_frame.ESR_MAGIC,
        arm_frame.ESR_SIZE,
    ]
    assert evaluate("aarch64", includes, questions) == expected
    assert r.AArch64.LINUX.signal_frame == arm_frame.SIZE + 32


def test_what_a_handler_finds() -> None:
    regs, fp = registers(0x6000_0000 | r.PSTATE_TCO | r.PSTATE_BTYPE | r.PSTATE_DIT), arm_fp.initial()
    fp[8:24] = bytes(range(16))
    frame, stack = built(regs, fp, delivery(err=0x9200_0046, addr=0xDEAD_BEE8))
    assert frame.sp % 16 == 0
    assert frame.sp + arm_frame.SIZE + 16 <= TOP
    assert stack.read(frame.sp, 128) == INFO
    assert struct.unpack("<QQ", stack.read(frame.sp + 128, 16)) == (0, 0)
    assert struct.unpack("<QI4xQ", stack.read(frame.sp + arm_frame._UC_STACK, 24)) == (0x1000, 1 << 31, 0x4000)
    assert struct.unpack("<Q", stack.read(frame.sp + arm_frame._UC_MASK, 8)) == (0xABC,)
    context = struct.unpack("<35Q", stack.read(frame.sp + arm_frame._CONTEXT, 280))
    assert context == (0xDEAD_BEE8, *regs[: r.PTREGS])
    records = stack.read(frame.sp + arm_frame._RECORDS, 528 + 16 + 8)
    assert records[:8] == FPSIMD[:8]
    assert records[16:32] == bytes(range(16))
    assert struct.unpack_from("<IIQII", records, 528) == (arm_frame.ESR_MAGIC, 16, 0x9200_0046, 0, 0)
    enter(regs, frame)
    assert (regs[r.PC], regs[r.SP], regs[r.LR], regs[0]) == (HANDLER, frame.sp, RESTORER, 11)
    assert (regs[1], regs[2]) == (frame.sp, frame.sp + 128)
    # The chain of calls goes on through the frame pointer.
    assert struct.unpack("<QQ", stack.read(regs[29], 16)) == (0x1000 + 29, 0x1000 + 30)
    assert regs[r.PSTATE] == 0x6000_0000 | r.PSTATE_DIT


def test_without_siginfo_and_without_a_fault() -> None:
    """x1 and x2 stay as they were, no address and no syndrome are told."""
    regs = registers()
    frame, stack = built(regs, arm_fp.initial(), delivery(wants_info=False, addr=0x1234))
    assert {1, 2}.isdisjoint(frame.registers)
    assert stack.read(frame.sp + arm_frame._CONTEXT, 8) == bytes(8)
    assert stack.read(frame.sp + arm_frame._RECORDS + 528, 8) == END


@given(
    st.lists(U64, min_size=33, max_size=33),
    st.binary(min_size=528, max_size=528),
    U64,
    U64,
    st.integers(arm_frame.SIZE + 32, 1 << 52),
)
def test_there_and_back(values: list[int], image: bytes, mask: int, tls: int, top: int) -> None:
    """Every register, the FP state, the mask; the thread pointer is no part of a frame. Whatever the top of the stack is."""
    regs, fp = registers(), bytearray(image)
    arm_fp.sanitize(fp)
    regs[:33] = memoryview(struct.pack("<33Q", *values)).cast("Q")
    regs[r.TPIDR] = tls
    before = list(regs)
    frame = arm_frame.build(regs, fp, top, delivery(mask=mask, err=1))
    assert frame is not None
    assert frame.sp % 16 == 0
    assert all(frame.sp <= address <= address + len(data) <= top for address, data in frame.pieces)
    stack = Stack(frame)
    enter(regs, frame)
    for index in range(31):
        regs[index] = 7
    restored = arm_frame.restore(regs, 528, stack.read)
    assert list(regs) == before
    assert (restored.mask, restored.altstack, restored.fp) == (mask, (0x1000, 1 << 31, 0x4000), fp)


@pytest.mark.parametrize("top", [0, 16, arm_frame.SIZE, arm_frame.SIZE + 15])
def test_no_room_below_a_low_stack_pointer(top: int) -> None:
    assert arm_frame.build(registers(), arm_fp.initial(), top, delivery()) is None


@pytest.mark.parametrize("pstate", [0x5, 0x9, 0x10, 0x4, 1 << 6, 1 << 7, 1 << 8, 1 << 9])
def test_another_mode_is_refused(pstate: int) -> None:
    """10-stub §10.2 item 4: no kernel mode, no 32-bit mode, no masked interrupts by way of a frame."""
    regs = registers()
    frame, stack = built(regs, arm_fp.initial(), delivery())
    at = arm_frame._REGISTERS + 8 * r.PSTATE
    stack.data[at : at + 8] = struct.pack("<Q", 0x6000_0000 | pstate)
    enter(regs, frame)
    with pytest.raises(BadFrameError, match="PSTATE"):
        arm_frame.restore(regs, 528, stack.read)


def test_bits_that_are_nobodys_are_dropped() -> None:
    regs = registers()
    frame, stack = built(regs, arm_fp.initial(), delivery())
    at = arm_frame._REGISTERS + 8 * r.PSTATE
    stack.data[at : at + 8] = struct.pack("<Q", 0xFFFF_FFFF_FFFF_FFFF & ~0x3DF)
    enter(regs, frame)
    arm_frame.restore(regs, 528, stack.read)
    assert regs[r.PSTATE] == r.PSTATE_USER


@pytest.mark.parametrize("shift", [1, 8])
def test_a_misaligned_frame_is_refused(shift: int) -> None:
    regs = registers()
    frame, stack = built(regs, arm_fp.initial(), delivery())
    regs[r.SP] = frame.sp + shift
    with pytest.raises(BadFrameError, match="aligned"):
        arm_frame.restore(regs, 528, stack.read)


def record(magic: int, size: int) -> bytes:
    return struct.pack("<II", magic, size) + bytes(max(size - 8, 0))


ESR = record(arm_frame.ESR_MAGIC, 16)


@pytest.mark.parametrize("before", [b"", ESR, ESR + ESR])
@pytest.mark.parametrize("after", [b"", ESR])
def test_records_in_any_order(before: bytes, after: bytes) -> None:
    marked = FPSIMD[:8] + bytes([7] * 520)
    assert arm_frame.find_fp((before + marked + after + END).ljust(4096, b"\0")) == bytes([7] * 520)


@pytest.mark.parametrize(
    "records",
    [
        END,
        ESR + END,
        FPSIMD,
        FPSIMD + FPSIMD + END,
        FPSIMD + record(0, 8),
        FPSIMD + record(arm_frame.ESR_MAGIC, 0) + END,
        FPSIMD + record(arm_frame.ESR_MAGIC, 12) + END,
        FPSIMD + record(arm_frame.ESR_MAGIC, 4),
        FPSIMD + struct.pack("<II", arm_frame.ESR_MAGIC, 0xFFFF_FFF8) + END,
        record(arm_frame.FPSIMD_MAGIC, 520) + END,
        FPSIMD + record(0x53564501, 16) + END,
        FPSIMD + record(0x45585401, 32) + END,
        FPSIMD + record(0x54366345, 16) + END,
        b"",
        bytes(7),
    ],
)
def test_records_that_no_kernel_made(records: bytes) -> None:
    """No end, twice, wrong sizes, past the end; SVE, EXTRA and ZA records, as on a CPU without."""
    with pytest.raises(BadFrameError):
        arm_frame.find_fp(records)


@given(st.binary(max_size=1200) | st.lists(st.sampled_from([FPSIMD, ESR, END, b"\1\2"]), max_size=6).map(b"".join))
def test_records_of_anybodys_making(records: bytes) -> None:
    """Whatever stands there: 520 bytes out of it, or a bad frame."""
    try:
        found = arm_frame.find_fp(records)
    except BadFrameError:
        return
    assert len(found) == 520
    assert found in records


def test_reserved_bits_of_control_registers_are_dropped() -> None:
    regs = registers()
    frame, stack = built(regs, arm_fp.initial(), delivery())
    at = arm_frame._RECORDS + 8
    stack.data[at : at + 8] = bytes([0xFF] * 8)
    enter(regs, frame)
    image = arm_frame.restore(regs, 528, stack.read).fp
    expected = arm_fp.initial()
    expected[:8] = bytes([0xFF] * 8)
    arm_fp.sanitize(expected)
    assert image == expected
