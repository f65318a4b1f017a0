"""Defects of what the sentry decides: which stub may be used again, which guest is lost, which path may spin.

Upstream's side is put back by replacing methods of ours. (20-platform §2.4, §6.6, §7.3, §8.3.)
"""

import os
import signal
import time

import pytest

from systrap.platform import ContextError, EventKind
from systrap.platforms.systrap import abi, dispatcher, fast_path
from systrap.platforms.systrap.dispatcher import Dispatcher
from systrap.platforms.systrap.fast_path import Controller, Path, State
from systrap.platforms.systrap.pool import Pool
from systrap.platforms.systrap.stub_process import StubProcess
from systrap.platforms.systrap.subprocess import Subprocess
from tests.defects.both_ways import both_ways, demand, verdict
from tests.platforms import guest
from tests.platforms.kernel import PATIENCE, Kernel, eventually, is_syscall

SHORT = 0.5
SOON = 3.0


def used_space(kernel: Kernel) -> Subprocess:
    """Return a space in which a context has run, and has left."""
    space, context = kernel.space(guest.CALLS), kernel.context()
    assert isinstance(space, Subprocess)
    assert is_syscall(kernel.run(context, space))
    context.release()
    return space


# ---- POOL-DEAD ----


def hand_out_unseen(pool: Pool) -> Subprocess:
    """Hand out the stub that came last, as upstream does: it was alive when it came."""
    stub = pool._take()
    assert stub is not None
    return Subprocess(stub, pool._observer, pool.give_back)


def check_the_next_space_lives(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, original: bool) -> None:
    """Kill a stub while it waits for its next space."""
    space = used_space(kernel)
    stub = space.stub
    space.release()
    os.kill(stub.pid, signal.SIGKILL)
    assert eventually(lambda: stub.dead)
    if original:
        monkeypatch.setattr(Pool, "new_space", hand_out_unseen)
    with verdict(original):
        found = kernel.platform.new_address_space()
        assert isinstance(found, Subprocess)
        demand(not found.stub.dead, "a new space is a dead process")


@both_ways
def test_a_stub_that_dies_in_the_pool(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """POOL-DEAD; P-102."""
    check_the_next_space_lives(kernel, monkeypatch, original)


# ---- POOL-CORRUPT ----


def check_scribbled_memory_is_not_handed_on(kernel: Kernel) -> None:
    """Overwrite where a thread's trampolines lead, as a guest can, and end."""
    space = used_space(kernel)
    stub = space.stub
    stub.thread_words(1)[abi.SYSMSG_SYSHANDLER] ^= 1
    space.release()
    after = used_space(kernel)
    demand(after.stub is not stub, "the next guest runs on what the last one wrote")
    assert eventually(lambda: stub.dead)


@both_ways
def test_a_stub_that_its_guest_wrote_to(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """POOL-CORRUPT; S-141."""
    if original:
        monkeypatch.setattr(StubProcess, "looks_untouched", lambda _stub: True)
    with verdict(original):
        check_scribbled_memory_is_not_handed_on(kernel)


# ---- DEAF-GUEST ----


def check_a_guest_that_takes_no_interrupt(kernel: Kernel, patience: float) -> None:
    """Stop a guest's thread. A guest can do as much by itself: by masking SIGCHLD, or by spinning in stub code."""
    space, context = kernel.space(guest.SPIN), kernel.context()
    assert isinstance(space, Subprocess)
    kernel.platform.submit(context, space)
    assert kernel.platform.next_ready(time.monotonic() + 0.1) is None
    for tid in space.stub.threads.values():
        os.kill(tid, signal.SIGSTOP)
    context.interrupt()
    ready = kernel.platform.next_ready(time.monotonic() + patience)
    demand(ready is context, "a task whose guest takes no interrupt can never be ended")
    assert context.event.kind == EventKind.DEATH
    assert isinstance(context.event.error, ContextError)


@both_ways
def test_a_deaf_guest(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEAF-GUEST; S-144. The limit is made short here."""
    monkeypatch.setattr(dispatcher, "ANSWER_LIMIT", SHORT)
    if original:
        monkeypatch.setattr(Dispatcher, "_end_the_deaf", lambda _dispatcher: None)
    with verdict(original):
        check_a_guest_that_takes_no_interrupt(kernel, SOON if original else PATIENCE)


# ---- BOTH-MEDIANS ----


def both_judged_by_nothing(controller: Controller, stub_spun: bool, sentry_spun: bool) -> None:
    """Judge in the state BOTH as upstream does: the sentry's path by medians of histograms that were just emptied."""
    stub, sentry = controller._medians()
    if not stub or not sentry:
        return
    controller._forget()
    if controller._bad_stub(stub, sentry, stub_spun):
        if controller.stub.fail():
            controller.state = State.SENTRY
    elif controller._bad_sentry(*controller._medians(), sentry_spun) and controller.sentry.fail():
        controller.state = State.STUB


def samples(bucket: int) -> list[int]:
    """Return a period's histogram with all its latencies alike."""
    return [2 * fast_path.MIN_SAMPLES if i == bucket else 0 for i in range(fast_path.BUCKETS)]


def on(path: Path, baseline: int) -> None:
    """Switch a path on that was fast enough without."""
    path.baseline = samples(baseline)
    path.switch_on()


def check_the_sentrys_spinning_is_judged() -> None:
    """Let both paths be on: the sentry spins, gains nothing, and stubs get their contexts ten times later than before."""
    controller = Controller(4)
    on(controller.stub, 4)
    on(controller.sentry, 4)
    controller.state = State.BOTH
    for _ in range(fast_path.STRIKES):
        controller.period(samples(40), samples(4), False, True)
    demand(not controller.sentry.is_on, "the sentry spins on whatever harm it does")
    assert controller.state == State.STUB


@both_ways
def test_the_state_in_which_both_spin(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """BOTH-MEDIANS; P-090."""
    if original:
        monkeypatch.setitem(fast_path._STEPS, State.BOTH, both_judged_by_nothing)
    with verdict(original):
        check_the_sentrys_spinning_is_judged()
