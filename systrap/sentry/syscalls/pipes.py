"""pipe and pipe2."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_CLOEXEC, O_DIRECT, O_NONBLOCK
from systrap.sentry.pipe import make_pipe
from systrap.sentry.syscalls.table import Result, addr, i32, syscall

if TYPE_CHECKING:
    from systrap.sentry.task import Task


@syscall("pipe")
def sys_pipe(task: Task, fds: addr) -> Result:
    """pipe(2)."""
    return _pipe(task, fds, 0)


@syscall("pipe2")
def sys_pipe2(task: Task, fds: addr, flags: i32) -> Result:
    """pipe2(2)."""
    if flags & ~(O_CLOEXEC | O_DIRECT | O_NONBLOCK):
        raise SyscallError(errno.EINVAL)
    return _pipe(task, fds, flags)


def _pipe(task: Task, fds: int, flags: int) -> int:
    ends = make_pipe(flags & ~O_CLOEXEC)
    cloexec = bool(flags & O_CLOEXEC)
    reading = task.fds.add(ends[0], cloexec)
    try:
        writing = task.fds.add(ends[1], cloexec)
    except SyscallError:
        task.fds.close(reading)
        raise
    try:
        task.mm.write(fds, struct.pack("<2i", reading, writing))
    except SyscallError:
        task.fds.close(reading)
        task.fds.close(writing)
        raise
    return 0
