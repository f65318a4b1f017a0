"""SIGCHLD before every single instruction of the stub: on the way in, and on the way out (signal.S; models/user_resume.py).

Two contexts are queued for one thread. The first makes a system call, the second is next. The thread is held at one instruction
between the two, SIGCHLD is sent, and both have to come back with all their registers and their floating point state, having
run each of their instructions once; and whoever was to be interrupted has to come back interrupted.
"""

import signal
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.play import (
    DATA,
    ENOSYS,
    FAULT,
    NEED_TRAP,
    NO_NUMBER,
    SITE,
    SYSCALL,
    TRAP,
    load,
    patch,
    peek,
    wait_parked,
)
from tests.blobs.stepping import Tracer
from tests.blobs.stub import Context, Stub, new_world, running_stub
from tests.blobs.world import GUEST, START, TABLE

SECOND = START + 256
"""Where the second context's code begins."""
XMM0 = 160
MARKS = (b"the first's xmm0", b"second one, xmm0")
RUN_ONCE = b"\x48\xff\x07"
"""incq (%rdi)"""
HOLD, GO = guest.SPIN, guest.NOP * 2
FLAGS = 0x108D5
"""Those that incq changes, and RF, which a breakpoint leaves set."""
KEPT = "r15 r14 r13 r12 rbp rbx r10 r9 r8 rdx rsi rdi rsp eflags".split()
"""What a system call leaves alone."""
SPARSE, STORM = 20, 40
MANY_POINTS = 100
SYSMSG_STATE = 0x2C
PATCHED_ENTRY = TABLE + 80


class Kind(NamedTuple):
    """How the first context comes back to the stub, and the code it does it with."""

    name: str
    patched: bool = False
    rewound: bool = False


TRAPPED = Kind("trapped")
PATCHED = Kind("patched", patched=True)
REWOUND = Kind("rewound", rewound=True)


class Play:
    """One stub with one thread, and the two contexts."""

    def __init__(self, stub: Stub, kind: Kind, second_spins: bool) -> None:
        self.stub = stub
        self.kind = kind
        self.spins = kind.rewound, second_spins
        self.sighandler = struct.unpack_from("<Q", stub.world.handler)[0]
        self.contexts = stub.context(0), stub.context(1)
        self.before: list[dict[str, int]] = []
        self.early = False
        """A signal of the last play took the first one before it came to its call: it finds the site changed already."""

    def begin(self) -> Tracer:
        """Let the first one run, the second one be queued; answers the tracer that holds the thread in the first's code."""
        stub = self.stub
        load(stub, HOLD, RUN_ONCE, guest.jump(SITE, START + 5))
        if self.kind.patched:
            patch(stub, PATCHED_ENTRY, SITE, 39)
            load(stub, guest.UD2, at=SITE + 7)
        else:
            load(stub, guest.mov_eax(39), guest.SYSCALL, guest.UD2, at=SITE)
        load(stub, *((RUN_ONCE, HOLD) if self.spins[1] else (RUN_ONCE, guest.mov_eax(40), guest.SYSCALL)), at=SECOND)
        load(stub, bytes(64), at=DATA)
        wait_parked(stub)
        self.contexts = stub.context(0), stub.context(1)
        for number, context in enumerate(self.contexts):
            for index, name in enumerate("r15 r14 r13 r12 rbp rbx r10 r9 r8 rdx rsi".split()):
                context[name] = 0x1111 * (index + 1) << 16 * number
            context["rdi"], context["rip"] = DATA + 8 * number, (START, SECOND)[number]
            context.words.bytes[XMM0 : XMM0 + 16] = MARKS[number]
            struct.pack_into("<Q", context.words.bytes, 512, 3)
        self.before = [context.registers() for context in self.contexts]
        self.early = False
        self._start()
        tracer = Tracer(stub.tids[1])
        load(stub, GO)
        stub.submit(self.contexts[1])
        if self.kind.rewound:
            # The site is patched while the thread is on its way in: it has to go back, into a loop.
            # (Not by a signal of the last play, that came only now: before the call the site must stay as it is.)
            while tracer.run_to(self.sighandler) and tracer.first_argument != signal.SIGSYS:
                tracer.step(0)
            load(stub, HOLD, guest.mov_eax(39)[2:], b"\x06\x05", at=SITE)
        return tracer

    def _start(self) -> None:
        """Let the first one run. A signal of the last play may still be on its way, where signals are blocked at times."""
        context = self.contexts[0]
        self.stub.submit(context)
        deadline = time.monotonic() + 10
        while context.words.u32(abi.THREAD_ID) != 1 or self.stub.sysmsg(1).u32(SYSMSG_STATE) != 0:
            assert time.monotonic() < deadline, "the context does not run"
            if context.state != 0:
                assert self.stub.next() == 0
                self.stub.submit(context)

    @property
    def last(self) -> int:
        """Where the thread comes when it is out of the stub again."""
        return SITE if self.kind.rewound else SECOND

    def points(self) -> list[int]:
        """Answer every address at which the thread comes by, except those of its first time only."""
        with self.begin() as tracer:
            tracer.run_to(self.last)
        self.end()
        with self.begin() as tracer:
            found = tracer.path_to(self.last, self.stub.world.place.stub_start)
        self.end()
        assert len(found) > MANY_POINTS, "so short is no way through the stub"
        return found

    def interrupt(self, number: int, tracer: Tracer | None = None) -> None:
        """Do what Dispatcher.interrupt does."""
        context = self.contexts[number]
        context.words.set32(abi.INTERRUPT, 1)
        if context.words.u32(abi.THREAD_ID) != abi.INVALID_ID:
            if tracer is not None:
                tracer.signal(signal.SIGCHLD)
            else:
                self.stub.interrupt(1)

    def end(self, wanted: int | None = None) -> None:
        """Wait until both have come back for good, and look at them.

        ``wanted`` has been interrupted already, and must come back of itself. Whoever computes for ever is interrupted here.
        """
        endless = {number for number, spins in enumerate(self.spins) if spins}
        open_ends = {0, 1}
        while open_ends:
            for number in endless & open_ends - {wanted}:
                self.interrupt(number)
            number = self.stub.next()
            context = self.contexts[number]
            assert context.words.u32(abi.THREAD_ID) == abi.INVALID_ID
            context.words.set32(abi.INTERRUPT, 0)
            if number == wanted:
                wanted = None
            if self._check(number, context):
                open_ends.discard(number)
            else:
                self.stub.submit(context)

    def _check(self, number: int, context: Context) -> bool:
        """Look at a context that came back; answers whether it has done all it was to do."""
        before, spins = self.before[number], self.spins[number]
        where = f"context {number} at {context['rip']:#x}"
        changed = {name for name in KEPT if context[name] != before[name]}
        if (context["eflags"] ^ before["eflags"]) & ~FLAGS == 0:
            changed.discard("eflags")
        # The trampoline has rsp elsewhere for three instructions.
        in_table = TABLE <= context["rip"] < TABLE + 4096
        assert not changed - ({"rsp"} if in_table else set()), f"{where}: {changed} changed"
        assert bytes(context.words.bytes[XMM0 : XMM0 + 16]) == MARKS[number], f"{where}: xmm0"
        runs = struct.unpack("<Q", peek(self.stub, DATA + 8 * number, 8))[0]
        if context.state == FAULT:
            assert context.siginfo()[0] == signal.SIGCHLD, where
            assert context["orig_rax"] == NO_NUMBER
            at_end = context["rip"] == (SITE, SECOND + 3)[number]
            assert spins == at_end or not at_end or runs == 1
            assert GUEST <= context["rip"] < SITE + 7 or SECOND <= context["rip"] < SECOND + 8 or in_table, where
            if at_end and spins:
                assert runs == 1
                assert number == 1 or context["rax"] == 39 or self.early, where
            elif number == 0:
                self.early = True
            return at_end and spins
        assert not spins, where
        assert context.state in ((TRAP,) if number == 0 and self.kind.patched else (SYSCALL, NEED_TRAP)), where
        assert (context["orig_rax"], context["rax"]) == (39 + number, ENOSYS), where
        assert context["rip"] == (SITE + 7, SECOND + 10)[number], where
        assert runs == 1, f"{where}: it ran {runs} times"
        return True


@pytest.fixture(params=[True, False], ids=["user_resume", "sigreturn"])
def stub(request: pytest.FixtureRequest) -> Iterator[Stub]:
    with new_world(user_resume=request.param) as world, running_stub(world) as stub:
        stub.start_thread(1)
        yield stub


pytestmark = pytest.mark.slow

every = pytest.mark.parametrize(
    "stride", [16, pytest.param(1, marks=(pytest.mark.slow, pytest.mark.timeout(180)))], ids=["some", "all"]
)
kinds = pytest.mark.parametrize("kind", [TRAPPED, PATCHED, REWOUND], ids=lambda kind: str(kind.name))


@every
@kinds
def test_a_signal_that_nobody_asked_for(stub: Stub, kind: Kind, stride: int) -> None:
    """S-038, S-041, S-042: whatever the thread is at, contexts stay whole and nothing is done twice or left out."""
    play = Play(stub, kind, second_spins=False)
    points, missed = play.points()[::stride], 0
    for point in points:
        with play.begin() as tracer:
            if tracer.run_to(point, play.last):
                tracer.signal(signal.SIGCHLD)
            else:
                missed += 1
        play.end()
    assert missed <= len(points) // 10


@every
@kinds
def test_who_is_wanted_back_comes_back(stub: Stub, kind: Kind, stride: int) -> None:
    """P-072, P-073, P-074: a context that computes for ever comes back, wherever the request finds it."""
    victim = 0 if kind.rewound else 1
    play = Play(stub, kind, second_spins=not kind.rewound)
    points, missed = play.points()[::stride], 0
    for point in points:
        with play.begin() as tracer:
            missed += not tracer.run_to(point, play.last)
            play.interrupt(victim, tracer)
        play.end(victim)
    assert missed <= len(points) // 10


def least_room(play: Play, point: int) -> int:
    """Let SIGCHLD come before every step from ``point`` on; answers how much of the signal stack was left at the worst time."""
    stub = play.stub
    area = stub.world.place.area
    bottom = stub.world.place.thread_area(1) + area.shared
    room, deliver = area.signal_stack_size, 0
    with play.begin() as tracer:
        tracer.run_to(point, play.last)
        for _ in range(STORM):
            tracer.signal(signal.SIGCHLD)
            deliver = tracer.step(deliver)
            used = tracer.rsp - bottom
            if 0 <= used < area.signal_stack_size:
                room = min(room, used)
    return room


def test_signals_before_every_instruction(stub: Stub) -> None:
    """P-074: the handler of SIGCHLD is not interrupted by SIGCHLD, so that the signal stack has room for all that can nest."""
    play = Play(stub, TRAPPED, second_spins=True)
    for point in play.points()[::SPARSE]:
        assert least_room(play, point) > stub.world.fp_len
        play.end()
