"""What ptrace platforms know of each CPU, on any host: the kernel's side is played by a dictionary."""

import ctypes
import struct

import pytest

from systrap.arch import arm_fp
from systrap.arch.aarch64 import PC, PSTATE, TPIDR, AArch64
from systrap.host import ptrace
from systrap.platform import SYSCALL_EVENT, EventKind
from systrap.platforms.ptrace.aarch64 import AArch64Machine
from systrap.platforms.ptrace.machine import Machine
from systrap.platforms.ptrace.x86_64 import X86Machine

TID = 77
ESRCH = 3


class Kernel:
    """Register sets of one thread, by kind."""

    def __init__(self) -> None:
        self.sets: dict[int, bytes] = {}
        self.gone = False

    def request(self, what: int, tid: int, kind: int, iovec: int) -> int:
        """Do GETREGSET and SETREGSET."""
        assert tid == TID
        if self.gone:
            return -ESRCH
        base, length = struct.unpack("NN", ctypes.string_at(iovec, 16))
        if what == ptrace.SETREGSET:
            self.sets[kind] = ctypes.string_at(base, length)
        else:
            assert what == ptrace.GETREGSET
            data = self.sets[kind][:length]
            ctypes.memmove(base, data, len(data))
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel()
    monkeypatch.setattr(ptrace, "request", found.request)
    return found


def test_registers_and_thread_pointer_are_two_sets(kernel: Kernel) -> None:
    """S-052: on arm64 the thread pointer is not among the general registers; contexts show it as the last one."""
    machine = AArch64Machine()
    buffer = machine.register_buffer()
    regs = memoryview(buffer).cast("Q")
    for index in range(AArch64.REG_COUNT):
        regs[index] = 1000 + index
    registers = machine.registers(buffer)
    assert registers.write(TID) == 0
    assert struct.unpack("<34Q", kernel.sets[ptrace.NT_PRSTATUS]) == tuple(range(1000, 1034))
    assert kernel.sets[ptrace.NT_ARM_TLS] == struct.pack("<Q", 1034)
    kernel.sets[ptrace.NT_ARM_TLS] = struct.pack("<Q", 5)
    kernel.sets[ptrace.NT_PRSTATUS] = struct.pack("<34Q", *range(34))
    assert registers.read(TID) == 0
    assert list(regs) == [*range(34), 5]
    assert machine.thread_pointer(TID) == 5
    kernel.gone = True
    assert registers.read(TID) == registers.write(TID) == -ESRCH


def test_fp_state_changes_its_order(kernel: Kernel) -> None:
    """P-061: the kernel has the vectors first, a context fpsr and fpcr. Bits that no CPU keeps are not loaded."""
    machine = AArch64Machine()
    kind, size = machine.probe_fp(TID)
    image = machine.initial_fp(size)
    vectors = bytes(index % 251 for index in range(512))
    image[: arm_fp.USED] = struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + vectors
    state = machine.fp_state(kind, image)
    assert state.write(TID) == 0
    loaded = kernel.sets[ptrace.NT_FPREGSET]
    assert loaded[:512] == vectors
    assert struct.unpack_from("<II", loaded, 512) == (0xF800009F, 0x07FF9F07)
    kernel.sets[ptrace.NT_FPREGSET] = bytes(reversed(vectors)) + struct.pack("<IIQ", 1, 2, 0)
    assert state.read(TID) == 0
    assert image[: arm_fp.USED] == struct.pack("<II", 1, 2) + bytes(reversed(vectors))
    kernel.gone = True
    before = bytes(image)
    assert state.read(TID) == -ESRCH
    assert image == before


@pytest.mark.parametrize("machine", [X86Machine(), AArch64Machine()], ids=["x86_64", "aarch64"])
def test_an_injected_call(machine: Machine) -> None:
    """Number, arguments and place are where the CPU wants them; everything else is zero, the stack pointer too."""
    buffer = bytearray(machine.call_bytes)
    machine.pack_call(buffer, 0x7000, 222, (1, 2, 3, -1, 5, 6))
    regs = memoryview(buffer).cast("Q")
    assert regs[machine.call_ip] == 0x7000
    if isinstance(machine, AArch64Machine):
        assert list(regs[:9]) == [1, 2, 3, (1 << 64) - 1, 5, 6, 0, 0, 222]
        assert not any(regs[9:PC])
        assert regs[PSTATE] == 0
    else:
        assert [regs[index] for index in (14, 13, 12, 7, 9, 8)] == [1, 2, 3, (1 << 64) - 1, 5, 6]
        assert regs[machine.call_result] == 222
    assert machine.stub_code[: machine.syscall_len] == (b"\x0f\x05" if machine.syscall_len == 2 else b"\x01\0\0\xd4")


def test_a_guests_mode_is_user_mode() -> None:
    """P-042."""
    machine = AArch64Machine()
    regs = memoryview(machine.register_buffer()).cast("Q")
    regs[PSTATE] = 0xA00003C5
    regs[TPIDR] = 9
    machine.prepare(regs)
    assert (regs[PSTATE], regs[TPIDR]) == (0xA0000000, 9)


def test_a_call_is_a_signal() -> None:
    """P-040: the filter's SIGSYS is a system call, whatever the kernel did to pc; one that somebody else had sent is a signal."""
    machine = AArch64Machine()
    regs = memoryview(machine.register_buffer()).cast("Q")
    regs[PC] = 0x1000
    assert machine.at_sigsys(regs, ptrace.SignalStop(31, 1, 0x1004)) is SYSCALL_EVENT
    assert regs[PC] == 0x1004
    event = machine.at_sigsys(regs, ptrace.SignalStop(31, 2, 0x2000))
    assert event.kind == EventKind.SIGNAL
    assert regs[PC] == 0x1004
