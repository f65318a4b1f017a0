"""Defects of upstream's signal handler: floating point state, flags, the look at the code in front of a system call."""

import os
import signal
import struct
import time

import pytest

from systrap.arch import x86_64
from systrap.host import ptrace
from systrap.platforms.systrap import layout
from tests.blobs import guest
from tests.blobs.play import DATA, FAULT, NEED_TRAP, SITE, SYSCALL, TRAP, load, patch, peek, wait_parked, wait_running
from tests.blobs.stub import Stub
from tests.blobs.world import GUEST, PAGE, START, TABLE
from tests.defects.both_ways import both_ways, demand, verdict
from tests.defects.mutants import stub_of
from tests.models.test_found_in_sources import NEW_PATTERN, OLD_PATTERN, bounce

XMM0 = 160
"""Where an FP image has xmm0."""
OURS, OTHERS = b"this one's xmm0.", b"another's xmm0.."
SYSMSG_DEBUG = 0x48
EFLAGS_DF, EFLAGS_AC = 0x400, 0x40000


def check_fp_after_an_interrupt_in_stub_code(stub: Stub) -> None:
    """Interrupt a context while its thread, state NONE, is still in stub code with another's FP registers.

    Code in a page above stub_start stands for the last instructions of syshandler, in front of its xrstor.
    """
    page = layout.round_up(stub.world.place.end, PAGE) + 16 * PAGE
    load(stub, guest.LOAD_XMM0_FROM_RBX, guest.SPIN, at=GUEST + 3 * PAGE)
    assert stub.channel.run(stub.world.map_shared(page, PAGE, stub.world.guest + 3 * PAGE, 5)).ret == page
    load(stub, OTHERS, at=DATA)
    context = stub.context(0)
    context["rip"], context["rbx"] = page, DATA
    context.words.bytes[XMM0 : XMM0 + 16] = OURS
    struct.pack_into("<Q", context.words.bytes, 512, 2)
    stub.submit(context)
    wait_running(stub, context)
    time.sleep(0.02)
    stub.interrupt(1)
    assert stub.next() == 0
    assert (context.state, context.siginfo()[0]) == (FAULT, signal.SIGCHLD)
    load(stub, guest.STORE_XMM0_TO_RDI, guest.UD2)
    context["rip"], context["rdi"] = START, DATA + 64
    assert stub.run(context) == FAULT
    seen = peek(stub, DATA + 64, 16)
    demand(seen != OTHERS, "the guest sees the FP registers of another one")
    assert seen == OURS


@both_ways
def test_fp_state_after_an_interrupt_on_the_way_out(original: bool) -> None:
    """BUG-FP; S-042."""
    with stub_of("BUG-FP" if original else None) as stub, verdict(original):
        check_fp_after_an_interrupt_in_stub_code(stub)


def check_fp_of_a_context_that_bounced(stub: Stub) -> None:
    """Look with whose FP registers the context of bounce() runs in the end."""
    seen = bounce(stub)
    if seen is None:
        pytest.skip("the threads were woken in another order")
    demand(seen != OLD_PATTERN, "the context runs with registers that it had long ago")
    assert seen == NEW_PATTERN


@both_ways
def test_fp_state_of_a_context_that_bounced(original: bool) -> None:
    """FP-BOUNCE; S-045, P-061."""
    with stub_of("FP-BOUNCE" if original else None) as stub, verdict(original):
        check_fp_of_a_context_that_bounced(stub)


def check_features_of_the_image(stub: Stub) -> None:
    """Look at the FP image that the kernel is told to load: it claims no component that nobody saves or cleans."""
    load(stub, guest.SPIN)
    context = stub.context(0)
    stub.submit(context)
    wait_running(stub, context)
    time.sleep(0.01)
    magic, _, features = struct.unpack_from("<IIQ", context.words.bytes, 464)
    assert magic == 0x46505853
    demand(features == 0xE7, f"the image claims the components {features:#x}")


@both_ways
def test_components_of_the_fp_image(original: bool) -> None:
    """XFEATURES; S-046, S-047."""
    with stub_of("XFEATURES" if original else None) as stub, verdict(original):
        check_features_of_the_image(stub)


def check_code_that_cannot_be_read(stub: Stub) -> None:
    """Make a system call in front of which nothing can be read: it is no site to be patched, whatever registers hold."""
    load(stub, guest.SYSCALL, at=GUEST)
    # The bytes that a patchable site would have: any, b8, the number, 0f 05.
    matching = b"\0" + guest.mov_eax(39) + guest.SYSCALL
    stub.sysmsg(1).set64(SYSMSG_DEBUG, int.from_bytes(matching, "little"))
    context = stub.context(0)
    context["rip"], context["rax"] = GUEST, 39
    state = stub.run(context)
    demand(state != NEED_TRAP, "what a register happened to hold was taken for the code of the site")
    assert state == SYSCALL


@both_ways
def test_a_probe_that_fails_reads_nothing(original: bool) -> None:
    """PROBE-REGISTER; S-043."""
    with stub_of("PROBE-REGISTER" if original else None) as stub, verdict(original):
        check_code_that_cannot_be_read(stub)


def check_flags_in_stub_code(stub: Stub, set_flag: bytes, by_site: bool) -> None:
    """Set DF or AC in a guest: neither is in force while the stub's own code runs."""
    if by_site:
        patch(stub, TABLE + 80, SITE, 39)
        load(stub, guest.UD2, at=SITE + 7)
        load(stub, set_flag, guest.jump(SITE, START + len(set_flag)))
    else:
        load(stub, set_flag, guest.SYSCALL)
    context = stub.context(0)
    assert stub.run(context) == (TRAP if by_site else SYSCALL)
    assert context["eflags"] & (EFLAGS_DF | EFLAGS_AC), "the guest's own flags come back with it"
    wait_parked(stub)
    flags = flags_of(stub.tids[1])
    demand(flags & (EFLAGS_DF | EFLAGS_AC) == 0, f"stub code runs with flags {flags:#x} of the guest's choice")


def flags_of(tid: int) -> int:
    """Return the flags of a thread that sleeps in stub code. Skips where ptrace is not allowed."""
    if ptrace.request(ptrace.SEIZE, tid) != 0:
        pytest.skip("ptrace is not allowed here")
    try:
        ptrace.demand(ptrace.INTERRUPT, tid)
        os.waitpid(tid, ptrace.WALL)
        buffer = bytearray(8 * x86_64.X86_64.REG_COUNT)
        ptrace.RegisterSet(ptrace.NT_PRSTATUS, buffer).read(tid)
        return int(memoryview(buffer).cast("Q")[x86_64.X86_64.REG_NAMES.index("eflags")])
    finally:
        ptrace.request(ptrace.DETACH, tid)


@both_ways
@pytest.mark.parametrize(
    ("flag", "by_site", "mutant"),
    [
        (guest.STD, True, "DF-AC: DF in syshandler"),
        (guest.SET_AC, True, "DF-AC: AC in syshandler"),
        (guest.SET_AC, False, "DF-AC: AC in the handler"),
    ],
)
def test_flags_of_the_guest_end_at_the_stub(original: bool, flag: bytes, by_site: bool, mutant: str) -> None:
    """DF-AC; S-093: the kernel itself clears DF on the way into a handler, and no more."""
    with stub_of(mutant if original else None) as stub, verdict(original):
        check_flags_in_stub_code(stub, flag, by_site)
