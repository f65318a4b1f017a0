"""System calls that only x86-64 has, or has in its own way."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from systrap.arch import x86_64
from systrap.sentry.clone import CSIGNAL, CloneArgs
from systrap.sentry.errors import SyscallError
from systrap.sentry.syscalls.process import clone
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_ARCH_SET_GS: Final = 0x1001
_ARCH_SET_FS: Final = 0x1002
_ARCH_GET_FS: Final = 0x1003
_ARCH_GET_GS: Final = 0x1004
_ARCH_GET_CPUID: Final = 0x1011


@syscall("clone")
async def sys_clone(task: Task, flags: u64, stack: addr, parent_tid: addr, child_tid: addr, tls: addr) -> Result:
    """clone(2), in x86-64's order of arguments."""
    return await clone(
        task, CloneArgs(flags & ~CSIGNAL & 0xFFFFFFFF, flags & CSIGNAL, stack, parent_tid, child_tid, tls)
    )


@syscall("arch_prctl")
def sys_arch_prctl(task: Task, option: i32, address: addr) -> Result:
    """arch_prctl(2): FS is the guest's, GS is reserved for the platform (spec: upstream refuses SET_GS, too)."""
    regs = task.context.regs
    if option == _ARCH_SET_FS:
        if address >= task.mm.max_address:
            raise SyscallError(errno.EPERM)
        regs[x86_64.FS_BASE] = address
        return 0
    if option == _ARCH_GET_FS:
        task.mm.write_u64(address, regs[x86_64.FS_BASE])
        return 0
    if option == _ARCH_GET_GS:
        task.mm.write_u64(address, 0)
        return 0
    if option == _ARCH_GET_CPUID:
        return 1
    raise SyscallError(errno.EPERM if option == _ARCH_SET_GS else errno.EINVAL)
