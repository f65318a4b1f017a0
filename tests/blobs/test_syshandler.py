"""System calls of patched sites, and interrupts on that path (10-stub §5, §6)."""

import ctypes
import os
import random
import signal
import struct
import time
from collections.abc import Iterator

import pytest

from systrap.host.sys import NR, syscall
from systrap.platforms.systrap import abi, layout
from tests.blobs import guest
from tests.blobs.machine import Block
from tests.blobs.play import (
    DATA,
    ENOSYS,
    FAULT,
    SITE,
    SYSCALL,
    TRAP,
    load,
    patch,
    peek,
    wait_parked,
    wait_running,
)
from tests.blobs.stub import Stub
from tests.blobs.world import GUEST, PAGE, START, TABLE


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
