"""Many contexts, waiting, death, and what is left afterwards (20-platform §8, §9, P-080…P-117)."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from systrap.platform import AddressSpace, ContextError, Event, EventKind, MapError, Platform
from tests.platforms import guest
from tests.platforms.kernel import (
    CODE,
    DATA,
    PAGE,
    PATIENCE,
    SUBMIT,
    Kernel,
    R,
    children,
    eventually,
    is_syscall,
    reg,
    set_reg,
    signo,
    threads,
)


def submit_only(kernel: Kernel) -> None:
    """Skip on the other path."""
    if kernel.path != SUBMIT:
        pytest.skip("about submit() and next_ready()")


def assert_dead(event: Event) -> None:
    """Check an event of a context in a dead space."""
    assert event.kind == EventKind.DEATH, event
    assert isinstance(event.error, ContextError)
    assert event.error.errno > 0


def new_space_with_pid(kernel: Kernel, code: bytes) -> tuple[AddressSpace, int]:
    """Return a space and the process that it is."""
    before = children()
    space = kernel.space(code)
    (pid,) = children() - before
    return space, pid


def test_all_contexts_progress(kernel: Kernel) -> None:
    """# P-081: guests that never call do not keep others from it."""
    submit_only(kernel)
    space, spinning = kernel.space(guest.CALLS), kernel.space(guest.SPIN)
    spinners = [kernel.context() for _ in range(3)]
    callers = [kernel.context(rax=39) for _ in range(10)]
    for context in spinners:
        kernel.platform.submit(context, spinning)
    for context in callers:
        kernel.platform.submit(context, space)
    counts = {id(context): 0 for context in callers}
    give_up = time.monotonic() + PATIENCE
    while min(counts.values()) < 5 and time.monotonic() < give_up:
        context = kernel.wait()
        counts[id(context)] += 1
        kernel.platform.submit(context, space)
    assert min(counts.values()) >= 5
    for context in spinners:
        context.interrupt()
    stopped: set[int] = set()
    while len(stopped) < 3:
        context = kernel.wait()
        if context in spinners:
            stopped.add(id(context))
            assert context.event.kind == EventKind.INTERRUPTED


def test_spinners_and_callers_in_one_space(kernel: Kernel) -> None:
    """# P-081: within a space, too."""
    submit_only(kernel)
    space = kernel.space(guest.CALLS + guest.SPIN)
    for _ in range(3):
        kernel.platform.submit(kernel.context(CODE + len(guest.CALLS)), space)
    caller = kernel.context(rax=39)
    for _ in range(20):
        assert is_syscall(kernel.run(caller, space))


def test_switches_from_many_threads(kernel: Kernel) -> None:
    """Context.switch(): different contexts from different threads at the same time."""
    space = kernel.space(guest.COUNT_CALLS)
    contexts = [kernel.context() for _ in range(4)]

    def work(index: int) -> None:
        for _ in range(30):
            contexts[index].switch(space)

    workers = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert [reg(context, "r12") for context in contexts] == [30] * 4


def test_threads_may_end(kernel: Kernel) -> None:
    """# P-108: a space outlives the threads that made and ran it."""
    made: list[AddressSpace] = []
    context = kernel.context()

    def work() -> None:
        made.append(kernel.space(guest.CALLS))
        assert is_syscall(context.switch(made[0]))

    helper = threading.Thread(target=work)
    helper.start()
    helper.join()
    time.sleep(0.05)
    assert is_syscall(kernel.run(kernel.context(), made[0]))


def test_deadline(kernel: Kernel) -> None:
    """next_ready(): None when the deadline passed, with and without running contexts."""
    submit_only(kernel)
    for _ in range(2):
        start = time.monotonic()
        assert kernel.platform.next_ready(start + 0.05) is None
        assert time.monotonic() >= start + 0.05
        assert kernel.platform.next_ready(start) is None
        kernel.platform.submit(kernel.context(), kernel.space(guest.SPIN))


def test_wake(kernel: Kernel) -> None:
    """wake(): a current wait ends, or the next."""
    submit_only(kernel)
    kernel.platform.next_ready(time.monotonic())
    threading.Timer(0.05, kernel.platform.wake).start()
    assert kernel.platform.next_ready(None) is None
    kernel.platform.wake()
    assert kernel.platform.next_ready(None) is None
    space = kernel.space(guest.SPIN)
    kernel.platform.submit(kernel.context(), space)
    for _ in range(20):
        threading.Timer(0.001, kernel.platform.wake).start()
        assert kernel.platform.next_ready(None) is None


def test_wake_before_the_first_wait(kernel: Kernel) -> None:
    """wake(): a thread that wakes early is not forgotten."""
    submit_only(kernel)
    kernel.platform.wake()
    assert kernel.platform.next_ready(None) is None


def test_other_children_are_left_alone(kernel: Kernel) -> None:
    """A child process of the sentry's own is nobody else's to reap."""
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    space, context = kernel.space(guest.CALLS), kernel.context()
    for _ in range(200):
        assert is_syscall(kernel.run(context, space))
    time.sleep(0.1)
    kernel.run(context, space)
    if kernel.path == SUBMIT:
        assert kernel.platform.next_ready(time.monotonic() + 0.05) is None
    assert child.wait(PATIENCE) == 7


def test_death_of_a_stub(kernel: Kernel) -> None:
    """# P-100, P-101."""
    space, pid = new_space_with_pid(kernel, guest.SPIN)
    bystander = kernel.space(guest.CALLS)
    context = kernel.context()
    timer = threading.Timer(0.05, os.kill, (pid, signal.SIGKILL))
    timer.start()
    assert_dead(kernel.run(context, space))
    timer.join()
    assert_dead(kernel.run(context, space))
    assert_dead(kernel.run(kernel.context(), space))
    with pytest.raises(MapError):
        kernel.map(space, DATA)
    space.unmap(DATA, PAGE)
    space.release()
    assert is_syscall(kernel.run(kernel.context(), bystander))


def test_death_reaches_every_context(kernel: Kernel) -> None:
    """# P-100."""
    submit_only(kernel)
    space, pid = new_space_with_pid(kernel, guest.SPIN)
    contexts = [kernel.context() for _ in range(3)]
    for context in contexts:
        kernel.platform.submit(context, space)
    time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    assert {id(kernel.wait()) for _ in contexts} == {id(context) for context in contexts}
    for context in contexts:
        assert_dead(context.event)


def test_death_between_runs(kernel: Kernel) -> None:
    """# P-101: nobody was running."""
    space, pid = new_space_with_pid(kernel, guest.CALLS)
    context = kernel.context()
    assert is_syscall(kernel.run(context, space))
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.02)
    with pytest.raises(MapError):
        kernel.map(space, DATA)
    space.unmap(DATA, PAGE)
    assert_dead(kernel.run(context, space))
    context.pull_full_state()
    context.release()
    space.release()


def test_dead_stubs_are_not_handed_out(kernel: Kernel) -> None:
    """# P-102."""
    space, pid = new_space_with_pid(kernel, guest.CALLS)
    os.kill(pid, signal.SIGKILL)
    space.release()
    for _ in range(3):
        assert is_syscall(kernel.run(kernel.context(), kernel.space(guest.CALLS)))


def test_dead_stubs_are_reaped(kernel: Kernel) -> None:
    """# P-103."""
    space, pid = new_space_with_pid(kernel, guest.CALLS)
    kernel.run(kernel.context(), space)
    os.kill(pid, signal.SIGKILL)
    space.release()
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_release_with_contexts_that_ran_there(kernel: Kernel) -> None:
    """# P-110: they can go on elsewhere, and a new space is empty."""
    space, context = kernel.space(guest.CALLS), kernel.context()
    kernel.map(space, DATA, b"left over")
    assert is_syscall(kernel.run(context, space))
    space.release()
    other = kernel.space(guest.LOAD)
    set_reg(context, "rip", CODE)
    set_reg(context, "rdi", DATA)
    assert signo(kernel.run(context, other)) == signal.SIGSEGV
    kernel.map(other, DATA, b"new page")
    assert is_syscall(kernel.run(context, other))
    assert reg(context, "r10") == int.from_bytes(b"new page", "little")


def test_released_contexts_make_room(kernel: Kernel) -> None:
    """# P-087, in small: contexts come and go without new threads for each."""
    space, pid = new_space_with_pid(kernel, guest.CALLS)
    for _ in range(30):
        context = kernel.context()
        assert is_syscall(kernel.run(context, space))
        context.release()
    assert len(threads(pid)) < 12


def usage() -> tuple[int, int, int]:
    """Return how many descriptors, children and mappings this process has."""
    gc.collect()
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return len(os.listdir("/proc/self/fd")), len(children()), sum(1 for _ in maps)


def test_cycles_leave_nothing(kernel: Kernel) -> None:
    """# P-117, in small."""

    def cycle() -> None:
        space, context = kernel.platform.new_address_space(), kernel.platform.new_context()
        space.map_file(CODE, kernel.file, code, PAGE, R | 4)
        kernel.run(context, space)
        context.release()
        space.release()

    code = kernel.page(guest.CALLS)
    for _ in range(5):
        cycle()
    assert eventually(lambda: kernel.platform.statistics()["spaces"] == 0)
    time.sleep(0.05)
    before = usage()
    for _ in range(60):
        cycle()

    def settled() -> bool:
        now = usage()
        return all(n <= b + slack for n, b, slack in zip(now, before, (2, 1, 8), strict=True))

    assert eventually(settled), (before, usage())


def test_platforms_leave_nothing(make: Callable[[], Platform]) -> None:
    """# P-012, P-117: creating and closing platforms."""
    make().close()
    before = usage()
    for _ in range(5):
        one = make()
        one.new_address_space()
        one.close()
    assert eventually(lambda: all(n <= b + 3 for n, b in zip(usage(), before, strict=True))), (before, usage())


SENTRY = """
import sys, time
from systrap import platform
from tests.platforms import guest
from tests.platforms.kernel import Kernel, children
kernel = Kernel(platform.lookup(sys.argv[1]).new(platform.Options()), "submit")
spaces = [kernel.space(guest.SPIN) for _ in range(3)]
for space in spaces:
    for _ in range(2):
        kernel.platform.submit(kernel.context(), space)
kernel.platform.next_ready(time.monotonic() + 0.1)
print(*children(), flush=True)
kernel.platform.next_ready(None)
"""


def test_killed_sentry_leaves_nobody(name: str) -> None:
    """# P-107."""
    sentry = subprocess.Popen([sys.executable, "-c", SENTRY, name], stdout=subprocess.PIPE, text=True)
    assert sentry.stdout is not None
    pids = [int(pid) for pid in sentry.stdout.readline().split()]
    if not pids:
        sentry.wait()
        sentry.stdout.close()
        pytest.skip("this platform does not run here")
    sentry.kill()
    sentry.wait()
    sentry.stdout.close()

    def gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    assert eventually(lambda: all(gone(pid) for pid in pids))
