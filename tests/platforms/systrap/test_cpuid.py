"""CPUID that faults and is answered (P-051, P-052, P-053, S-110).

This machine cannot make CPUID fault ("not run here", docs/spec.md). So guests execute HLT, which faults in the same way (a
general protection fault, no error word), and the space's code says that CPUID stands there. Everything but the instruction
itself is real: stub, signal, slot, both ways to run a context.
"""

import threading
import time
from collections.abc import Iterator

import pytest

from systrap.arch.x86_cpuid import VirtualCpuid, Words
from systrap.host.probe import Host
from systrap.platform import AddressSpace, EventKind
from systrap.platforms.systrap import cpuid
from systrap.platforms.systrap.context import RUN_AGAIN, SystrapContext
from systrap.platforms.systrap.platform import SystrapPlatform
from systrap.platforms.systrap.subprocess import Subprocess
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, SUBMIT, SWITCH, Kernel, X, addr, is_syscall, reg, set_reg, signo

FAULTING = bytes.fromhex("f490")
"""hlt; nop: as long as cpuid, and as forbidden as where that faults."""
ASK_ONCE = FAULTING + bytes.fromhex("0f05")
ASK_FOREVER = FAULTING + bytes.fromhex("ebfc")
READ_NULL = bytes.fromhex("0fa28b042500000000")
"""cpuid (which works here); mov eax, [0]"""
SIGSEGV = 11


class ShownCode:
    """Guest code as a platform reads it; where the guest has FAULTING, it shows CPUID. ``refused``: nothing can be read."""

    def __init__(self, code: bytes) -> None:
        self.code = code.replace(FAULTING, cpuid.INSTRUCTION)
        self.refused = False
        self.reads: list[int] = []

    def read_code(self, addr: int, length: int) -> bytes | None:
        self.reads.append(addr)
        found = self.code[addr - CODE : addr - CODE + length] if addr >= CODE else b""
        return found if len(found) == length and not self.refused else None

    def may_write_code(self, addr: int, length: int) -> bool:
        return False

    def write_code(self, addr: int, data: bytes) -> bool:
        return False

    def find_area(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        return None

    def map_code(self, addr: int, length: int, name: str) -> bool:
        return False


def made_up(leaf: int, subleaf: int) -> Words:
    """Answer like a CPU that tells what it was asked."""
    if leaf == 0:
        return 0x24, 0x11111111, 0x22222222, 0xF3333333
    return leaf, subleaf, 0x80000000 | leaf, subleaf


@pytest.fixture(params=[SWITCH, SUBMIT])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """Return a kernel whose platform believes that CPUID faults here."""
    kernel = Kernel(create("systrap"), str(request.param))
    first = kernel.platform.new_address_space()
    assert isinstance(first, Subprocess)
    monkeypatch.setattr(first.environment, "cpuid", VirtualCpuid(made_up))
    first.release()
    yield kernel
    kernel.close()


def space(kernel: Kernel, code: bytes) -> tuple[AddressSpace, ShownCode]:
    space, shown = kernel.space(code), ShownCode(code)
    space.code = shown
    return space, shown


def test_is_answered_and_nobody_hears_of_it(kernel: Kernel) -> None:
    """P-051: the four registers, zero-extended; the run ends with the event behind the instruction."""
    where, _ = space(kernel, ASK_ONCE)
    ones = (1 << 64) - 1
    context = kernel.context(rax=0xABCD << 32, rbx=ones, rcx=ones, rdx=ones, rsi=5)
    assert is_syscall(kernel.run(context, where))
    # A system call itself changes rcx.
    assert [reg(context, name) for name in ("rax", "rbx", "rdx", "rsi", "rip")] == [
        0x24,
        0x11111111,
        0xF3333333,
        5,
        CODE + 4,
    ]
    assert kernel.platform.statistics()["events_signal"] == 0


def test_leaf_and_subleaf_are_the_low_halves(kernel: Kernel) -> None:
    where, _ = space(kernel, FAULTING + bytes.fromhex("0f0b"))
    context = kernel.context(rax=0x5555_0000_0004, rcx=0x7777_0000_0002)
    assert signo(kernel.run(context, where)) == 4
    assert [reg(context, name) for name in ("rax", "rbx", "rcx", "rdx")] == [4, 2, 0x80000004, 2]


def test_in_execute_only_memory(kernel: Kernel) -> None:
    """P-052: what reads the code does not ask for its protection."""
    where, _ = space(kernel, ASK_ONCE)
    where.map_file(CODE, kernel.file, kernel.page(ASK_ONCE), 4096, X)
    context = kernel.context()
    assert is_syscall(kernel.run(context, where))
    assert reg(context, "rbx") == 0x11111111


def test_other_faults_are_the_guests(kernel: Kernel) -> None:
    """The same fault where no CPUID stands, or nothing can be read; and a page fault behind a CPUID."""
    where, shown = space(kernel, ASK_ONCE)
    shown.code = bytes(64)
    context = kernel.context()
    event = kernel.run(context, where)
    assert (signo(event), int(event.access), reg(context, "rip")) == (SIGSEGV, 0, CODE)
    shown.code, shown.refused = cpuid.INSTRUCTION * 2, True
    assert signo(kernel.run(context, where)) == SIGSEGV
    assert shown.reads == [CODE, CODE]
    where, shown = space(kernel, READ_NULL)
    shown.code = cpuid.INSTRUCTION * 8
    event = kernel.run(context, where)
    assert (signo(event), addr(event), int(event.access)) == (SIGSEGV, 0, 1)
    assert shown.reads == [], "a page fault is no CPUID, and is not looked at"


def test_without_code_or_support_nothing_is_emulated(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    where, shown = space(kernel, ASK_ONCE)
    where.code = None
    context = kernel.context()
    assert signo(kernel.run(context, where)) == SIGSEGV
    where.code = shown
    assert isinstance(where, Subprocess)
    monkeypatch.setattr(where.environment, "cpuid", None)
    assert signo(kernel.run(context, where)) == SIGSEGV
    assert shown.reads == []


def test_a_storm_can_be_interrupted(kernel: Kernel) -> None:
    """P-053: again and again, from the first round on."""
    where, shown = space(kernel, ASK_FOREVER)
    context = kernel.context()
    for _ in range(5):
        timer = threading.Timer(0.02, context.interrupt)
        timer.start()
        assert kernel.run(context, where).kind == EventKind.INTERRUPTED
        timer.join()
        assert reg(context, "rip") in (CODE, CODE + 2)
    assert len(shown.reads) > 5


def test_an_interrupt_that_comes_with_the_fault_is_not_lost(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-053: the request is made while the instruction is being answered."""
    where, shown = space(kernel, ASK_FOREVER)
    context = kernel.context()
    found = shown.read_code

    def read_code(addr: int, length: int) -> bytes | None:
        if not shown.reads:
            context.interrupt()
        return found(addr, length)

    monkeypatch.setattr(shown, "read_code", read_code)
    assert kernel.run(context, where).kind == EventKind.INTERRUPTED
    assert len(shown.reads) == 1


def test_others_are_served_during_a_storm() -> None:
    """A context that asks without end does not keep next_ready() from returning others, nor from its deadline."""
    kernel = Kernel(create("systrap"), SUBMIT)
    platform = kernel.platform
    where, _ = space(kernel, ASK_FOREVER)
    assert isinstance(where, Subprocess)
    kept, where.environment.cpuid = where.environment.cpuid, VirtualCpuid(made_up)
    storm, quiet = kernel.context(), kernel.context(rdi=1)
    other = kernel.space(bytes.fromhex("0f05ebfc"))
    platform.submit(storm, where)
    for _ in range(20):
        platform.submit(quiet, other)
        assert kernel.wait() is quiet
    # Nothing else comes: the caller wants its deadline all the same (a timer of this very guest, say).
    assert platform.next_ready(time.monotonic() + 0.05) is None
    platform.wake()
    assert platform.next_ready(None) is None
    storm.interrupt()
    assert kernel.wait() is storm
    where.environment.cpuid = kept
    kernel.close()


def test_a_storm_without_a_pause_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-053: whoever spins finds the next entry before it ever looks at the clock; the deadline counts all the same."""
    kernel = Kernel(create("systrap"), SUBMIT)
    assert isinstance(kernel.platform, SystrapPlatform)
    dispatcher = kernel.platform._dispatcher
    rounds = []

    def found_at_once() -> int:
        rounds.append(1)
        return 1

    monkeypatch.setattr(dispatcher._code, "next_ready", found_at_once)
    monkeypatch.setattr(dispatcher, "_ready_context", lambda: None)
    assert kernel.platform.next_ready(time.monotonic() + 0.02) is None
    assert len(rounds) > 1
    monkeypatch.undo()
    kernel.close()


def test_the_dying_spaces_last_fault_is_no_event(kernel: Kernel) -> None:
    """What a stub left behind when it died is not run again."""
    where, _ = space(kernel, ASK_ONCE)
    context = kernel.context()
    assert isinstance(where, Subprocess)
    assert isinstance(context, SystrapContext)
    kernel.run(context, where)
    set_reg(context, "rip", CODE)
    # A forged fault in the slot: state FAULT, SIGSEGV, no error word.
    slot = context.slot
    assert slot is not None
    slot._u32[0xF68 >> 2] = 2
    slot._u32[0xFA0 >> 2] = 0
    slot._bytes[0xEE0:0xEE4] = (11).to_bytes(4, "little")
    slot._bytes[0xEE8:0xEEC] = (0x80).to_bytes(4, "little")
    assert context.collect() is RUN_AGAIN
    assert reg(context, "rip") == CODE + 2


@pytest.mark.skipif(Host().experiment("cpuid_fault") != 0, reason="CPUID cannot be made to fault on this machine")
def test_the_real_thing() -> None:
    """S-110, P-051: the instruction itself, compared with the virtual feature set."""
    kernel = Kernel(create("systrap"), SWITCH)
    code = bytes.fromhex("0fa20f05")
    where = kernel.space(code)
    where.code = ShownCode(code)
    assert isinstance(where, Subprocess)
    features = where.environment.cpuid
    assert features is not None
    for leaf, subleaf in (
        (0, 0),
        (1, 0),
        (7, 0),
        (0xD, 0),
        (0xD, 1),
        (0x40000000, 0),
        (0x80000001, 0),
        (0x80000002, 0),
    ):
        context = kernel.context(rax=leaf, rcx=subleaf)
        assert is_syscall(kernel.run(context, where))
        answer = features.query(leaf, subleaf)
        assert [reg(context, name) for name in ("orig_rax", "rbx", "rdx")] == [answer[0], answer[1], answer[3]]
    kernel.close()


def test_absent_is_reported_as_absent() -> None:
    """The platform and doctor ask the same question."""
    assert cpuid.can_fault() == (Host().experiment("cpuid_fault") == 0)
