"""Scheduling: affinity, priorities, policies. The host schedules; what guests set is remembered or accepted, not obeyed."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_POLICIES: Final = (0, 1, 2, 3, 5, 6)
_REALTIME_POLICIES: Final = (1, 2)


def _target(task: Task, pid: int) -> Task:
    if pid < 0:
        raise SyscallError(errno.EINVAL)
    found = task.kernel.tasks.get(pid) if pid else task
    if found is None:
        raise SyscallError(errno.ESRCH)
    return found


@syscall("sched_yield")
def sys_sched_yield(task: Task) -> Result:
    """sched_yield(2)."""
    return 0


@syscall("sched_getaffinity")
def sys_sched_getaffinity(task: Task, pid: i32, size: u32, mask: addr) -> Result:
    """sched_getaffinity(2): the host's CPUs this process may use."""
    _target(task, pid)
    cpus = os.sched_getaffinity(0)
    needed = (max(cpus) // 64 + 1) * 8
    if size < needed or size % 8:
        raise SyscallError(errno.EINVAL)
    task.mm.write(mask, sum(1 << cpu for cpu in cpus).to_bytes(needed, "little"))
    return needed


@syscall("sched_setaffinity")
def sys_sched_setaffinity(task: Task, pid: i32, size: u32, mask: addr) -> Result:
    """sched_setaffinity(2): accepted when it leaves a CPU."""
    _target(task, pid)
    wanted = int.from_bytes(task.mm.read(mask, min(size, 1024)), "little") if size else 0
    if not any(wanted >> cpu & 1 for cpu in os.sched_getaffinity(0)):
        raise SyscallError(errno.EINVAL)
    return 0


@syscall("sched_getscheduler")
def sys_sched_getscheduler(task: Task, pid: i32) -> Result:
    """sched_getscheduler(2)."""
    _target(task, pid)
    return 0


@syscall("sched_setscheduler")
def sys_sched_setscheduler(task: Task, pid: i32, policy: i32, param: addr) -> Result:
    """sched_setscheduler(2)."""
    _target(task, pid)
    (priority,) = struct.unpack("<i", task.mm.read(param, 4))
    policy &= ~0x40000000
    if policy not in _POLICIES or bool(priority) != (policy in _REALTIME_POLICIES):
        raise SyscallError(errno.EINVAL)
    if policy in _REALTIME_POLICIES:
        raise SyscallError(errno.EPERM)
    return 0


@syscall("sched_getparam")
def sys_sched_getparam(task: Task, pid: i32, param: addr) -> Result:
    """sched_getparam(2)."""
    _target(task, pid)
    task.mm.write(param, bytes(4))
    return 0


@syscall("sched_setparam")
def sys_sched_setparam(task: Task, pid: i32, param: addr) -> Result:
    """sched_setparam(2)."""
    _target(task, pid)
    if any(task.mm.read(param, 4)):
        raise SyscallError(errno.EINVAL)
    return 0


@syscall("sched_getattr")
def sys_sched_getattr(task: Task, pid: i32, attributes: addr, size: u32, flags: u32) -> Result:
    """sched_getattr(2)."""
    _target(task, pid)
    if size < 48 or flags:
        raise SyscallError(errno.EINVAL)
    task.mm.write(attributes, struct.pack("<IIQiIQQQ", 48, 0, 0, 0, 0, 0, 0, 0))
    return 0


@syscall("sched_setattr")
def sys_sched_setattr(task: Task, pid: i32, attributes: addr, flags: u32) -> Result:
    """sched_setattr(2)."""
    _target(task, pid)
    _, policy = struct.unpack("<II", task.mm.read(attributes, 8))
    if policy not in _POLICIES:
        raise SyscallError(errno.EINVAL)
    if policy in _REALTIME_POLICIES or policy == 6:
        raise SyscallError(errno.EPERM)
    return 0


@syscall("sched_get_priority_max")
def sys_sched_get_priority_max(task: Task, policy: i32) -> Result:
    """sched_get_priority_max(2)."""
    if policy not in _POLICIES:
        raise SyscallError(errno.EINVAL)
    return 99 if policy in _REALTIME_POLICIES else 0


@syscall("sched_get_priority_min")
def sys_sched_get_priority_min(task: Task, policy: i32) -> Result:
    """sched_get_priority_min(2)."""
    if policy not in _POLICIES:
        raise SyscallError(errno.EINVAL)
    return 1 if policy in _REALTIME_POLICIES else 0


@syscall("sched_rr_get_interval")
def sys_sched_rr_get_interval(task: Task, pid: i32, result: addr) -> Result:
    """sched_rr_get_interval(2)."""
    _target(task, pid)
    task.mm.write(result, struct.pack("<2q", 0, 100_000_000))
    return 0


@syscall("getcpu")
def sys_getcpu(task: Task, cpu: addr, node: addr) -> Result:
    """getcpu(2): some CPU the process may use."""
    if cpu:
        task.mm.write_u32(cpu, min(os.sched_getaffinity(0)))
    if node:
        task.mm.write_u32(node, 0)
    return 0


# Nice values: remembered per process.


def _processes(task: Task, which: int, who: int) -> list[Task]:
    kernel = task.kernel
    if which == 0:
        return [_target(task, who)]
    if which == 1:
        pgid = who or task.group.pgid
        return [other for other in kernel.tasks.values() if other.group.pgid == pgid]
    if which == 2:
        uid = who or task.creds.ruid
        return [other for other in kernel.tasks.values() if other.creds.ruid == uid]
    raise SyscallError(errno.EINVAL)


@syscall("getpriority")
def sys_getpriority(task: Task, which: i32, who: i32) -> Result:
    """getpriority(2): 20 − nice."""
    found = _processes(task, which, who)
    if not found:
        raise SyscallError(errno.ESRCH)
    return 20 - min(other.group.nice for other in found)


@syscall("setpriority")
def sys_setpriority(task: Task, which: i32, who: i32, nice: i32) -> Result:
    """setpriority(2)."""
    found = _processes(task, which, who)
    if not found:
        raise SyscallError(errno.ESRCH)
    nice = max(-20, min(19, nice))
    for other in found:
        if nice < other.group.nice and not task.creds.capable(23):
            raise SyscallError(errno.EACCES)
        other.group.nice = nice
    return 0


@syscall("ioprio_get")
def sys_ioprio_get(task: Task, which: i32, who: i32) -> Result:
    """ioprio_get(2): best effort, middle."""
    return 4


@syscall("ioprio_set")
def sys_ioprio_set(task: Task, which: i32, who: i32, priority: i32) -> Result:
    """ioprio_set(2)."""
    return 0


@syscall("get_mempolicy")
def sys_get_mempolicy(task: Task, mode: addr, mask: addr, count: u64, address: addr, flags: u64) -> Result:
    """get_mempolicy(2): one node, default policy."""
    if mode:
        task.mm.write_u32(mode, 0)
    if mask:
        task.mm.write(mask, bytes((count + 63) // 64 * 8))
    return 0


@syscall("set_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy_home_node")
def sys_mempolicy(task: Task) -> Result:
    """set_mempolicy(2) and its relatives: one node, nothing to choose."""
    return 0
