"""Guests on the systrap platform on arm64: events, faults, registers, FP state, thread pointers, interrupts."""

import struct
import threading
import time

import pytest

from systrap.arch.aarch64 import PSTATE, AArch64
from systrap.host.auxv import auxiliary_vector
from systrap.platform import Access, AddressSpace, Context, Event, EventKind
from systrap.platforms.systrap.subprocess import Subprocess
from tests.arm64 import guest
from tests.platforms.kernel import (
    CODE,
    DATA,
    PAGE,
    PATIENCE,
    SUBMIT,
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

SIGILL, SIGTRAP, SIGBUS, SIGSEGV = 4, 5, 7, 11
HWCAP_DCPOP = 1 << 16
HWCAP_SVE = 1 << 22
AT_HWCAP = 16
UNMAPPED = 0x7000_0000


def hwcap() -> int:
    return auxiliary_vector().get(AT_HWCAP, 0)


def space_of(kernel: Kernel, code: guest.Code) -> AddressSpace:
    return kernel.space(code.bytes)


def fault(kernel: Kernel, code: guest.Code, **registers: int) -> tuple[Event, Context]:
    """Run code until its first event, which is a signal."""
    context = kernel.context(**registers)
    event = kernel.run(context, space_of(kernel, code))
    assert event.kind == EventKind.SIGNAL, event
    return event, context


def sees_syndromes(kernel: Kernel) -> bool:
    """Tell whether the platform learns what a fault was about; ptrace shows it to nobody."""
    return kernel.platform.name != "ptrace"


# ---- system calls ----


def test_a_call_with_its_arguments(kernel: Kernel) -> None:
    """P-040: number and arguments as the guest set them, pc behind the svc."""
    context = kernel.context()
    assert is_syscall(kernel.run(context, space_of(kernel, guest.ARGUMENTS)))
    assert [context.regs[index] for index in AArch64.ARGS] == [0x11, 0x22, 0x33, 0x44, 0x55, 0x66]
    assert AArch64.syscall_number(context.regs) == 500
    assert reg(context, "pc") == CODE + 8 * 4


def test_all_registers_come_and_go(kernel: Kernel) -> None:
    """S-031: what the sentry sets the guest has, and the other way round; x0 too, which is argument and result."""
    space = space_of(kernel, guest.CALLS)
    values = {f"x{number}": 0x1111_0000_0000_0000 + number for number in range(31)}
    context = kernel.context(sp=0x3000_0010, **values)
    for shift in (0, 1 << 32):
        for name, value in values.items():
            set_reg(context, name, value + shift)
        assert is_syscall(kernel.run(context, space))
        assert {name: reg(context, name) for name in values} == {name: value + shift for name, value in values.items()}
        assert reg(context, "sp") == 0x3000_0010


def test_a_restarted_call(kernel: Kernel) -> None:
    """The result's register gets the first argument back, and the same call comes again."""
    space = space_of(kernel, guest.CALLS)
    context = kernel.context(x0=77, x8=63)
    assert is_syscall(kernel.run(context, space))
    at, first = reg(context, "pc"), reg(context, "x0")
    set_reg(context, "x0", (1 << 64) - 512)
    AArch64.restart_syscall(context.regs, 63, first)
    assert is_syscall(kernel.run(context, space))
    assert (reg(context, "pc"), reg(context, "x0"), reg(context, "x8")) == (at, 77, 63)


@pytest.mark.parametrize("number", [0, 93, 94, 98, 139, 215, 220, 222, 600, (1 << 32) - 1])
def test_no_call_reaches_the_host(kernel: Kernel, number: int) -> None:
    """S-101: also those that the stub itself makes: exit, futex, rt_sigreturn, munmap, clone, mmap."""
    context = kernel.context(x8=number)
    assert is_syscall(kernel.run(context, space_of(kernel, guest.CALLS)))
    assert AArch64.syscall_number(context.regs) == number


def test_many_calls(kernel: Kernel) -> None:
    space = space_of(kernel, guest.MANY_CALLS)
    context = kernel.context()
    for count in range(1, 301):
        assert is_syscall(kernel.run(context, space))
        assert reg(context, "x19") == count


# ---- faults ----


def test_reading_what_is_not_there(kernel: Kernel) -> None:
    """S-053, P-043: address and access of a data abort, from the syndrome, where the platform can see that."""
    event, context = fault(kernel, guest.LOAD, x0=UNMAPPED + 8)
    assert (signo(event), addr(event), event.access) == (SIGSEGV, UNMAPPED + 8, Access.READ)
    assert event.info is not None
    assert event.info.err >> 26 == (0x24 if sees_syndromes(kernel) else 0)
    assert reg(context, "pc") == CODE


def test_writing_what_is_not_there(kernel: Kernel) -> None:
    """P-043: a platform that must guess takes it for a read first, and for a write when it comes again."""
    context, space = kernel.context(x0=UNMAPPED), space_of(kernel, guest.STORE)
    event = kernel.run(context, space)
    if not sees_syndromes(kernel):
        assert event.access == Access.READ
        event = kernel.run(context, space)
    assert (signo(event), addr(event), event.access) == (SIGSEGV, UNMAPPED, Access.WRITE)


def test_writing_what_is_read_only(kernel: Kernel) -> None:
    """P-043: and it goes on when the page may be written."""
    space = space_of(kernel, guest.STORE)
    offset = kernel.map(space, DATA, access=R)
    context = kernel.context(x0=DATA + 16, x9=0xABCD)
    event = kernel.run(context, space)
    assert (signo(event), addr(event), event.access) == (SIGSEGV, DATA + 16, Access.WRITE)
    space.map_file(DATA, kernel.file, offset, PAGE, R | W)
    assert is_syscall(kernel.run(context, space))
    assert kernel.word(offset + 16) == 0xABCD


def test_jumping_to_what_is_not_there(kernel: Kernel) -> None:
    event, context = fault(kernel, guest.JUMP, x0=UNMAPPED)
    assert (signo(event), addr(event), event.access) == (SIGSEGV, UNMAPPED, Access.EXECUTE)
    assert reg(context, "pc") == UNMAPPED


def test_jumping_to_what_must_not_be_executed(kernel: Kernel) -> None:
    space = space_of(kernel, guest.JUMP)
    kernel.map(space, DATA, guest.CALLS.bytes)
    event = kernel.run(kernel.context(x0=DATA), space)
    assert (signo(event), addr(event), event.access) == (SIGSEGV, DATA, Access.EXECUTE)


def test_cache_maintenance_of_what_is_not_there(kernel: Kernel) -> None:
    """P-043: cleaning only needs to read; its syndrome says "write" of itself.

    "dc cvap" it is, for an emulator forgives the older ones.
    """
    if not hwcap() & HWCAP_DCPOP:
        pytest.skip("this CPU cannot clean to the point of persistence")
    event, _ = fault(kernel, guest.CLEAN_CACHE, x0=UNMAPPED)
    assert (signo(event), addr(event), event.access) == (SIGSEGV, UNMAPPED, Access.READ)


def test_zeroing_what_is_read_only(kernel: Kernel) -> None:
    """P-043: "dc zva" writes."""
    space = space_of(kernel, guest.ZERO_CACHE)
    kernel.map(space, DATA, access=R)
    event = kernel.run(kernel.context(x0=DATA), space)
    assert (signo(event), event.access) == (SIGSEGV, Access.WRITE)


@pytest.mark.parametrize(
    ("code", "signal"),
    [(guest.ILLEGAL, SIGILL), (guest.PRIVILEGED, SIGILL), (guest.BREAKPOINT, SIGTRAP)],
    ids=["illegal", "privileged", "breakpoint"],
)
def test_instructions_that_trap(kernel: Kernel, code: guest.Code, signal: int) -> None:
    """P-042: pc at the instruction."""
    event, context = fault(kernel, code)
    assert (signo(event), addr(event)) == (signal, CODE)
    assert event.access is Access.NONE
    assert reg(context, "pc") == CODE


def test_a_misaligned_stack_pointer(kernel: Kernel) -> None:
    space = space_of(kernel, guest.MISALIGNED_SP)
    kernel.map(space, DATA)
    context = kernel.context(x0=DATA + 8)
    event = kernel.run(context, space)
    if is_syscall(event):
        pytest.skip("this CPU, an emulated one, does not look at the stack pointer's alignment")
    assert signo(event) == SIGBUS
    assert reg(context, "sp") == DATA + 8


def test_a_misaligned_jump(kernel: Kernel) -> None:
    """Alignment faults are SIGBUS; no access is meant."""
    event, context = fault(kernel, guest.JUMP, x0=CODE + 2)
    assert (signo(event), addr(event)) == (SIGBUS, CODE + 2)
    assert event.access is Access.NONE
    assert reg(context, "pc") == CODE + 2


# ---- state ----


def test_condition_flags_are_kept_and_the_mode_is_not_the_guests(kernel: Kernel) -> None:
    """10-stub §10.2 item 4: a forged PSTATE harms nobody."""
    space = space_of(kernel, guest.FLAGS)
    context = kernel.context(pstate=0xFFFF_FFFF_6000_03DF)
    assert is_syscall(kernel.run(context, space))
    assert reg(context, "x9") == 0x6000_0000
    assert context.regs[PSTATE] & 0x1F == 0


def test_a_new_context_has_no_fp_state(kernel: Kernel) -> None:
    space = space_of(kernel, guest.STORE_FP)
    offset = kernel.map(space, DATA, b"\xff" * 64)
    context = kernel.context(x0=DATA)
    assert is_syscall(kernel.run(context, space))
    assert kernel.read(offset, 16) == bytes(16)
    assert (reg(context, "x9"), reg(context, "x10")) == (0, 0)


def fp_guest(kernel: Kernel, space: AddressSpace, number: int) -> tuple[Context, int]:
    """Return a context that keeps a value of its own in q3 and a rounding mode in fpcr, and where it stores them."""
    value = bytes([number + 1] * 16)
    offset = kernel.map(space, DATA + number * PAGE, value + struct.pack("<Q", (number & 3) << 22))
    return kernel.context(x0=DATA + number * PAGE), offset


def test_fp_state_of_many_contexts(kernel: Kernel) -> None:
    """S-045: more contexts than CPUs take turns on the stub's threads; each finds its own registers again."""
    space = space_of(kernel, guest.KEEP_FP)
    guests = [fp_guest(kernel, space, number) for number in range(12)]
    kernel.run_all([(context, space) for context, _ in guests])
    kernel.run_all([(context, space) for context, _ in guests])
    for number, (context, offset) in enumerate(guests):
        assert kernel.read(offset + 32, 16) == bytes([number + 1] * 16)
        assert reg(context, "x9") == (number & 3) << 22


def test_the_sentry_sees_and_changes_fp_state(kernel: Kernel) -> None:
    """P-062, P-063: fpsr, fpcr, then the vector registers."""
    space = space_of(kernel, guest.KEEP_FP)
    context, offset = fp_guest(kernel, space, 1)
    assert is_syscall(kernel.run(context, space))
    context.pull_full_state()
    assert context.fp[8 + 3 * 16 : 8 + 4 * 16] == bytes([2] * 16)
    assert struct.unpack_from("<II", context.fp) == (0, 1 << 22)
    context.fp[8 + 3 * 16 : 8 + 4 * 16] = bytes(range(16))
    struct.pack_into("<II", context.fp, 0, 0xFFFFFFFF, 2 << 22)
    context.full_state_changed()
    assert is_syscall(kernel.run(context, space))
    assert kernel.read(offset + 32, 16) == bytes(range(16))
    assert reg(context, "x9") == 2 << 22


def test_thread_pointers(kernel: Kernel) -> None:
    """S-052: each context has its own, whichever thread it runs on; the sentry sees it and sets it."""
    space = space_of(kernel, guest.KEEP_TLS)
    contexts = [kernel.context(x0=0x1000_0000 + number) for number in range(8)]
    kernel.run_all([(context, space) for context in contexts])
    assert [context.regs[AArch64.TLS] for context in contexts] == [0x1000_0000 + number for number in range(8)]
    contexts[0].regs[AArch64.TLS] = 0xFFFF_1234_5678
    kernel.run_all([(context, space) for context in contexts])
    assert [reg(context, "x9") for context in contexts] == [0xFFFF_1234_5678, *(0x1000_0000 + n for n in range(1, 8))]


def test_sve_registers_of_others_are_not_seen(kernel: Kernel) -> None:
    """S-051: where a guest uses SVE unasked it finds the low 128 bits of its registers again, and nobody else's behind them.

    (It is stopped by a breakpoint: at a system call Linux itself forgets what only SVE has.)
    """
    if not hwcap() & HWCAP_SVE:
        pytest.skip("this CPU has no SVE")
    space = space_of(kernel, guest.SVE)
    contexts, offsets = [], []
    for number in range(8):
        offsets.append(kernel.map(space, DATA + number * PAGE))
        contexts.append(kernel.context(x0=0x0101_0101_0101_0101 * (number + 1), x1=DATA + number * PAGE))
    kernel.run_all([(context, space) for context in contexts])
    for context in contexts:
        assert signo(context.event) == SIGTRAP
        set_reg(context, "pc", reg(context, "pc") + 4)
    kernel.run_all([(context, space) for context in contexts])
    for number, offset in enumerate(offsets):
        stored = kernel.read(offset, 256)
        assert stored[:16] == bytes([number + 1] * 16)
        assert set(stored[16:]) <= {0, number + 1}


# ---- interrupts ----


def test_an_interrupt_ends_a_loop(kernel: Kernel) -> None:
    """P-070, S-039: the registers are those of the moment, and the guest goes on from there."""
    space = space_of(kernel, guest.SPIN)
    context = kernel.context()
    last = progress = 0
    deadline = time.monotonic() + PATIENCE
    while progress < 5:
        # The first may come before the guest began.
        assert time.monotonic() < deadline
        timer = threading.Timer(0.05, context.interrupt)
        timer.start()
        event = kernel.run(context, space)
        timer.join()
        assert event.kind == EventKind.INTERRUPTED
        assert reg(context, "pc") - CODE in (0, 4)
        assert reg(context, "x9") >= last
        progress += reg(context, "x9") > last
        last = reg(context, "x9")


def test_an_interrupt_before_the_run(kernel: Kernel) -> None:
    """P-071."""
    space = space_of(kernel, guest.SPIN)
    context = kernel.context()
    context.interrupt()
    assert kernel.run(context, space).kind == EventKind.INTERRUPTED
    assert reg(context, "x9") == 0


def test_no_interrupt_is_lost(kernel: Kernel) -> None:
    """P-072: sent at any moment of many short runs, each ends one."""
    space = space_of(kernel, guest.SPIN)
    context = kernel.context()
    stop = threading.Event()

    def pester() -> None:
        while not stop.is_set():
            context.interrupt()
            time.sleep(0.001)

    thread = threading.Thread(target=pester, daemon=True)
    thread.start()
    try:
        for _ in range(60):
            assert kernel.run(context, space).kind == EventKind.INTERRUPTED
    finally:
        stop.set()
        thread.join(PATIENCE)


def test_more_spinning_guests_than_threads(kernel: Kernel) -> None:
    """P-080: none starves; each is interrupted in the end."""
    if kernel.path != SUBMIT:
        pytest.skip("one thread for each would do the same")
    space = space_of(kernel, guest.COUNT_SPIN)
    contexts, offsets = [], []
    for number in range(6):
        offsets.append(kernel.map(space, DATA + number * PAGE))
        contexts.append(kernel.context(x0=DATA + number * PAGE))
        kernel.platform.submit(contexts[-1], space)
    deadline = time.monotonic() + PATIENCE
    while not all(kernel.word(offset) for offset in offsets):
        assert time.monotonic() < deadline, [kernel.word(offset) for offset in offsets]
        assert kernel.platform.next_ready(time.monotonic() + 0.05) is None
    for context in contexts:
        context.interrupt()
    assert {id(kernel.wait()) for _ in contexts} == {id(context) for context in contexts}


# ---- spaces ----


def test_two_spaces_are_two(kernel: Kernel) -> None:
    first, second = space_of(kernel, guest.LOAD), space_of(kernel, guest.LOAD)
    kernel.map(first, DATA, struct.pack("<Q", 1))
    kernel.map(second, DATA, struct.pack("<Q", 2))
    one, two = kernel.context(x0=DATA), kernel.context(x0=DATA)
    kernel.run_all([(one, first), (two, second)])
    assert (reg(one, "x10"), reg(two, "x10")) == (1, 2)


def test_a_context_takes_everything_along_into_another_space(kernel: Kernel) -> None:
    """P-058, P-061: registers, thread pointer, FP state."""
    first, second = space_of(kernel, guest.KEEP_FP), space_of(kernel, guest.KEEP_FP)
    context, _ = fp_guest(kernel, first, 0)
    offset = kernel.map(second, DATA)
    context.regs[AArch64.TLS] = 0x1234
    assert is_syscall(kernel.run(context, first))
    assert is_syscall(kernel.run(context, second))
    assert kernel.read(offset + 32, 16) == bytes([1] * 16)
    assert context.regs[AArch64.TLS] == 0x1234


def test_unmapping(kernel: Kernel) -> None:
    space = space_of(kernel, guest.CALLS)
    context = kernel.context()
    assert is_syscall(kernel.run(context, space))
    space.unmap(CODE, PAGE)
    event = kernel.run(context, space)
    assert (signo(event), event.access) == (SIGSEGV, X)


def test_a_guest_that_forges_its_threads_sysmsg(kernel: Kernel) -> None:
    """S-054, S-140: the handler finds another address than its own there, and the guest is dead; others are not."""
    other, victim = space_of(kernel, guest.CALLS), space_of(kernel, guest.STORE)
    if not isinstance(victim, Subprocess):
        pytest.skip("stubs of this platform have no such memory")
    image = victim.stub.environment.image
    forged = image.layout.thread_area(1) + image.layout.area.sysmsg
    event = kernel.run(kernel.context(x0=forged, x9=0x1234), victim)
    assert event.kind == EventKind.DEATH
    assert is_syscall(kernel.run(kernel.context(), other))
