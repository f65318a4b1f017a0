"""Stubs that serve one address space after another (P-102, P-109, P-110; 20-platform §9.3)."""

import os
import signal
from collections.abc import Iterator

import pytest

from systrap.platform import Access, EventKind, Platform
from systrap.platforms.systrap import abi, pool
from systrap.platforms.systrap.subprocess import Subprocess
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, DATA, SUBMIT, SWITCH, Kernel, eventually, is_syscall, reg, signo, threads


@pytest.fixture(params=[SWITCH, SUBMIT])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    kernel = Kernel(create("systrap"), str(request.param))
    yield kernel
    kernel.close()


def as_subprocess(space: object) -> Subprocess:
    assert isinstance(space, Subprocess)
    return space


def end(kernel: Kernel, space: Subprocess) -> None:
    """Release a space and the contexts that ran in it."""
    for context in kernel.contexts:
        context.release()
    kernel.contexts.clear()
    space.release()


def count(platform: Platform, name: str) -> int:
    return platform.statistics()[name]


def test_a_released_stub_serves_the_next_space(kernel: Kernel) -> None:
    """P-109: the same process and threads, nothing of the last guest's memory, and everything works."""
    first = as_subprocess(kernel.space(guest.CALLS))
    kernel.map(first, DATA, b"secret")
    assert is_syscall(kernel.run(kernel.context(rdi=0x5EC2E7), first))
    pid, workers = first.stub.pid, threads(first.stub.pid)
    end(kernel, first)
    second = as_subprocess(kernel.space(guest.LOAD))
    assert second.stub.pid == pid
    assert second is not first
    assert threads(pid) == workers
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps:
        assert not [line for line in maps if line.startswith(f"{DATA:x}-")]
    fault = kernel.run(kernel.context(rdi=DATA), second)
    assert signo(fault) == signal.SIGSEGV
    assert fault.access == Access.READ
    assert count(kernel.platform, "stubs_reused") == 1
    assert count(kernel.platform, "stubs_created") == 1


def test_the_next_guest_finds_no_registers_of_the_last(kernel: Kernel) -> None:
    first = as_subprocess(kernel.space(guest.CALLS))
    kernel.run(kernel.context(rdi=0x5EC2E7), first)
    stub = first.stub
    end(kernel, first)
    slot = stub.context_slot(0)
    assert not any(slot.fpstate)
    assert not any(slot.regs)


def test_a_space_with_a_context_in_it_is_not_reused(kernel: Kernel) -> None:
    """P-110: the stub is free when the last context has left, by release or by moving elsewhere."""
    first = as_subprocess(kernel.space(guest.CALLS))
    context = kernel.context()
    kernel.run(context, first)
    first.release()
    second = as_subprocess(kernel.space(guest.CALLS))
    assert second.stub.pid != first.stub.pid
    assert is_syscall(kernel.run(context, second))
    third = as_subprocess(kernel.space(guest.CALLS))
    assert third.stub.pid == first.stub.pid


def test_a_stub_that_died_in_the_pool_is_not_handed_out(kernel: Kernel) -> None:
    """P-102."""
    first = as_subprocess(kernel.space(guest.CALLS))
    kernel.run(kernel.context(), first)
    stub = first.stub
    end(kernel, first)
    os.kill(stub.pid, signal.SIGKILL)
    assert eventually(lambda: stub.dead)
    second = as_subprocess(kernel.space(guest.CALLS))
    assert second.stub is not stub
    assert is_syscall(kernel.run(kernel.context(), second))


def scribble_queue(space: Subprocess) -> None:
    space.stub.queue[abi.QUEUE_ACTIVE_CONTEXTS >> 2] = 7


def scribble_ring(space: Subprocess) -> None:
    space.stub.ring[abi.RING_TAIL] ^= 1


def scribble_sysmsg(space: Subprocess) -> None:
    space.stub.thread_words(1)[abi.SYSMSG_SYSHANDLER] ^= 1


@pytest.mark.parametrize("scribble", [scribble_queue, scribble_ring, scribble_sysmsg])
def test_a_stub_that_was_written_to_is_not_reused(kernel: Kernel, scribble: "object") -> None:
    """S-141 and [H] of 20-platform §8.3: whose shared memory is not as it was left is killed."""
    assert callable(scribble)
    first = as_subprocess(kernel.space(guest.CALLS))
    kernel.run(kernel.context(), first)
    stub = first.stub
    scribble(first)
    end(kernel, first)
    assert eventually(lambda: stub.dead)
    assert count(kernel.platform, "stubs_poisoned") == 1
    assert is_syscall(kernel.run(kernel.context(), kernel.space(guest.CALLS)))


def test_a_guest_that_ended_in_corruption_poisons_its_stub(kernel: Kernel) -> None:
    """P-105: a forged state ends the guest, and nobody gets that stub after it."""
    first = as_subprocess(kernel.space(guest.CALLS))
    context = kernel.context()
    kernel.run(context, first)
    stub = first.stub
    first.condemn("corrupted shared memory: a test said so")
    assert eventually(lambda: stub.dead)
    event = kernel.run(context, first)
    assert event.kind == EventKind.DEATH
    end(kernel, first)
    assert eventually(lambda: stub.dead)
    assert as_subprocess(kernel.space(guest.CALLS)).stub is not stub


def test_the_pool_is_bounded_and_close_empties_it(kernel: Kernel) -> None:
    """P-117: more idle stubs than the limit are ended; with the platform all are."""
    spaces = [as_subprocess(kernel.space(guest.CALLS)) for _ in range(pool.MAX_IDLE + 2)]
    pids = [space.stub.pid for space in spaces]
    for space in spaces:
        space.release()
    assert count(kernel.platform, "stubs_idle") == pool.MAX_IDLE
    kernel.platform.close()
    assert eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_rax_is_not_what_the_last_guest_left(kernel: Kernel) -> None:
    """A context of a new space starts with its own registers in a used stub, on a thread that served somebody else."""
    for value in range(1, 6):
        space = as_subprocess(kernel.space(guest.ARGUMENTS))
        context = kernel.context(CODE, r15=value)
        assert is_syscall(kernel.run(context, space))
        assert (reg(context, "rdi"), reg(context, "r15")) == (0x11, value)
        end(kernel, space)
    assert count(kernel.platform, "stubs_reused") == 4
