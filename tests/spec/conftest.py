"""Fixtures: a driver on the systrap platform, on both of its paths or on one."""

from collections.abc import Iterator

import pytest

from tests.platforms.conftest import create
from tests.platforms.kernel import SUBMIT, SWITCH, Kernel


@pytest.fixture(params=[SWITCH, SUBMIT])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Return a kernel on the systrap platform, for each way to run contexts."""
    kernel = Kernel(create("systrap"), str(request.param))
    yield kernel
    kernel.close()


@pytest.fixture
def server() -> Iterator[Kernel]:
    """Return a kernel on the systrap platform that submits and collects."""
    kernel = Kernel(create("systrap"), SUBMIT)
    yield kernel
    kernel.close()
