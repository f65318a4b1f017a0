"""A stub of our own images, for checks that have no mutant, and a kernel on the systrap platform."""

from collections.abc import Iterator

import pytest

from tests.blobs.stub import Stub
from tests.defects.mutants import stub_of
from tests.platforms.conftest import create
from tests.platforms.kernel import SUBMIT, Kernel


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Return a stub with one sysmsg thread."""
    with stub_of(None) as found:
        yield found


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Return a kernel that submits contexts and waits for the next."""
    found = Kernel(create("systrap"), SUBMIT)
    yield found
    found.close()
