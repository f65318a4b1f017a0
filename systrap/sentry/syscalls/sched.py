"""Scheduling: affinity, priorities, policies. The host schedules; what guests set is remembered, not obeyed."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.scheduling import REALTIME, SCHED_DEADLINE, SCHED_FIFO, SCHED_IDLE
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_POLICIES: Final = (0, 1, 2, 3, 5, 6)
_CAP_SYS_NICE: Final = 23
_RLIMIT_NICE: Final = 13
_RLIMIT_RTPRIO: Final = 14
_RESET_ON_FORK: Final = 0x40000000
_MAX_REALTIME: Final = 99
_ROUND_ROBIN_NS: Final = 100_000_000
_SLICE_NS: Final = 4_000_000
_ATTR: Final = struct.Struct("<IIQiIQQQ")
_ATTR_FLAG_RESET: Final = 1
_IOPRIO_NONE, _IOPRIO_REALTIME, _, _IOPRIO_IDLE = range(4)


def _find(task: Task, pid: int) -> Task:
    found = task.kernel.tasks.get(pid) if pid else task
    if found is None:
        raise SyscallError(errno.ESRCH)
    return found


def _target(task: Task, pid: int) -> Task:
    if pid < 0:
        raise SyscallError(errno.EINVAL)
    return _find(task, pid)


def _check_owner(task: Task, target: Task) -> None:
    """Raise EPERM unless the caller may change how the target is scheduled."""
    if task.creds.euid not in (target.creds.euid, target.creds.ruid) and not task.creds.capable(_CAP_SYS_NICE):
        raise SyscallError(errno.EPERM)


def _usable_cpus() -> int:
    return sum(1 << cpu for cpu in os.sched_getaffinity(0))


@syscall("sched_yield")
def sys_sched_yield(task: Task) -> Result:
    """sched_yield(2)."""
    return 0


@syscall("sched_getaffinity")
def sys_sched_getaffinity(task: Task, pid: i32, size: u32, mask: addr) -> Result:
    """sched_getaffinity(2): what was set, at first the host's CPUs this process may use."""
    usable = _usable_cpus()
    needed = (usable.bit_length() + 63) // 64 * 8
    if size < needed or size % 8:
        raise SyscallError(errno.EINVAL)
    affinity = _find(task, pid).sched.affinity or usable
    task.mm.write(mask, affinity.to_bytes(needed, "little"))
    return needed


@syscall("sched_setaffinity")
def sys_sched_setaffinity(task: Task, pid: i32, size: u32, mask: addr) -> Result:
    """sched_setaffinity(2): accepted when it leaves a CPU."""
    wanted = int.from_bytes(task.mm.read(mask, min(size, 1024)), "little") if size else 0
    target = _find(task, pid)
    _check_owner(task, target)
    wanted &= _usable_cpus()
    if not wanted:
        raise SyscallError(errno.EINVAL)
    target.sched = target.sched._replace(affinity=wanted)
    return 0


# Policies.


def _set_policy(task: Task, target: Task, policy: int, priority: int, nice: int, reset: bool) -> int:
    """Change a task's policy as sched_setscheduler and sched_setattr do."""
    if policy not in _POLICIES or not 0 <= priority <= _MAX_REALTIME or bool(priority) != (policy in REALTIME):
        raise SyscallError(errno.EINVAL)
    if policy == SCHED_DEADLINE:
        raise SyscallError(errno.EPERM)
    old = target.sched
    if not task.creds.capable(_CAP_SYS_NICE):
        limits = target.group.limits
        if policy in REALTIME and (policy, priority) != (old.policy, old.priority):
            allowed = limits.soft(_RLIMIT_RTPRIO)
            if not allowed or priority > max(old.priority, allowed):
                raise SyscallError(errno.EPERM)
        if policy not in REALTIME and nice < old.nice and nice < 20 - limits.soft(_RLIMIT_NICE):
            raise SyscallError(errno.EPERM)
        if old.policy == SCHED_IDLE and policy != SCHED_IDLE and old.nice < 20 - limits.soft(_RLIMIT_NICE):
            raise SyscallError(errno.EPERM)
        if old.reset_on_fork and not reset:
            raise SyscallError(errno.EPERM)
        _check_owner(task, target)
    target.sched = old._replace(policy=policy, priority=priority, nice=nice, reset_on_fork=reset)
    return 0


@syscall("sched_getscheduler")
def sys_sched_getscheduler(task: Task, pid: i32) -> Result:
    """sched_getscheduler(2)."""
    sched = _target(task, pid).sched
    return sched.policy | (_RESET_ON_FORK if sched.reset_on_fork else 0)


def _read_priority(task: Task, pid: int, param: int) -> int:
    if not param or pid < 0:
        raise SyscallError(errno.EINVAL)
    (priority,) = struct.unpack("<i", task.mm.read(param, 4))
    return int(priority)


@syscall("sched_setscheduler")
def sys_sched_setscheduler(task: Task, pid: i32, policy: i32, param: addr) -> Result:
    """sched_setscheduler(2)."""
    if policy < 0:
        raise SyscallError(errno.EINVAL)
    priority = _read_priority(task, pid, param)
    target = _find(task, pid)
    reset = bool(policy & _RESET_ON_FORK)
    return _set_policy(task, target, policy & ~_RESET_ON_FORK, priority, target.sched.nice, reset)


@syscall("sched_getparam")
def sys_sched_getparam(task: Task, pid: i32, param: addr) -> Result:
    """sched_getparam(2)."""
    if not param:
        raise SyscallError(errno.EINVAL)
    priority = _target(task, pid).sched.priority
    task.mm.write(param, struct.pack("<i", priority))
    return 0


@syscall("sched_setparam")
def sys_sched_setparam(task: Task, pid: i32, param: addr) -> Result:
    """sched_setparam(2)."""
    priority = _read_priority(task, pid, param)
    target = _find(task, pid)
    sched = target.sched
    return _set_policy(task, target, sched.policy, priority, sched.nice, sched.reset_on_fork)


@syscall("sched_getattr")
def sys_sched_getattr(task: Task, pid: i32, attributes: addr, size: u32, flags: u32) -> Result:
    """sched_getattr(2)."""
    if not attributes or size < _ATTR.size or size > 4096 or flags:
        raise SyscallError(errno.EINVAL)
    sched = _target(task, pid).sched
    nice = 0 if sched.policy in REALTIME else sched.nice
    reset = _ATTR_FLAG_RESET if sched.reset_on_fork else 0
    task.mm.write(attributes, _ATTR.pack(_ATTR.size, sched.policy, reset, nice, sched.priority, 0, 0, 0))
    return 0


@syscall("sched_setattr")
def sys_sched_setattr(task: Task, pid: i32, attributes: addr, flags: u32) -> Result:
    """sched_setattr(2)."""
    if not attributes or pid < 0 or flags:
        raise SyscallError(errno.EINVAL)
    size = task.mm.read_u32(attributes) or _ATTR.size
    if not _ATTR.size <= size <= 4096:
        task.mm.write_u32(attributes, _ATTR.size)
        raise SyscallError(errno.E2BIG)
    _, policy, bits, nice, priority, _, _, _ = _ATTR.unpack(task.mm.read(attributes, _ATTR.size))
    if policy >> 31:
        raise SyscallError(errno.EINVAL)
    target = _find(task, pid)
    nice = target.sched.nice if policy in REALTIME else max(-20, min(19, nice))
    return _set_policy(task, target, policy, priority, nice, bool(bits & _ATTR_FLAG_RESET))


@syscall("sched_get_priority_max")
def sys_sched_get_priority_max(task: Task, policy: i32) -> Result:
    """sched_get_priority_max(2)."""
    if policy not in _POLICIES:
        raise SyscallError(errno.EINVAL)
    return _MAX_REALTIME if policy in REALTIME else 0


@syscall("sched_get_priority_min")
def sys_sched_get_priority_min(task: Task, policy: i32) -> Result:
    """sched_get_priority_min(2)."""
    if policy not in _POLICIES:
        raise SyscallError(errno.EINVAL)
    return 1 if policy in REALTIME else 0


@syscall("sched_rr_get_interval")
def sys_sched_rr_get_interval(task: Task, pid: i32, result: addr) -> Result:
    """sched_rr_get_interval(2)."""
    policy = _target(task, pid).sched.policy
    nanos = 0 if policy == SCHED_FIFO else _ROUND_ROBIN_NS if policy in REALTIME else _SLICE_NS
    task.mm.write(result, struct.pack("<2q", 0, nanos))
    return 0


@syscall("getcpu")
def sys_getcpu(task: Task, cpu: addr, node: addr) -> Result:
    """getcpu(2): some CPU the task may use."""
    usable = task.sched.affinity or _usable_cpus()
    if cpu:
        task.mm.write_u32(cpu, (usable & -usable).bit_length() - 1)
    if node:
        task.mm.write_u32(node, 0)
    return 0


# Nice values and the priority of input and output.


def _chosen(task: Task, which: int, who: int) -> list[Task]:
    """Return the tasks that (0) one id, (1) a process group or (2) a user names. ESRCH for nobody."""
    tasks = task.kernel.tasks
    if which == 0:
        return [_find(task, who)]
    if which == 1:
        pgid = who or task.group.pgid
        found = [other for other in tasks.values() if other.group.pgid == pgid]
    else:
        uid = who or task.creds.ruid
        found = [other for other in tasks.values() if other.creds.ruid == uid]
    if not found:
        raise SyscallError(errno.ESRCH)
    return found


@syscall("getpriority")
def sys_getpriority(task: Task, which: i32, who: i32) -> Result:
    """getpriority(2): 20 − nice."""
    if not 0 <= which <= 2:
        raise SyscallError(errno.EINVAL)
    return 20 - min(other.sched.nice for other in _chosen(task, which, who))


@syscall("setpriority")
def sys_setpriority(task: Task, which: i32, who: i32, nice: i32) -> Result:
    """setpriority(2)."""
    if not 0 <= which <= 2:
        raise SyscallError(errno.EINVAL)
    nice = max(-20, min(19, nice))
    for other in _chosen(task, which, who):
        _check_owner(task, other)
        lowest = 20 - other.group.limits.soft(_RLIMIT_NICE)
        if nice < other.sched.nice and nice < lowest and not task.creds.capable(_CAP_SYS_NICE):
            raise SyscallError(errno.EACCES)
        other.sched = other.sched._replace(nice=nice)
    return 0


def _ioprio_targets(task: Task, which: int, who: int) -> list[Task]:
    if not 1 <= which <= 3:
        raise SyscallError(errno.EINVAL)
    return _chosen(task, which - 1, who)


@syscall("ioprio_get")
def sys_ioprio_get(task: Task, which: i32, who: i32) -> Result:
    """ioprio_get(2)."""
    return max(other.sched.ioprio for other in _ioprio_targets(task, which, who))


@syscall("ioprio_set")
def sys_ioprio_set(task: Task, which: i32, who: i32, priority: i32) -> Result:
    """ioprio_set(2)."""
    kind, level = priority >> 13, priority & 7
    if not _IOPRIO_NONE <= kind <= _IOPRIO_IDLE or (kind == _IOPRIO_NONE and level):
        raise SyscallError(errno.EINVAL)
    if kind == _IOPRIO_REALTIME and not task.creds.capable(_CAP_SYS_NICE):
        raise SyscallError(errno.EPERM)
    for other in _ioprio_targets(task, which, who):
        _check_owner(task, other)
        other.sched = other.sched._replace(ioprio=priority)
    return 0


# Memory policies.


@syscall("get_mempolicy")
def sys_get_mempolicy(task: Task, mode: addr, mask: addr, count: u64, address: addr, flags: u64) -> Result:
    """get_mempolicy(2): one node, default policy."""
    if mode:
        task.mm.write_u32(mode, 0)
    if mask:
        if count > 1 << 16:
            raise SyscallError(errno.EINVAL)
        task.mm.write(mask, bytes((count + 63) // 64 * 8))
    return 0


@syscall("set_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy_home_node")
def sys_mempolicy(task: Task) -> Result:
    """set_mempolicy(2) and its relatives: one node, nothing to choose."""
    return 0
