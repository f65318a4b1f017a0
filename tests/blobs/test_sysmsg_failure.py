"""Stub threads that meet the impossible, and guests that reach for stub code (10-stub §9, §10)."""

import signal
import struct
import time

import pytest

from systrap.host import futex
from systrap.host.sys import NR
from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.machine import Block
from tests.blobs.play import (
    FAULT,
    SITE,
    SYSCALL,
    load,
    patch,
    wait_parked,
)
from tests.blobs.stub import Stub
from tests.blobs.world import TABLE


@pytest.mark.parametrize("by", ["signal", "patched site"])
def test_a_thread_that_finds_its_sysmsg_forged_reports_and_dies(stub: Stub, by: str) -> None:
    """S-054, S-140, S-149: the sentry hears of it at once, and finds what and where."""
    patch(stub, TABLE + 80, SITE, 39)
    load(stub, guest.SYSCALL)
    context = stub.context(0)
    wait_parked(stub)
    if by == "signal":
        stub.sysmsg(1).set64(0, 0x1000)
        expected = "BAD_SYSMSG"
        # The thread sleeps in the handler of its first signal; the check is made in the next.
    else:
        # Straight into syshandler, without the trampoline that says PREP.
        load(stub, b"\x65\x48\x8b\x24\x25\x18\x00\x00\x00", b"\x65\xff\x24\x25\x10\x00\x00\x00")
        expected = "BAD_THREAD_STATE"
    begin = time.monotonic()
    assert stub.submit(context) >= 0
    assert stub.next() == 0
    assert time.monotonic() - begin < 5
    assert context.state == FAULT
    assert context.words.u32(abi.THREAD_ID) == 1, "this is how an error is told from an event"
    report = stub.reports()[0]
    assert report is not None
    assert report.startswith(expected)
    assert stub.wait_death() == -signal.SIGKILL


def test_the_panic_wakes_a_sentry_that_sleeps_on_the_state(stub: Stub) -> None:
    """S-149: with the argument values that F1 allows (10-stub §8.3 item 8); else the thread would die unheard."""
    stub.world.machine.block.set32(Block.NOTIFY, abi.NOTIFY_FUTEX)
    # mov $200000000, %ecx; dec %ecx; jnz; syscall: time enough to fall asleep
    load(stub, b"\xb9\x00\xc2\xeb\x0b\xff\xc9\x75\xfc", guest.SYSCALL)
    context = stub.context(0)
    wait_parked(stub)
    stub.sysmsg(1).set64(0, 0x1000)
    begin = time.monotonic()
    stub.submit(context)
    assert futex.wait(context.words.address + abi.STATE, 0, 30.0)
    assert time.monotonic() - begin < 20
    assert context.state == FAULT


def test_an_impossible_context_id(stub: Stub) -> None:
    """S-074."""
    stub.world.machine.block.set64(Block.CONTEXT, stub.context(0).words.address)
    stub.world.machine.block.set32(Block.CONTEXT_ID, 4096)
    stub.world.machine.submit()
    assert stub.wait_death() == -signal.SIGKILL
    report = stub.reports()[0]
    assert report is not None
    assert report.startswith("BAD_CONTEXT_ID")
    assert "additional 0x1000" in report


def test_a_guest_that_jumps_at_stub_code_gets_nothing(stub: Stub) -> None:
    """S-108: the bootstrap's own instructions, entered by a guest: the filter F1 makes a signal of them."""
    context = stub.context(0)
    context["rip"] = stub.world.begin
    assert stub.run(context) == SYSCALL
    assert context["orig_rax"] == NR["prctl"]
    assert context.siginfo()[:2] == (signal.SIGSYS, 1)
    assert context["rip"] > stub.world.place.stub_start


def test_no_descriptor_or_memory_call_from_the_image(stub: Stub) -> None:
    """The image's own system call instruction, with other registers: still F1."""
    context = stub.context(0)
    restorer = struct.unpack_from("<Q", stub.world.handler, 16)[0]
    context["rip"], context["rax"] = restorer + 5, NR["getpid"]
    assert stub.run(context) == SYSCALL
    assert context["orig_rax"] == NR["getpid"]
