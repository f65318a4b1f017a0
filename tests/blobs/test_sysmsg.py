"""The sysmsg image in real stubs: guest code runs, traps, comes back through the ready ring (10-stub §3-§5, §9)."""

import ctypes
import os
import random
import signal
import struct
import time
from collections.abc import Iterator

import pytest

from systrap.host import futex
from systrap.host.sys import NR, syscall
from systrap.platforms.systrap import abi, layout
from tests.blobs import guest
from tests.blobs.machine import Block
from tests.blobs.stub import BIRTH_MASK, GUEST, PAGE, START, TABLE, Context, Stub, World, new_world, running_stub

SYSCALL, FAULT, TRAP, NEED_TRAP = 1, 2, 3, 4
ENOSYS = -38 & (1 << 64) - 1
NO_NUMBER = (1 << 64) - 1
DATA = GUEST + PAGE
SITE = START + 64
UNMAPPED = 0x30000000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.fixture
def stub(world: World) -> Iterator[Stub]:
    with running_stub(world) as stub:
        world.machine.block.set32(Block.SPACES + 8, 0)
        stub.ring.bytes[:] = bytes(len(stub.ring.bytes))
        stub.start_thread(1)
        yield stub


def load(stub: Stub, *code: bytes, at: int = START) -> None:
    program = b"".join(code)
    stub.code.bytes[at - GUEST : at - GUEST + len(program)] = program


def peek(stub: Stub, address: int, length: int) -> bytes:
    return bytes(stub.code.bytes[address - GUEST : address - GUEST + length])


def patch(stub: Stub, entry: int, site: int, number: int) -> None:
    """Patch a site, as the sentry would."""
    world = stub.world
    at = world.table + entry - TABLE
    world.file.bytes[at : at + 80] = guest.trampoline(entry, number, site + 7)
    load(stub, guest.patched_site(entry), at=site)


# ---- system calls by signal ----


@pytest.mark.parametrize("dispatch", [True, False])
@pytest.mark.parametrize("mask", [0, BIRTH_MASK])
def test_a_system_call_comes_back_and_goes_on(world: World, dispatch: bool, mask: int) -> None:
    """S-031, S-106: number in orig_rax, -ENOSYS in rax; the result that the sentry puts there arrives."""
    with running_stub(world) as stub:
        world.machine.block.set32(Block.SPACES + 8, 0)
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


def wait_running(stub: Stub, context: Context, thread_id: int = 1) -> None:
    """Wait until a thread runs the context's guest code."""
    deadline = time.monotonic() + 10
    while context.words.u32(abi.THREAD_ID) != thread_id or stub.sysmsg(thread_id).u32(0x2C) != 0:
        assert time.monotonic() < deadline, "the context does not run"


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


def wait_parked(stub: Stub, thread_id: int = 1) -> None:
    deadline = time.monotonic() + 10
    while stub.sysmsg(thread_id).u32(0x2C) != 3:
        assert time.monotonic() < deadline, "the thread does not park"


# ---- several contexts, several threads ----


def test_many_contexts_on_one_thread_keep_their_floating_point_state(stub: Stub) -> None:
    """S-045: each context's xmm0 is its own, whoever ran in between."""
    code = guest.LOAD_XMM0_FROM_RBX + guest.SYSCALL
    code += guest.STORE_XMM0_TO_RDI + guest.SYSCALL
    load(stub, code)
    contexts = [stub.context(i) for i in range(5)]
    for i, context in enumerate(contexts):
        load(stub, bytes([i + 1]) * 16, at=DATA + 32 * i)
        context["rbx"], context["rdi"] = DATA + 32 * i, DATA + 512 + 32 * i
        assert stub.run(context) == SYSCALL
    for context in contexts:
        stub.submit(context)
    assert sorted(stub.next() for _ in contexts) == [0, 1, 2, 3, 4]
    for i in range(5):
        assert peek(stub, DATA + 512 + 32 * i, 16) == bytes([i + 1]) * 16


def test_floating_point_state_that_the_sentry_changed(stub: Stub) -> None:
    """S-046: fpstate_changed = 1 makes the registers come from the context, the upper half of ymm0 included."""
    load(stub, guest.SYSCALL, b"\xc5\xfe\x7f\x07", guest.SYSCALL)  # vmovdqu %ymm0, (%rdi)
    context = stub.context(0)
    context["rdi"] = DATA
    assert stub.run(context) == SYSCALL
    context.words.bytes[160:176] = b"low half of ymm0"
    struct.pack_into("<Q", context.words.bytes, 512, 7)
    context.words.bytes[576:592] = b"its upper half.."
    context.words.set32(abi.FPSTATE_CHANGED, 1)
    assert stub.run(context) == SYSCALL
    assert peek(stub, DATA, 32) == b"low half of ymm0its upper half.."
    magic1, size, features, length = struct.unpack_from("<IIQI", context.words.bytes, 464)
    # What came back is the kernel's frame; its mask may know more than ours.
    assert (magic1, features & 7) == (0x46505853, 7)


def test_the_software_area_that_the_stub_writes(stub: Stub) -> None:
    """S-046, seen while the context runs."""
    load(stub, guest.SPIN)
    context = stub.context(0)
    stub.submit(context)
    wait_running(stub, context)
    length = stub.world.fp_len
    time.sleep(0.01)
    assert struct.unpack_from("<IIQI", context.words.bytes, 464) == (0x46505853, length + 4, 0xE7, length)
    assert struct.unpack_from("<I", context.words.bytes, length) == (0x46505845,)


@pytest.mark.parametrize("fsgsbase", [True, False])
def test_each_context_has_its_own_fs_base(fsgsbase: bool) -> None:
    """S-048, with the instructions and with arch_prctl."""
    with new_world(fsgsbase=fsgsbase) as world, running_stub(world) as stub:
        stub.start_thread(1)
        load(stub, b"\x64\x48\x8b\x04\x25\x00\x00\x00\x00", guest.SYSCALL)  # mov %fs:0, %rax
        for i in range(3):
            context = stub.context(i)
            load(stub, struct.pack("<Q", 100 + i), at=DATA + 64 * i)
            context["fs_base"] = DATA + 64 * i
            assert stub.run(context) == SYSCALL
            assert context["orig_rax"] == 100 + i
            assert context["fs_base"] == DATA + 64 * i


def test_three_threads_share_the_work(stub: Stub) -> None:
    stub.start_thread(2)
    stub.start_thread(3)
    load(stub, guest.SYSCALL, guest.jump(START, START + 2))
    contexts = [stub.context(i) for i in range(8)]
    for context in contexts:
        stub.submit(context)
    for _ in range(2000):
        context = contexts[stub.next()]
        assert context.state == SYSCALL
        stub.submit(context)
    for _ in contexts:
        stub.next()
    assert stub.queue.u32(abi.QUEUE_ACTIVE_CONTEXTS) == 0
    assert stub.queue.u32(abi.QUEUE_START) == stub.queue.u32(abi.QUEUE_END)


# ---- the ways back ----


@pytest.mark.parametrize("ring", [True, False])
def test_a_sentry_that_sleeps_on_the_state(ring: bool) -> None:
    """sentry_fast_path 0: the stub wakes ctx.state, as upstream's does; the ready ring stays untouched."""
    with new_world(ring=ring) as world, running_stub(world) as stub:
        world.machine.block.set32(Block.NOTIFY, abi.NOTIFY_FUTEX)
        stub.start_thread(1)
        load(stub, guest.SYSCALL, guest.jump(START, START + 2))
        context = stub.context(0)
        for _ in range(200):
            stub.submit(context)
            deadline = time.monotonic() + 10
            while context.state == 0:
                assert time.monotonic() < deadline
                futex.wait(context.words.address + abi.STATE, 0, 5.0)
            assert context.state == SYSCALL
        assert stub.ring.u32(abi.RING_TAIL) == 0


def test_a_sentry_that_polls_is_not_woken(stub: Stub) -> None:
    """S-062, as far as it can be seen from here: no ring entry either."""
    stub.world.machine.block.set32(Block.NOTIFY, abi.NOTIFY_NONE)
    load(stub, guest.SYSCALL)
    context = stub.context(0)
    stub.submit(context)
    deadline = time.monotonic() + 10
    while context.state == 0:
        assert time.monotonic() < deadline
    assert context.state == SYSCALL
    assert stub.ring.u32(abi.RING_TAIL) == 0


def test_the_ready_ring_goes_round(stub: Stub) -> None:
    """More returns than slots; and the queue's index wraps too (S-022)."""
    load(stub, guest.SYSCALL, guest.jump(START, START + 2))
    context = stub.context(4094)
    for _ in range(4 * abi.QUEUE_ENTRIES + 10):
        assert stub.run(context) == SYSCALL
    assert stub.queue.u32(abi.QUEUE_END) < abi.QUEUE_ENTRIES


# ---- stub threads that spin ----


def test_stub_threads_spin_when_they_may_and_stop_again(stub: Stub) -> None:
    """S-067, S-068, S-070."""
    block = stub.world.machine.block
    block.set32(Block.STUB_SPIN_OFF, 0)
    stub.queue.set32(abi.QUEUE_AWAKE_CONTEXTS, 1)
    load(stub, guest.SYSCALL, guest.jump(START, START + 2))
    context = stub.context(0)
    for _ in range(3000):
        assert stub.run(context) == SYSCALL
    assert stub.queue.u32(abi.QUEUE_USED_FAST_PATH) == 1
    deadline = time.monotonic() + 10
    while stub.sysmsg(1).u32(0x2C) != 3:
        assert time.monotonic() < deadline, "an idle thread spins for ever"
    assert stub.queue.u32(abi.QUEUE_ACTIVE_THREADS) == 0
    with open(f"/proc/{stub.pid}/mem", "rb", buffering=0) as memory:
        memory.seek(stub.world.place.spinning_queue)
        length, start, end = struct.unpack("<III", memory.read(12))
    assert length == 0
    assert start == end


def test_surplus_threads_leave(stub: Stub) -> None:
    """S-069: more active threads than contexts awake."""
    stub.world.machine.block.set32(Block.STUB_SPIN_OFF, 0)
    stub.start_thread(2)
    load(stub, guest.SYSCALL, guest.jump(START, START + 2))
    contexts = [stub.context(0), stub.context(1)]
    stub.queue.set32(abi.QUEUE_AWAKE_CONTEXTS, 2)
    for _ in range(200):
        for context in contexts:
            stub.submit(context)
        assert sorted((stub.next(), stub.next())) == [0, 1]
    stub.queue.set32(abi.QUEUE_AWAKE_CONTEXTS, 0)
    stub.run(contexts[0])
    deadline = time.monotonic() + 10
    while stub.queue.u32(abi.QUEUE_ACTIVE_THREADS) != 0:
        assert time.monotonic() < deadline


# ---- patched sites ----


def test_a_patched_site(stub: Stub) -> None:
    """S-092: all registers survive but rax; rcx and r11 too; the number is in orig_rax; the state is SYSCALL_TRAP."""
    patch(stub, TABLE + 80, SITE, 39)
    load(stub, guest.SYSCALL, at=SITE + 7)
    context = stub.context(0)
    values = {name: 0x1111111111111111 * (i + 1) for i, name in enumerate(context.NAMES[:15])}
    for name, value in values.items():
        context[name] = value
    context["rip"], context["eflags"] = SITE, 0x202 | 0x8D5
    top = context["rsp"]
    load(stub, bytes(range(128)), at=top - 128)
    assert stub.run(context) == TRAP
    expected = {**values, "rax": ENOSYS, "orig_rax": 39, "rip": SITE + 7, "eflags": 0x202 | 0x8D5, "rsp": top}
    for name, value in expected.items():
        assert context[name] == value, name
    assert (context["cs"], context["ss"]) == (0x33, 0x2B)
    context["rax"] = 4321
    assert stub.run(context) == SYSCALL
    for name, value in expected.items():
        if name not in ("rax", "orig_rax", "rip", "rcx", "r11"):
            assert context[name] == value, name
    # The first thing behind the site is a system call by signal: its number is the result, rcx and r11 the kernel's.
    assert context["orig_rax"] == 4321
    assert peek(stub, top - 128, 128) == bytes(range(128))


def test_rcx_and_r11_survive_a_patched_site(stub: Stub) -> None:
    patch(stub, TABLE + 80, SITE, 39)
    load(stub, guest.UD2, at=SITE + 7)
    context = stub.context(0)
    context["rip"], context["rcx"], context["r11"] = SITE, 111, 222
    assert stub.run(context) == TRAP
    assert stub.run(context) == FAULT
    assert (context["rcx"], context["r11"]) == (111, 222)


@pytest.mark.parametrize("flag", [guest.STD, guest.SET_AC])
def test_direction_and_alignment_flags_of_the_guest(stub: Stub, flag: bytes) -> None:
    """S-093, on both ways into the stub."""
    patch(stub, TABLE + 80, SITE, 39)
    load(stub, guest.UD2, at=SITE + 7)
    load(stub, flag, guest.SYSCALL, guest.jump(SITE, START + len(flag) + 2))
    context = stub.context(0)
    bit = 0x400 if flag == guest.STD else 0x40000
    assert stub.run(context) == SYSCALL
    assert context["eflags"] & bit
    assert stub.run(context) == TRAP
    assert context["eflags"] & bit
    assert stub.run(context) == FAULT
    assert context["eflags"] & bit


def test_patched_sites_switch_between_contexts_and_threads(stub: Stub) -> None:
    """S-045 on the fast path, with threads that spin: every context finds its own xmm0 and fs base behind each call."""
    stub.start_thread(2)
    stub.world.machine.block.set32(Block.STUB_SPIN_OFF, 0)
    patch(stub, TABLE + 80, SITE, 39)
    # loop: site; movdqu %xmm0, (%rdi); paddq %xmm1, %xmm0; mov %fs:0, %rdx; jmp loop
    body = guest.STORE_XMM0_TO_RDI + b"\x66\x0f\xd4\xc1" + b"\x64\x48\x8b\x14\x25\x00\x00\x00\x00"
    load(stub, body, guest.jump(SITE, SITE + 7 + len(body)), at=SITE + 7)
    load(stub, b"\x66\x0f\x6f\x03", b"\x66\x0f\x6f\x4b\x10", guest.jump(SITE, START + 9))
    contexts = [stub.context(i) for i in range(4)]
    for i, context in enumerate(contexts):
        data = DATA + 64 * i
        load(stub, struct.pack("<QQQQ", i << 32, 0, 1, 0), at=data)
        load(stub, struct.pack("<Q", 1000 + i), at=DATA + 1024 + 64 * i)
        context["rbx"], context["rdi"], context["fs_base"] = data, data + 32, DATA + 1024 + 64 * i
    stub.queue.set32(abi.QUEUE_AWAKE_CONTEXTS, 4)
    rounds = dict.fromkeys(range(4), 0)
    for context in contexts:
        stub.submit(context)
    for _ in range(3000):
        context = contexts[stub.next()]
        i = context.id
        assert context.state == TRAP
        done = rounds[i]
        if done:
            (low,) = struct.unpack_from("<Q", stub.code.bytes, PAGE + 64 * i + 32)
            assert low == (i << 32) + done - 1
            assert context["rdx"] == 1000 + i
        rounds[i] += 1
        stub.submit(context)
    for _ in contexts:
        stub.next()


@pytest.fixture
def storm(stub: Stub) -> Iterator[None]:
    """Kick the first thread all the time, from a process of its own."""
    tid, parent = stub.tids[1], os.getpid()
    kick = ctypes.CDLL(None).syscall
    child = os.fork()
    if child == 0:
        dice = random.Random(SEED)
        while os.getppid() == parent:
            kick(NR["tgkill"], tid, tid, signal.SIGCHLD)
            time.sleep(dice.random() / 20000)
        os._exit(0)
    yield
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


SEED = int(os.environ.get("SYSTRAP_TEST_SEED", "0")) or random.randrange(1 << 32)


@pytest.mark.parametrize("spin_off", [0, 1])
@pytest.mark.usefixtures("storm")
def test_interrupts_at_any_moment_of_the_fast_path(stub: Stub, spin_off: int) -> None:
    """S-040, S-041, S-042: a loop of patched calls under a storm of SIGCHLD loses neither calls nor registers."""
    print(f"SYSTRAP_TEST_SEED={SEED}")
    stub.world.machine.block.set32(Block.STUB_SPIN_OFF, spin_off)
    stub.queue.set32(abi.QUEUE_AWAKE_CONTEXTS, 2)
    patch(stub, TABLE + 80, SITE, 39)
    # loop: site; inc %rbx; paddq %xmm1, %xmm0; mov $100, %ecx; dec %ecx; jnz; jmp loop
    body = b"\x48\xff\xc3" + b"\x66\x0f\xd4\xc1" + b"\xb9\x64\x00\x00\x00\xff\xc9\x75\xfc"
    load(stub, body, guest.jump(SITE, SITE + 7 + len(body)), at=SITE + 7)
    load(stub, b"\x66\x0f\x6f\x07", b"\x66\x0f\x6f\x4f\x10", guest.jump(SITE, START + 9))
    contexts = [stub.context(i) for i in range(2)]
    for i, context in enumerate(contexts):
        load(stub, struct.pack("<QQQQ", i << 40, 0, 1, 0), at=DATA + 64 * i)
        context["rdi"] = DATA + 64 * i
        stub.submit(context)
    calls, interrupts, not_captured = [0, 0], 0, 0
    end = time.monotonic() + 10
    while interrupts < 20 and time.monotonic() < end:
        context = contexts[stub.next()]
        if context.state == TRAP:
            # rbx and xmm0 were counted up once for each call that is complete.
            assert context["rbx"] == calls[context.id]
            calls[context.id] += 1
            context["rax"] = 0
            (xmm0,) = struct.unpack_from("<Q", context.words.bytes, 160)
            assert xmm0 == (context.id << 40) + context["rbx"]
        else:
            assert (context.state, context.siginfo()[0]) == (FAULT, signal.SIGCHLD)
            interrupts += 1
            not_captured += context.words.u32(abi.FPSTATE_CHANGED)
        stub.submit(context)
    for _ in contexts:
        stub.next()
    print(f"{interrupts} interrupts, {not_captured} of them on the way out of syshandler, {calls} calls")
    assert interrupts > 0
    assert min(calls) > 0


def test_an_interrupt_on_the_way_out_of_syshandler(stub: Stub) -> None:
    """S-041, S-042: what such a signal interrupts is no guest state.

    Nothing is captured, and the floating point registers, whosoever they are, are loaded anew. Code above stub_start stands
    for syshandler's last instructions.
    """
    page = layout.round_up(stub.world.place.end, PAGE) + 16 * PAGE
    load(stub, b"\xf3\x0f\x6f\x03", b"\x31\xc0", guest.SPIN, at=GUEST + 3 * PAGE)
    reply = stub.channel.run(stub.world.map_shared(page, PAGE, stub.world.guest + 3 * PAGE, 5))
    assert reply.ret == page
    load(stub, b"\xff" * 16, at=DATA)
    context = stub.context(0)
    context["rip"], context["rbx"], context["rax"] = page, DATA, 5
    context.words.bytes[160:176] = b"this one's xmm0."
    struct.pack_into("<Q", context.words.bytes, 512, 2)
    stub.submit(context)
    wait_running(stub, context)
    time.sleep(0.02)
    stub.interrupt(1)
    assert stub.next() == 0
    assert (context.state, context.siginfo()[0]) == (FAULT, signal.SIGCHLD)
    assert (context["rip"], context["rax"]) == (page, 5)
    assert context.words.u32(abi.FPSTATE_CHANGED) == 1
    assert bytes(context.words.bytes[160:176]) == b"this one's xmm0."
    load(stub, b"\xf3\x0f\x7f\x07", guest.UD2)  # movdqu %xmm0, (%rdi)
    context["rip"], context["rdi"] = START, DATA
    assert stub.run(context) == FAULT
    assert peek(stub, DATA, 16) == b"this one's xmm0."


def test_a_site_that_is_patched_between_trap_and_handler(stub: Stub) -> None:
    """S-044: the handler finds 06 where the instruction began, and lets the site run again, patched.

    A tracer holds the thread where the signal is about to be delivered.
    """
    tid = stub.tids[1]
    load(stub, guest.mov_eax(39), guest.SYSCALL, guest.UD2, at=SITE)
    context = stub.context(0)
    context["rip"] = SITE
    wait_parked(stub)
    if ptrace(PTRACE_SEIZE, tid, 0) != 0:
        pytest.skip("ptrace is not allowed here")
    stub.submit(context)
    assert os.WSTOPSIG(os.waitpid(tid, WALL)[1]) == signal.SIGSYS
    patch(stub, TABLE + 80, SITE, 39)
    ptrace(PTRACE_CONT, tid, signal.SIGSYS)
    assert stub.next() == 0
    assert (context.state, context["rip"], context["orig_rax"]) == (TRAP, SITE + 7, 39)
    os.kill(tid, signal.SIGKILL)
    os.waitpid(tid, WALL)


PTRACE_CONT, PTRACE_SEIZE = 7, 0x4206
WALL = 0x40000000


def ptrace(request: int, tid: int, data: int) -> int:
    return syscall(NR["ptrace"], request, tid, 0, data)


# ---- failure ----


@pytest.mark.parametrize("by", ["signal", "patched site"])
def test_a_thread_that_finds_its_sysmsg_forged_reports_and_dies(stub: Stub, by: str) -> None:
    """S-054, S-140, S-149: the sentry hears of it at once, and finds what and where."""
    patch(stub, TABLE + 80, SITE, 39)
    load(stub, guest.SYSCALL)
    context = stub.context(0)
    wait_parked(stub)
    if by == "signal":
        stub.sysmsg(1).set64(0, 0x1000)
        expected = "BAD_SYSMSG"
        # The thread sleeps in the handler of its first signal; the check is made in the next.
    else:
        # Straight into syshandler, without the trampoline that says PREP.
        load(stub, b"\x65\x48\x8b\x24\x25\x18\x00\x00\x00", b"\x65\xff\x24\x25\x10\x00\x00\x00")
        expected = "BAD_THREAD_STATE"
    begin = time.monotonic()
    assert stub.submit(context) >= 0
    assert stub.next() == 0
    assert time.monotonic() - begin < 5
    assert context.state == FAULT
    assert context.words.u32(abi.THREAD_ID) == 1, "this is how an error is told from an event"
    report = stub.reports()[0]
    assert report is not None
    assert report.startswith(expected)
    assert stub.wait_death() == -signal.SIGKILL


def test_the_panic_wakes_a_sentry_that_sleeps_on_the_state(stub: Stub) -> None:
    """S-149: with the argument values that F1 allows (10-stub §8.3 item 8); else the thread would die unheard."""
    stub.world.machine.block.set32(Block.NOTIFY, abi.NOTIFY_FUTEX)
    # mov $200000000, %ecx; dec %ecx; jnz; syscall: time enough to fall asleep
    load(stub, b"\xb9\x00\xc2\xeb\x0b\xff\xc9\x75\xfc", guest.SYSCALL)
    context = stub.context(0)
    wait_parked(stub)
    stub.sysmsg(1).set64(0, 0x1000)
    begin = time.monotonic()
    stub.submit(context)
    assert futex.wait(context.words.address + abi.STATE, 0, 30.0)
    assert time.monotonic() - begin < 20
    assert context.state == FAULT


def test_an_impossible_context_id(stub: Stub) -> None:
    """S-074."""
    stub.world.machine.block.set64(Block.CONTEXT, stub.context(0).words.address)
    stub.world.machine.block.set32(Block.CONTEXT_ID, 4096)
    stub.world.machine.submit()
    assert stub.wait_death() == -signal.SIGKILL
    report = stub.reports()[0]
    assert report is not None
    assert report.startswith("BAD_CONTEXT_ID")
    assert "additional 0x1000" in report


def test_a_guest_that_jumps_at_stub_code_gets_nothing(stub: Stub) -> None:
    """S-108: the bootstrap's own instructions, entered by a guest: the filter F1 makes a signal of them."""
    context = stub.context(0)
    context["rip"] = stub.world.begin
    assert stub.run(context) == SYSCALL
    assert context["orig_rax"] == NR["prctl"]
    assert context.siginfo()[:2] == (signal.SIGSYS, 1)
    assert context["rip"] > stub.world.place.stub_start


def test_no_descriptor_or_memory_call_from_the_image(stub: Stub) -> None:
    """The image's own system call instruction, with other registers: still F1."""
    context = stub.context(0)
    restorer = struct.unpack_from("<Q", stub.world.handler, 16)[0]
    context["rip"], context["rax"] = restorer + 5, NR["getpid"]
    assert stub.run(context) == SYSCALL
    assert context["orig_rax"] == NR["getpid"]


def test_nothing_of_this_process_is_left_behind() -> None:
    """Each test reaps what it made."""
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
