"""A stub of our own images, for checks that have no mutant."""

from collections.abc import Iterator

import pytest

from tests.blobs.stub import Stub
from tests.defects.mutants import stub_of


@pytest.fixture
def stub() -> Iterator[Stub]:
    """Return a stub with one sysmsg thread."""
    with stub_of(None) as found:
        yield found
