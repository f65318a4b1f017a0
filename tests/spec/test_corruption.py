"""What comes back from a stub makes no sense: forged states, threads, signals, reports (10-stub §9; 20-platform §5.2, §8).

What is written here in the sentry's view of the shared pages is what a guest could write in its own.
"""

import struct
import threading

import pytest

from systrap.host import futex
from systrap.platform import Event, EventKind
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ContextState
from systrap.platforms.systrap.context import SystrapContext
from tests.platforms import guest
from tests.platforms.kernel import Kernel, eventually, is_syscall
from tests.spec.support import died_of, slot, stub, sysmsg

EPERM, ECHILD = 1, 10


def forge(context: SystrapContext, state: int, thread_id: int = abi.INVALID_ID) -> None:
    """Pretend that a running context came back, in the way its waiter looks for."""
    space, one = context.space, context.slot
    assert space is not None
    assert one is not None
    one._u32[abi.THREAD_ID >> 2] = thread_id
    one._u32[abi.STATE >> 2] = state
    (tail,) = struct.unpack_from("<I", space.stub.ring, abi.RING_TAIL)
    struct.pack_into(
        "<Q", space.stub.ring, abi.RING_SLOTS + 8 * (tail % abi.QUEUE_ENTRIES), tail + 1 << 32 | one.stub_id
    )
    struct.pack_into("<I", space.stub.ring, abi.RING_TAIL, tail + 1)
    bell = space.stub.ring_address + abi.RING_BELL
    space.environment.code.add32(bell, 1)
    futex.wake(bell)
    futex.wake(one.address + abi.STATE)


def run_and_forge(kernel: Kernel, state: int, thread_id: int = abi.INVALID_ID) -> Event:
    """Let a context spin, forge its return, and return the event that comes of it. The stub is killed in the end."""
    space, context = kernel.space(guest.SPIN), kernel.context()
    assert isinstance(context, SystrapContext)

    def later() -> None:
        assert eventually(lambda: context.slot is not None and context.slot.thread_id() != abi.INVALID_ID)
        forge(context, state, thread_id)

    helper = threading.Thread(target=later)
    helper.start()
    event = kernel.run(context, space)
    helper.join()
    stub(space).kill()
    return event


@pytest.mark.parametrize("state", [ContextState.INVALID, 7, 1 << 31, 0xFFFFFFFF])
def test_states_that_there_are_not(kernel: Kernel, state: int) -> None:
    """S-143, P-105: the guest ends with EPERM, and is told which state it was."""
    errno, text = died_of(run_and_forge(kernel, state))
    assert errno == EPERM
    assert f"{state:#x}" in text


def test_a_state_of_none_is_no_return(server: Kernel) -> None:
    """S-143: an entry in the ready ring of a context that runs on is forged, and ends its guest."""
    event = run_and_forge(server, ContextState.NONE)
    assert died_of(event)[0] > 0


def test_the_state_that_only_the_sentry_writes(kernel: Kernel) -> None:
    """P-105: UNEXPECTED_DEATH is told as ECHILD, whoever wrote it."""
    assert died_of(run_and_forge(kernel, ContextState.UNEXPECTED_DEATH))[0] == ECHILD


@pytest.mark.parametrize("thread_id", [0, 1, 2, 77, 0xFFFFFFFF])
def test_a_return_with_a_thread_still_on_it(kernel: Kernel, thread_id: int) -> None:
    """P-105, S-060: thread_id other than INVALID at hand-back is corruption, or a report."""
    errno, text = died_of(run_and_forge(kernel, ContextState.SYSCALL, thread_id))
    assert errno == EPERM
    assert f"{thread_id:#x}" in text


@pytest.mark.parametrize("error", list(abi.StubError), ids=lambda e: e.name)
def test_each_report_reaches_the_user(kernel: Kernel, error: abi.StubError) -> None:
    """S-140, P-106: code, detail and line of a thread that gave up are in the guest's death; others go on."""
    space, context = kernel.space(guest.SPIN), kernel.context()
    assert isinstance(context, SystrapContext)
    bystander = kernel.space(guest.CALLS)

    def later() -> None:
        assert eventually(lambda: context.slot is not None and context.slot.thread_id() == 1)
        struct.pack_into("<Iii", sysmsg(space), abi.SYSMSG_ERR, error, -38, 1234)
        forge(context, ContextState.FAULT, 1)

    helper = threading.Thread(target=later)
    helper.start()
    errno, text = died_of(kernel.run(context, space))
    helper.join()
    stub(space).kill()
    assert errno == EPERM
    assert error.name in text
    assert abi.STUB_ERROR_TEXT[error] in text
    assert "line 1234" in text
    assert is_syscall(kernel.run(kernel.context(), bystander))


def test_a_full_queue_is_corruption(kernel: Kernel) -> None:
    """P-105: there are fewer contexts than entries, so a queue that says that it is full was scribbled over."""
    space, context = kernel.space(guest.CALLS), kernel.context()
    assert is_syscall(kernel.run(context, space))
    queue = stub(space).queue
    queue[abi.QUEUE_START >> 2] = (queue[abi.QUEUE_END >> 2] - abi.QUEUE_ENTRIES + 1) & 0xFFFFFFFF
    errno, text = died_of(kernel.run(context, space))
    assert errno == EPERM
    assert "queue" in text


@pytest.mark.parametrize("signo", [-1, 0, 1, 9, 19, 31, 32, 64, 1 << 30])
def test_signals_that_no_stub_handles(kernel: Kernel, signo: int) -> None:
    """P-104, S-141: a fault with an impossible number ends the guest, and reaches nobody as a signal."""
    space, context = kernel.space(guest.SPIN), kernel.context()
    assert isinstance(context, SystrapContext)

    def later() -> None:
        assert eventually(lambda: context.slot is not None and context.slot.thread_id() != abi.INVALID_ID)
        struct.pack_into("<i", slot(context)._bytes, abi.SIGINFO, signo)
        forge(context, ContextState.FAULT)

    helper = threading.Thread(target=later)
    helper.start()
    event = kernel.run(context, space)
    helper.join()
    stub(space).kill()
    if signo == 31:
        assert event.kind == EventKind.SIGNAL, "one that a stub has a handler for; it harms nobody"
    else:
        assert died_of(event)[0] == EPERM
