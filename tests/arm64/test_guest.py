"""The bytes of guest.py are what their assembly says. On any host with the compiler of the images."""

import pytest

from blobs import build
from tests.arm64 import guest
from tests.arm64.assembler import assemble


@pytest.mark.parametrize("name", guest.ALL)
def test_the_bytes_are_the_assembly(name: str) -> None:
    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    assert assemble(guest.ALL[name].assembly) == guest.ALL[name].bytes
