"""Defects of upstream's panic: how a stub thread that met the impossible tells the sentry (10-stub §9)."""

import os
import signal
import struct
import threading
import time

import pytest

from systrap.host import futex
from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.machine import Block
from tests.blobs.play import DATA, FAULT, load, peek, wait_running
from tests.blobs.stub import Stub
from tests.defects.both_ways import both_ways, demand, verdict
from tests.defects.mutants import stub_of

regimes = pytest.mark.parametrize("user_resume", [False, True], ids=["sigreturn", "user_resume"])
PATIENCE = 10.0
GRACE = 2.0
"""What a wake-up that was sent before its sender died may take until it is seen."""
SWITCH_STACK_AND_CALL_SYSHANDLER = b"\x65\x48\x8b\x24\x25\x18\x00\x00\x00" + b"\x65\xff\x24\x25\x10\x00\x00\x00"
"""mov %gs:syshandler_stack, %rsp; jmp *%gs:syshandler: a trampoline without the word PREP."""


class Sleeper:
    """A sentry that sleeps on a context's state, as upstream's does, but without its 10 ms timeout."""

    def __init__(self, word: int) -> None:
        self._word = word
        self._release = False
        self.woken = threading.Event()
        self._tid = 0
        self._thread = threading.Thread(target=self._sleep, daemon=True)
        self._thread.start()

    def _sleep(self) -> None:
        self._tid = threading.get_native_id()
        futex.wait(self._word, 0, 60.0)
        if not self._release:
            self.woken.set()

    def wait_asleep(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, "the sentry does not fall asleep"
            with open(f"/proc/self/task/{self._tid}/syscall", encoding="ascii") as file:
                number, _, rest = file.read().partition(" ")
            if number == "202" and int(rest.split()[0], 16) == self._word:
                return
            time.sleep(0.001)

    def end(self) -> None:
        self._release = True
        futex.wake(self._word)
        self._thread.join(PATIENCE)


def check_panic_wakes_the_sentry(stub: Stub) -> None:
    """Let the sentry sleep on the state of a running context, whose thread then finds its own sysmsg forged."""
    stub.world.machine.block.set32(Block.NOTIFY, abi.NOTIFY_FUTEX)
    load(stub, guest.SPIN)
    context = stub.context(0)
    stub.submit(context)
    wait_running(stub, context)
    sentry = Sleeper(context.words.address + abi.STATE)
    try:
        sentry.wait_asleep()
        stub.sysmsg(1).set64(abi.SYSMSG_SELF, 0x1000)
        stub.interrupt(1)
        assert stub.wait_death() == -signal.SIGKILL
        woken = sentry.woken.wait(GRACE)
    finally:
        sentry.end()
    demand(woken, "the stub is dead, and the sentry was not woken")
    assert context.state == FAULT
    assert context.words.u32(abi.THREAD_ID) == 1


@both_ways
@regimes
def test_the_wake_up_of_a_panic_passes_the_filter(original: bool, user_resume: bool) -> None:
    """PANIC-WAKE; S-149: a wake-up with an argument that F1 denies kills its sender instead."""
    with stub_of("PANIC-WAKE" if original else None, user_resume) as stub, verdict(original):
        check_panic_wakes_the_sentry(stub)


def check_panic_in_syshandler(stub: Stub) -> None:
    """Enter syshandler without a trampoline: that guest ends with a report, not as one that had a fault."""
    load(stub, SWITCH_STACK_AND_CALL_SYSHANDLER)
    context = stub.context(0)
    assert stub.submit(context) >= 0
    assert stub.next() == 0
    deadline = time.monotonic() + GRACE
    while (ended := os.waitid(os.P_PID, stub.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
        if time.monotonic() > deadline:
            break
        time.sleep(0.002)
    demand(ended is not None, "the thread panicked and runs on")
    demand(context.words.u32(abi.THREAD_ID) == 1, "the error looks like an event of the guest's")
    report = stub.reports()[0]
    assert report is not None
    assert report.startswith("BAD_THREAD_STATE")


@both_ways
@regimes
def test_a_panic_in_syshandler_is_an_end(original: bool, user_resume: bool) -> None:
    """PANIC-WAKE; S-140: SIGSYS is open there, so that a denied call enters the handler again."""
    with stub_of("PANIC-WAKE in syshandler" if original else None, user_resume) as stub, verdict(original):
        check_panic_in_syshandler(stub)


def check_panic_with_a_forged_context(stub: Stub) -> None:
    """Let the context's address in sysmsg lead into guest memory that looks like a slot of this thread's."""
    load(stub, struct.pack("<I", 1), at=DATA + abi.THREAD_ID)
    load(stub, guest.SPIN)
    context = stub.context(0)
    stub.submit(context)
    wait_running(stub, context)
    sysmsg = stub.sysmsg(1)
    sysmsg.set64(abi.SYSMSG_CONTEXT, DATA)
    sysmsg.set64(abi.SYSMSG_SELF, 0x1000)
    stub.interrupt(1)
    assert stub.wait_death() == -signal.SIGKILL
    report = stub.reports()[0]
    assert report is not None
    assert report.startswith("BAD_SYSMSG")
    written = peek(stub, DATA + abi.STATE, 4)
    demand(written == bytes(4), f"a panic wrote {written.hex()} where no context is")


@both_ways
@regimes
def test_a_panic_follows_no_forged_pointer(original: bool, user_resume: bool) -> None:
    """PANIC-POINTER; S-054."""
    with stub_of("PANIC-POINTER" if original else None, user_resume) as stub, verdict(original):
        check_panic_with_a_forged_context(stub)
