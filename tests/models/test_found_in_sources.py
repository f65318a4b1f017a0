"""What the models found in our own sources, shown on the machine code itself (docs/models.md)."""

import time
from collections.abc import Iterator

import pytest

from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.machine import Block, Machine, Queue
from tests.blobs.play import DATA, FAULT, SYSCALL, load, peek, wait_parked, wait_running
from tests.blobs.stub import Context, Stub, new_world, running_stub
from tests.blobs.world import START

OLD_PATTERN, NEW_PATTERN = b"\x11" * 16, b"\x22" * 16
SAVE = START + 256
"""Where the code begins that writes xmm0 to (rdi)."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    with new_world() as world, running_stub(world) as stub:
        stub.start_thread(1)
        yield stub


def settle(stub: Stub) -> None:
    """Wait until all threads are asleep in the kernel: the one that slept first is woken first."""
    for thread_id in stub.tids:
        wait_parked(stub, thread_id)
    time.sleep(0.02)


def run_on(stub: Stub, context: Context, rip: int, thread_id: int) -> bool:
    """Run a context once; tell whether it was this thread that ran it."""
    context["rip"] = rip
    assert stub.run(context) in (SYSCALL, FAULT)
    settle(stub)
    return context.words.u32(abi.LAST_THREAD_ID) == thread_id


def bounce(stub: Stub) -> bytes | None:
    """Let context 0 run on thread 1 (the only one so far), then on thread 2, then bounce back from thread 1, and then run there.

    Returns the floating point state that it has at the end; None if other threads were woken than those.
    """
    load(stub, guest.LOAD_XMM0_FROM_RBX, guest.SYSCALL)
    load(stub, guest.STORE_XMM0_TO_RDI, guest.SYSCALL, at=SAVE)
    load(stub, guest.SPIN, at=SAVE + 64)
    load(stub, OLD_PATTERN, at=DATA)
    load(stub, NEW_PATTERN, at=DATA + 16)
    context, hog = stub.context(0), stub.context(1)
    context["rdi"], context["rbx"] = DATA + 64, DATA
    if not run_on(stub, context, START, 1):
        return None
    stub.start_thread(2)
    settle(stub)
    if not run_on(stub, context, START, 1):
        return None
    context["rbx"] = DATA + 16
    if not run_on(stub, context, START, 2):
        return None
    context.words.set32(abi.INTERRUPT, 1)
    if not run_on(stub, context, SAVE, 1) or context.state != FAULT:
        return None
    hog["rip"] = SAVE + 64
    stub.submit(hog)
    wait_running(stub, hog, 2)
    context["rip"] = SAVE
    assert stub.run(context) == SYSCALL
    return peek(stub, DATA + 64, 16) if context.words.u32(abi.LAST_THREAD_ID) == 1 else None


def test_a_context_that_bounces_back_keeps_its_floating_point_state(stub: Stub) -> None:
    """S-045, P-061."""
    found = bounce(stub)
    if found is None:
        pytest.skip("the threads were woken in another order")
    assert found == NEW_PATTERN


@pytest.mark.parametrize(
    ("active", "tokens"),
    [
        pytest.param(0, 0, id="a thread has taken its token and does not count yet"),
        pytest.param(1, 1, id="a token that nobody is asleep to take"),
    ],
)
def test_a_second_context_gets_a_second_thread(active: int, tokens: int) -> None:
    """S-065, P-081: one thread has a context that computes for ever, and nothing is submitted afterwards."""
    machine, queue = Machine(), Queue()
    for offset, value in ((Block.QUEUE, queue.words.address), (Block.CONTEXT, queue.context.address)):
        machine.block.set64(offset, value)
    for offset, value in ((Block.MAX_THREADS, 2), (Block.THREADS, 1), (Block.STUB_SPIN_OFF, 1)):
        machine.block.set32(offset, value)
    queue.words.set32(abi.QUEUE_ACTIVE_CONTEXTS, 1)
    queue.words.set32(abi.QUEUE_ACTIVE_THREADS, active)
    queue.words.set32(abi.QUEUE_THREADS_TO_WAKEUP, tokens)
    assert machine.submit() == 1
