"""Fixtures of the platform tests: every platform that runs here, on both of its paths."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest

from systrap import platform
from systrap.platform import Constructor, Options, Platform, RequirementError
from tests.platforms.kernel import SUBMIT, SWITCH, Kernel


def constructor(name: str) -> Constructor:
    """Return a platform's constructor, or skip."""
    try:
        return platform.lookup(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"platform {name} does not exist yet: {error}")


def create(name: str, options: Options | None = None) -> Platform:
    """Return a new platform, or skip with the reason."""
    try:
        return constructor(name).new(options or Options())
    except RequirementError as error:
        pytest.skip(f"platform {name} does not run on this host: {error}")


@pytest.fixture(params=platform.names())
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of each platform that exists."""
    found = str(request.param)
    constructor(found)
    return found


@pytest.fixture
def make(name: str) -> Iterator[Callable[[], Platform]]:
    """Return a function that makes platforms; they are closed in the end."""
    made: list[Platform] = []

    def new() -> Platform:
        made.append(create(name))
        return made[-1]

    yield new
    for one in made:
        one.close()


@pytest.fixture(params=[f"{n}-{p}" for n, p in product(platform.names(), (SWITCH, SUBMIT))])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Return a kernel on each platform, for each way to run contexts."""
    name, _, path = str(request.param).partition("-")
    kernel = Kernel(create(name), path)
    yield kernel
    kernel.close()
