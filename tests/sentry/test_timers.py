"""The heap of deadlines, clocks, and timers on real and CPU time."""

import errno
import struct
import time
from collections.abc import Callable
from functools import partial

import pytest

from systrap.sentry import clocks
from systrap.sentry.clocks import MAX_SECONDS, PosixTimer, Repeating, itimer, now_ns, pack_time, unpack_time
from systrap.sentry.errors import SyscallError
from systrap.sentry.signals import SI_TIMER, SIGKILL, SIGXCPU, Handlers, bit
from systrap.sentry.task import State
from systrap.sentry.timers import Timers
from tests.sentry.test_signals import World


@pytest.fixture
def world() -> World:
    world = World()
    world.kernel.timers = Timers()
    world.task.signal_mask = (1 << 64) - 1
    return world


def refusal(attempt: Callable[[], None]) -> int:
    """Return the errno an attempt fails with, 0 when it does not."""
    try:
        attempt()
    except SyscallError as error:
        return error.errno
    return 0


def expire(world: World) -> None:
    """Let everything that is set come due, once each."""
    deadline = world.kernel.timers.next_deadline()
    if deadline is not None:
        world.kernel.timers.expire(deadline)


def test_heap() -> None:
    timers, order = Timers(), list[int]()
    for deadline, name in ((3.0, 3), (1.0, 1), (2.0, 2), (1.0, 4)):
        timers.add(deadline, partial(order.append, name))
    gone = timers.add(0.5, lambda: order.append(0))
    gone.cancel()
    gone.cancel()
    assert timers.next_deadline() == 1.0
    timers.expire(2.0)
    assert order == [1, 4, 2]
    assert timers.next_deadline() == 3.0
    timers.expire(3.0)
    assert timers.next_deadline() is None


def test_callbacks_may_set_timers() -> None:
    timers, order = Timers(), list[int]()

    def again() -> None:
        timers.add(1.5, partial(order.append, 1))

    timers.add(1.0, again)
    timers.expire(2.0)
    assert order == [1]


@pytest.mark.parametrize("fields", [(-1, 0), (0, -1), (0, 1_000_000_000)])
def test_times_that_make_no_sense(fields: "tuple[int, int]") -> None:
    with pytest.raises(SyscallError) as error:
        unpack_time(struct.pack("<2q", *fields))
    assert error.value.errno == errno.EINVAL


def test_longest_time() -> None:
    """A guest may ask for any time: 292 years are the end."""
    seconds = unpack_time(struct.pack("<2q", (1 << 63) - 1, 999_999_999))
    assert struct.unpack("<2q", pack_time(seconds))[0] == MAX_SECONDS
    assert pack_time(-1.0) == bytes(16)
    assert pack_time(1.5) == struct.pack("<2q", 1, 500_000_000)


def test_clocks(world: World) -> None:
    """Those there are, and CPU clocks by pid; a pid that is not there, a descriptor and an unknown one are refused."""
    for clock in (0, 1, 4, 5, 6, 7, 11):
        assert abs(now_ns(clock, world.task) - time.clock_gettime_ns(clock)) < 1_000_000_000
    world.group.user_time, world.group.system_time = 1.0, 0.5
    for clock in (2, 3, ~0 << 3 | 2, ~10 << 3 | 2, ~10 << 3 | 6):
        assert now_ns(clock, world.task) == 1_500_000_000
    for clock in (8, 10, 12, ~99 << 3 | 2, ~10 << 3 | 3):
        with pytest.raises(SyscallError):
            now_ns(clock, world.task)


def test_running_tasks_use_cpu_time(world: World) -> None:
    world.task.state, world.task.started = State.GUEST, time.monotonic() - 5
    assert 5 <= clocks.cpu_seconds(world.group) < 60


@pytest.mark.parametrize(
    ("clock", "code"), [(0, 0), (1, 0), (2, 0), (3, 95), (4, 95), (5, 95), (6, 95), (7, 0), (10, 22), (11, 0), (12, 22)]
)
def test_waitable_clocks(world: World, clock: int, code: int) -> None:
    assert refusal(lambda: clocks.check_waitable(clock, world.task, thread=False)) == code


def test_repeats_and_counts_what_it_missed(world: World) -> None:
    counts: list[int] = []
    timer = Repeating(world.group, lambda timer: counts.append(timer.overrun))
    timer.set(time.monotonic() - 10.5, 1.0)
    expire(world)
    assert counts == [10]
    assert 0 < timer.left() <= 1.0
    timer.cancel()
    assert (timer.left(), world.kernel.timers.next_deadline()) == (0.0, None)


def test_cpu_time_stands_still(world: World) -> None:
    """A timer on CPU time does not expire while its process sleeps."""
    timer = itimer(world.group, 2)
    timer.set(timer.now() + 0.25, 0.0)
    for _ in range(50):
        expire(world)
    assert world.group.pending.bits == 0
    world.group.user_time += 0.25
    expire(world)
    assert world.group.pending.bits == bit(27)


def test_cpu_limit(world: World) -> None:
    """RLIMIT_CPU: SIGXCPU at the soft limit and each second after it, the end at the hard one."""
    world.group.limits.set(0, 1, 3)
    clocks.watch_cpu_limit(world.group)
    expire(world)
    assert world.group.pending.bits == 0
    world.group.user_time = 1.0
    expire(world)
    assert world.group.pending.take(bit(SIGXCPU)) is not None
    world.group.user_time = 2.0
    expire(world)
    assert world.group.pending.take(bit(SIGXCPU)) is not None
    world.group.user_time = 3.0
    expire(world)
    assert world.group.exit_code == SIGKILL


def test_cpu_limit_taken_back(world: World) -> None:
    world.group.limits.set(0, 1, 3)
    clocks.watch_cpu_limit(world.group)
    world.group.limits.set(0, (1 << 64) - 1, (1 << 64) - 1)
    clocks.watch_cpu_limit(world.group)
    assert world.kernel.timers.next_deadline() is None


def test_posix_timer_has_one_signal_pending(world: World) -> None:
    """What expires meanwhile is counted, and told with the signal; the next one starts from nothing."""
    world.group.handlers = Handlers()
    timer = world.group.posix_timers[4] = PosixTimer(world.group, 4, clocks.MONOTONIC, 40, 77, 0)
    for _ in range(3):
        timer.set(time.monotonic() - 1, 0.0)
        expire(world)
    info = world.signals.dequeue(world.task, bit(40))
    assert info is not None
    assert (info.code, info.timerid, info.value, info.overrun, timer.overrun) == (SI_TIMER, 4, 77, 2, 2)
    assert world.signals.dequeue(world.task, bit(40)) is None
    timer.set(time.monotonic() - 1, 0.0)
    expire(world)
    again = world.signals.dequeue(world.task, bit(40))
    assert again is not None
    assert again.overrun == 0


def test_absolute_deadlines() -> None:
    """On any clock they come when that clock says so."""
    for clock in (0, 1, 7, 11):
        deadline = clocks.deadline_for(clock, time.clock_gettime(clock) + 100, absolute=True)
        assert abs(deadline - time.monotonic() - 100) < 1
    assert abs(clocks.deadline_for(0, 100, absolute=False) - time.monotonic() - 100) < 1


def test_a_dead_process_is_not_told(world: World) -> None:
    timer = itimer(world.group, 0)
    timer.set(time.monotonic() - 1, 0.0)
    world.group.zombie = True
    expire(world)
    assert world.group.pending.bits == 0
