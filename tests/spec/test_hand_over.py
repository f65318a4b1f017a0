"""Contexts on their way to a stub and back (10-stub §4; 20-platform §6)."""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from systrap.platform import ContextError, EventKind, ProgrammingError
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.dispatcher import Dispatcher
from tests.blobs import guest as bytes_of
from tests.blobs.machine import Block
from tests.blobs.play import load, wait_parked
from tests.blobs.stub import new_world, running_stub
from tests.platforms import guest
from tests.platforms.kernel import CODE, DATA, PATIENCE, Kernel, W, is_syscall, reg, set_reg
from tests.spec import support
from tests.spec.support import slot, stub, thread_id, words

SPIN_UNTIL_SET = bytes.fromhex("488b074885c074f80f05")
"""1: mov rax, [rdi]; test rax, rax; jz 1b; syscall"""


FD_CALLS = {"write": 1, "close": 3, "ioctl": 16, "pwrite64": 18, "writev": 20, "dup2": 33, "sendto": 44, "fcntl": 72}


def test_owner_is_nobody_while_the_sentry_has_a_context(kernel: Kernel) -> None:
    """S-060, S-061: thread_id is INVALID at each return; when it was taken and given back is noted."""
    space = kernel.space(guest.CALLS + guest.ILLEGAL)
    contexts = [kernel.context(rax=39), kernel.context(rip=CODE + len(guest.CALLS))]
    for _ in range(50):
        for context in contexts:
            event = kernel.run(context, space)
            assert event.kind in (EventKind.SYSCALL, EventKind.SIGNAL)
            assert thread_id(context) == abi.INVALID_ID
            acked, changed = words(context)[abi.ACKED_TIME >> 2 :][:4].cast("B").cast("Q")
            assert 0 < acked <= changed
            assert words(context)[abi.LAST_THREAD_ID >> 2] in stub(space).threads


def test_a_slot_is_new_to_its_next_owner(server: Kernel) -> None:
    """S-026: whatever a context left behind, another one that gets its slot starts from nothing."""
    space = server.space(guest.CALLS)
    first = server.context(rax=39)
    assert is_syscall(server.run(first, space))
    old = slot(first)
    memory, number = old._bytes, old.stub_id
    memory[abi.FPSTATE_CHANGED :] = b"\xff" * (abi.CONTEXT_SIZE - abi.FPSTATE_CHANGED)
    first.release()
    second = server.context(rax=40, rip=CODE)
    assert is_syscall(server.run(second, space))
    assert (slot(second).stub_id, reg(second, "rax")) == (number, 40)
    assert words(second)[abi.INTERRUPT >> 2] == 0


@pytest.mark.parametrize("active", [0, 1, 0xFFFFFFFF])
def test_counters_of_a_guest_make_no_threads(server: Kernel, active: int) -> None:
    """S-066, P-080: a guest that writes the queue's counters gets no more threads than the limit."""
    space = server.space(guest.CALLS)
    limit = server.platform.concurrency_count()
    for _ in range(8):
        for _ in range(3 * limit):
            stub(space).queue[abi.QUEUE_ACTIVE_THREADS >> 2] = active
            stub(space).queue[abi.QUEUE_THREADS_TO_WAKEUP >> 2] = 0
            stub(space).queue[abi.QUEUE_ACTIVE_CONTEXTS >> 2] = 1000
            server.platform.submit(server.context(rax=39), space)
        while server.platform.next_ready(time.monotonic() + 0.05) is not None:
            pass
    children = Path(f"/proc/{stub(space).pid}/task/{stub(space).pid}/children").read_text().split()
    assert len(children) == len(stub(space).threads) <= limit


def test_workers_never_exceed_the_limit(server: Kernel) -> None:
    """P-080, P-081: ten times as many contexts as workers; each gets on."""
    limit = server.platform.concurrency_count()
    space = server.space(guest.COUNT_CALLS)
    contexts = [server.context() for _ in range(10 * limit)]
    for context in contexts:
        server.platform.submit(context, space)
    give_up = time.monotonic() + PATIENCE
    while min(reg(context, "r12") for context in contexts) < 20 and time.monotonic() < give_up:
        server.platform.submit(server.wait(), space)
    assert min(reg(context, "r12") for context in contexts) >= 20
    children = Path(f"/proc/{stub(space).pid}/task/{stub(space).pid}/children").read_text().split()
    assert 1 <= len(children) <= limit


def test_busy_contexts_take_turns(server: Kernel) -> None:
    """P-081: contexts that never call share the workers of their space."""
    limit = server.platform.concurrency_count()
    space = server.space(guest.COUNT_SPIN)
    contexts, counters = [], []
    for index in range(2 * limit):
        counters.append(server.map(space, DATA + index * 4096))
        contexts.append(server.context(rdi=DATA + index * 4096))
        server.platform.submit(contexts[-1], space)
    give_up = time.monotonic() + PATIENCE
    while not all(server.word(offset) for offset in counters) and time.monotonic() < give_up:
        assert server.platform.next_ready(time.monotonic() + 0.1) is None
    assert all(server.word(offset) for offset in counters)


def test_a_context_alone_is_not_preempted(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-082, P-089: nobody interrupts it, and no wait gives up on it, however long it computes."""
    interrupted: list[object] = []
    monkeypatch.setattr(Dispatcher, "interrupt", lambda _, context: interrupted.append(context))
    space = kernel.space(SPIN_UNTIL_SET)
    flag = kernel.map(space, DATA)
    timer = threading.Timer(1.2, kernel.file.data.__setitem__, (flag, 1))
    timer.start()
    assert is_syscall(kernel.run(kernel.context(rdi=DATA), space))
    timer.join()
    assert interrupted == []


def run_times(pids: list[int]) -> list[str]:
    """Return how long each of these threads has run, in nanoseconds."""
    return [Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in pids]


def test_idle_threads_do_not_run(server: Kernel) -> None:
    """P-083, S-067: with nothing to do, no thread of any stub gets the CPU, and the sentry's sleeps."""
    spaces = [server.space(guest.CALLS) for _ in range(3)]
    for space in spaces:
        for context in [server.context(rax=39) for _ in range(4)]:
            assert is_syscall(server.run(context, space))
    pids = [pid for space in spaces for pid in (stub(space).pid, *stub(space).threads.values())]
    pids.append(support.environment(server.platform).source.pid)
    server.platform.next_ready(time.monotonic() + 0.1)
    before = run_times(pids)
    own = time.thread_time()
    assert server.platform.next_ready(time.monotonic() + 1.0) is None
    assert run_times(pids) == before
    assert time.thread_time() - own < 0.1


def test_no_wake_up_is_lost(server: Kernel) -> None:
    """P-085, S-065: contexts of several spaces, submitted at random, with pauses in which everybody falls asleep."""
    dice = random.Random(85)
    spaces = [server.space(guest.COUNT_CALLS) for _ in range(3)]
    idle = [(server.context(), space) for space in spaces for _ in range(7)]
    space_of = {id(context): space for context, space in idle}
    running = 0
    for _ in range(4000):
        while idle and (running == 0 or dice.random() < 0.5):
            context, space = idle.pop(dice.randrange(len(idle)))
            server.platform.submit(context, space)
            running += 1
        if dice.random() < 0.01:
            time.sleep(dice.random() / 500)
        ready = server.wait()
        assert is_syscall(ready.event)
        idle.append((ready, space_of[id(ready)]))
        running -= 1
    for _ in range(running):
        assert is_syscall(server.wait().event)
    assert sum(reg(context, "r12") for context in server.contexts) == 4000 + running


def test_as_many_contexts_as_there_are_slots(server: Kernel) -> None:
    """P-087: 4095 in one space; the next one fails with an error; one that goes makes room."""
    space = server.space(guest.CALLS)
    contexts = [server.context(rax=39) for _ in range(abi.MAX_CONTEXTS)]
    for context in contexts:
        assert is_syscall(server.run(context, space))
    late = server.context(rax=39)
    event = server.run(late, space)
    assert event.kind == EventKind.DEATH
    assert isinstance(event.error, ContextError)
    assert is_syscall(server.run(contexts[7], space)), "the others go on"
    contexts[8].release()
    assert is_syscall(server.run(late, space))
    assert {slot(context).stub_id for context in contexts if context is not contexts[8]} | {slot(late).stub_id} == set(
        range(abi.MAX_CONTEXTS)
    )


def test_the_queue_goes_round(server: Kernel) -> None:
    """P-088, S-022: the 32-bit indices wrap; the ring does, several times."""
    space = server.space(guest.COUNT_CALLS)
    queue = stub(space).queue
    queue[abi.QUEUE_START >> 2] = queue[abi.QUEUE_END >> 2] = 0xFFFFFFF0
    contexts = [server.context() for _ in range(3)]
    for context in contexts:
        server.platform.submit(context, space)
    for _ in range(3 * abi.QUEUE_ENTRIES):
        server.platform.submit(server.wait(), space)
    for _ in contexts:
        server.wait()
    assert queue[abi.QUEUE_END >> 2] == queue[abi.QUEUE_START >> 2] == 3 * abi.QUEUE_ENTRIES + 3 - 16
    assert sum(reg(context, "r12") for context in contexts) == 3 * abi.QUEUE_ENTRIES + 3


def test_a_queued_context_is_interrupted_without_running(server: Kernel) -> None:
    """P-073, S-038: while all workers are busy with others."""
    space = server.space(guest.SPIN + guest.STORE)
    written = server.map(space, DATA)
    busy = [server.context() for _ in range(server.platform.concurrency_count())]
    for context in busy:
        support.start(server, context, space)
    queued = server.context(CODE + len(guest.SPIN), rdi=DATA, rax=7)
    server.platform.submit(queued, space)
    queued.interrupt()
    assert thread_id(queued) == abi.INVALID_ID, "nobody has it: the flag alone must do"
    assert server.wait() is queued
    assert queued.event.kind == EventKind.INTERRUPTED
    assert server.word(written) == 0
    assert reg(queued, "rip") == CODE + len(guest.SPIN)
    for context in busy:
        context.interrupt()
    assert {id(server.wait()) for _ in busy} == {id(context) for context in busy}
    assert is_syscall(server.run(queued, space))
    assert server.word(written) == 7


def test_a_context_that_came_back_is_left_alone() -> None:
    """S-075: once its state is published, a stub reads sentry_fast_path and writes nothing of a slot."""
    with new_world() as world, running_stub(world) as one:
        one.start_thread(1)
        world.machine.block.set32(Block.NOTIFY, abi.NOTIFY_NONE)
        load(one, bytes_of.SYSCALL)
        context = one.context(0)
        fast_path = abi.SENTRY_FAST_PATH
        poison = bytearray(b"\xa5" * abi.CONTEXT_SIZE)
        for _ in range(200):
            one.context(0)
            assert one.submit(context) >= 0
            deadline = time.monotonic() + PATIENCE
            while context.state == 0:
                assert time.monotonic() < deadline
            poison[fast_path : fast_path + 4] = context.words.bytes[fast_path : fast_path + 4]
            context.words.bytes[:] = poison
            wait_parked(one)
            assert bytes(context.words.bytes) == bytes(poison)
        assert one.reports() == [None]


def test_a_running_context_is_not_run_again(server: Kernel) -> None:
    """P-075: upstream's forwarder refuses a second owner; here submitting what is running is a programming error."""
    space, context = server.space(guest.SPIN), server.context()
    server.platform.submit(context, space)
    with pytest.raises(ProgrammingError):
        server.platform.submit(context, space)


def test_a_running_context_is_not_released(server: Kernel) -> None:
    """P-075: nor is it given up."""
    space, context = server.space(guest.SPIN), server.context()
    server.platform.submit(context, space)
    with pytest.raises(ProgrammingError):
        context.release()
    context.interrupt()
    assert server.wait() is context
    context.release()
    context.interrupt()


def test_interrupts_race_with_moves_and_releases(server: Kernel) -> None:
    """P-077: a context that is interrupted from elsewhere while it changes its space, or is given up."""
    spaces = [server.space(guest.COUNT_CALLS) for _ in range(2)]
    current = [server.context()]
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            current[0].interrupt()

    helper = threading.Thread(target=storm)
    helper.start()
    calls = 0
    give_up = time.monotonic() + PATIENCE
    try:
        while calls < 100 and time.monotonic() < give_up:
            context = current[0]
            for space in spaces:
                event = server.run(context, space)
                assert event.kind in (EventKind.SYSCALL, EventKind.INTERRUPTED)
                calls += event.kind == EventKind.SYSCALL
            current[0] = server.context()
            context.release()
    finally:
        stop.set()
        helper.join()
    assert calls >= 100
    assert all(stub(space).alive() for space in spaces)


def test_descriptors_of_the_sentry_are_out_of_reach(server: Kernel) -> None:
    """P-034: a guest's write comes to the sentry, though the descriptor is one in its process, too."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    space = server.space(guest.CALLS)
    server.map(space, DATA, b"secret!!")
    context = server.context()
    for number in FD_CALLS.values():
        for register, value in (("rax", number), ("rdi", write_end), ("rsi", DATA), ("rdx", 8), ("rip", CODE)):
            set_reg(context, register, value)
        assert is_syscall(server.run(context, space))
        assert (reg(context, "orig_rax"), reg(context, "rdi")) == (number, write_end)
    with pytest.raises(BlockingIOError):
        os.read(read_end, 1)
    os.write(write_end, b"x")
    os.close(read_end)
    os.close(write_end)


def test_a_write_costs_one_fault(server: Kernel) -> None:
    """S-036, P-043: a store to a page that is not there yet says so at once, and is done after one map."""
    space, context = server.space(guest.STORE), server.context(rdi=DATA, rax=5)
    event = server.run(context, space)
    assert (event.kind, event.access) == (EventKind.SIGNAL, W)
    written = server.map(space, DATA)
    assert is_syscall(server.run(context, space))
    assert server.word(written) == 5
    assert server.platform.statistics()["events_signal"] == 1
