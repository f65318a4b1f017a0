"""The sysmsg image's signal handler in real stubs: guest code runs, traps, comes back (10-stub §3)."""

import signal
import struct
import time

import pytest

from systrap.host.sys import NR
from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.machine import Block
from tests.blobs.play import (
    ENOSYS,
    FAULT,
    NEED_TRAP,
    NO_NUMBER,
    SITE,
    SYSCALL,
    TRAP,
    UNMAPPED,
    load,
    patch,
    peek,
    wait_parked,
    wait_running,
)
from tests.blobs.stub import Stub, new_world, running_stub
from tests.blobs.world import BIRTH_MASK, GUEST, PAGE, START, TABLE, World

# ---- system calls by signal ----


@pytest.mark.parametrize("dispatch", [True, False])
@pytest.mark.parametrize("mask", [0, BIRTH_MASK])
def test_a_system_call_comes_back_and_goes_on(world: World, dispatch: bool, mask: int) -> None:
    """S-031, S-106: number in orig_rax, -ENOSYS in rax; the result that the sentry puts there arrives."""
    with running_stub(world) as stub:
        world.machine.block.set32(Block.SPACES + Block.HEAD, 0)
        stub.ring.bytes[:] = bytes(len(stub.ring.bytes))
        stub.start_thread(1, dispatch=dispatch, mask=mask)
        context = stub.context(0)
        load(stub, guest.mov_eax(39), guest.SYSCALL, b"\x48\x89\xc3", guest.mov_eax(40), guest.SYSCALL)
        assert stub.run(context) == NEED_TRAP
        assert (context["orig_rax"], context["rax"], context["rip"]) == (39, ENOSYS, START + 7)
        assert context.siginfo()[:2] == (signal.SIGSYS, 2 if dispatch else 1)
        assert context.words.u32(abi.FPSTATE_CHANGED) == 0
        assert context.words.u32(abi.LAST_THREAD_ID) == 1
        assert context.words.u64(abi.STATE_CHANGED_TIME) >= context.words.u64(abi.ACKED_TIME) > 0
        context["rax"] = 1234
        assert stub.run(context) == NEED_TRAP
        assert (context["orig_rax"], context["rbx"]) == (40, 1234)


def test_signals_are_open_while_a_guest_runs(stub: Stub) -> None:
    """Whatever was blocked at birth: guests run with an empty mask."""
    load(stub, guest.SPIN)
    assert stub.submit(stub.context(0)) == 0
    deadline = time.monotonic() + 10
    while True:
        with open(f"/proc/{stub.tids[1]}/status", encoding="ascii") as file:
            blocked = next(line for line in file if line.startswith("SigBlk")).split()[1]
        if int(blocked, 16) == 0:
            return
        assert time.monotonic() < deadline, blocked


def test_registers_survive_a_system_call(stub: Stub) -> None:
    """S-034: all but rax, rcx and r11; flags too."""
    load(stub, guest.SYSCALL, guest.SYSCALL)
    context = stub.context(0)
    values = {name: 0x1111111111111111 * (i + 1) for i, name in enumerate(context.NAMES[:15])}
    for name, value in values.items():
        context[name] = value
    context["rax"] = 500
    context["eflags"] = 0x202 | 0x8D5  # every arithmetic flag
    assert stub.run(context) == SYSCALL
    after = context.registers()
    for name, value in values.items():
        if name not in ("rax", "rcx", "r11"):
            assert after[name] == value, name
    assert after["eflags"] == 0x202 | 0x8D5
    assert (after["cs"], after["ss"], after["rsp"]) == (0x33, 0x2B, GUEST + 8 * PAGE)
    assert stub.run(context) == SYSCALL
    for name, value in context.registers().items():
        if name not in ("rax", "rcx", "r11", "rip", "orig_rax"):
            assert value == after[name], name


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (guest.mov_eax(39) + guest.SYSCALL, NEED_TRAP),
        (b"\x31\xc0" + guest.SYSCALL, SYSCALL),
        (guest.mov_eax(39) + guest.NOP + guest.SYSCALL, SYSCALL),
        (b"\x48\xc7\xc0\x27\x00\x00\x00" + guest.SYSCALL, SYSCALL),
        (guest.mov_eax(0x40000027) + guest.SYSCALL, NEED_TRAP),
    ],
)
def test_which_sites_can_be_patched(stub: Stub, code: bytes, state: int) -> None:
    """S-080, and x32 numbers arrive as they are (S-033)."""
    load(stub, code)
    context = stub.context(0)
    assert stub.run(context) == state


def test_a_jump_to_the_syscall_with_another_number_is_no_site(stub: Stub) -> None:
    load(stub, guest.mov_eax(39), guest.SYSCALL)
    context = stub.context(0)
    context["rip"], context["rax"] = START + 5, 40
    assert stub.run(context) == SYSCALL
    assert context["orig_rax"] == 40


def test_patching_can_be_switched_off() -> None:
    with new_world(patching=False) as world, running_stub(world) as stub:
        stub.start_thread(1)
        load(stub, guest.mov_eax(39), guest.SYSCALL)
        assert stub.run(stub.context(0)) == SYSCALL


def test_code_at_the_start_of_a_page_behind_a_hole(stub: Stub) -> None:
    """S-043: the bytes in front of the call cannot all be read, which is no reason to fail: the site is not patched."""
    load(stub, guest.mov_eax(39), guest.SYSCALL, at=GUEST)
    context = stub.context(0)
    for rip in (GUEST, GUEST + 5):
        context["rip"], context["rax"] = rip, 39
        assert stub.run(context) == SYSCALL
        assert context["orig_rax"] == 39
        assert stub.sysmsg(1).u32(0x38) == 0


def test_int80_gets_a_number_that_no_table_has(stub: Stub) -> None:
    """S-032."""
    load(stub, guest.mov_eax(20), guest.INT80)
    context = stub.context(0)
    assert stub.run(context) == SYSCALL
    assert context["orig_rax"] == 20 + 0x86000000
    assert struct.unpack_from("<I", context.words.bytes, abi.SIGINFO + 28)[0] == 0x40000003


def test_a_call_of_the_vsyscall_page(stub: Stub) -> None:
    """S-049: the kernel has done the return already; si_addr tells the sentry what it was. The page's filter, not dispatch."""
    with open("/proc/self/maps", encoding="ascii") as maps:
        if "[vsyscall]" not in maps.read():
            pytest.skip("this kernel has no vsyscall page")
    load(stub, guest.movabs(3, 0xFFFFFFFFFF600400), b"\xff\xd3", guest.UD2)  # mov $time, %rbx; call *%rbx
    context = stub.context(0)
    top = context["rsp"]
    assert stub.run(context) == SYSCALL
    assert context["orig_rax"] == NR["time"]
    assert context.siginfo() == (signal.SIGSYS, 1, 0xFFFFFFFFFF600400)
    assert (context["rip"], context["rsp"]) == (START + 12, top)


# ---- faults ----


@pytest.mark.parametrize(
    ("code", "registers", "signo", "err"),
    [
        (guest.LOAD_RAX_FROM_RBX, {"rbx": UNMAPPED}, signal.SIGSEGV, 4),
        (guest.STORE_RAX_TO_RBX, {"rbx": UNMAPPED}, signal.SIGSEGV, 6),
        (guest.STORE_RAX_TO_RBX, {"rbx": TABLE}, signal.SIGSEGV, 6),
        (guest.LOAD_RAX_FROM_RBX, {"rbx": 0x1234567812345678}, signal.SIGSEGV, 0),
        (b"\xf4", {}, signal.SIGSEGV, 0),
        (guest.UD2, {}, signal.SIGILL, 0),
        (guest.INT3, {}, signal.SIGTRAP, 0),
        (guest.DIVIDE_BY_ZERO, {}, signal.SIGFPE, 0),
    ],
)
def test_faults(stub: Stub, code: bytes, registers: dict[str, int], signo: int, err: int) -> None:
    """S-036, S-037: with the page fault's error bits, and 0 for everything else."""
    context = stub.context(0)
    load(stub, guest.UD2)
    context.words.set64(abi.ERR, 99)
    load(stub, code)
    for name, value in registers.items():
        context[name] = value
    assert stub.run(context) == FAULT
    assert context.siginfo()[0] == signo
    assert context.words.u64(abi.SIGNO) == signo
    # Bit 0 tells whether the page was there already, which is the host's affair.
    assert context.words.u64(abi.ERR) & ~1 == err
    assert context["orig_rax"] == NO_NUMBER


def test_a_jump_into_nothing(stub: Stub) -> None:
    context = stub.context(0)
    context["rip"] = UNMAPPED
    assert stub.run(context) == FAULT
    assert context.words.u64(abi.ERR) & 0x10
    assert context.siginfo()[2] == UNMAPPED


def test_the_red_zone_survives_faults_and_interrupts(stub: Stub) -> None:
    """S-035."""
    load(stub, guest.UD2, guest.SPIN)
    context = stub.context(0)
    top = context["rsp"]
    canary = bytes(range(128))
    load(stub, canary, at=top - 128)
    assert stub.run(context) == FAULT
    context["rip"] = START + 2
    stub.submit(context)
    wait_running(stub, context)
    stub.interrupt(1)
    assert stub.next() == 0
    assert peek(stub, top - 128, 128) == canary


# ---- interrupts ----


def test_an_interrupt_of_a_guest_that_spins(stub: Stub) -> None:
    """S-039."""
    load(stub, guest.SPIN)
    context = stub.context(0)
    for _ in range(50):
        stub.submit(context)
        wait_running(stub, context)
        context.words.set32(abi.INTERRUPT, 1)
        stub.interrupt(1)
        assert stub.next() == 0
        assert (context.state, context.siginfo()[0], context["rip"]) == (FAULT, signal.SIGCHLD, START)
        context.words.set32(abi.INTERRUPT, 0)


def test_an_interrupt_before_the_context_runs(stub: Stub) -> None:
    """S-038: it bounces straight back, without a signal."""
    load(stub, guest.UD2)
    context = stub.context(0)
    context.words.set32(abi.INTERRUPT, 1)
    assert stub.run(context) == FAULT
    assert context.siginfo()[0] == signal.SIGCHLD
    assert context.words.u64(abi.SIGNO) == signal.SIGCHLD
    assert context.words.u32(abi.INTERRUPT) == 0
    assert context["rip"] == START
    assert context["orig_rax"] == NO_NUMBER
    assert stub.run(context) == FAULT
    assert context.siginfo()[0] == signal.SIGILL


@pytest.mark.parametrize("parked_in", ["handler", "syshandler"])
def test_an_interrupt_of_a_parked_thread(stub: Stub, parked_in: str) -> None:
    """S-038, the race table of 10-stub §3.3: blocked in the handler, so that it meets the next guest; dropped in syshandler."""
    patch(stub, TABLE + 80, SITE, 39)
    load(stub, guest.UD2, at=SITE + 7)
    load(stub, guest.SYSCALL, guest.UD2)
    context = stub.context(0)
    if parked_in == "syshandler":
        context["rip"] = SITE
    assert stub.run(context) == (SYSCALL if parked_in == "handler" else TRAP)
    wait_parked(stub)
    for _ in range(20):
        stub.interrupt(1)
        time.sleep(0.001)
    assert stub.sysmsg(1).u32(0x2C) == 3
    if parked_in == "handler":
        assert stub.run(context) == FAULT
        assert (context.siginfo()[0], context["rip"]) == (signal.SIGCHLD, START + 2)
    assert stub.run(context) == FAULT
    assert context.siginfo()[0] == signal.SIGILL
