"""Stubs that do not answer: stopped from outside, or led astray by their guest (S-144, P-114).

The limit is ten seconds in earnest; here it is made short.
"""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from systrap.platform import ContextError, EventKind
from systrap.platforms.systrap import dispatcher
from systrap.platforms.systrap.subprocess import Subprocess
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import SUBMIT, SWITCH, Kernel, is_syscall

SHORT = 0.5


@pytest.fixture(params=[SWITCH, SUBMIT])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setattr(dispatcher, "ANSWER_LIMIT", SHORT)
    monkeypatch.setattr(dispatcher, "QUEUED_ANSWER_LIMIT", 2 * SHORT)
    kernel = Kernel(create("systrap"), str(request.param))
    yield kernel
    kernel.close()


def test_a_stopped_stub_ends_its_guest_when_it_is_interrupted(kernel: Kernel) -> None:
    """S-144: whoever interrupts gets a typed error in bounded time, and other spaces go on."""
    space, other = kernel.space(guest.SPIN), kernel.space(guest.CALLS)
    assert isinstance(space, Subprocess)
    context = kernel.context()
    from threading import Timer

    def stop() -> None:
        for tid in space.stub.threads.values():
            os.kill(tid, signal.SIGSTOP)
        context.interrupt()

    timer = Timer(0.2, stop)
    timer.start()
    event = kernel.run(context, space)
    timer.join()
    assert event.kind == EventKind.DEATH
    assert isinstance(event.error, ContextError)
    assert "did not answer an interrupt" in str(event.error)
    assert is_syscall(kernel.run(kernel.context(), other))


def test_a_stub_that_goes_on_in_time_is_not_harmed(kernel: Kernel) -> None:
    """P-114: stopped for a moment and continued, it answers."""
    space = kernel.space(guest.SPIN)
    assert isinstance(space, Subprocess)
    context = kernel.context()
    from threading import Thread

    def stop_and_go() -> None:
        time.sleep(0.1)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for tid in space.stub.threads.values():
                os.kill(tid, number)
            if number == signal.SIGSTOP:
                context.interrupt()
                time.sleep(SHORT / 4)

    thread = Thread(target=stop_and_go)
    thread.start()
    event = kernel.run(context, space)
    thread.join()
    assert event.kind == EventKind.INTERRUPTED
    kernel.map(space, 0x20000000)
