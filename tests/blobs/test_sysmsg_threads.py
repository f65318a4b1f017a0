"""Several contexts and threads on the sysmsg image: FP state, the ways back, spinning (10-stub §3.5, §4)."""

import struct
import time

import pytest

from systrap.host import futex
from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.machine import Block
from tests.blobs.play import (
    DATA,
    SYSCALL,
    load,
    peek,
    wait_running,
)
from tests.blobs.stub import Stub, new_world, running_stub
from tests.blobs.world import START

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
