"""``run --trace``: the lines tell what the guest gets, and touch a context only while it is the sentry's."""

import errno
import io
import time
from collections.abc import Iterator

import pytest

from systrap import arch
from systrap.platform import AddressSpace, Context
from systrap.sentry.kernel import Config, Kernel
from systrap.sentry.syscalls.numbers import NUMBERS
from systrap.sentry.task import State, Task
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

    def __init__(self) -> None:
        self.platform = EagerPlatform()
        self.log = io.StringIO()
        self.kernel = Kernel(self.platform, Config(b"/none", [b"none"], [], b"/", log=self.log, trace=True))
        self.task = Task(self.kernel, 1, self.kernel.init, SleepyContext())  # type: ignore[arg-type] # a fake
        self.task.mm = type("Memory", (), {"space": None})()
        self.task.fds = type("Files", (), {"limit": 1024})()

    def call(self, nr: int, *arguments: int) -> None:
        regs = self.task.context.regs
        regs[ARCH.SYSCALL_NR] = nr
        for register, value in zip(ARCH.ARGS, arguments, strict=False):
            regs[register] = value
        self.kernel.serve(self.task)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.kernel.close()


def test_result_is_read_before_the_context_is_handed_over(world: World) -> None:
    world.call(NUMBERS["getpid"])
    world.call(NOWHERE)
    assert world.log.getvalue().splitlines() == ["[1] getpid() = 1", "[1] syscall_0x270f() = -1 ENOSYS"]
    assert world.platform.results == [1, -errno.ENOSYS & (1 << 64) - 1]


def test_a_call_that_waits(world: World) -> None:
    world.call(NUMBERS["ppoll"], 0, 0, 0, 0, 8)
    assert (world.task.state, world.log.getvalue()) == (State.PARKED, "")
    world.kernel.unpark(world.task, False)
    deadline = time.monotonic() + 5
    while world.task.state is not State.GUEST and time.monotonic() < deadline:
        world.kernel._turn()
    assert world.log.getvalue() == "[1] ppoll(0, 0, 0, 0, 8) = 0\n"
    assert world.platform.results == [0]
