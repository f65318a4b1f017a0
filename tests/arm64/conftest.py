"""Tests that need an arm64 kernel; elsewhere they are skipped.

On such a host, with nothing but Python and pytest: ``python3 -m pytest -c /dev/null --rootdir . tests/arm64``

Seen under qemu 7.2, on a CPU with SVE: guest code in a page that was used before is read right as data, and the former code is
executed; without SVE never. (Likely: a store by SVE, as the C library copies with, does not make qemu translate again.) So what
uses pages again, as the conformance suite does, wants ``-cpu cortex-a72`` or ``max,sve=off,sme=off`` there.
"""

import os
from collections.abc import Iterator
from itertools import product

import pytest

from systrap import platform
from systrap.platform import Options
from tests.platforms.kernel import SUBMIT, SWITCH, Kernel


@pytest.fixture(params=[f"{name}-{path}" for name, path in product(platform.names(), (SWITCH, SUBMIT))])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Return a guest kernel on each platform, for each way to run contexts."""
    if os.uname().machine != "aarch64":
        pytest.skip("this needs an arm64 host")
    name, _, path = str(request.param).partition("-")
    kernel = Kernel(platform.lookup(name).new(Options()), path)
    yield kernel
    kernel.close()
