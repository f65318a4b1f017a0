"""What the dispatcher tells of contexts that came back: the events it counts, and time slices that are over."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from systrap.platform import INTERRUPTED_EVENT, SYSCALL_EVENT, EventKind
from systrap.platforms.systrap.context import SystrapContext
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, SUBMIT, SWITCH, Kernel, children, set_reg


@pytest.fixture(params=[SWITCH, SUBMIT])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Return a kernel on the systrap platform, for each way to run contexts."""
    kernel = Kernel(create("systrap"), str(request.param))
    yield kernel
    kernel.close()


def counted(kernel: Kernel) -> dict[str, int]:
    found = kernel.platform.statistics()
    return {kind.name: found[f"events_{kind.name.lower()}"] for kind in EventKind}


def test_events_are_counted_by_kind(kernel: Kernel) -> None:
    space, context = kernel.space(guest.CALLS + guest.ILLEGAL), kernel.context()
    for _ in range(3):
        kernel.run(context, space)
    set_reg(context, "rip", CODE + len(guest.CALLS))
    kernel.run(context, space)
    context.interrupt()
    kernel.run(context, space)
    assert counted(kernel) == {**dict.fromkeys(counted(kernel), 0), "SYSCALL": 3, "SIGNAL": 1, "INTERRUPTED": 1}


def test_deaths_are_counted() -> None:
    """One for each context that was out when its stub died, as for one that finds it dead."""
    kernel = Kernel(create("systrap"), SUBMIT)
    before = children()
    space = kernel.space(guest.SPIN)
    (pid,) = children() - before
    contexts = [kernel.context() for _ in range(3)]
    for context in contexts:
        kernel.platform.submit(context, space)
    time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    for _ in contexts:
        kernel.wait()
    kernel.run(contexts[0], space)
    assert counted(kernel)["DEATH"] == 4
    kernel.close()


def test_end_of_a_time_slice(kernel: Kernel) -> None:
    """§6.6: only a context that nobody interrupted goes on; a request that comes at this very moment is kept."""
    context = kernel.context()
    assert isinstance(context, SystrapContext)
    context.preempted = True
    assert context.goes_on(INTERRUPTED_EVENT)
    assert not context.goes_on(INTERRUPTED_EVENT), "told twice"
    context.preempted = context.interrupted = True
    assert not context.goes_on(INTERRUPTED_EVENT)
    assert not context.interrupted
    context.preempted = True
    assert not context.goes_on(SYSCALL_EVENT)
    assert not context.preempted
