"""prctl: the odds and ends of a process."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.credentials import CAPABILITIES
from systrap.sentry.errors import SyscallError
from systrap.sentry.syscalls.table import Result, i32, syscall, u64

if TYPE_CHECKING:
    from collections.abc import Callable

    from systrap.sentry.task import Task

_CAP_SETPCAP: Final = 8
_AMBIENT_IS_SET, _AMBIENT_RAISE, _AMBIENT_LOWER, _AMBIENT_CLEAR_ALL = range(1, 5)


def _set_pdeathsig(task: Task, a: int, b: int) -> int:
    if a > 64:
        raise SyscallError(errno.EINVAL)
    task.group.pdeath_signal = a
    return 0


def _get_pdeathsig(task: Task, a: int, b: int) -> int:
    task.mm.write_u32(a, task.group.pdeath_signal)
    return 0


def _get_dumpable(task: Task, a: int, b: int) -> int:
    return task.group.dumpable


def _set_dumpable(task: Task, a: int, b: int) -> int:
    if a not in (0, 1):
        raise SyscallError(errno.EINVAL)
    task.group.dumpable = a
    return 0


def _get_keepcaps(task: Task, a: int, b: int) -> int:
    return int(task.creds.keep_caps)


def _set_keepcaps(task: Task, a: int, b: int) -> int:
    if a > 1:
        raise SyscallError(errno.EINVAL)
    task.creds = task.creds._replace(keep_caps=bool(a))
    return 0


def _set_name(task: Task, a: int, b: int) -> int:
    task.comm = task.mm.read_partial(a, 16).partition(b"\0")[0][:15]
    return 0


def _get_name(task: Task, a: int, b: int) -> int:
    task.mm.write(a, task.comm[:15].ljust(16, b"\0"))
    return 0


def _capbset_read(task: Task, a: int, b: int) -> int:
    if a >= CAPABILITIES:
        raise SyscallError(errno.EINVAL)
    return task.creds.bounding >> a & 1


def _capbset_drop(task: Task, a: int, b: int) -> int:
    if not task.creds.capable(_CAP_SETPCAP):
        raise SyscallError(errno.EPERM)
    if a >= CAPABILITIES:
        raise SyscallError(errno.EINVAL)
    task.creds = task.creds._replace(bounding=task.creds.bounding & ~(1 << a))
    return 0


def _set_timerslack(task: Task, a: int, b: int) -> int:
    task.timer_slack = a or 50_000
    return 0


def _get_timerslack(task: Task, a: int, b: int) -> int:
    return task.timer_slack


def _set_subreaper(task: Task, a: int, b: int) -> int:
    task.group.child_subreaper = bool(a)
    return 0


def _get_subreaper(task: Task, a: int, b: int) -> int:
    task.mm.write_u32(a, int(task.group.child_subreaper))
    return 0


def _set_no_new_privs(task: Task, a: int, b: int) -> int:
    if a != 1 or b:
        raise SyscallError(errno.EINVAL)
    task.group.no_new_privs = True
    return 0


def _get_no_new_privs(task: Task, a: int, b: int) -> int:
    return int(task.group.no_new_privs)


def _get_tid_address(task: Task, a: int, b: int) -> int:
    task.mm.write_u64(a, task.clear_child_tid)
    return 0


def _cap_ambient(task: Task, a: int, b: int) -> int:
    creds, mask = task.creds, 1 << min(b, CAPABILITIES)
    if a == _AMBIENT_CLEAR_ALL and not b:
        task.creds = creds._replace(ambient=0)
        return 0
    if not _AMBIENT_IS_SET <= a <= _AMBIENT_LOWER or b >= CAPABILITIES:
        raise SyscallError(errno.EINVAL)
    if a == _AMBIENT_IS_SET:
        return int(bool(creds.ambient & mask))
    if a == _AMBIENT_LOWER:
        task.creds = creds._replace(ambient=creds.ambient & ~mask)
    elif not creds.permitted & creds.inheritable & mask:
        raise SyscallError(errno.EPERM)
    else:
        task.creds = creds._replace(ambient=creds.ambient | mask)
    return 0


def _zero(task: Task, a: int, b: int) -> int:
    return 0


OPTIONS: Final[dict[int, Callable[[Task, int, int], int]]] = {
    1: _set_pdeathsig, 2: _get_pdeathsig, 3: _get_dumpable, 4: _set_dumpable, 7: _get_keepcaps, 8: _set_keepcaps,
    15: _set_name, 16: _get_name, 21: _zero, 23: _capbset_read, 24: _capbset_drop, 27: _zero, 28: _zero,
    29: _set_timerslack, 30: _get_timerslack, 36: _set_subreaper, 37: _get_subreaper, 38: _set_no_new_privs,
    39: _get_no_new_privs, 40: _get_tid_address, 41: _zero, 42: _zero, 47: _cap_ambient, 0x53564D41: _zero,
    0x59616D61: _zero,
}  # fmt: skip
"""What is there, by number: PDEATHSIG, DUMPABLE, KEEPCAPS, NAME, SECCOMP (0: none), CAPBSET, SECUREBITS, TIMERSLACK,
CHILD_SUBREAPER, NO_NEW_PRIVS, TID_ADDRESS, THP_DISABLE, CAP_AMBIENT, SET_VMA (names of mappings: accepted), Yama's."""


@syscall("prctl")
def sys_prctl(task: Task, option: i32, a: u64, b: u64, c: u64, d: u64) -> Result:
    """prctl(2). EINVAL for what is not in OPTIONS, as a kernel without the feature answers."""
    found = OPTIONS.get(option)
    if found is None:
        raise SyscallError(errno.EINVAL)
    return found(task, a, b)
