"""System calls that are answered within next_ready(): the short way agrees with the long one (quick.py; platform.QuickCalls)."""

import ctypes
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from systrap import arch
from systrap.arch.x86_64 import X86_64
from systrap.platform import AddressSpace, Context, EventKind, QuickCall, QuickCalls
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.quick import ROUNDS
from systrap.platforms.systrap.subprocess import Subprocess
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, PATIENCE, SUBMIT, Kernel, is_syscall, reg, set_reg
from tests.platforms.systrap.patching import START, PatchedGuest

pytestmark = pytest.mark.skipif(arch.host() is not X86_64, reason="guest code of x86-64")

NUMBER, LAST, VSYSCALL_NUMBER = 39, 500, 96
CALLS: Final = 300
SITE: Final = bytes.fromhex("90b8270000000f05")
"""nop; mov eax, 39; syscall: a site that is patched. (What stands in front of it must not look like a part of it.)"""
PLAIN: Final = bytes.fromhex("ba2700000089d00f05")
"""mov edx, 39; mov eax, edx; syscall"""
CLOCK_CALL: Final = bytes.fromhex("ba6000000089d00f050f0b")
"""mov edx, 96; mov eax, edx; syscall; ud2"""
UNSPECIFIED: Final = ("rcx", "r11")
_U64: Final = (1 << 64) - 1


def counted(call: bytes) -> bytes:
    """Return code that makes many calls: add r12, rax; CALL; add rbx, rax; dec rbp; jnz; mov eax, 500; syscall; ud2."""
    body = bytes.fromhex("4901c4") + call + bytes.fromhex("4801c348ffcd")
    return body + bytes([0x75, 254 - len(body)]) + bytes.fromhex("90b8f40100000f050f0b")


def endless(call: bytes) -> bytes:
    """Return code that calls for ever: CALL; jmp."""
    return call + bytes([0xEB, 254 - len(call)])


def call_then_spin(call: bytes) -> bytes:
    """Return code that calls once and then computes for ever: CALL; jmp to itself."""
    return call + bytes.fromhex("ebfe")


class Quick:
    """A kernel that answers some calls quickly, and what came of it."""

    def __init__(self, handlers: dict[int, QuickCall], call: bytes) -> None:
        self.call = call
        self._guests: list[PatchedGuest] = []
        self.counts: defaultdict[int, int] = defaultdict(int)
        self.kernel = Kernel(create("systrap"), SUBMIT)
        self.kernel.platform.answer_quickly(QuickCalls(handlers, self.counts))

    def space(self, code: bytes) -> AddressSpace:
        """Return a space with code at START, in memory that can be patched where the calls are sites."""
        if self.call == PLAIN:
            return self.kernel.space(bytes([0x90]) * (START - CODE) + code)
        self._guests.append(PatchedGuest(self.kernel, code))
        return self._guests[-1].space

    def answered(self) -> int:
        """Return what the platform says of it."""
        return self.kernel.platform.statistics()["calls_answered_quickly"]

    def serve(self, pairs: list[tuple[Context, AddressSpace]], handler: QuickCall) -> int:
        """Run contexts until each made its last call; answers how often ``handler`` was called on the long way."""
        spaces = {id(context): space for context, space in pairs}
        for context, space in pairs:
            self.kernel.platform.submit(context, space)
        slowly = 0
        while spaces:
            context = self.kernel.wait()
            if is_syscall(context.event):
                if reg(context, "orig_rax") == LAST:
                    del spaces[id(context)]
                    continue
                slowly += 1
                set_reg(context, "rax", (handler(context.owner, context.regs) or 0) & _U64)
            else:
                assert context.event.kind == EventKind.INTERRUPTED
            self.kernel.platform.submit(context, spaces[id(context)])
        return slowly


class Owner:
    """Whom a handler is called for: counts up."""

    def __init__(self, first: int = 0) -> None:
        self.value = first


def of_an_owner(handler: "Callable[[Owner, memoryview[int]], int | None]") -> QuickCall:
    """Make a handler from one that knows whose contexts these are."""

    def checked(owner: object, regs: "memoryview[int]") -> int | None:
        assert isinstance(owner, Owner)
        return handler(owner, regs)

    return checked


def count_up(owner: Owner, regs: "memoryview[int]") -> int:
    """Answer a number, and every fifth time an error."""
    owner.value += 1
    return -owner.value % 4096 if owner.value % 5 else -owner.value % 100 - 100


COUNT_UP: Final = of_an_owner(count_up)

Maker = Callable[[dict[int, QuickCall]], Quick]


@pytest.fixture(params=[SITE, PLAIN], ids=["patched", "trapped"])
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """Return a function that makes kernels with these handlers, for calls of both kinds."""
    made: list[Quick] = []

    def new(handlers: dict[int, QuickCall]) -> Quick:
        made.append(Quick(handlers, request.param))
        return made[-1]

    yield new
    for one in made:
        one.kernel.close()


def counting(quick: Quick, space: AddressSpace, first: int = 0) -> Context:
    """Return a context of counted()."""
    context = quick.kernel.context(rbp=CALLS, rax=1, r14=0x1234567890ABCDEF, r15=first)
    context.owner = Owner(first)
    return context


def run_counted(quick: Quick) -> tuple[dict[str, int], bytes, int]:
    """Run counted() once: registers and FP state at its end, and how many calls went the long way."""
    space = quick.space(counted(quick.call))
    context = counting(quick, space)
    slowly = quick.serve([(context, space)], COUNT_UP)
    context.pull_full_state()
    names = [name for name in X86_64.REG_NAMES if name not in (*UNSPECIFIED, "fs_base", "gs_base")]
    # The end of the FP image's software bytes is whose it was last.
    return {name: reg(context, name) for name in names}, bytes(context.fp[:464]), slowly


def test_both_ways_agree(make: Maker) -> None:
    """# P-040: the same results, registers and FP state; every call is answered once, and counted."""
    quick = make({NUMBER: COUNT_UP})
    registers, fp, slowly = run_counted(quick)
    assert quick.counts[NUMBER] == quick.answered() == CALLS - slowly
    assert quick.answered() > 0
    plain = make({})
    assert run_counted(plain) == (registers, fp, CALLS)
    assert plain.answered() == 0


def test_each_context_gets_its_own_answers(make: Maker) -> None:
    """# P-076: one handler, many contexts in two spaces; owner and registers are those of the context that calls."""
    seen: dict[int, set[int]] = defaultdict(set)

    @of_an_owner
    def handler(owner: Owner, regs: "memoryview[int]") -> int:
        seen[id(owner)].add(regs[X86_64.REG_NAMES.index("r15")])
        return count_up(owner, regs)

    quick = make({NUMBER: handler})
    spaces = [quick.space(counted(quick.call)) for _ in range(2)]
    pairs = [(counting(quick, spaces[n % 2], 1000 * n), spaces[n % 2]) for n in range(8)]
    slowly = quick.serve(pairs, handler)
    assert quick.answered() == 8 * CALLS - slowly > 0
    for number, (context, _) in enumerate(pairs):
        assert isinstance(context.owner, Owner)
        assert context.owner.value == 1000 * number + CALLS
        assert seen[id(context.owner)] == {1000 * number}
        model = Owner(1000 * number)
        assert reg(context, "rbx") == sum(count_up(model, context.regs) for _ in range(CALLS)) & _U64


def test_a_handler_may_hand_the_context_over(make: Maker) -> None:
    """It has set the result itself and answers None: the caller gets the context as INTERRUPTED, and it goes on from there."""

    @of_an_owner
    def handler(owner: Owner, regs: "memoryview[int]") -> int | None:
        owner.value += 1
        if owner.value % 7:
            return 1
        regs[X86_64.RESULT] = 1
        return None

    quick = make({NUMBER: handler})
    space = quick.space(counted(quick.call))
    context = counting(quick, space)
    owner = context.owner
    assert isinstance(owner, Owner)
    handed = slowly = 0
    quick.kernel.platform.submit(context, space)
    while not (is_syscall(quick.kernel.wait().event) and reg(context, "orig_rax") == LAST):
        if context.event.kind == EventKind.INTERRUPTED:
            handed += 1
        else:
            slowly += 1
            set_reg(context, "rax", 1)
            owner.value += 1
        quick.kernel.platform.submit(context, space)
    assert reg(context, "rbx") == CALLS
    assert CALLS // 7 - slowly <= handed <= CALLS // 7
    assert quick.answered() == quick.counts[NUMBER] == CALLS - slowly


def test_interrupt_before_and_within(make: Maker) -> None:
    """# P-070, P-072: a request that comes before the run, or while the call is being answered, is answered."""
    contexts: list[Context] = []

    @of_an_owner
    def handler(owner: Owner, regs: "memoryview[int]") -> int:
        owner.value += 1
        contexts[0].interrupt()
        return 7

    quick = make({NUMBER: handler})
    space = quick.space(call_then_spin(quick.call))
    for _ in range(20):
        context = quick.kernel.context(ip=CODE)
        context.owner = Owner()
        contexts[:] = [context]
        context.interrupt()
        assert quick.kernel.run(context, space).kind == EventKind.INTERRUPTED
        assert reg(context, "rip") == CODE
        event = quick.kernel.run(context, space)
        if is_syscall(event):
            set_reg(context, "rax", handler(context.owner, context.regs) or 0)
            event = quick.kernel.run(context, space)
        # The guest computes for ever: only the request brings it back.
        assert event.kind == EventKind.INTERRUPTED
        assert context.owner.value == 1
        assert (reg(context, "rax"), reg(context, "rip")) == (7, START + len(quick.call))
        context.release()
    assert quick.answered() > 0


def test_interrupts_at_a_high_rate(make: Maker) -> None:
    """# P-074: no call is lost or answered twice, and the guest is interrupted."""
    quick = make({NUMBER: COUNT_UP})
    space = quick.space(counted(quick.call))
    stop = threading.Event()
    context = quick.kernel.context(rbp=20 * CALLS)
    context.owner = Owner()

    def storm() -> None:
        while not stop.is_set():
            context.interrupt()
            time.sleep(0.0001)

    helper = threading.Thread(target=storm, daemon=True)
    helper.start()
    try:
        quick.serve([(context, space)], COUNT_UP)
    finally:
        stop.set()
        helper.join()
    assert context.owner.value == 20 * CALLS
    model = Owner()
    assert reg(context, "rbx") == sum(count_up(model, context.regs) for _ in range(20 * CALLS)) & _U64
    assert quick.kernel.platform.statistics()["events_interrupted"] > 0


def test_the_caller_is_let_in(make: Maker) -> None:
    """# P-053: a guest that only makes quick calls keeps nobody from timers: after some rounds, or at the deadline."""
    quick = make({NUMBER: COUNT_UP})
    space, context = quick.space(endless(quick.call)), quick.kernel.context()
    context.owner = Owner()
    quick.kernel.platform.submit(context, space)
    for _ in range(10):
        before = quick.answered()
        found = quick.kernel.platform.next_ready(time.monotonic() + 0.001)
        assert quick.answered() - before <= ROUNDS
        if found is not None:
            assert is_syscall(found.event)
            set_reg(context, "rax", 0)
            quick.kernel.platform.submit(context, space)


def test_the_deadline_is_kept(make: Maker) -> None:
    """# P-053: answered calls do not put it off."""
    quick = make({NUMBER: COUNT_UP})
    space, context = quick.space(call_then_spin(quick.call)), quick.kernel.context()
    context.owner = Owner()
    event = None
    quick.kernel.platform.submit(context, space)
    began = time.monotonic()
    while (found := quick.kernel.platform.next_ready(began + 0.2)) is not None:
        event = found.event
        quick.kernel.platform.submit(context, space)
    assert event is None or is_syscall(event)
    assert 0.2 <= time.monotonic() - began < PATIENCE
    context.interrupt()
    assert quick.kernel.wait() is context


def test_wake_is_honoured(make: Maker) -> None:
    """next_ready() returns None soon although calls keep coming."""
    quick: Quick

    @of_an_owner
    def handler(owner: Owner, regs: "memoryview[int]") -> int:
        owner.value += 1
        quick.kernel.platform.wake()
        return owner.value

    quick = make({NUMBER: handler})
    space, context = quick.space(endless(quick.call)), quick.kernel.context()
    context.owner = Owner()
    quick.kernel.platform.submit(context, space)
    woken = 0
    for _ in range(20):
        found = quick.kernel.platform.next_ready(time.monotonic() + PATIENCE)
        if found is None:
            woken += 1
        else:
            quick.kernel.platform.submit(context, space)
    assert woken > 10
    # At most one call is answered for each time that the caller was let in.
    assert context.owner.value <= woken + 1


def test_calls_of_the_vsyscall_page_go_the_long_way(make: Maker) -> None:
    """# P-049: such a call is a fault of the guest's, though it has a number that handlers are offered for."""
    quick = make({VSYSCALL_NUMBER: COUNT_UP})
    space, context = quick.space(CLOCK_CALL), quick.kernel.context()
    context.owner = Owner()
    assert is_syscall(quick.kernel.run(context, space))
    assert quick.answered() == 0


@pytest.mark.parametrize("context_id", [1, 4095, 4096, 0xFEFEFEFE, 0xFFFFFFFF])
def test_a_forged_entry_in_the_ready_ring(make: Maker, context_id: int) -> None:
    """# P-105, S-141: whatever a guest writes there, the sentry answers no call for it, and that guest ends."""
    quick = make({NUMBER: COUNT_UP})
    space, other = quick.space(guest.SPIN), quick.space(counted(quick.call))
    context = quick.kernel.context()
    context.owner = Owner()
    quick.kernel.platform.submit(context, space)
    assert isinstance(space, Subprocess)
    head = quick.kernel.platform._dispatcher._head(space)  # type: ignore[attr-defined] # what the test is about
    address = space.stub.ring_address + abi.RING_SLOTS + 8 * (head % abi.QUEUE_ENTRIES)
    ctypes.c_uint64.from_address(address).value = (head + 1) << 32 | context_id
    assert quick.kernel.wait() is context
    assert context.event.kind == EventKind.DEATH
    assert "ready ring" in str(context.event.error)
    assert context.owner.value == 0
    survivor = counting(quick, other)
    quick.serve([(survivor, other)], COUNT_UP)
    assert isinstance(survivor.owner, Owner)
    assert survivor.owner.value == CALLS
