"""What comes back from guest code: system calls, faults, registers (20-platform §1.4, §4.3, P-040…P-058)."""

import signal

import pytest

from systrap.arch.x86_64 import X86_64
from systrap.platform import Access, Event, EventKind
from tests.platforms import guest
from tests.platforms.kernel import (
    CODE,
    DATA,
    MACHINE,
    PAGE,
    STACK_TOP,
    Kernel,
    R,
    W,
    X,
    addr,
    is_syscall,
    reg,
    set_reg,
    signo,
)

GENERAL = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "rsp",
)  # fmt: skip
FLAGS_CF, FLAGS_PF, FLAGS_ZF, FLAGS_SF, FLAGS_TF, FLAGS_DF = 1, 4, 64, 128, 256, 1024
FLAGS_ALWAYS = 0x202
FOREIGN = 0x86000000
VSYSCALL = 0xFFFFFFFFFF600000
SEGV_MAPERR, SI_KERNEL, TRAP_TRACE, BUS_ADRERR = 1, 0x80, 2, 2


def test_system_call(kernel: Kernel) -> None:
    """# P-040."""
    space, context = kernel.space(guest.ARGUMENTS), kernel.context()
    assert is_syscall(kernel.run(context, space))
    assert [context.regs[index] for index in MACHINE.ARGS] == [0x11, 0x22, 0x33, 0x44, 0x55, 0x66]
    assert (reg(context, "rax"), reg(context, "orig_rax")) == (500, 500)
    assert reg(context, "rip") == CODE + len(guest.ARGUMENTS) - 2
    set_reg(context, "rax", 0x7777)
    event = kernel.run(context, space)
    assert (signo(event), reg(context, "rax")) == (signal.SIGILL, 0x7777)


@pytest.mark.parametrize("number", [0, 511, 512, 0x40000027, 0xFFFFFFFF, (1 << 64) - 1, 1 << 63])
def test_any_number_is_reported(kernel: Kernel, number: int) -> None:
    """# P-040: the number is what the guest had in rax, whatever the host would make of it."""
    space, context = kernel.space(guest.CALLS), kernel.context(rax=number)
    assert is_syscall(kernel.run(context, space))
    assert reg(context, "rax") == reg(context, "orig_rax")
    assert (reg(context, "rax") - number) & 0xFFFFFFFF == 0


def test_restart(kernel: Kernel) -> None:
    """# P-040: back over the instruction, the call comes again."""
    space, context = kernel.space(guest.CALLS), kernel.context(rax=39, rdi=5)
    assert is_syscall(kernel.run(context, space))
    for _ in range(3):
        X86_64.restart_syscall(context.regs, 39, reg(context, "rdi"))
        assert is_syscall(kernel.run(context, space))
        assert (reg(context, "rax"), reg(context, "rdi"), reg(context, "rip")) == (39, 5, CODE + 2)


@pytest.mark.parametrize("value", [-512, -513, -514, -516, -4, -38])
def test_results_that_look_like_restarts_stay(kernel: Kernel, value: int) -> None:
    """# P-041: the host kernel must not take a guest's rax for its own restart codes, after a call or a fault."""
    value &= (1 << 64) - 1
    space, context = kernel.space(guest.CALLS + guest.ILLEGAL), kernel.context(rax=39)
    assert is_syscall(kernel.run(context, space))
    for ip in (CODE + 4, CODE + 4):
        set_reg(context, "rax", value)
        set_reg(context, "rip", ip)
        event = kernel.run(context, space)
        assert (signo(event), reg(context, "rip"), reg(context, "rax")) == (signal.SIGILL, CODE + 4, value)


def test_registers_round_trip(kernel: Kernel) -> None:
    """# P-041."""
    space, context = kernel.space(guest.BREAKPOINT), kernel.context()
    flags = FLAGS_ALWAYS | FLAGS_CF | FLAGS_ZF | FLAGS_SF | FLAGS_PF | FLAGS_DF
    for salt, wanted_flags in ((0x1111, flags), (0x2222, FLAGS_ALWAYS)):
        values = {name: salt << 48 | index << 20 | salt for index, name in enumerate(GENERAL)}
        for name, value in values.items():
            set_reg(context, name, value)
        set_reg(context, "rip", CODE)
        set_reg(context, "eflags", wanted_flags)
        set_reg(context, "fs_base", 0x1234000 + salt)
        assert signo(kernel.run(context, space)) == signal.SIGTRAP
        assert {name: reg(context, name) for name in GENERAL} == values
        assert reg(context, "eflags") & 0xCFF == wanted_flags & 0xCFF
        assert reg(context, "fs_base") == 0x1234000 + salt


def test_fs_base_is_the_guests(kernel: Kernel) -> None:
    """# P-041."""
    space = kernel.space(bytes.fromhex("64488b042500000000") + guest.CALLS)
    kernel.map(space, DATA, b"threads.")
    context = kernel.context(fs_base=DATA)
    assert is_syscall(kernel.run(context, space))
    assert reg(context, "rax") & 0xFFFFFFFF == int.from_bytes(b"thre", "little")


def test_selectors_are_the_hosts(kernel: Kernel) -> None:
    """# P-042."""
    space = kernel.space(guest.CALLS)
    context = kernel.context(cs=0x10, ss=0xFFFF, ds=7, es=0x2B, fs=0x33, gs=0x63)
    assert is_syscall(kernel.run(context, space))
    assert reg(context, "cs") == 0x33
    assert reg(context, "ss") == 0x2B


def test_read_fault(kernel: Kernel) -> None:
    """# P-043."""
    space, context = kernel.space(guest.LOAD), kernel.context(rdi=DATA + 8)
    event = kernel.run(context, space)
    assert event.info is not None
    assert (event.info.signo, event.info.addr, event.info.code) == (signal.SIGSEGV, DATA + 8, SEGV_MAPERR)
    assert event.access == R
    assert reg(context, "rip") == CODE


def test_write_fault(kernel: Kernel) -> None:
    """# P-043: at the latest when it is repeated."""
    space, context = kernel.space(guest.STORE), kernel.context(rdi=DATA + 8)
    event = kernel.run(context, space)
    assert (signo(event), addr(event)) == (signal.SIGSEGV, DATA + 8)
    if kernel.platform.name == "ptrace" and event.access == R:
        event = kernel.run(context, space)
    assert event.access == W


def test_write_fault_on_a_mapped_page(kernel: Kernel) -> None:
    """# P-043: what copy-on-write needs, on the first fault."""
    space, context = kernel.space(guest.STORE), kernel.context(rdi=DATA + 8)
    kernel.map(space, DATA, access=R)
    event = kernel.run(context, space)
    assert (signo(event), addr(event), event.access) == (signal.SIGSEGV, DATA + 8, W)


@pytest.mark.parametrize("mapped", [False, True])
def test_fetch_fault(kernel: Kernel, mapped: bool) -> None:
    """# P-043."""
    space, context = kernel.space(guest.JUMP), kernel.context(rdi=DATA + 16)
    if mapped:
        kernel.map(space, DATA, access=R | W)
    event = kernel.run(context, space)
    assert (signo(event), addr(event), event.access) == (signal.SIGSEGV, DATA + 16, X)
    assert reg(context, "rip") == DATA + 16


@pytest.mark.parametrize("code", [guest.HALT, guest.LOAD], ids=["privileged", "non-canonical"])
def test_other_segv_has_no_access(kernel: Kernel, code: bytes) -> None:
    """# P-044."""
    space, context = kernel.space(code), kernel.context(rdi=1 << 63)
    event = kernel.run(context, space)
    assert event.info is not None
    assert (event.info.signo, event.info.code, event.access) == (signal.SIGSEGV, SI_KERNEL, Access.NONE)


def test_fault_restarts(kernel: Kernel) -> None:
    """# P-045."""
    space, context = kernel.space(guest.LOAD), kernel.context(rdi=DATA, r10=1)
    assert signo(kernel.run(context, space)) == signal.SIGSEGV
    kernel.map(space, DATA, b"mapped!!")
    assert is_syscall(kernel.run(context, space))
    assert reg(context, "r10") == int.from_bytes(b"mapped!!", "little")


def test_write_fault_restarts_through_copy_on_write(kernel: Kernel) -> None:
    """# P-043, P-045: a kernel that maps what the reported access asks for gets there in a few faults."""
    space, context = kernel.space(guest.STORE), kernel.context(rdi=DATA, rax=77)
    offset = kernel.page()
    event = kernel.run(context, space)
    for _ in range(2):
        if event.kind == EventKind.SIGNAL:
            access = R if event.access == R else R | W
            space.map_file(DATA, kernel.file, offset, PAGE, access)
            event = kernel.run(context, space)
    assert is_syscall(event)
    assert kernel.word(offset) == 77


@pytest.mark.parametrize(
    ("code", "number", "ahead"),
    [(guest.ILLEGAL, signal.SIGILL, 0), (guest.BREAKPOINT, signal.SIGTRAP, 1), (guest.DIVIDE, signal.SIGFPE, 4)],
    ids=["ud2", "int3", "div"],
)
def test_other_exceptions(kernel: Kernel, code: bytes, number: int, ahead: int) -> None:
    """# P-046."""
    space, context = kernel.space(code), kernel.context()
    event = kernel.run(context, space)
    assert (signo(event), event.access, reg(context, "rip")) == (number, Access.NONE, CODE + ahead)


def test_bus_error_beyond_the_end(kernel: Kernel) -> None:
    """# P-047."""
    space, context = kernel.space(guest.LOAD), kernel.context(rdi=DATA)
    space.map_file(DATA, kernel.file, kernel.file.size, PAGE, R)
    event = kernel.run(context, space)
    assert event.info is not None
    assert (event.info.signo, event.info.code, event.info.addr) == (signal.SIGBUS, BUS_ADRERR, DATA)


def test_single_step(kernel: Kernel) -> None:
    """# P-048, on a context's first run, too."""
    space, context = kernel.space(guest.NOPS), kernel.context()
    for step in (1, 2):
        set_reg(context, "eflags", FLAGS_ALWAYS | FLAGS_TF)
        event = kernel.run(context, space)
        assert event.info is not None
        assert (event.info.signo, event.info.code) == (signal.SIGTRAP, TRAP_TRACE)
        assert reg(context, "rip") == CODE + step
    set_reg(context, "eflags", FLAGS_ALWAYS)
    assert is_syscall(kernel.run(context, space))
    assert reg(context, "eflags") & FLAGS_TF == 0


@pytest.mark.parametrize("entry", [0, 0x400, 0x800], ids=["gettimeofday", "time", "getcpu"])
def test_vsyscall_page(kernel: Kernel, entry: int) -> None:
    """# P-049."""
    code = bytearray(guest.VSYSCALL)
    code[3:7] = ((VSYSCALL + entry) & 0xFFFFFFFF).to_bytes(4, "little")
    space, context = kernel.space(bytes(code)), kernel.context(rdi=DATA)
    written = kernel.map(space, DATA)
    stack = kernel.map(space, STACK_TOP - PAGE)
    event = kernel.run(context, space)
    assert (signo(event), addr(event), event.access) == (signal.SIGSEGV, VSYSCALL + entry, X)
    assert reg(context, "rip") == VSYSCALL + entry
    assert reg(context, "rsp") == STACK_TOP - 8
    assert kernel.word(stack + PAGE - 8) == CODE + 9
    assert kernel.read(written, 64) == bytes(64)


def test_other_address_in_the_vsyscall_page(kernel: Kernel) -> None:
    """# P-049."""
    space, context = kernel.space(guest.JUMP), kernel.context(rdi=VSYSCALL + 8)
    event = kernel.run(context, space)
    assert (signo(event), reg(context, "rip")) == (signal.SIGSEGV, VSYSCALL + 8)
    if kernel.platform.name == "ptrace":
        assert (addr(event), event.access) == (VSYSCALL + 8, X)


def test_32_bit_gate(kernel: Kernel) -> None:
    """# P-050."""
    space, context = kernel.space(guest.INT80), kernel.context()
    event = kernel.run(context, space)
    if event.kind == EventKind.SIGNAL:
        assert signo(event) == signal.SIGSEGV, "a host without the 32-bit gate"
        return
    assert is_syscall(event)
    assert reg(context, "orig_rax") == FOREIGN + 20
    assert reg(context, "rip") == CODE + 7


def test_events_are_the_callers(kernel: Kernel) -> None:
    """# P-057."""
    space, context = kernel.space(guest.LOAD + guest.ILLEGAL), kernel.context(rdi=DATA)
    first = kernel.run(context, space)
    copy = Event(*first)
    set_reg(context, "rip", CODE + len(guest.LOAD))
    second = kernel.run(context, space)
    assert signo(second) == signal.SIGILL
    assert first == copy


def test_context_moves_to_another_space(kernel: Kernel) -> None:
    """# P-058."""
    spaces = [kernel.space(guest.LOAD) for _ in range(2)]
    for number, space in enumerate(spaces):
        kernel.map(space, DATA, bytes([number + 1]) * 8)
    context = kernel.context(rdi=DATA)
    for number in (0, 1, 1, 0):
        set_reg(context, "rip", CODE)
        assert is_syscall(kernel.run(context, spaces[number]))
        assert reg(context, "r10") == int.from_bytes(bytes([number + 1]) * 8, "little")
