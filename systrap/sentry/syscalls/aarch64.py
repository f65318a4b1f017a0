"""System calls that arm64 has in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from systrap.sentry.clone import CSIGNAL, CloneArgs
from systrap.sentry.syscalls.process import clone
from systrap.sentry.syscalls.table import Result, addr, syscall, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task


@syscall("clone")
async def sys_clone(task: Task, flags: u64, stack: addr, parent_tid: addr, tls: addr, child_tid: addr) -> Result:
    """clone(2), with the thread pointer before the child's id (CONFIG_CLONE_BACKWARDS)."""
    return await clone(
        task, CloneArgs(flags & ~CSIGNAL & 0xFFFFFFFF, flags & CSIGNAL, stack, parent_tid, child_tid, tls)
    )
