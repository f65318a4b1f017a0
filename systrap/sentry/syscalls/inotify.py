"""inotify_init, inotify_add_watch, inotify_rm_watch."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_CLOEXEC, O_NONBLOCK
from systrap.sentry.fs import notify
from systrap.sentry.fs.inode import MAY_READ
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32

if TYPE_CHECKING:
    from systrap.sentry.task import Task


@syscall("inotify_init")
def sys_inotify_init(task: Task) -> Result:
    """inotify_init(2)."""
    return task.fds.add(notify.Inotify(0))


@syscall("inotify_init1")
def sys_inotify_init1(task: Task, flags: i32) -> Result:
    """inotify_init1(2)."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise SyscallError(errno.EINVAL)
    return task.fds.add(notify.Inotify(flags & O_NONBLOCK), bool(flags & O_CLOEXEC))


def _instance(task: Task, fd: int) -> notify.Inotify:
    file = task.fds.get(fd)
    if not isinstance(file, notify.Inotify):
        raise SyscallError(errno.EINVAL)
    return file


@syscall("inotify_add_watch")
def sys_inotify_add_watch(task: Task, fd: i32, path: addr, mask: u32) -> Result:
    """inotify_add_watch(2)."""
    if not mask & notify.ALL_EVENTS or (mask & notify.IN_MASK_ADD and mask & notify.IN_MASK_CREATE):
        task.fds.get(fd)
        raise SyscallError(errno.EINVAL)
    instance = _instance(task, fd)
    name = task.mm.read_string(path)
    inode = task.kernel.vfs.lookup(task, None, name, not mask & notify.IN_DONT_FOLLOW).inode
    if mask & notify.IN_ONLYDIR and not inode.is_directory:
        raise SyscallError(errno.ENOTDIR)
    inode.check(task.creds, MAY_READ)
    return instance.add(inode, mask)


@syscall("inotify_rm_watch")
def sys_inotify_rm_watch(task: Task, fd: i32, number: i32) -> Result:
    """inotify_rm_watch(2)."""
    _instance(task, fd).remove(number)
    return 0
