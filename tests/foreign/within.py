"""How the sentry drives an image that is not ours: run by test_foreign.py in a process of its own, with plugin.py.

Of the platform's contract see tests/platforms: those tests are run there, too.
"""

import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from systrap.host import mem
from systrap.platform import EventKind
from systrap.platforms.systrap import abi, foreign
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.foreign import Announcers
from systrap.platforms.systrap.platform import SystrapPlatform
from systrap.platforms.systrap.subprocess import Subprocess
from tests.foreign import plugin
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, DATA, PAGE, SUBMIT, SWITCH, Kernel, eventually, is_syscall, reg, set_reg


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Return a kernel that submits and collects."""
    kernel = Kernel(create("systrap"), SUBMIT)
    yield kernel
    kernel.close()


def new_space(kernel: Kernel, code: bytes) -> Subprocess:
    space = kernel.space(code)
    assert isinstance(space, Subprocess)
    return space


def new_context(kernel: Kernel, **registers: int) -> SystrapContext:
    context = kernel.context(**registers)
    assert isinstance(context, SystrapContext)
    return context


def announcers(kernel: Kernel) -> Announcers:
    assert isinstance(kernel.platform, SystrapPlatform)
    found = kernel.platform._dispatcher._announcers
    assert found is not None
    return found


def address_of(context: SystrapContext) -> int:
    """Return where a context's slot lies in the sentry."""
    assert context.slot is not None
    return context.slot.address


def waiting_threads() -> int:
    return sum(thread.name == "systrap-announcer" for thread in threading.enumerate())


def ring_of(space: Subprocess) -> bytes:
    return bytes(space.stub.ring)


def test_the_foreign_image_is_in_the_stub(kernel: Kernel) -> None:
    """10-stub §8.3 item 1: its bytes, and nothing written but the variables."""
    image = new_space(kernel, guest.CALLS).environment.image
    content = Path(os.environ[plugin.BLOB]).read_bytes()
    mapped = bytes(mem.view(image.layout.sysmsg, len(content)))
    differing = [i for i in range(len(content)) if content[i] != mapped[i]]
    assert differing, "the variables are filled in"
    assert len({i // 8 for i in differing}) <= 9
    assert not image.has_ready_ring


def test_one_thread_waits_for_each_context_that_runs(kernel: Kernel) -> None:
    space = new_space(kernel, guest.SPIN)
    before = waiting_threads()
    contexts = [new_context(kernel) for _ in range(5)]
    for number, context in enumerate(contexts, 1):
        kernel.platform.submit(context, space)
        assert waiting_threads() == before + number
    for context in contexts:
        context.interrupt()
    for _ in contexts:
        assert kernel.wait().event.kind == EventKind.INTERRUPTED
    assert announcers(kernel)._runs == {}
    # The threads that are there serve the next.
    assert eventually(lambda: len(announcers(kernel)._idle) == 5)
    for context in contexts[:3]:
        kernel.platform.submit(context, space)
        context.interrupt()
    for _ in range(3):
        kernel.wait()
    assert waiting_threads() == before + 5


def test_threads_without_work_end(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "IDLE_TIME", 0.05)
    others = waiting_threads()
    space, context = new_space(kernel, guest.CALLS), new_context(kernel)
    for _ in range(10):
        assert is_syscall(kernel.run(context, space))
    assert eventually(lambda: announcers(kernel)._idle == [])
    assert eventually(lambda: waiting_threads() <= others)
    assert is_syscall(kernel.run(context, space)), "and begin again"


def test_many_contexts_in_several_spaces(kernel: Kernel) -> None:
    """Each gets its own events, in order, and keeps its registers (S-034, P-080)."""
    spaces = [new_space(kernel, guest.COUNT_CALLS) for _ in range(3)]
    where = {}
    for number in range(24):
        context = new_context(kernel, r13=number)
        where[context] = spaces[number % 3]
        kernel.platform.submit(context, where[context])
    for _ in range(24 * 20):
        ready = kernel.wait()
        assert isinstance(ready, SystrapContext)
        assert is_syscall(ready.event)
        if reg(ready, "r12") < 20:
            kernel.platform.submit(ready, where[ready])
    assert [(reg(context, "r12"), reg(context, "r13")) for context in where] == [(20, n) for n in range(24)]


def test_contexts_take_turns(kernel: Kernel) -> None:
    """More of them than threads, none of which ever stops by itself: time slices (20-platform §6.6)."""
    space = new_space(kernel, guest.COUNT_SPIN)
    page = kernel.map(space, DATA)
    contexts = [new_context(kernel, rdi=DATA + 64 * i) for i in range(kernel.platform.concurrency_count() + 2)]
    for context in contexts:
        kernel.platform.submit(context, space)
    deadline = time.monotonic() + 20
    while not all(kernel.word(page + 64 * i) for i in range(len(contexts))):
        assert kernel.platform.next_ready(min(deadline, time.monotonic() + 0.05)) is None
        assert time.monotonic() < deadline
    for context in contexts:
        context.interrupt()
    for _ in contexts:
        assert kernel.wait().event.kind == EventKind.INTERRUPTED


def test_both_ways_in_turn(kernel: Kernel) -> None:
    """switch() and submit() for one context, one after the other."""
    space, context = new_space(kernel, guest.COUNT_CALLS), new_context(kernel)
    for number in range(1, 20):
        kernel.path = SWITCH if number % 2 else SUBMIT
        assert is_syscall(kernel.run(context, space))
        assert reg(context, "r12") == number


def test_a_dead_stub_ends_its_contexts_and_no_others(kernel: Kernel) -> None:
    """P-101; and they run at once in another space, whatever still waits for them in the first."""
    first, second = new_space(kernel, guest.SPIN), new_space(kernel, guest.CALLS)
    lost = [new_context(kernel) for _ in range(3)]
    other = new_context(kernel)
    for context in lost:
        kernel.platform.submit(context, first)
    os.kill(first.stub.pid, signal.SIGKILL)
    for _ in lost:
        assert kernel.wait().event.kind == EventKind.DEATH
    ring = ring_of(second)
    for context in (*lost, other):
        set_reg(context, "rip", CODE)
        assert is_syscall(kernel.run(context, second))
    assert ring_of(second) != ring
    assert eventually(lambda: announcers(kernel)._runs == {})


def test_a_run_that_is_over_is_not_announced(kernel: Kernel) -> None:
    """What a thread saw too late must not reach a ring: it may be another guest's by then."""
    space, context = new_space(kernel, guest.CALLS), new_context(kernel)
    assert is_syscall(kernel.run(context, space))
    slot = context.slot
    assert slot is not None
    stale = foreign._Run(context, slot, space)
    ring = ring_of(space)
    found = announcers(kernel)
    assert not found._announce(stale)
    found._runs[context] = foreign._Run(context, slot, space)
    assert not found._announce(stale), "there is a newer one"
    assert not found._announce(found._runs[context]), "the context is not out there"
    assert ring_of(space) == ring
    assert found._runs == {}


def test_a_wake_up_for_another_is_passed_on(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that still sleeps for a dead space must not swallow what its slot's next owner is waiting for."""
    monkeypatch.setattr(foreign, "LIVENESS_INTERVAL", 3600.0)
    same = 0
    for _ in range(20):
        bad, context = new_space(kernel, guest.SPIN), new_context(kernel)
        kernel.platform.submit(context, bad)
        address = address_of(context)
        os.kill(bad.stub.pid, signal.SIGKILL)
        assert kernel.wait().event.kind == EventKind.DEATH
        bad.release()
        context.release()
        bad.stub.wait_until_gone()
        other, space = new_context(kernel), new_space(kernel, guest.CALLS)
        for _ in range(5):
            assert is_syscall(kernel.run(other, space))
        same += address_of(other) == address
        space.release()
        other.release()
    assert same > 5, "the same word again, or nothing is shown here"


def test_a_forged_entry_ends_its_space_only(kernel: Kernel) -> None:
    """S-141: the ring is in the guest's reach here as well."""
    bad, good = new_space(kernel, guest.SPIN), new_space(kernel, guest.CALLS)
    victim, other = new_context(kernel), new_context(kernel)
    kernel.platform.submit(victim, bad)
    slot = victim.slot
    assert slot is not None
    struct.pack_into("<Q", bad.stub.ring, abi.RING_SLOTS, 1 << 32 | slot.stub_id)
    assert kernel.wait() is victim
    assert victim.event.kind == EventKind.DEATH
    assert is_syscall(kernel.run(other, good))


def test_what_the_stub_reports_reaches_the_user(kernel: Kernel) -> None:
    """S-054, S-140: its sysmsg structure names another address; the death says so in words."""
    space, context = new_space(kernel, guest.CALLS), new_context(kernel)
    assert is_syscall(kernel.run(context, space))
    area, slots = space.environment.image.layout.area, space.environment.slots
    offset = slots.areas + area.sysmsg - area.shared
    struct.pack_into("<Q", space.stub._view(offset, PAGE), abi.SYSMSG_SELF, 0x1234)
    event = kernel.run(context, space)
    assert event.kind == EventKind.DEATH
    assert "BAD_SYSMSG" in str(event.error)
    assert is_syscall(kernel.run(new_context(kernel), new_space(kernel, guest.CALLS)))


def test_nobody_spins(kernel: Kernel) -> None:
    """A foreign image is served by sleeping threads, whatever the fast path would do."""
    space, context = new_space(kernel, guest.CALLS), new_context(kernel)
    for _ in range(2000):
        kernel.run(context, space)
    assert space.stub.queue[abi.QUEUE_FAST_PATH_DISABLED >> 2] == 1
    assert space.stub.queue[abi.QUEUE_USED_FAST_PATH >> 2] == 0
