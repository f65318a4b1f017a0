"""Scheduling parameters: what is remembered, inherited, and refused."""

import errno
import struct

import pytest

from systrap.sentry.credentials import Credentials
from systrap.sentry.errors import SyscallError
from systrap.sentry.scheduling import DEFAULT, SCHED_BATCH, SCHED_FIFO, SCHED_OTHER, SCHED_RR, Scheduling
from systrap.sentry.syscalls import load_all
from systrap.sentry.syscalls.numbers import NUMBERS
from systrap.sentry.syscalls.table import TABLE
from systrap.sentry.task import Task
from tests.sentry.test_signals import STACK, World

ARGS = (14, 13, 12, 7, 9, 8)
RESET = 0x40000000


@pytest.fixture
def world() -> World:
    load_all()
    world = World()
    world.memory.read_u32 = lambda address: int.from_bytes(world.memory.read(address, 4), "little")  # type: ignore[attr-defined] # a fake grows
    return world


def call(task: Task, name: str, *arguments: int) -> int:
    """Issue a system call; a failure is a negative errno, as a guest sees it."""
    for register, value in zip(ARGS, arguments, strict=False):
        task.context.regs[register] = value & (1 << 64) - 1
    try:
        result = TABLE[NUMBERS[name]].adapter(task, task.context.regs)
    except SyscallError as error:
        return -error.errno
    assert isinstance(result, int)
    return result


def set_policy(world: World, policy: int, priority: int) -> int:
    world.memory.write(STACK, struct.pack("<i", priority))
    return call(world.task, "sched_setscheduler", 0, policy, STACK)


def as_user(world: World) -> None:
    world.task.creds = Credentials.of(1000, 1000)
    world.group.limits.set(13, 0, 0)
    world.group.limits.set(14, 0, 0)


def test_inheritance() -> None:
    assert Scheduling(SCHED_FIFO, 5, 3, 1).inherited() == Scheduling(SCHED_FIFO, 5, 3, 1)
    assert Scheduling(SCHED_FIFO, 5, 3, 1, 7, True).inherited() == Scheduling(SCHED_OTHER, 0, 0, 1, 7)
    assert Scheduling(SCHED_BATCH, 0, -3, reset_on_fork=True).inherited() == Scheduling(SCHED_BATCH)
    assert Scheduling(SCHED_BATCH, 0, 3, reset_on_fork=True).inherited().nice == 3


def test_affinity(world: World) -> None:
    """It is told as it was set; what leaves no CPU is refused."""
    assert call(world.task, "sched_getaffinity", 0, 1024, STACK) % 8 == 0
    usable = int.from_bytes(world.memory.read(STACK, 8), "little")
    one = usable & -usable
    world.memory.write(STACK, one.to_bytes(8, "little"))
    assert call(world.task, "sched_setaffinity", 0, 8, STACK) == 0
    assert world.task.sched.affinity == one
    world.memory.write(STACK, bytes(8))
    assert call(world.task, "sched_setaffinity", 0, 8, STACK) == -errno.EINVAL
    assert call(world.task, "sched_getaffinity", 0, 1024, STACK) % 8 == 0
    assert int.from_bytes(world.memory.read(STACK, 8), "little") == one
    assert call(world.task, "sched_getaffinity", 99, 8, STACK) == -errno.ESRCH
    assert call(world.task, "sched_getaffinity", 0, 12, STACK) == -errno.EINVAL


def test_policies(world: World) -> None:
    assert set_policy(world, SCHED_RR | RESET, 5) == 0
    assert call(world.task, "sched_getscheduler", 0) == SCHED_RR | RESET
    assert call(world.task, "sched_getparam", 0, STACK) == 0
    assert world.memory.read(STACK, 4) == struct.pack("<i", 5)
    for policy, priority in ((SCHED_RR, 0), (SCHED_RR, 100), (SCHED_BATCH, 1), (99, 0), (-1, 0)):
        assert set_policy(world, policy, priority) == -errno.EINVAL
    assert set_policy(world, SCHED_OTHER, 0) == 0
    assert world.task.sched == DEFAULT


def test_users_get_no_real_time(world: World) -> None:
    as_user(world)
    assert set_policy(world, SCHED_FIFO, 1) == -errno.EPERM
    world.group.limits.set(14, 10, 10)
    assert set_policy(world, SCHED_FIFO, 10) == 0
    assert set_policy(world, SCHED_FIFO, 11) == -errno.EPERM


def test_nice(world: World) -> None:
    """Users may only be nicer, except as far as RLIMIT_NICE lets them."""
    assert call(world.task, "setpriority", 0, 0, -100) == 0
    assert call(world.task, "getpriority", 0, 0) == 40
    assert call(world.task, "setpriority", 0, 0, 5) == 0
    as_user(world)
    assert call(world.task, "setpriority", 0, 0, 4) == -errno.EACCES
    assert call(world.task, "setpriority", 0, 0, 6) == 0
    world.group.limits.set(13, 20, 20)
    assert call(world.task, "setpriority", 0, 0, 0) == 0
    assert call(world.task, "setpriority", 0, 0, -1) == -errno.EACCES
    assert call(world.task, "getpriority", 0, 99) == -errno.ESRCH
    assert call(world.task, "getpriority", 3, 0) == -errno.EINVAL


def test_others_processes_are_left_alone(world: World) -> None:
    as_user(world)
    other = world.add_task(11)
    assert call(world.task, "setpriority", 0, 11, 10) == -errno.EPERM
    assert call(world.task, "ioprio_set", 1, 11, 2 << 13) == -errno.EPERM
    assert other.sched == DEFAULT


def test_ioprio(world: World) -> None:
    assert call(world.task, "ioprio_get", 1, 0) == 0
    assert call(world.task, "ioprio_set", 1, 0, 2 << 13 | 3) == 0
    assert call(world.task, "ioprio_get", 1, 0) == 2 << 13 | 3
    for which, priority in ((1, 4 << 13), (1, 5), (9, 0)):
        assert call(world.task, "ioprio_set", which, 0, priority) == -errno.EINVAL
