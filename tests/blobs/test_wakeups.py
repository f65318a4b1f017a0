"""No wake-up is lost between stubs and a sentry that sleeps. The seed is printed; SYSTRAP_TEST_SEED repeats it."""

import ctypes
import os
import random
import signal
import time

import pytest

from systrap.host import futex
from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.machine import Block, Machine, Ring
from tests.blobs.stub import new_world, running_stub
from tests.blobs.world import START

SEED = int(os.environ.get("SYSTRAP_TEST_SEED", "0")) or random.randrange(1 << 32)
DURATION = float(os.environ.get("SYSTRAP_TEST_SECONDS", "1"))
LOST = 3.0
"""Seconds after which a wake-up counts as lost. A lost one would come never."""

READ = 0xC0
"""A word of the ring that nobody uses: how far the sentry has read."""

u32, u64 = ctypes.c_uint32, ctypes.c_uint64


def set_deadline(machine: Machine, seconds: float) -> None:
    at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(seconds * 1e9)
    machine.block.set64(Block.DEADLINE_SEC, at // 10**9)
    machine.block.set64(Block.DEADLINE_NSEC, at % 10**9)


def dawdle(dice: random.Random) -> None:
    """Mostly go on at once, sometimes let the other side fall asleep, sometimes meet it while it does."""
    kind = dice.randrange(8)
    if kind == 0:
        time.sleep(dice.random() / 2000)
    elif kind < 4:
        for _ in range(dice.randrange(300)):
            pass


def produce(machine: Machine, ring: Ring, window: int, seed: int) -> None:
    """Be a stub, in a process of its own: the protocol of the ready ring, with real atomic operations.

    At most ``window`` contexts are under way. With one, nothing that comes later hides that a wake-up was lost.
    """
    add = machine.function("atomic_add32", u32, u64, u32)
    store = machine.function("store_release64", None, u64, u64)
    fence = machine.function("fence", None)
    base = ring.words.address
    dice = random.Random(seed)
    context_id = 0
    while True:
        if (ring.words.u32(abi.RING_TAIL) - ring.words.u32(READ)) & 0xFFFFFFFF >= window:
            continue
        if window == 1:
            # The sentry goes to sleep about now.
            for _ in range(dice.randrange(60)):
                pass
        index = add(base + abi.RING_TAIL, 1)
        store(base + abi.RING_SLOTS + 8 * (index % 4096), ((index + 1) & 0xFFFFFFFF) << 32 | context_id)
        fence()
        if ring.words.u32(abi.RING_WAITING):
            add(base + abi.RING_BELL, 1)
            futex.wake(base + abi.RING_BELL)
        context_id = (context_id + 1) % 4095
        if window > 1:
            dawdle(dice)


@pytest.mark.parametrize(("spin", "window", "producers"), [(0, 1, 1), (0, 64, 2), (20_000, 64, 2)])
def test_producers_in_processes(spin: int, window: int, producers: int) -> None:
    print(f"SYSTRAP_TEST_SEED={SEED}")
    machine = Machine()
    rings = [Ring(first=0xFFFFFF00), Ring()][:producers]
    machine.set_spaces(rings)
    machine.block.set64(Block.SPIN, spin)
    machine.block.set32(Block.OUTSTANDING, 1 << 29)
    children = []
    for number, ring in enumerate(rings):
        ring.words.set32(READ, ring.head)
        child = os.fork()
        if child == 0:
            try:
                produce(machine, ring, window, SEED + number)
            finally:
                os._exit(1)
        children.append(child)
    try:
        expected = [0] * producers
        dice = random.Random(SEED + 9)
        end = time.monotonic() + DURATION
        while time.monotonic() < end:
            begin = time.monotonic()
            set_deadline(machine, LOST)
            result = machine.next_ready()
            if result == -4:
                continue
            assert result == 1, f"{result} after {sum(expected)} contexts"
            assert time.monotonic() < begin + LOST, f"a wake-up was lost after {sum(expected)} contexts"
            space, context_id = machine.ready()
            assert context_id == expected[space] % 4095
            expected[space] += 1
            rings[space].words.set32(READ, machine.head(space))
            if window > 1:
                dawdle(dice)
        print(expected)
        assert min(expected) > 100
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.mark.parametrize(("threads", "spin", "stub_spin_off"), [(1, 0, 1), (3, 0, 1), (3, 20_000, 0), (2, 0, 0)])
def test_a_real_stub(threads: int, spin: int, stub_spin_off: int) -> None:
    """S-065: contexts that come and go at random, threads that park, spin and leave: each context comes back."""
    print(f"SYSTRAP_TEST_SEED={SEED}")
    with new_world() as world, running_stub(world) as stub:
        block = world.machine.block
        block.set64(Block.SPIN, spin)
        block.set32(Block.STUB_SPIN_OFF, stub_spin_off)
        for stack_id in range(1, threads + 1):
            stub.start_thread(stack_id)
        # A guest that computes for as many rounds as rcx says, then makes a system call.
        code = b"\x48\xff\xc9\x75\xfb" + guest.SYSCALL
        stub.code.bytes[64 : 64 + len(code)] = code
        dice = random.Random(SEED)
        contexts = [stub.context(i) for i in range(6)]
        under_way: set[int] = set()
        total = 0
        end = time.monotonic() + DURATION
        while time.monotonic() < end:
            idle = [context for context in contexts if context.id not in under_way]
            for context in dice.sample(idle, dice.randrange(0 if under_way else 1, len(idle) + 1)):
                context["rip"], context["rcx"] = START, 1 + dice.choice((0, 10, 1000, 30000))
                stub.queue.set32(abi.QUEUE_AWAKE_CONTEXTS, len(under_way) + 1)
                assert stub.submit(context) >= 0
                under_way.add(context.id)
            context_id = stub.next(LOST)
            assert contexts[context_id].state == 1
            under_way.remove(context_id)
            total += 1
            dawdle(dice)
        while under_way:
            under_way.remove(stub.next(LOST))
        print(f"{total} round trips")
        assert total > 100


@pytest.mark.parametrize(("stub_spin_off", "longest"), [(1, 60_000), (0, 6000), (0, 20_000)])
def test_one_context_that_comes_back_while_the_sentry_falls_asleep(stub_spin_off: int, longest: int) -> None:
    """S-063: nothing else happens that would wake the sentry later.

    With stub threads that spin the context comes back within microseconds, just when the sentry looks, announces and sleeps.
    """
    print(f"SYSTRAP_TEST_SEED={SEED}")
    with new_world() as world, running_stub(world) as stub:
        block = world.machine.block
        block.set64(Block.SPIN, 0)
        block.set32(Block.STUB_SPIN_OFF, stub_spin_off)
        stub.queue.set32(abi.QUEUE_AWAKE_CONTEXTS, 1)
        stub.start_thread(1)
        code = b"\x48\xff\xc9\x75\xfb" + guest.SYSCALL
        stub.code.bytes[64 : 64 + len(code)] = code
        dice = random.Random(SEED)
        context = stub.context(0)
        total = 0
        end = time.monotonic() + DURATION
        while time.monotonic() < end:
            context["rip"], context["rcx"] = START, 1 + dice.randrange(longest)
            assert stub.run(context, LOST) == 1
            total += 1
        print(f"{total} round trips")
