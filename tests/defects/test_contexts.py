"""Defects in the sentry's dealings with context slots: memory that guests can write, and that had other owners before.

Upstream's side is put back by replacing methods of ours. (20-platform §3.5, §5.4, §5.5, §6.1.)
"""

import os
import signal
import time
from collections.abc import Sequence

import pytest

from systrap.host import mem, process
from systrap.platform import EventKind, ProgrammingError
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ContextSlot
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.dispatcher import Dispatcher
from systrap.platforms.systrap.subprocess import Subprocess
from systrap.platforms.systrap.syscall_thread import Call, Reply
from tests.defects.both_ways import DefectError, both_ways, demand, verdict
from tests.platforms import guest
from tests.platforms.kernel import CODE, DATA, PAGE, Kernel, R, W, eventually, is_syscall, set_reg

GARBAGE = 0xDEADBEEF
SOON = 2.0
"""How long an event is waited for that does not come."""


def systrap(kernel: Kernel, **registers: int) -> SystrapContext:
    """Return a new context, as what it is."""
    context = kernel.context(**registers)
    assert isinstance(context, SystrapContext)
    return context


def slot_of(context: SystrapContext) -> ContextSlot:
    """Return the slot of a context that has run."""
    assert context.slot is not None
    return context.slot


# ---- DOUBLE-FETCH ----


class Flicker(ContextSlot):
    """A slot whose thread_id a guest changes between any two reads."""

    __slots__ = ("answers",)

    def __init__(self, slot: ContextSlot) -> None:
        super().__init__(slot._bytes, slot.address, slot.stub_id)
        self.answers: list[int] = []

    def thread_id(self) -> int:
        """Answer what the test wants next, then what is there."""
        return self.answers.pop(0) if self.answers else super().thread_id()


def interrupt_with_two_reads(dispatcher: Dispatcher, context: SystrapContext) -> None:
    """Interrupt as the seed does: what the first read found to be valid, the second read uses."""
    slot, space = context.slot, context.space
    if slot is None or space is None:
        raise ProgrammingError("nothing runs")
    dispatcher._code.exchange32(slot.address + abi.INTERRUPT, 1)
    if slot.thread_id() == abi.INVALID_ID:
        return
    tid = space.stub.threads[slot.thread_id()]
    process.tgkill(tid, tid, abi.SIGCHLD)


def check_thread_id_is_read_once(kernel: Kernel) -> None:
    """Scribble, as a guest can, over the id of the thread that runs a context just when it is interrupted."""
    space, context = kernel.space(guest.CALLS + guest.SPIN), systrap(kernel)
    assert is_syscall(kernel.run(context, space))
    slot = Flicker(slot_of(context))
    context.slot = slot
    set_reg(context, "rip", CODE + len(guest.CALLS))
    kernel.platform.submit(context, space)
    assert eventually(lambda: slot.thread_id() == 1)
    slot.answers = [1, GARBAGE]
    try:
        context.interrupt()
    except LookupError as error:
        raise DefectError("the id that was looked up is not the id that was checked") from error
    slot.answers = []
    assert kernel.wait() is context
    assert context.event.kind == EventKind.INTERRUPTED


@both_ways
def test_a_thread_id_that_changes(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOUBLE-FETCH; S-142, P-076."""
    if original:
        monkeypatch.setattr(Dispatcher, "interrupt", interrupt_with_two_reads)
    with verdict(original):
        check_thread_id_is_read_once(kernel)


# ---- STALE-SLOT ----


def reset_what_upstream_does(slot: ContextSlot) -> None:
    """Prepare a slot as upstream does (10-stub §2.2): the rest is the last owner's."""
    slot._u32[abi.FPSTATE_CHANGED >> 2] = 1
    slot._bytes[abi.PTREGS : abi.SIGNO + 8] = bytes(abi.SIGNO + 8 - abi.PTREGS)
    slot._u32[abi.STATE >> 2] = 0
    slot._u32[abi.THREAD_ID >> 2] = abi.INVALID_ID


def check_a_slot_forgets_its_owner(kernel: Kernel) -> None:
    """Leave an interrupt in a slot, as a guest can, and end: the slot's next thread has not been interrupted."""
    space, first = kernel.space(guest.CALLS), systrap(kernel)
    assert is_syscall(kernel.run(first, space))
    slot = slot_of(first)
    mem.view(slot.address + abi.INTERRUPT, 4)[0] = 1
    first.release()
    second = systrap(kernel)
    event = kernel.run(second, space)
    assert slot_of(second).stub_id == slot.stub_id, "the slot was not used again: the check shows nothing"
    demand(event.kind != EventKind.INTERRUPTED, "a new thread is interrupted in the old one's place")
    assert is_syscall(event)


@both_ways
def test_a_slot_that_is_used_again(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """STALE-SLOT; S-026."""
    if original:
        monkeypatch.setattr(ContextSlot, "reset", reset_what_upstream_does)
    with verdict(original):
        check_a_slot_forgets_its_owner(kernel)


# ---- FP-MOVE ----


def move_without_fp(context: SystrapContext, space: Subprocess) -> ContextSlot:
    """Change the space as upstream does: the FP registers of the new slot are whatever lies there."""
    slot = space.bind(context)
    slot.regs[:] = context.regs
    context._leave()
    context.slot, context.space, context.regs = slot, space, slot.regs
    return slot


def check_fp_moves_along(kernel: Kernel) -> None:
    """Let a context go on in another space, without a word that its FP state was changed."""
    spaces = [kernel.space(guest.KEEP_XMM) for _ in range(2)]
    offset = kernel.page(b"sixteen bytes!!!")
    for space in spaces:
        space.map_file(DATA, kernel.file, offset, PAGE, R | W)
    context = systrap(kernel, rdi=DATA)
    for space in spaces:
        assert is_syscall(kernel.run(context, space))
    demand(kernel.read(offset + 16, 16) == b"sixteen bytes!!!", "the FP registers were lost on the way")


@both_ways
def test_a_context_that_changes_its_space(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """FP-MOVE; P-058, P-061."""
    if original:
        monkeypatch.setattr(SystrapContext, "_move", move_without_fp)
    with verdict(original):
        check_fp_moves_along(kernel)


# ---- LATE-THREAD ----


def create_thread_and_say_nothing(_dispatcher: Dispatcher, space: Subprocess) -> bool:
    """Make a thread as upstream does: an interrupt that came before it stands in the books is not repeated."""
    return space.stub.create_thread()


def check_an_interrupt_while_a_thread_is_made(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a thread that is made for another context take this one first, and interrupt it while it is not in the books.

    The first thread is stopped, so that its context waits in the queue until the second thread comes.
    """
    if kernel.platform.concurrency_count() < 2:
        pytest.skip("a space has but one thread here")
    space = kernel.space(guest.CALLS + guest.SPIN)
    assert isinstance(space, Subprocess)
    assert is_syscall(kernel.run(kernel.context(), space))
    os.kill(space.stub.threads[1], signal.SIGSTOP)
    early, late = (systrap(kernel, ip=CODE + len(guest.CALLS)) for _ in range(2))
    run = space.stub.channel.run

    def run_and_let_the_thread_begin(calls: Sequence[Call]) -> Reply:
        reply = run(calls)
        if calls[-1].name == "clone":
            assert eventually(lambda: slot_of(early).thread_id() == 2)
            time.sleep(0.05)
            early.interrupt()
        return reply

    monkeypatch.setattr(space.stub.channel, "run", run_and_let_the_thread_begin)
    kernel.platform.submit(early, space)
    kernel.platform.submit(late, space)
    assert len(space.stub.threads) == 2, "no second thread was made: the check shows nothing"
    ready = kernel.platform.next_ready(time.monotonic() + SOON)
    demand(ready is early, "the interrupt was lost: its context runs on")
    assert early.event.kind == EventKind.INTERRUPTED


@both_ways
def test_an_interrupt_while_a_thread_is_made(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """LATE-THREAD; P-072."""
    if original:
        monkeypatch.setattr(Dispatcher, "_create_thread", create_thread_and_say_nothing)
    with verdict(original):
        check_an_interrupt_while_a_thread_is_made(kernel, monkeypatch)
