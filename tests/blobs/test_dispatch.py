"""submit and next_ready, with the stub's side played by Python (docs/images.md, "The sentry image")."""

import ctypes
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from systrap.host import futex
from systrap.host.sys import NR, syscall
from systrap.platforms.systrap import abi
from tests.blobs.machine import NO_DEADLINE, Block, Machine, Queue, Ring


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def queue(machine: Machine) -> Queue:
    """Make a queue for context 7 in a space that has one of at most four threads; stub threads do not spin."""
    queue = Queue()
    block = machine.block
    block.set64(Block.QUEUE, queue.words.address)
    block.set64(Block.CONTEXT, queue.context.address)
    block.set32(Block.CONTEXT_ID, 7)
    block.set32(Block.MAX_THREADS, 4)
    block.set32(Block.THREADS, 1)
    block.set32(Block.NOTIFY, abi.NOTIFY_RING)
    block.set32(Block.STUB_SPIN_OFF, 1)
    return queue


# ---- submit ----


def test_submit_hands_the_context_over(machine: Machine, queue: Queue) -> None:
    queue.context.set32(abi.STATE, 1)
    queue.context.set64(abi.ACKED_TIME, 5)
    queue.context.set64(abi.STATE_CHANGED_TIME, 6)
    assert machine.submit() == 0
    assert queue.context.u32(abi.STATE) == 0
    assert queue.context.u32(abi.SENTRY_FAST_PATH) == abi.NOTIFY_RING
    assert queue.context.u64(abi.ACKED_TIME) == 0
    assert queue.context.u64(abi.STATE_CHANGED_TIME) == 0
    assert queue.words.u32(abi.QUEUE_ACTIVE_CONTEXTS) == 1
    assert queue.words.u32(abi.QUEUE_END) == abi.QUEUE_FIRST_INDEX + 1
    assert queue.words.u32(abi.QUEUE_START) == abi.QUEUE_FIRST_INDEX
    assert queue.entry(abi.QUEUE_FIRST_INDEX) == abi.QUEUE_FIRST_INDEX << 32 | 7
    assert queue.words.u32(abi.QUEUE_AWAKE_CONTEXTS) == 0  # the sentry's own business


def test_submit_across_the_wrap_of_the_index(machine: Machine, queue: Queue) -> None:
    """S-022: the initial index is met again after 2^14 and some enqueues; each entry is where it belongs."""
    queue.words.set32(abi.QUEUE_ACTIVE_THREADS, 1)
    machine.block.set32(Block.STUB_SPIN_OFF, 0)
    for count in range(4 * abi.QUEUE_ENTRIES + 100):
        index = (abi.QUEUE_FIRST_INDEX + count) & 0xFFFFFFFF
        assert machine.submit() == 0
        assert queue.entry(index) == index << 32 | 7
        queue.words.set32(abi.QUEUE_START, (index + 1) & 0xFFFFFFFF)
    assert queue.words.u32(abi.QUEUE_END) == 99


def test_submit_to_a_full_queue_is_an_error(machine: Machine, queue: Queue) -> None:
    queue.words.set32(abi.QUEUE_ACTIVE_THREADS, 1)
    machine.block.set32(Block.STUB_SPIN_OFF, 0)
    for _ in range(abi.QUEUE_ENTRIES - 1):
        assert machine.submit() == 0
    assert machine.submit() == -errno.EPERM


@pytest.mark.parametrize(
    ("active", "tokens", "contexts", "have", "spin_off", "new_tokens", "answer"),
    [
        # contexts: those in the queue before this one. Expected threads: active + tokens + 1.
        (0, 0, 0, 1, 1, 1, 0),  # one thread exists and is parked: a token for it
        (0, 0, 0, 0, 1, 1, 1),  # no thread exists: make one
        (1, 0, 0, 1, 1, 0, 0),  # one thread is active and one context is there: it will look
        (1, 0, 1, 1, 1, 1, 1),  # two contexts, one thread
        (1, 0, 1, 2, 1, 1, 0),  # two contexts, two threads, one of them parked
        (0, 1, 0, 1, 1, 0, 0),  # a token lies there already
        (3, 1, 8, 4, 1, 1, 0),  # at most four threads
        (3, 1, 8, 3, 1, 1, 1),
        (1, 0, 5, 1, 0, 0, 0),  # stub threads spin and one is active: it finds the context by itself
        (0, 0, 0, 1, 0, 1, 0),  # they may spin, but none is active
        (0xFFFFFFFF, 0xFFFFFFFF, 3, 1, 1, 0, 1),  # nonsense of a guest's: a thread more, up to the limit
    ],
)
def test_kick(
    machine: Machine,
    queue: Queue,
    active: int,
    tokens: int,
    contexts: int,
    have: int,
    spin_off: int,
    new_tokens: int,
    answer: int,
) -> None:
    queue.words.set32(abi.QUEUE_ACTIVE_THREADS, active)
    queue.words.set32(abi.QUEUE_THREADS_TO_WAKEUP, tokens)
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, contexts)
    machine.block.set32(Block.THREADS, have)
    machine.block.set32(Block.STUB_SPIN_OFF, spin_off)
    assert machine.submit() == answer
    assert queue.words.u32(abi.QUEUE_THREADS_TO_WAKEUP) == (tokens + new_tokens) & 0xFFFFFFFF
    assert queue.words.u32(abi.QUEUE_FAST_PATH_DISABLED) == spin_off


def test_submit_wakes_a_parked_thread(machine: Machine, queue: Queue) -> None:
    word = queue.words.address + abi.QUEUE_THREADS_TO_WAKEUP
    woken = threading.Event()

    def parked() -> None:
        if futex.wait(word, 0, 10.0):
            woken.set()

    thread = threading.Thread(target=parked)
    thread.start()
    time.sleep(0.05)
    assert machine.submit() == 0
    thread.join()
    assert woken.is_set()


# ---- next_ready ----


@pytest.fixture
def rings(machine: Machine) -> list[Ring]:
    rings = [Ring() for _ in range(3)]
    machine.set_spaces(rings)
    return rings


def set_deadline(machine: Machine, seconds: float) -> None:
    """Set a deadline from now on; next_ready clears nothing by itself."""
    at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(seconds * 1e9)
    machine.block.set64(Block.DEADLINE_SEC, at // 10**9)
    machine.block.set64(Block.DEADLINE_NSEC, at % 10**9)


def ring_the_bell(ring: Ring) -> None:
    """Do what a stub does behind its fence, when it sees that the sentry waits."""
    ring.words.set32(abi.RING_BELL, (ring.words.u32(abi.RING_BELL) + 1) & 0xFFFFFFFF)
    futex.wake(ring.words.address + abi.RING_BELL)


def until_waiting(ring: Ring) -> None:
    deadline = time.monotonic() + 10
    while ring.words.u32(abi.RING_WAITING) == 0:
        assert time.monotonic() < deadline, "next_ready does not go to sleep"
        time.sleep(0.001)


def test_an_entry_that_is_there(machine: Machine, rings: list[Ring]) -> None:
    rings[1].put(42)
    assert machine.next_ready() == 1
    assert machine.ready() == (1, 42)
    assert machine.head(1) == 1  # the head of space 1


def test_the_id_is_not_judged(machine: Machine, rings: list[Ring]) -> None:
    rings[0].put(0xFFFFFFFF)
    assert machine.next_ready() == 1
    assert machine.ready() == (0, 0xFFFFFFFF)


def test_spaces_take_turns(machine: Machine, rings: list[Ring]) -> None:
    for ring in rings:
        for context_id in range(2):
            ring.put(context_id)
    seen = []
    for _ in range(6):
        assert machine.next_ready() == 1
        seen.append(machine.ready())
    assert seen == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]


def test_next_space_out_of_range_is_brought_back(machine: Machine, rings: list[Ring]) -> None:
    machine.block.set32(Block.NEXT_SPACE, 1000)
    rings[0].put(3)
    assert machine.next_ready() == 1
    assert machine.ready() == (0, 3)


def test_index_wrap(machine: Machine) -> None:
    ring = Ring(first=0xFFFFFFFE)
    machine.set_spaces([ring])
    for context_id in (1, 2, 3, 4):
        ring.put(context_id)
    for context_id in (1, 2, 3, 4):
        assert machine.next_ready() == 1
        assert machine.ready() == (0, context_id)
    assert machine.head() == 2


def test_an_entry_of_an_earlier_lap_is_not_new(machine: Machine) -> None:
    ring = Ring()
    machine.set_spaces([ring])
    for lap in range(2):
        for context_id in range(abi.QUEUE_ENTRIES):
            ring.put(context_id)
            assert machine.next_ready() == 1
            assert machine.ready() == (0, context_id), f"lap {lap}"
    set_deadline(machine, 0.01)
    assert machine.next_ready() == -errno.ETIMEDOUT


def test_wake_comes_first_and_once(machine: Machine, rings: list[Ring]) -> None:
    rings[0].put(1)
    machine.block.set32(Block.WAKE, 3)
    assert machine.next_ready() == 0
    assert machine.block.u32(Block.WAKE_SEEN) == 3
    assert machine.next_ready() == 1


@pytest.mark.parametrize("poll_ns", [0, 2_000_000])
@pytest.mark.parametrize("spin", [0, 100_000])
def test_deadline(machine: Machine, rings: list[Ring], poll_ns: int, spin: int) -> None:
    machine.block.set64(Block.POLL_NS, poll_ns)
    machine.block.set64(Block.SPIN, spin)
    set_deadline(machine, 0.05)
    begin = time.monotonic()
    assert machine.next_ready() == -errno.ETIMEDOUT
    assert 0.045 < time.monotonic() - begin < 10
    assert [ring.words.u32(abi.RING_WAITING) for ring in rings] == [0, 0, 0]


@pytest.mark.parametrize("poll_ns", [0, 2_000_000])
def test_a_deadline_in_the_past(machine: Machine, rings: list[Ring], poll_ns: int) -> None:
    machine.block.set64(Block.POLL_NS, poll_ns)
    machine.block.set64(Block.DEADLINE_SEC, 0)
    assert machine.next_ready() == -errno.ETIMEDOUT
    rings[2].put(8)
    assert machine.next_ready() == 1


def test_a_stub_wakes_the_sleeping_sentry(machine: Machine, rings: list[Ring]) -> None:
    def stub() -> None:
        until_waiting(rings[2])
        rings[2].put(9)
        ring_the_bell(rings[2])

    set_deadline(machine, 20)
    thread = threading.Thread(target=stub)
    thread.start()
    assert machine.next_ready() == 1
    thread.join()
    assert machine.ready() == (2, 9)
    assert [ring.words.u32(abi.RING_WAITING) for ring in rings] == [0, 0, 0]


@pytest.mark.parametrize("poll_ns", [0, 2_000_000])
def test_the_sentry_wakes_itself(machine: Machine, rings: list[Ring], poll_ns: int) -> None:
    machine.block.set64(Block.POLL_NS, poll_ns)
    add = machine.function("atomic_add32", ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32)

    def helper() -> None:
        time.sleep(0.05)
        add(machine.block.address + Block.WAKE, 1)
        futex.wake(machine.block.address + Block.WAKE)

    set_deadline(machine, 20)
    thread = threading.Thread(target=helper)
    thread.start()
    assert machine.next_ready() == 0
    thread.join()


def test_polling_finds_an_entry_nobody_rang_for(machine: Machine, rings: list[Ring]) -> None:
    machine.block.set64(Block.POLL_NS, 1_000_000)
    timer = threading.Timer(0.05, rings[1].put, (4,))
    timer.start()
    set_deadline(machine, 20)
    assert machine.next_ready() == 1
    assert machine.ready() == (1, 4)
    timer.join()


def test_no_space_at_all(machine: Machine) -> None:
    set_deadline(machine, 0.02)
    assert machine.next_ready() == -errno.ETIMEDOUT


def test_127_spaces(machine: Machine) -> None:
    rings = [Ring() for _ in range(127)]
    machine.set_spaces(rings)

    def stub() -> None:
        until_waiting(rings[126])
        rings[126].put(5)
        ring_the_bell(rings[126])

    set_deadline(machine, 20)
    thread = threading.Thread(target=stub)
    thread.start()
    assert machine.next_ready() == 1
    thread.join()
    assert machine.ready() == (126, 5)


def test_too_many_spaces_do_not_lead_out_of_the_block(machine: Machine) -> None:
    rings = [Ring() for _ in range(127)]
    machine.set_spaces(rings)
    machine.block.set32(Block.NR_SPACES, 0xFFFFFFFF)
    set_deadline(machine, 0.02)
    assert machine.next_ready() == -errno.ETIMEDOUT


@pytest.fixture
def handled_signal() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("poll_ns", [0, 5_000_000_000])
@pytest.mark.usefixtures("handled_signal")
def test_a_signal_ends_the_sleep(machine: Machine, rings: list[Ring], poll_ns: int) -> None:
    machine.block.set64(Block.POLL_NS, poll_ns)
    set_deadline(machine, 20)
    sleeper = threading.get_native_id()
    timer = threading.Timer(0.1, syscall, (NR["tgkill"], os.getpid(), sleeper, signal.SIGUSR1))
    timer.start()
    assert machine.next_ready() == -errno.EINTR
    timer.join()
    assert rings[0].words.u32(abi.RING_WAITING) == 0


@pytest.mark.parametrize("deadline", [None, 0.05])
def test_a_bell_that_rings_for_ever_does_not_keep_the_caller_out(
    machine: Machine, rings: list[Ring], deadline: float | None
) -> None:
    """A guest can write its bell as often as it likes. The caller gets a word in, and deadlines hold."""
    stop = threading.Event()

    def guest() -> None:
        while not stop.is_set():
            ring_the_bell(rings[0])

    thread = threading.Thread(target=guest)
    thread.start()
    try:
        machine.block.set64(Block.DEADLINE_SEC, NO_DEADLINE)
        if deadline is not None:
            set_deadline(machine, deadline)
        for _ in range(1000):
            result = machine.next_ready()
            assert result in (-errno.EINTR, -errno.ETIMEDOUT)
            if deadline is None or result == -errno.ETIMEDOUT:
                break
        else:
            pytest.fail("the deadline is never met")
    finally:
        stop.set()
        thread.join()
