"""Futexes: sleeping on words of guest memory."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import Interrupted, SyscallError
from systrap.sentry.wait import POLLIN, Wait, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.mm import MemoryManager
    from systrap.sentry.task import Task

BITSET_ANY: Final = 0xFFFFFFFF
_OWNER_DIED: Final = 0x40000000
_TID_MASK: Final = 0x3FFFFFFF
_WAITERS: Final = 0x80000000
_ROBUST_LIMIT: Final = 2048

Key = tuple[object, int]


class Sleeper:
    """Somebody asleep on a futex. ``woken`` tells a wake-up from the end of time; ``key`` changes when it is requeued."""

    __slots__ = ("bitset", "index", "key", "queue", "woken")

    def __init__(self, key: Key, bitset: int, queue: WaitQueue, index: int = 0) -> None:
        self.key = key
        self.bitset = bitset
        self.queue = queue
        self.index = index
        self.woken = False


class Futexes:
    """All sleepers, by key, in order of arrival."""

    __slots__ = ("_kernel", "_sleepers")

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._sleepers: dict[Key, list[Sleeper]] = {}

    def _add(self, sleeper: Sleeper) -> None:
        self._sleepers.setdefault(sleeper.key, []).append(sleeper)

    def _remove(self, sleeper: Sleeper) -> None:
        line = self._sleepers.get(sleeper.key)
        if line is not None and sleeper in line:
            line.remove(sleeper)
            if not line:
                del self._sleepers[sleeper.key]

    async def wait(
        self, task: "Task", address: int, private: bool, expected: int, bitset: int, deadline: float | None
    ) -> bool:
        """Sleep while the word is ``expected``. True: woken; False: the time is up. EAGAIN when it is another already."""
        if not bitset or address & 3:
            raise SyscallError(errno.EINVAL)
        key = task.mm.futex_key(address, private)
        if task.mm.read_u32(address) != expected:
            raise SyscallError(errno.EAGAIN)
        sleeper = Sleeper(key, bitset, WaitQueue())
        self._add(sleeper)
        try:
            while not sleeper.woken:
                if not await Wait((sleeper.queue,), deadline):
                    break
        except Interrupted:
            # Who woke it counts on that: a signal at the same time has to wait.
            if not sleeper.woken:
                raise
        finally:
            self._remove(sleeper)
        return sleeper.woken

    async def wait_any(self, task: "Task", words: "list[tuple[int, bool, int]]", deadline: float | None) -> int | None:
        """Sleep on several (address, private, expected); return the index of one that was woken, None at the end of time."""
        queue = WaitQueue()
        sleepers: list[Sleeper] = []
        for index, (address, private, expected) in enumerate(words):
            if address & 3:
                raise SyscallError(errno.EINVAL)
            if task.mm.read_u32(address) != expected:
                raise SyscallError(errno.EAGAIN)
            sleepers.append(Sleeper(task.mm.futex_key(address, private), BITSET_ANY, queue, index))
        for sleeper in sleepers:
            self._add(sleeper)
        try:
            while not any(sleeper.woken for sleeper in sleepers):
                if not await Wait((queue,), deadline):
                    break
        except Interrupted:
            if not any(sleeper.woken for sleeper in sleepers):
                raise
        finally:
            for sleeper in sleepers:
                self._remove(sleeper)
        return next((sleeper.index for sleeper in sleepers if sleeper.woken), None)

    def wake(self, key: Key, count: int, bitset: int = BITSET_ANY) -> int:
        """Wake up to ``count`` sleepers in order; return how many."""
        line = self._sleepers.get(key)
        if not line:
            return 0
        woken = 0
        for sleeper in list(line):
            if woken >= count:
                break
            if sleeper.bitset & bitset:
                line.remove(sleeper)
                sleeper.woken = True
                sleeper.queue.notify(POLLIN)
                woken += 1
        if not line:
            del self._sleepers[key]
        return woken

    def requeue(self, source: Key, target: Key, wake: int, move: int) -> tuple[int, int]:
        """Wake some sleepers of one futex and move others to another; return how many of each."""
        woken = self.wake(source, wake)
        line = self._sleepers.get(source, [])
        moved = line[:move]
        for sleeper in moved:
            self._remove(sleeper)
            sleeper.key = target
            self._add(sleeper)
        return woken, len(moved)

    def wake_address(self, mm: "MemoryManager", address: int, count: int) -> None:
        """Wake sleepers on a word by either kind of key (a thread's end). EFAULT for what is not mapped."""
        private, shared = mm.futex_key(address, True), mm.futex_key(address, False)
        if not self.wake(private, count) and shared != private:
            self.wake(shared, count)

    def exit_robust_list(self, task: "Task") -> None:
        """Mark the robust mutexes a dying thread holds, and wake one waiter of each. The list is the guest's: bounded."""
        head = task.robust_list
        task.robust_list = 0
        if not head:
            return
        mm = task.mm
        try:
            entry, offset, pending = mm.read_u64(head), mm.read_u64(head + 8), mm.read_u64(head + 16)
            for _ in range(_ROBUST_LIMIT):
                if entry & ~1 == head:
                    break
                following = mm.read_u64(entry & ~1)
                if entry & ~1 != pending & ~1:
                    self._give_up(task, (entry & ~1) + offset)
                entry = following
            if pending & ~1:
                self._give_up(task, (pending & ~1) + offset)
        except SyscallError:
            # A list that leads nowhere ends there.
            return

    def _give_up(self, task: "Task", address: int) -> None:
        address &= (1 << 64) - 1
        mm = task.mm
        value = mm.read_u32(address)
        if value & _TID_MASK == task.tid:
            mm.write_u32(address, value & _WAITERS | _OWNER_DIED)
            if value & _WAITERS:
                self.wake_address(mm, address, 1)
