"""The kernel that tells: what it tells is what the guest gets, and a context is touched only while it is the sentry's."""

import errno
import io
import time
from collections.abc import Iterator

import pytest

from systrap import arch
from systrap.platform import AddressSpace, Context
from systrap.sentry.eventful import EventfulKernel
from systrap.sentry.kernel import Config, Kernel
from systrap.sentry.syscalls.numbers import NAMES, NUMBERS
from systrap.sentry.task import State, Task
from systrap.trace import events
from systrap.trace.call import Style
from systrap.trace.inject import Injector, parse
from systrap.trace.lines import Lines, Look
from systrap.trace.log import CallLog, Selected
from tests.sentry.fake_platform import FakePlatform
from tests.sentry.test_signals import FakeContext

ARCH = arch.current()
JUNK = 0x5A5A5A5A
NOWHERE = 9999
"""The number of no system call."""


class EagerPlatform(FakePlatform):
    """Runs a context before submit() returns, as a stub may: the registers are the guest's at once, and change."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[int] = []

    def submit(self, context: Context, space: AddressSpace) -> None:
        self.results.append(context.regs[ARCH.RESULT])
        for register in range(len(context.regs)):
            context.regs[register] = JUNK

    def next_ready(self, deadline: float | None) -> Context | None:
        return None

    def wake(self) -> None:
        return


class SleepyContext(FakeContext):
    """A context whose task may wait."""

    def prepare_sleep(self) -> None:
        """Keep nothing busy."""


class World:
    """A tracing kernel with one task."""

    def __init__(self, *injections: str) -> None:
        self.platform = EagerPlatform()
        self.out = io.StringIO()
        self.recorder = events.Recorder()
        log = CallLog(NAMES, Style(), Selected(), Lines(self.out, Look(), True), None, False)
        injector = Injector([parse(text, NUMBERS) for text in injections]) if injections else None
        config = Config(b"/none", [b"none"], [], b"/", log=io.StringIO())
        self.kernel = EventfulKernel(self.platform, config, self.recorder, lambda _: 1, log, injector)
        self.task = Task(self.kernel, 1, self.kernel.init, SleepyContext())  # type: ignore[arg-type] # a fake
        self.task.mm = type("Memory", (), {"space": None})()
        self.task.fds = type("Files", (), {"limit": 1024})()

    def call(self, nr: int, *arguments: int) -> None:
        regs = self.task.context.regs
        regs[ARCH.SYSCALL_NR] = nr
        for register, value in zip(ARCH.ARGS, arguments, strict=False):
            regs[register] = value
        self.kernel.serve(self.task)

    def until_answered(self) -> None:
        deadline = time.monotonic() + 10
        while self.task.state is not State.GUEST and time.monotonic() < deadline:
            self.kernel._turn()

    @property
    def lines(self) -> list[str]:
        return [" ".join(line.split()) for line in self.out.getvalue().splitlines()]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.kernel.close()


def test_result_is_read_before_the_context_is_handed_over(world: World) -> None:
    world.call(NUMBERS["getpid"])
    world.call(NOWHERE)
    assert world.lines == [
        "getpid() = 1",
        "syscall_0x270f(0x5a5a5a5a, 0x5a5a5a5a, 0x5a5a5a5a, 0x5a5a5a5a, 0x5a5a5a5a, 0x5a5a5a5a) = -1 ENOSYS (Function "
        "not implemented)",
    ]
    assert world.platform.results == [1, -errno.ENOSYS & (1 << 64) - 1]


def test_a_call_that_waits(world: World) -> None:
    world.call(NUMBERS["ppoll"], 0, 0, 0, 0, 8)
    assert (world.task.state, world.out.getvalue()) == (State.PARKED, "ppoll(NULL, 0, NULL, NULL, 8")
    world.kernel.unpark(world.task, False)
    world.until_answered()
    assert world.lines == ["ppoll(NULL, 0, NULL, NULL, 8) = 0 (Timeout)"]
    assert world.platform.results == [0]
    kinds = [type(event).__name__ for event in world.recorder.events]
    assert kinds == ["Parked", "Woken", "Handled", "Resumed"]


def test_an_injected_error_keeps_the_call_from_being_made() -> None:
    world = World("getpid:error=EPERM:when=2", "setsid:retval=77")
    for name in ("getpid", "getpid", "getpid", "setsid"):
        world.call(NUMBERS[name])
    assert world.lines == [
        "getpid() = 1",
        "getpid() = -1 EPERM (Operation not permitted) (INJECTED)",
        "getpid() = 1",
        "setsid() = 77 (INJECTED)",
    ]
    assert world.platform.results == [1, -errno.EPERM & (1 << 64) - 1, 1, 77]
    assert world.kernel.counts[NUMBERS["getpid"]] == 3
    world.kernel.close()


def test_a_delayed_call_waits_without_stopping_the_others() -> None:
    world = World("getpid:delay_enter=30ms:delay_exit=30ms")
    start = time.monotonic()
    world.call(NUMBERS["getpid"])
    assert world.task.state is State.PARKED
    world.until_answered()
    assert time.monotonic() - start >= 0.06
    assert world.lines == ["getpid() = 1 (DELAYED)"]
    world.kernel.close()


def test_a_plain_kernel_has_nothing_of_it() -> None:
    """Tracing that is off costs nothing: the plain kernel calls its own methods, and no tracer is asked."""
    kernel = Kernel(EagerPlatform(), Config(b"/none", [b"none"], [], b"/", log=io.StringIO()))
    try:
        assert kernel.serve == kernel.syscall
        assert kernel._finish == kernel._answer
        assert not any("trace" in name for name in vars(kernel))
    finally:
        kernel.close()
