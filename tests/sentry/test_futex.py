"""Futexes: who is woken, in which order, and what a signal or the end of time does to it."""

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from systrap.sentry.errors import Interrupted, SyscallError
from systrap.sentry.futex import Futexes
from systrap.sentry.wait import Wait

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

WORD, OTHER = 0x1000, 0x2000
TID = 7


class Memory:
    """Words of memory; every address is its own key."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def futex_key(self, address: int, private: bool) -> tuple[object, int]:
        return ("private" if private else "shared", address)

    def read_u32(self, address: int) -> int:
        return self.read_u64(address) & 0xFFFFFFFF

    def read_u64(self, address: int) -> int:
        if address >= 1 << 47:
            raise SyscallError(14)
        return self.words.get(address, 0)

    def write_u32(self, address: int, value: int) -> None:
        self.words[address] = value


Sleep = Coroutine[Wait, bool, bool]


class World:
    """Futexes, one task, and the sleeps that were begun."""

    def __init__(self) -> None:
        self.futexes = Futexes(cast("Kernel", SimpleNamespace()))
        self.memory = Memory()
        self.task = cast("Task", SimpleNamespace(mm=self.memory, tid=TID, robust_list=0))

    def sleep(self, address: int = WORD, bitset: int = 0xFFFFFFFF, private: bool = True) -> Sleep:
        coro = cast("Sleep", self.futexes.wait(self.task, address, private, 0, bitset, None))
        coro.send(None)  # type: ignore[arg-type] # the first send takes None
        return coro

    def wake(self, count: int, address: int = WORD, bitset: int = 0xFFFFFFFF) -> int:
        return self.futexes.wake(("private", address), count, bitset)


def result(coro: Sleep, value: bool = True) -> "bool | None":
    """Let a sleeper look; None when it goes on sleeping."""
    try:
        coro.send(value)
    except StopIteration as stop:
        return bool(stop.value)
    return None


@pytest.fixture
def world() -> World:
    return World()


def test_wakes_in_order(world: World) -> None:
    sleeps = [world.sleep() for _ in range(4)]
    assert world.wake(2) == 2
    assert [result(sleep) for sleep in sleeps] == [True, True, None, None]
    assert (world.wake(9), world.wake(9)) == (2, 0)
    assert [result(sleep) for sleep in sleeps[2:]] == [True, True]


def test_bitsets(world: World) -> None:
    first, second = world.sleep(bitset=1), world.sleep(bitset=6)
    assert world.wake(9, bitset=4) == 1
    assert (result(first), result(second)) == (None, True)


def test_end_of_time(world: World) -> None:
    """A sleeper whose time is up is no sleeper any more; one that was woken at the same time was woken."""
    late, lucky = world.sleep(), world.sleep()
    assert result(late, False) is False
    assert world.wake(9) == 1
    assert result(lucky, False) is True


def test_signal_does_not_lose_a_wake(world: World) -> None:
    """Who woke a sleeper counts on it: a signal that comes at the same time does not make the call fail."""
    sleep = world.sleep()
    assert world.wake(1) == 1
    with pytest.raises(StopIteration) as ended:
        sleep.throw(Interrupted())
    assert ended.value.value is True
    other = world.sleep()
    with pytest.raises(Interrupted):
        other.throw(Interrupted())
    assert world.wake(9) == 0


def test_refusals(world: World) -> None:
    world.memory.words[WORD] = 5
    for address, bitset, code in ((WORD, 1, 11), (WORD + 1, 1, 22), (OTHER, 0, 22)):
        with pytest.raises(SyscallError) as error:
            _ = world.sleep(address, bitset)
        assert error.value.errno == code


def test_requeue(world: World) -> None:
    """Some wake, some move to the end of another line."""
    waiting = world.sleep(OTHER)
    sleeps = [world.sleep() for _ in range(4)]
    assert world.futexes.requeue(("private", WORD), ("private", OTHER), 1, 2) == (1, 2)
    assert (world.wake(9), world.wake(2, OTHER), world.wake(9, OTHER)) == (1, 2, 1)
    assert [result(sleep) for sleep in (*sleeps, waiting)] == [True] * 5


def test_wake_any(world: World) -> None:
    words = [(WORD, True, 0), (OTHER, True, 0)]
    coro = world.futexes.wait_any(world.task, words, None)
    coro.send(None)
    assert world.wake(9, OTHER) == 1
    with pytest.raises(StopIteration) as ended:
        coro.throw(Interrupted())
    assert ended.value.value == 1
    assert world.wake(9) == 0


def test_robust_list(world: World) -> None:
    """A dying thread gives up what it holds, and one waiter of each learns of it; what others hold is left alone."""
    head, mine, theirs = 0x8000, 0x9000, 0xA000
    world.memory.words |= {head: mine, head + 8: 0x20, head + 16: 0, mine: theirs, theirs: head}
    world.memory.words |= {mine + 0x20: TID | 0x80000000, theirs + 0x20: 99}
    sleep = cast("Sleep", world.futexes.wait(world.task, mine + 0x20, False, TID | 0x80000000, 1, None))
    sleep.send(None)  # type: ignore[arg-type] # the first send takes None
    world.task.robust_list = head
    world.futexes.exit_robust_list(world.task)
    assert (world.memory.words[mine + 0x20], world.memory.words[theirs + 0x20]) == (0xC0000000, 99)
    assert result(sleep) is True


@pytest.mark.parametrize("following", [0x9000, 1 << 47])
def test_robust_list_of_a_guest(world: World, following: int) -> None:
    """A list that goes round in circles, or nowhere, ends."""
    world.memory.words |= {0x8000: 0x9000, 0x9000: following, 0x8008: 0x20}
    world.task.robust_list = 0x8000
    world.futexes.exit_robust_list(world.task)
    assert world.task.robust_list == 0
