"""Stress: nothing hangs, nothing is wrong, nothing is left (P-074, P-077, P-085, P-087, P-100, P-117).

``python -m tests.stress --seconds 60`` runs longer. SYSTRAP_SEED chooses the seed.
"""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from random import Random

import pytest

from systrap import platform
from systrap.platform import AddressSpace, Context, EventKind, MapRequest, Options
from systrap.platforms.systrap.pool import MAX_IDLE
from tests.platforms import guest
from tests.platforms.conftest import constructor, create
from tests.platforms.kernel import DATA, SUBMIT, Kernel, is_syscall, reg
from tests.stress.run import LIMIT, Load, settle, usage
from tests.stress.whole import SLACK, whole_run

SEED = int(os.environ.get("SYSTRAP_SEED") or secrets.randbelow(1 << 32))
MAX_CONTEXTS = 4095


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Return a kernel on the systrap platform."""
    made = Kernel(create("systrap"), SUBMIT)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("threads", [0, 12], ids=["submit", "switch"])
@pytest.mark.parametrize("name", platform.names())
def test_ten_seconds(name: str, threads: int) -> None:
    """# P-061, P-074, P-077, P-085, P-100, P-117: everything at once."""
    constructor(name)
    print(f"seed {SEED}")
    print(whole_run(name, Options(), SEED, Load(10.0, threads=threads)))


@pytest.mark.slow
@pytest.mark.parametrize("options", [Options(disable_syscall_patching=True, disable_fast_path=True)], ids=["plain"])
def test_ten_seconds_of_the_plain_way(options: Options) -> None:
    """# P-084, P-085."""
    create("systrap").close()
    print(f"seed {SEED}")
    print(whole_run("systrap", options, SEED, Load(10.0)))


@pytest.mark.slow
def test_calls_under_interrupts(kernel: Kernel) -> None:
    """# P-074: 10⁵ getpid; each is reported once, and the registers are right."""
    space, context = kernel.space(guest.COUNT_CALLS), kernel.context(rbx=0x1234567890)
    stop = threading.Event()
    sent = 0

    def interrupt() -> None:
        nonlocal sent
        while not stop.is_set():
            context.interrupt()
            sent += 1
            time.sleep(0.0001)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    calls = interrupted = 0
    while calls < 100_000:
        event = kernel.run(context, space)
        if event.kind == EventKind.INTERRUPTED:
            interrupted += 1
            continue
        assert is_syscall(event)
        calls += 1
        assert (reg(context, "rax"), reg(context, "rbx"), reg(context, "r12")) == (39, 0x1234567890, calls)
    stop.set()
    thread.join()
    assert interrupted > 100
    assert sent >= interrupted


@pytest.mark.slow
def test_no_run_is_late(kernel: Kernel) -> None:
    """# P-085: many runs of random contexts of several spaces, each back in time."""
    random = Random(SEED)
    print(f"seed {SEED}")
    spaces = [kernel.space(guest.CALLS) for _ in range(3)]
    idle = [(kernel.context(rax=39), space) for space in spaces for _ in range(20)]
    out: dict[int, tuple[Context, AddressSpace, float]] = {}
    for _ in range(100_000):
        if idle and (not out or random.random() < 0.6):
            context, space = idle.pop(random.randrange(len(idle)))
            out[id(context)] = (context, space, time.monotonic())
            kernel.platform.submit(context, space)
            continue
        ready = kernel.platform.next_ready(time.monotonic() + LIMIT)
        assert ready is not None
        context, space, since = out.pop(id(ready))
        assert is_syscall(ready.event)
        assert time.monotonic() - since < LIMIT
        idle.append((context, space))


def test_a_space_holds_4095_contexts(kernel: Kernel) -> None:
    """# P-087."""
    space = kernel.space(guest.CALLS)
    # Numbers that Linux does not have: some of its own pass every filter.
    contexts = [kernel.context(rax=10_000 + number) for number in range(MAX_CONTEXTS)]
    for context in contexts:
        kernel.platform.submit(context, space)
    for _ in contexts:
        assert is_syscall(kernel.wait().event)
    assert [reg(context, "rax") for context in contexts] == list(range(10_000, 10_000 + MAX_CONTEXTS))
    extra = kernel.context(rax=5)
    event = kernel.run(extra, space)
    assert event.kind == EventKind.DEATH
    assert event.error is not None
    contexts.pop().release()
    assert is_syscall(kernel.run(kernel.context(rax=6), space))


def test_busy_contexts_share(kernel: Kernel) -> None:
    """# P-081: ten times as many busy contexts as threads all get on."""
    space = kernel.space(guest.COUNT_SPIN)
    count = 10 * kernel.platform.concurrency_count()
    offsets = [kernel.map(space, DATA + 4096 * number) for number in range(count)]
    contexts = [kernel.context(rdi=DATA + 4096 * number) for number in range(count)]
    for context in contexts:
        kernel.platform.submit(context, space)
    deadline = time.monotonic() + 4 * LIMIT
    while min(kernel.word(offset) for offset in offsets) == 0 and time.monotonic() < deadline:
        kernel.platform.next_ready(time.monotonic() + 0.05)
    assert min(kernel.word(offset) for offset in offsets) > 0
    for context in contexts:
        context.interrupt()
    assert {kernel.wait().event.kind for _ in contexts} == {EventKind.INTERRUPTED}


def test_cycles_grow_nothing(kernel: Kernel) -> None:
    """# P-117: 300 times a space, three contexts, and all released."""
    code = kernel.page(guest.CALLS)

    def cycle() -> None:
        space = kernel.platform.new_address_space()
        space.map_file(0x10000000, kernel.file, code, 4096, platform.Access.READ | platform.Access.EXECUTE)
        for _ in range(3):
            context = kernel.context(rax=39)
            assert is_syscall(kernel.run(context, space))
            context.release()
        space.release()

    for _ in range(20):
        cycle()
    before = usage()
    for _ in range(300):
        cycle()
    assert settle(before, SLACK) is None, (before, usage())


def test_a_thread_is_born_late(kernel: Kernel) -> None:
    """# P-024, P-117: mappings change while threads are being born; each change happens, and no thread outlives its stub."""
    # Spinning guests take the CPUs away from threads that are being born.
    busy = kernel.space(guest.SPIN)
    spinners = [kernel.context() for _ in range(kernel.platform.concurrency_count())]
    for context in spinners:
        kernel.platform.submit(context, busy)
    # The pool keeps some stubs of the many that follow: it is full before anything is counted.
    for space in [kernel.space(guest.LOAD) for _ in range(MAX_IDLE)]:
        space.release()
    before = usage()
    offset = kernel.page(b"mapped!!")
    for _ in range(8):
        spaces = [kernel.space(guest.LOAD) for _ in range(40)]
        contexts = [kernel.context(rdi=DATA + 4096 * 9) for _ in spaces]
        for context, space in zip(contexts, spaces, strict=True):
            kernel.platform.submit(context, space)
            # One batch, so that it lies where the clone lay in the batch before.
            places = range(DATA, DATA + 10 * 4096, 4096)
            space.apply([MapRequest(place, 4096, kernel.file, offset, platform.Access.READ) for place in places])
        for _ in contexts:
            # It may have looked before the page was there, but not after.
            kernel.wait()
        for context, space in zip(contexts, spaces, strict=True):
            if not is_syscall(context.event):
                assert is_syscall(kernel.run(context, space)), "a mapping did not happen"
            context.release()
            space.release()
    assert settle(before, SLACK) is None, (before, usage())
