"""Which contexts count as awake: stub threads spin for those only (P-086, S-069; 20-platform §6.7)."""

from collections.abc import Iterator

import pytest

from systrap.platform import Options
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.subprocess import Subprocess
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import SUBMIT, SWITCH, Kernel


@pytest.fixture(params=[SWITCH, SUBMIT])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    kernel = Kernel(create("systrap"), str(request.param))
    yield kernel
    kernel.close()


def awake(space: object) -> int:
    assert isinstance(space, Subprocess)
    assert space.statistics()["contexts_awake"] == space.stub.queue[abi.QUEUE_AWAKE_CONTEXTS >> 2]
    return space.statistics()["contexts_awake"]


def test_prepare_sleep_is_idempotent_and_balanced(kernel: Kernel) -> None:
    """P-086: awake from the first run until it says that it sleeps; saying so twice counts once; the next run counts again."""
    space = kernel.space(guest.CALLS)
    one, two = kernel.context(), kernel.context()
    assert awake(space) == 0
    kernel.run(one, space)
    kernel.run(two, space)
    kernel.run(one, space)
    assert awake(space) == 2
    for _ in range(3):
        one.prepare_sleep()
    assert awake(space) == 1
    kernel.run(one, space)
    assert awake(space) == 2
    one.prepare_sleep()
    two.prepare_sleep()
    assert awake(space) == 0


def test_contexts_that_leave_are_not_awake(kernel: Kernel) -> None:
    """P-086: released, or gone to another space."""
    space, other = kernel.space(guest.CALLS), kernel.space(guest.CALLS)
    one, two = kernel.context(), kernel.context()
    kernel.run(one, space)
    kernel.run(two, space)
    kernel.run(two, other)
    assert (awake(space), awake(other)) == (1, 1)
    one.release()
    two.prepare_sleep()
    two.release()
    assert (awake(space), awake(other)) == (0, 0)


def test_without_the_fast_path_nobody_is_told_to_spin() -> None:
    """P-084, S-072: with --no-fast-path the stub's word stays 1, and the sentry's spin 0, however busy a guest is."""
    kernel = Kernel(create("systrap", Options(disable_fast_path=True)), SUBMIT)
    space, context = kernel.space(guest.CALLS), kernel.context()
    assert isinstance(space, Subprocess)
    for _ in range(3000):
        kernel.run(context, space)
        assert space.stub.queue[abi.QUEUE_FAST_PATH_DISABLED >> 2] == 1
    found = kernel.platform.statistics()
    assert found["sentry_fast_path_enabled"] == found["stub_fast_path_enabled"] == 0
    assert space.stub.queue[abi.QUEUE_USED_FAST_PATH >> 2] == 0
    kernel.close()
