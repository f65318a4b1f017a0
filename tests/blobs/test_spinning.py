"""Who may spin, what is measured, and contexts that no stub thread takes: the sentry image's part of the fast path."""

import errno
import os
import time

import pytest

from systrap.platforms.systrap import abi
from tests.blobs.machine import Block, Machine, Queue, Ring

LONG = 1 << 40
"""Ticks to spin: far longer than any test waits."""


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def queue(machine: Machine) -> Queue:
    """Make a space with a queue for context 0, one thread that is active, and a ready ring."""
    queue = Queue()
    block = machine.block
    block.set64(Block.QUEUE, queue.words.address)
    block.set64(Block.CONTEXT, queue.context.address)
    block.set32(Block.MAX_THREADS, 4)
    block.set32(Block.THREADS, 1)
    block.set32(Block.NOTIFY, abi.NOTIFY_RING)
    queue.words.set32(abi.QUEUE_ACTIVE_THREADS, 1)
    block.set32(Block.NR_SPACES, 1)
    # A space like any other, with an (empty) ring, for tests that do not want one.
    machine.unused = Ring()
    machine.set_space(0, machine.unused.words.address, queue.words.address, queue.context.address)
    return queue


@pytest.fixture
def ring(machine: Machine, queue: Queue) -> Ring:
    ring = Ring()
    machine.set_space(0, ring.words.address, queue.words.address, queue.context.address)
    machine.block.set32(Block.SPACES + Block.HEAD + 4, 1)
    return ring


def deadline(machine: Machine, seconds: float) -> None:
    at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(seconds * 1e9)
    machine.block.set64(Block.DEADLINE_SEC, at // 10**9)
    machine.block.set64(Block.DEADLINE_NSEC, at % 10**9)


def take(queue: Queue) -> None:
    """Do as a stub thread that takes everything there is."""
    queue.words.set32(abi.QUEUE_START, queue.words.u32(abi.QUEUE_END))


def test_contexts_out_there_are_counted(machine: Machine, queue: Queue, ring: Ring) -> None:
    for count in (1, 2):
        assert machine.submit() == 0
        assert machine.block.u32(Block.OUTSTANDING) == count
    take(queue)
    ring.put(0)
    assert machine.next_ready() == 1
    assert machine.block.u32(Block.OUTSTANDING) == 1


def test_a_context_that_is_waited_for_on_its_own_word_does_not_count(machine: Machine, queue: Queue) -> None:
    machine.block.set32(Block.NOTIFY, abi.NOTIFY_FUTEX)
    assert machine.submit() == 0
    assert machine.block.u32(Block.OUTSTANDING) == 0


def test_forged_entries_do_not_count_below_zero(machine: Machine, queue: Queue, ring: Ring) -> None:
    """S-141."""
    ring.put(0)
    assert machine.next_ready() == 1
    assert machine.block.u32(Block.OUTSTANDING) == 0


@pytest.mark.parametrize(
    ("outstanding", "active", "limit", "spins"),
    [(0, 1, 4, 0), (1, 1, 0, 0), (3, 3, 2, 0), (1, 1, 1, 1), (2, 2, 4, 1), (8, 1, 1, 1), (1, 0xFFFFFFFF, 4, 0)],
)
def test_the_sentry_spins_only_where_it_leaves_a_cpu(
    machine: Machine, queue: Queue, ring: Ring, outstanding: int, active: int, limit: int, spins: int
) -> None:
    """S-072, P-084: not without a context to wait for, not with more stub threads awake than leave a CPU free."""
    machine.block.set64(Block.SPIN, 1000)
    machine.block.set32(Block.OUTSTANDING, outstanding)
    machine.block.set32(Block.SPIN_LIMIT, limit)
    queue.words.set32(abi.QUEUE_ACTIVE_THREADS, active)
    deadline(machine, 0.02)
    assert machine.next_ready() == -errno.ETIMEDOUT
    assert machine.block.u32(Block.USED_SPIN) == spins


@pytest.mark.parametrize(("active", "limit", "off"), [(1, 0, 1), (1, 1, 0), (2, 1, 1), (1, 2, 0)])
def test_stub_threads_spin_only_where_it_leaves_a_cpu(
    machine: Machine, queue: Queue, active: int, limit: int, off: int
) -> None:
    """S-072: the word that stub threads look at, as submit() leaves it."""
    queue.words.set32(abi.QUEUE_ACTIVE_THREADS, active)
    machine.block.set32(Block.SPIN_LIMIT, limit)
    assert machine.submit() == 0
    assert queue.words.u32(abi.QUEUE_FAST_PATH_DISABLED) == off


def test_a_thread_that_takes_one_context_after_the_other_is_left_alone(
    machine: Machine, queue: Queue, ring: Ring
) -> None:
    """Where no CPU is free for another thread: contexts lie in the queue all the time, but never the same one."""
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, 4)
    results = []
    for round_ in range(64):
        assert machine.submit() == 0
        queue.words.set32(abi.QUEUE_START, (abi.QUEUE_FIRST_INDEX + round_) & 0xFFFFFFFF)
        ring.put(0)
        results.append(machine.next_ready())
    assert set(results) == {1}
    assert queue.words.u32(abi.QUEUE_THREADS_TO_WAKEUP) == 0


def test_a_context_that_a_crowd_leaves_lying_gets_a_thread(machine: Machine, queue: Queue, ring: Ring) -> None:
    """The same, but the thread is busy with guest code: it gets half the time in which the sentry spins, no more."""
    machine.block.set64(Block.SPIN, 1_000_000)
    machine.block.set64(Block.HANDSHAKE, 1)
    machine.block.set32(Block.SPIN_LIMIT, 1)
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, 1)
    assert machine.submit() == 0
    assert machine.submit() == 0
    assert machine.next_ready() == 4
    assert queue.words.u32(abi.QUEUE_THREADS_TO_WAKEUP) == 1


def test_a_context_that_nobody_takes_gets_a_thread(machine: Machine, queue: Queue, ring: Ring) -> None:
    """20-platform §6.3, §6.5: the one active thread is busy; after the handshake a token is left and a thread asked for."""
    machine.block.set64(Block.SPIN, LONG)
    machine.block.set64(Block.HANDSHAKE, 1000)
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, 1)
    assert machine.submit() == 0
    assert queue.words.u32(abi.QUEUE_THREADS_TO_WAKEUP) == 0, "an active thread may spin: it is trusted at first"
    assert machine.next_ready() == 4
    assert machine.block.u32(Block.THREAD_SPACE) == 0
    assert queue.words.u32(abi.QUEUE_THREADS_TO_WAKEUP) == 1
    assert machine.block.u32(Block.KICKS) == 1


def test_before_it_sleeps_the_sentry_looks_for_contexts_that_nobody_takes(
    machine: Machine, queue: Queue, ring: Ring
) -> None:
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, 1)
    assert machine.submit() == 0
    deadline(machine, 5)
    assert machine.next_ready() == 4


def test_a_busy_sentry_looks_as_well(machine: Machine, queue: Queue, ring: Ring) -> None:
    """Contexts of one thread come back all the time; another one lies in the queue."""
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, 1)
    assert machine.submit() == 0
    results = []
    for _ in range(64):
        ring.put(0)
        results.append(machine.next_ready())
    assert 5 in results
    assert set(results) <= {1, 5}


def test_no_thread_is_asked_for_beyond_the_limit(machine: Machine, queue: Queue, ring: Ring) -> None:
    """S-066, P-080: whatever the words in shared memory say."""
    machine.block.set32(Block.MAX_THREADS, 1)
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, 1 << 30)
    queue.words.set32(abi.QUEUE_END, 12345)
    deadline(machine, 0.05)
    assert machine.next_ready() == -errno.ETIMEDOUT


# ---- measuring ----


def histogram(machine: Machine, offset: int) -> dict[int, int]:
    counts = [machine.block.u32(offset + 4 * i) for i in range(80)]
    return {bucket: count for bucket, count in enumerate(counts) if count}


def now(machine: Machine) -> int:
    """Read the counter as the image does."""
    import ctypes

    return machine.function("counter", ctypes.c_uint64)()


def test_latencies_are_measured(machine: Machine, queue: Queue, ring: Ring) -> None:
    """§7.1: from the submit until a thread takes the context, from its return until the sentry has it."""
    machine.block.set64(Block.PERIOD, LONG)
    assert machine.submit() == 0
    take(queue)
    queue.context.set64(abi.ACKED_TIME, now(machine) + 3 * 2048)
    queue.context.set64(abi.STATE_CHANGED_TIME, now(machine) - 30 * 2048)
    ring.put(0)
    assert machine.next_ready() in (1, 3)
    (stub,), (sentry,) = histogram(machine, Block.STUB_LATENCY), histogram(machine, Block.SENTRY_LATENCY)
    assert stub >= 3
    assert sentry >= 30


@pytest.mark.parametrize("wrong", [0, 1 << 63, (1 << 64) - 1])
def test_times_that_make_no_sense_are_dropped_or_clamped(
    machine: Machine, queue: Queue, ring: Ring, wrong: int
) -> None:
    """S-141: guests can write these words; 0 and what lies in the future does not count."""
    machine.block.set64(Block.PERIOD, LONG)
    assert machine.submit() == 0
    take(queue)
    queue.context.set64(abi.ACKED_TIME, 1)
    queue.context.set64(abi.STATE_CHANGED_TIME, wrong)
    ring.put(0)
    machine.next_ready()
    assert histogram(machine, Block.STUB_LATENCY) == {}
    assert set(histogram(machine, Block.SENTRY_LATENCY)) <= {79}


def test_an_impossible_id_is_not_looked_up(machine: Machine, queue: Queue, ring: Ring) -> None:
    """S-141: it is handed up as it is, for the caller to refuse."""
    machine.block.set64(Block.PERIOD, LONG)
    ring.put(0xFFFFFFFF)
    assert machine.next_ready() in (1, 3)
    assert machine.ready() == (0, 0xFFFFFFFF)
    assert histogram(machine, Block.SENTRY_LATENCY) == {}


def test_the_end_of_a_period_is_told_once(machine: Machine, queue: Queue, ring: Ring) -> None:
    machine.block.set64(Block.PERIOD, 50_000_000)
    ring.put(0)
    assert machine.next_ready() == 3, "the first period began long ago"
    ring.put(0)
    assert machine.next_ready() == 1
    time.sleep(0.05)
    ring.put(0)
    assert machine.next_ready() == 3


# ---- two on one CPU ----


def cpu_here(machine: Machine, queue: Queue) -> int:
    """Let submit say on which CPU this is, counted from 1."""
    assert machine.submit() == 0
    return queue.words.u32(abi.QUEUE_SENTRY_CPU)


def test_submit_says_where_the_sentry_is(machine: Machine, queue: Queue) -> None:
    before = os.sched_getaffinity(0)
    try:
        for cpu in sorted(before)[:4]:
            os.sched_setaffinity(0, {cpu})
            assert cpu_here(machine, queue) == cpu + 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(("there", "acked", "spins"), [(0, 1, 0), (1, 1, 1), (0, 0, 1)])
def test_the_sentry_does_not_spin_on_the_cpu_of_its_guest(
    machine: Machine, queue: Queue, ring: Ring, there: int, acked: int, spins: int
) -> None:
    """S-072: one context is out there, taken by a thread on this CPU or on another, or not taken yet."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        here = cpu_here(machine, queue)
        take(queue)
        queue.context.set64(abi.DEBUG, here + there)
        queue.context.set64(abi.ACKED_TIME, acked)
        machine.block.set64(Block.SPIN, 1000)
        deadline(machine, 0.02)
        assert machine.next_ready() == -errno.ETIMEDOUT
        assert machine.block.u32(Block.USED_SPIN) == spins
    finally:
        os.sched_setaffinity(0, before)
