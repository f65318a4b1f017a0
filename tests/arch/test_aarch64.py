"""Registers and conventions of arm64: arithmetic on a context's window, which any host can do."""

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap import arch
from systrap.arch import aarch64, arm_fp
from systrap.arch.aarch64 import PC, PSTATE, X0, X8, AArch64
from systrap.arch.x86_64 import X86_64
from systrap.platforms.systrap import abi

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)


def window(fill: int = 0x5A) -> "memoryview[int]":
    """Return registers with something in them."""
    return memoryview(bytearray([fill] * 8 * AArch64.REG_COUNT)).cast("Q")


def test_both_architectures_have_the_same_names() -> None:
    """A module in the middle asks for no more than both have."""
    names = {name for name in vars(X86_64) if not name.startswith("_")}
    assert names <= {name for name in vars(AArch64) if not name.startswith("_")}


def test_names_and_indices_belong_together() -> None:
    """10-stub §2.3: x0…x30, sp, pc, pstate; then the thread pointer."""
    assert len(AArch64.REG_NAMES) == AArch64.REG_COUNT == aarch64.PTREGS + 1 == 35
    assert abi.AARCH64_SHAPE.ptregs_size == 8 * aarch64.PTREGS
    assert [AArch64.REG_NAMES[index] for index in AArch64.ARGS] == ["x0", "x1", "x2", "x3", "x4", "x5"]
    assert AArch64.REG_NAMES[AArch64.SYSCALL_NR] == "x8"
    assert AArch64.REG_NAMES[AArch64.RESULT] == "x0"
    assert AArch64.REG_NAMES[AArch64.IP] == "pc"
    assert AArch64.REG_NAMES[AArch64.SP] == "sp"
    assert AArch64.REG_NAMES[aarch64.LR] == "x30"
    assert AArch64.REG_NAMES[PSTATE] == "pstate"
    assert AArch64.REG_NAMES[AArch64.TLS] == "tpidr_el0"


def test_a_program_starts_with_zeros() -> None:
    regs = window()
    AArch64.start_regs(regs, 0x400000, 0x7FFFF0)
    assert {AArch64.REG_NAMES[i]: value for i, value in enumerate(regs) if value} == {"sp": 0x7FFFF0, "pc": 0x400000}


@given(U64, U64, U32)
def test_a_restarted_call_has_its_first_argument_again(pc: int, first: int, nr: int) -> None:
    """The result, a restart code, stands where the argument was; everything else is untouched."""
    regs = window()
    regs[PC], regs[X0], regs[X8] = pc, (1 << 64) - 512, nr
    before = list(regs)
    AArch64.restart_syscall(regs, nr, first)
    assert (regs[X0], regs[X8], regs[PC]) == (first, nr, (pc - 4) & (1 << 64) - 1)
    changed = {index for index, value in enumerate(regs) if value != before[index]}
    assert changed <= {X0, PC}


@given(U64)
def test_the_number_is_the_low_half_of_x8(value: int) -> None:
    regs = window()
    regs[X8] = value
    assert AArch64.syscall_number(regs) == value & 0xFFFFFFFF


@given(U64)
def test_no_pstate_is_one_the_kernel_refuses(value: int) -> None:
    """10-stub §10.2 item 4: 64-bit user mode, nothing masked, no single step; condition flags stay."""
    regs = window()
    regs[PSTATE] = value
    AArch64.sanitize(regs)
    mode, masks, step, illegal = 0x1F, 0xF << 6, 1 << 21, 1 << 20
    assert regs[PSTATE] & (mode | masks | step | illegal) == 0
    assert regs[PSTATE] >> 28 == value >> 28 & 0xF
    once = regs[PSTATE]
    AArch64.sanitize(regs)
    assert regs[PSTATE] == once


def test_the_initial_fp_state_is_all_zero() -> None:
    assert arm_fp.initial() == bytes(528)
    assert len(arm_fp.initial()) == arm_fp.SIZE


@given(st.binary(min_size=528, max_size=528))
def test_a_sane_fp_image_keeps_its_registers(data: bytes) -> None:
    """Vector registers have no wrong values; control words lose their reserved bits; the end is nobody's."""
    image = bytearray(data)
    arm_fp.sanitize(image)
    assert image[8:520] == data[8:520]
    assert image[520:] == bytes(8)
    for word, before, kept in zip(
        struct.unpack_from("<II", image), struct.unpack_from("<II", data), (0xF800009F, 0x07FF9F07), strict=True
    ):
        assert word == before & kept


def test_guests_have_the_hosts_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code runs natively, so there is nothing to choose; what is unknown says so."""
    for machine in (AArch64, X86_64):
        monkeypatch.setattr("os.uname", lambda name=machine.NAME: SimpleNamespace(machine=name))
        assert arch.host() is machine
        assert arch.current() is machine
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="riscv64"))
    with pytest.raises(arch.UnsupportedArchitectureError, match="does not know riscv64"):
        arch.current()
