"""futex and its relatives."""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import Interrupted, RestartKind, SyscallError
from systrap.sentry.futex import BITSET_ANY
from systrap.sentry.syscalls.poll import read_timespec
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_WAIT: Final = 0
_WAKE: Final = 1
_REQUEUE: Final = 3
_CMP_REQUEUE: Final = 4
_WAKE_OP: Final = 5
_WAIT_BITSET: Final = 9
_WAKE_BITSET: Final = 10
_PRIVATE: Final = 128
_CLOCK_REALTIME: Final = 256
_WAITV_MAX: Final = 128
_WAITV_SIZE: Final = 24
_WAITV_PRIVATE: Final = 128
_WAITV_U32: Final = 2
_HEAD_SIZE: Final = 24


@syscall("futex")
async def sys_futex(
    task: Task, address: addr, operation: i32, value: u32, timeout: addr, address2: addr, value3: u32
) -> Result:
    """futex(2). Priority inheritance is not there: ENOSYS."""
    futexes, mm = task.kernel.futexes, task.mm
    private = bool(operation & _PRIVATE)
    command = operation & ~(_PRIVATE | _CLOCK_REALTIME)
    if operation & _CLOCK_REALTIME and command != _WAIT_BITSET:
        raise SyscallError(errno.ENOSYS)
    if command in (_WAIT, _WAIT_BITSET):
        return await _wait(task, operation, address, value, timeout, value3)
    if command in (_WAKE, _WAKE_BITSET):
        bitset = value3 if command == _WAKE_BITSET else BITSET_ANY
        if not bitset or address & 3:
            raise SyscallError(errno.EINVAL)
        return futexes.wake(mm.futex_key(address, private), max(1, _signed(value)), bitset)
    if command in (_REQUEUE, _CMP_REQUEUE):
        if address & 3 or address2 & 3 or _signed(value) < 0 or _signed(timeout) < 0:
            raise SyscallError(errno.EINVAL)
        source, target = mm.futex_key(address, private), mm.futex_key(address2, private)
        if command == _CMP_REQUEUE and mm.read_u32(address) != value3:
            raise SyscallError(errno.EAGAIN)
        woken, moved = futexes.requeue(source, target, value, timeout & 0xFFFFFFFF)
        return woken + moved
    if command == _WAKE_OP:
        return _wake_op(task, private, address, value, timeout & 0xFFFFFFFF, address2, value3)
    raise SyscallError(errno.ENOSYS)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


async def _wait(task: Task, operation: int, address: int, value: int, timeout: int, bitset: int) -> int:
    command = operation & ~(_PRIVATE | _CLOCK_REALTIME)
    seconds = read_timespec(task, timeout)
    deadline: float | None = None
    if seconds is not None:
        if command == _WAIT:
            if task.restart_deadline is not None and task.restart_nr == task.syscall_nr:
                deadline, task.restart_deadline = task.restart_deadline, None
            else:
                deadline = time.monotonic() + seconds
        elif operation & _CLOCK_REALTIME:
            deadline = time.monotonic() + seconds - time.time()
        else:
            deadline = seconds
    try:
        woken = await task.kernel.futexes.wait(
            task,
            address,
            bool(operation & _PRIVATE),
            value,
            bitset if command == _WAIT_BITSET else BITSET_ANY,
            deadline,
        )
    except Interrupted:
        if deadline is not None and command == _WAIT:
            task.restart_deadline, task.restart_nr = deadline, task.syscall_nr
            raise Interrupted(RestartKind.NOHAND) from None
        raise
    if not woken:
        raise SyscallError(errno.ETIMEDOUT)
    return 0


def _wake_op(task: Task, private: bool, address: int, wake: int, wake2: int, address2: int, encoded: int) -> int:
    """FUTEX_WAKE_OP: change the second word, wake sleepers of the first, and of the second if its old value says so."""
    mm, futexes = task.mm, task.kernel.futexes
    if address & 3 or address2 & 3:
        raise SyscallError(errno.EINVAL)
    operation, comparison = encoded >> 28 & 0xF, encoded >> 24 & 0xF
    operand, limit = _signed12(encoded >> 12), _signed12(encoded)
    if operation & 8:
        operand = 1 << (operand & 31)
    first, second = mm.futex_key(address, private), mm.futex_key(address2, private)
    old = mm.read_u32(address2)
    while True:
        results = {0: operand, 1: old + operand, 2: old | operand, 3: old & ~operand, 4: old ^ operand}
        if operation & 7 not in results:
            raise SyscallError(errno.ENOSYS)
        found = mm.compare_exchange_u32(address2, old, results[operation & 7] & 0xFFFFFFFF)
        if found == old:
            break
        old = found
    value = _signed(old)
    tests = {
        0: value == limit,
        1: value != limit,
        2: value < limit,
        3: value <= limit,
        4: value > limit,
        5: value >= limit,
    }
    if comparison not in tests:
        raise SyscallError(errno.ENOSYS)
    woken = futexes.wake(first, wake)
    if tests[comparison]:
        woken += futexes.wake(second, wake2)
    return woken


def _signed12(value: int) -> int:
    value &= 0xFFF
    return value - 0x1000 if value >> 11 else value


@syscall("futex_waitv")
async def sys_futex_waitv(task: Task, waiters: addr, count: u32, flags: u32, timeout: addr, clock: i32) -> Result:
    """futex_waitv(2)."""
    if flags or not 0 < count <= _WAITV_MAX or (timeout and clock not in (0, 1)):
        raise SyscallError(errno.EINVAL)
    words: list[tuple[int, bool, int]] = []
    for value, address, kind, reserved in struct.iter_unpack("<QQII", task.mm.read(waiters, count * _WAITV_SIZE)):
        if kind & ~(_WAITV_PRIVATE | 3) or kind & 3 != _WAITV_U32 or reserved:
            raise SyscallError(errno.EINVAL)
        words.append((address, bool(kind & _WAITV_PRIVATE), value & 0xFFFFFFFF))
    seconds = read_timespec(task, timeout)
    if seconds is not None and clock == 0:
        seconds += time.monotonic() - time.time()
    index = await task.kernel.futexes.wait_any(task, words, seconds)
    if index is None:
        raise SyscallError(errno.ETIMEDOUT)
    return index


@syscall("set_robust_list")
def sys_set_robust_list(task: Task, head: addr, size: u64) -> Result:
    """set_robust_list(2)."""
    if size != _HEAD_SIZE:
        raise SyscallError(errno.EINVAL)
    task.robust_list = head
    return 0


@syscall("get_robust_list")
def sys_get_robust_list(task: Task, pid: i32, head: addr, size: addr) -> Result:
    """get_robust_list(2)."""
    target = task.kernel.tasks.get(pid) if pid else task
    if target is None:
        raise SyscallError(errno.ESRCH)
    task.mm.write_u64(size, _HEAD_SIZE)
    task.mm.write_u64(head, target.robust_list)
    return 0
