"""A world and a stub with one sysmsg thread, for the tests of the sysmsg image."""

from collections.abc import Iterator

import pytest

from tests.blobs.machine import Block
from tests.blobs.stub import Stub, new_world, running_stub
from tests.blobs.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


@pytest.fixture
def stub(world: World) -> Iterator[Stub]:
    with running_stub(world) as stub:
        world.machine.block.set32(Block.SPACES + Block.HEAD, 0)
        stub.ring.bytes[:] = bytes(len(stub.ring.bytes))
        stub.start_thread(1)
        yield stub
