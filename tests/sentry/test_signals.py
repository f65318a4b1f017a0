"""Pending signals, siginfo, actions, sending, and delivery with what becomes of interrupted calls."""

import os
import struct
from types import SimpleNamespace
from typing import cast

import pytest

from systrap.arch import x86_64 as r
from systrap.arch import x86_fp
from systrap.sentry import frames
from systrap.sentry import signals as s
from systrap.sentry.credentials import Credentials
from systrap.sentry.errors import RestartKind, SyscallError
from systrap.sentry.kernel import Kernel
from systrap.sentry.limits import Limits
from systrap.sentry.signals import Action, Handlers, Info, Pending, Signals, bit
from systrap.sentry.task import Session, State, Task, ThreadGroup

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="registers of x86-64; arm64: tests/arch/test_arm_frame.py"
)

STACK = 0x7000_0000
SIZE = 0x10000
U64 = (1 << 64) - 1


class Memory:
    """Guest memory for frames: one stack, nothing else."""

    sigreturn = None

    def __init__(self) -> None:
        self.data = bytearray(SIZE)

    def _at(self, address: int, n: int) -> int:
        if not STACK <= address <= STACK + SIZE - n:
            raise SyscallError(14)
        return address - STACK

    def read(self, address: int, n: int) -> bytes:
        at = self._at(address, n)
        return bytes(self.data[at : at + n])

    def write(self, address: int, data: bytes) -> None:
        at = self._at(address, len(data))
        self.data[at : at + len(data)] = data

    def describe(self, address: int) -> str:
        return "somewhere"


class FakeContext:
    """Registers and an FP image that nobody runs."""

    def __init__(self) -> None:
        self.owner: object = None
        self.regs = memoryview(bytearray(27 * 8)).cast("Q")
        self.fp = x86_fp.initial(832)

    def pull_full_state(self) -> None:
        """Have it already."""

    def full_state_changed(self) -> None:
        """Put it nowhere."""

    def interrupt(self) -> None:
        """Run nothing."""


class World:
    """A kernel with one process of one task."""

    def __init__(self) -> None:
        self.woken: list[Task] = []
        self.kernel = SimpleNamespace(
            groups={}, tasks={}, first=None, crash_report="", signal_task=self.woken.append, init=None
        )
        kernel = cast("Kernel", self.kernel)
        self.signals = Signals(kernel)
        self.kernel.signals = self.signals
        self.group = ThreadGroup(kernel, 10, None, Session(10), 10)
        self.group.handlers = Handlers()
        self.group.limits = Limits([(U64, U64)] * 16)
        self.kernel.groups[10] = self.group
        self.memory = Memory()
        self.task = self.add_task(10)
        self.group.leader = self.task

    def add_task(self, tid: int) -> Task:
        task = Task(cast("Kernel", self.kernel), tid, self.group, FakeContext())  # type: ignore[arg-type] # a fake
        task.mm = self.memory  # type: ignore[assignment] # a fake
        task.creds = Credentials.of(0, 0)
        task.context.regs[r.RSP] = STACK + SIZE - 64
        task.context.regs[r.RIP] = 0x400000
        self.group.tasks.append(task)
        self.kernel.tasks[tid] = task
        return task

    def handle(self, signo: int, flags: int = 0, mask: int = 0, handler: int = 0x500000) -> None:
        self.group.handlers.set(signo, Action(handler, flags | s.SA_RESTORER, 0x600000, mask))


def has_temporary_mask(task: Task) -> bool:
    return task.saved_mask is not None


def unsettled(task: Task) -> "tuple[RestartKind | None, float | None]":
    return task.restart, task.restart_deadline


@pytest.fixture
def world() -> World:
    return World()


def test_pending_order() -> None:
    """One of each standard signal, all real-time ones; synchronous ones first, then by number."""
    pending = Pending()
    for signo, value in ((15, 0), (40, 1), (11, 2), (40, 3), (1, 4), (15, 5)):
        assert pending.add(Info(signo, value=value)) == (value != 5)
    assert pending.take(bit(9)) is None
    taken = []
    while (info := pending.take(U64)) is not None:
        taken.append((info.signo, info.value))
    assert taken == [(11, 2), (1, 4), (15, 0), (40, 1), (40, 3)]
    assert pending.bits == 0


def test_pending_discard() -> None:
    pending = Pending()
    pending.add(Info(20))
    pending.add(Info(10))
    pending.discard(s.STOPS)
    assert pending.bits == bit(10)
    assert pending.add(Info(20))


@pytest.mark.parametrize(
    ("info", "fields", "layout"),
    [
        (Info(10, s.SI_USER, pid=5, uid=6), (10, 0, 0, 0, 5, 6), "<iiiiiI"),
        (Info(11, 1, addr=U64), (11, 0, 1, 0, U64), "<iiiiQ"),
        (Info(17, 1, pid=5, uid=6, status=7, utime=8, stime=9), (17, 0, 1, 0, 5, 6, 7, 8, 9), "<iiiiiIi4xqq"),
        (Info(34, s.SI_TIMER, timerid=3, overrun=4, value=U64), (34, 0, -2, 0, 3, 4, U64), "<iiiiiiQ"),
        (Info(10, s.SI_QUEUE, pid=5, uid=6, value=77), (10, 0, -1, 0, 5, 6, 77), "<iiiiiIQ"),
    ],
)
def test_siginfo(info: Info, fields: "tuple[int, ...]", layout: str) -> None:
    packed = info.pack()
    assert len(packed) == 128
    assert struct.unpack_from(layout, packed) == fields


def test_siginfo_of_a_guest() -> None:
    """What a guest queues arrives as it is, with the number of the call."""
    data = struct.pack("<iiiiiIQ", 99, 1, -1, 0, 5, 6, 7) + b"x" * 96
    info = Info.parse(12, data)
    assert (info.signo, info.code, info.pid, info.value) == (12, -1, 5, 7)
    assert info.pack() == struct.pack("<i", 12) + data[4:]


def test_handlers() -> None:
    handlers = Handlers()
    handlers.set(10, Action(0x1000))
    handlers.set(12, Action(s.SIG_IGN, 5, 6, 7))
    copied = handlers.copy()
    copied.reset_for_exec()
    assert (copied.get(10), copied.get(12)) == (Action(), Action(s.SIG_IGN))
    assert handlers.get(10) == Action(0x1000)


def test_ignored_signals_are_not_queued(world: World) -> None:
    """Unless they are blocked: then somebody may wait for them."""
    world.signals.send_group(world.group, s.SIGCHLD)
    assert world.group.pending.bits == 0
    world.task.signal_mask = bit(s.SIGCHLD)
    world.signals.send_group(world.group, s.SIGCHLD)
    assert world.group.pending.bits == bit(s.SIGCHLD)
    assert world.woken == []


def test_taker_does_not_block_it(world: World) -> None:
    other = world.add_task(11)
    world.task.signal_mask = bit(10)
    world.signals.send_group(world.group, 10)
    assert world.woken == [other]


def test_stop_and_continue_undo_each_other(world: World) -> None:
    world.task.signal_mask = U64
    world.signals.send_group(world.group, s.SIGTSTP)
    world.signals.send_task(world.task, s.SIGCONT)
    assert (world.group.pending.bits, world.task.pending.bits) == (0, bit(s.SIGCONT))
    world.signals.send_group(world.group, s.SIGSTOP)
    assert (world.group.pending.bits, world.task.pending.bits) == (bit(s.SIGSTOP), 0)


def test_continue_is_pending_when_tasks_go_on(world: World) -> None:
    """A stopped call must see that SIGCONT has a handler, else pause() would wait on."""
    seen: list[int] = []
    world.handle(s.SIGCONT)
    world.group.stopped = True
    world.kernel.signal_task = lambda task: seen.append(world.group.pending.bits)
    world.signals.send_group(world.group, s.SIGCONT)
    assert seen
    assert all(bits & bit(s.SIGCONT) for bits in seen)
    assert (world.group.stopped, world.group.continued) == (False, True)


def test_kill_and_default_end_a_process(world: World) -> None:
    world.signals.send_group(world.group, s.SIGKILL)
    assert (world.group.exiting, world.group.exit_code) == (True, 9)
    other = World()
    other.signals.send_group(other.group, s.SIGTERM)
    assert not other.signals.deliver(other.task)
    assert other.group.exit_code == 15


def test_core_flag_follows_the_limit(world: World) -> None:
    world.signals.send_group(world.group, s.SIGABRT)
    world.signals.deliver(world.task)
    assert world.group.exit_code == 6 | 0x80
    other = World()
    other.group.limits.set(4, 0, 0)
    other.signals.send_group(other.group, s.SIGABRT)
    other.signals.deliver(other.task)
    assert other.group.exit_code == 6


def test_stop_waits(world: World) -> None:
    world.signals.send_group(world.group, s.SIGSTOP)
    assert not world.signals.deliver(world.task)
    assert (world.task.state, world.group.stop_signal) == (State.STOPPED, s.SIGSTOP)


def test_orphans_do_not_stop(world: World) -> None:
    """SIGTSTP has no effect where nobody could continue the process."""
    world.signals.send_group(world.group, s.SIGTSTP)
    assert world.signals.deliver(world.task)
    assert not world.group.stopped


@pytest.mark.parametrize(
    ("kind", "flags", "again"),
    [
        (RestartKind.SYS, 0, False), (RestartKind.SYS, s.SA_RESTART, True), (RestartKind.NOHAND, s.SA_RESTART, False),
        (RestartKind.NOINTR, 0, True),
    ],
)  # fmt: skip
def test_interrupted_call_with_handler(world: World, kind: RestartKind, flags: int, again: bool) -> None:
    world.handle(10, flags)
    world.task.restart, world.task.syscall_nr, world.task.restart_deadline = kind, 35, 1.0
    world.signals.send_task(world.task, 10)
    assert world.signals.deliver(world.task)
    assert unsettled(world.task) == (None, None)
    world.task.context.regs[r.RSP] += 8
    assert frames.sigreturn(world.task)
    regs = world.task.context.regs
    assert (regs[r.RAX], regs[r.RIP]) == ((35, 0x400000 - 2) if again else (U64 - 3, 0x400000))


@pytest.mark.parametrize("kind", list(RestartKind))
def test_interrupted_call_without_handler(world: World, kind: RestartKind) -> None:
    """It is issued again in every case, and keeps its deadline."""
    world.task.restart, world.task.syscall_nr, world.task.restart_deadline = kind, 35, 1.0
    assert world.signals.deliver(world.task)
    assert (world.task.context.regs[r.RAX], world.task.restart_deadline) == (35, 1.0)


def test_handler_masks(world: World) -> None:
    """The action's mask and the signal itself are blocked; SIGKILL never is; SA_RESETHAND forgets the handler."""
    world.handle(10, s.SA_RESETHAND, mask=U64)
    world.signals.send_task(world.task, 10)
    assert world.signals.deliver(world.task)
    assert world.task.signal_mask == U64 & ~s.UNBLOCKABLE
    assert world.group.handlers.get(10).handler == s.SIG_DFL
    other = World()
    other.handle(10, s.SA_NODEFER)
    other.signals.send_task(other.task, 10)
    assert other.signals.deliver(other.task)
    assert other.task.signal_mask == 0


def test_frame_restores_the_mask_from_before_a_temporary_one(world: World) -> None:
    """Signals that sigsuspend let through find the mask from before it in their frame."""
    world.handle(10)
    world.task.signal_mask, world.task.saved_mask = 0, bit(12)
    world.signals.send_task(world.task, 10)
    assert world.signals.deliver(world.task)
    assert world.task.signal_mask == bit(10)
    assert not has_temporary_mask(world.task)
    world.task.context.regs[r.RSP] += 8
    assert frames.sigreturn(world.task)
    assert world.task.signal_mask == bit(12)


def test_fault_that_is_blocked_kills(world: World) -> None:
    world.handle(11)
    world.task.signal_mask = bit(11)
    world.signals.force(world.task, Info(11, 1, addr=8))
    assert not world.signals.deliver(world.task)
    assert world.group.exit_code & 0x7F == 11


@pytest.mark.parametrize("sp", [0, 8, 200, 1 << 63, U64, STACK + 100])
def test_no_room_for_a_frame(world: World, sp: int) -> None:
    """A stack pointer may be anything: the process dies of it, not the kernel."""
    world.handle(10)
    world.handle(11)
    world.task.context.regs[r.RSP] = sp
    world.signals.send_task(world.task, 10)
    assert not world.signals.deliver(world.task)
    assert world.group.exit_code & 0x7F == 11
