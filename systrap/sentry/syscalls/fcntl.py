"""fcntl and flock."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_APPEND, O_ASYNC, O_DIRECT, O_LARGEFILE, O_NOATIME, O_NONBLOCK, O_PATH, OpenFile
from systrap.sentry.fs import locks
from systrap.sentry.fs.contents import DirectoryFile
from systrap.sentry.fs.locks import END, F_RDLCK, F_UNLCK, F_WRLCK, FileLocks, Owner
from systrap.sentry.fs.memfd import MemoryDescriptor
from systrap.sentry.pipe import PipeEnd
from systrap.sentry.syscalls.files import open_file
from systrap.sentry.syscalls.table import Result, Running, i32, syscall, u32, u64
from systrap.sentry.wait import wait

if TYPE_CHECKING:
    from systrap.sentry.task import Task

F_DUPFD: Final = 0
F_GETFD: Final = 1
F_SETFD: Final = 2
F_GETFL: Final = 3
F_SETFL: Final = 4
F_GETLK: Final = 5
F_SETLK: Final = 6
F_SETLKW: Final = 7
F_SETOWN: Final = 8
F_GETOWN: Final = 9
F_SETSIG: Final = 10
F_GETSIG: Final = 11
F_SETOWN_EX: Final = 15
F_GETOWN_EX: Final = 16
F_OFD_GETLK: Final = 36
F_OFD_SETLK: Final = 37
F_OFD_SETLKW: Final = 38
F_SETLEASE: Final = 1024
F_GETLEASE: Final = 1025
F_NOTIFY: Final = 1026
F_DUPFD_QUERY: Final = 1027
F_DUPFD_CLOEXEC: Final = 1030
F_SETPIPE_SZ: Final = 1031
F_GETPIPE_SZ: Final = 1032
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
FD_CLOEXEC: Final = 1

_SETTABLE: Final = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME
_WITH_O_PATH: Final = (F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_QUERY)
_LOCKS: Final = (F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW)
_OFD: Final = (F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW)
_FLOCK: Final = struct.Struct("<hh4xqqi4x")

_LOCK_NB: Final = 4
_MAX_OFFSET: Final = (1 << 63) - 1


@syscall("fcntl")
def sys_fcntl(task: Task, fd: i32, command: u32, argument: u64) -> Result | Running:
    """fcntl(2)."""
    file = task.fds.get(fd)
    if file.flags & O_PATH and command not in _WITH_O_PATH:
        raise SyscallError(errno.EBADF)
    if command in _LOCKS:
        return _lock(task, file, command, argument)
    handler = _COMMANDS.get(command)
    if handler is None:
        raise SyscallError(errno.EINVAL)
    return handler(task, fd, file, argument)


def _duplicate(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    return _add(task, file, argument, False)


def _duplicate_cloexec(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    return _add(task, file, argument, True)


def _add(task: Task, file: OpenFile, lowest: int, cloexec: bool) -> int:
    lowest &= 0xFFFFFFFF
    if lowest >= task.fds.limit:
        raise SyscallError(errno.EINVAL)
    return task.fds.add(file, cloexec, lowest)


def _same_file(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    return int(task.fds.get(argument & 0x7FFFFFFF) is file)


def _get_fd(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    return FD_CLOEXEC if fd in task.fds.cloexec else 0


def _set_fd(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    if argument & FD_CLOEXEC:
        task.fds.cloexec.add(fd)
    else:
        task.fds.cloexec.discard(fd)
    return 0


def _get_flags(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    if file.flags & O_PATH:
        return file.flags
    return file.flags | (0 if file.pollable else O_LARGEFILE)


def _set_flags(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    file.flags = file.flags & ~_SETTABLE | argument & _SETTABLE
    return 0


def _get_owner(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    kind, pid, _ = file.owner
    return -pid if kind == 2 else pid


def _set_owner(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    pid = (argument & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
    _own(task, file, 2 if pid < 0 else 1, abs(pid))
    return 0


def _own(task: Task, file: OpenFile, kind: int, pid: int) -> None:
    kernel = task.kernel
    if pid:
        groups = kernel.groups
        known = pid in kernel.tasks or pid in groups if kind < 2 else any(g.pgid == pid for g in groups.values())
        if not known:
            raise SyscallError(errno.ESRCH)
    file.owner = (kind if pid else 1, pid, file.owner[2])


def _get_owner_ex(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    task.mm.write(argument, struct.pack("<ii", *file.owner[:2]))
    return 0


def _set_owner_ex(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    kind, pid = struct.unpack("<ii", task.mm.read(argument, 8))
    if kind not in (0, 1, 2):
        raise SyscallError(errno.EINVAL)
    _own(task, file, kind, pid)
    return 0


def _get_signal(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    return file.owner[2]


def _set_signal(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    if argument > 64:
        raise SyscallError(errno.EINVAL)
    file.owner = (*file.owner[:2], argument)
    return 0


def _get_lease(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    return F_UNLCK


def _no_lease(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    raise SyscallError(errno.EINVAL)


def _notify(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    """Accept a wish for directory events by signal (dnotify); nothing is sent: that is inotify's business."""
    if not isinstance(file, DirectoryFile):
        raise SyscallError(errno.ENOTDIR)
    return 0


def _get_pipe_size(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    if not isinstance(file, PipeEnd):
        raise SyscallError(errno.EBADF)
    return file.pipe_size()


def _set_pipe_size(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    if not isinstance(file, PipeEnd):
        raise SyscallError(errno.EBADF)
    return file.set_pipe_size(argument & 0xFFFFFFFF)


def _add_seals(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    if not isinstance(file, MemoryDescriptor):
        raise SyscallError(errno.EINVAL)
    file.add_seals(argument & 0xFFFFFFFF)
    return 0


def _get_seals(task: Task, fd: int, file: OpenFile, argument: int) -> int:
    if not isinstance(file, MemoryDescriptor):
        raise SyscallError(errno.EINVAL)
    return file.memory.seals


_COMMANDS: Final[dict[int, Callable[[Task, int, OpenFile, int], int]]] = {
    F_DUPFD: _duplicate,
    F_DUPFD_CLOEXEC: _duplicate_cloexec,
    F_DUPFD_QUERY: _same_file,
    F_GETFD: _get_fd,
    F_SETFD: _set_fd,
    F_GETFL: _get_flags,
    F_SETFL: _set_flags,
    F_GETOWN: _get_owner,
    F_SETOWN: _set_owner,
    F_GETOWN_EX: _get_owner_ex,
    F_SETOWN_EX: _set_owner_ex,
    F_GETSIG: _get_signal,
    F_SETSIG: _set_signal,
    F_GETLEASE: _get_lease,
    F_SETLEASE: _no_lease,
    F_NOTIFY: _notify,
    F_GETPIPE_SZ: _get_pipe_size,
    F_SETPIPE_SZ: _set_pipe_size,
    F_ADD_SEALS: _add_seals,
    F_GET_SEALS: _get_seals,
}


# Record locks.


def _lock(task: Task, file: OpenFile, command: int, argument: int) -> Result | Running:
    """F_GETLK, F_SETLK, F_SETLKW, and the same for open file descriptions."""
    kind, whence, start, length, pid = _FLOCK.unpack(task.mm.read(argument, _FLOCK.size))
    ofd = command in _OFD
    if ofd and pid:
        raise SyscallError(errno.EINVAL)
    if kind not in (F_RDLCK, F_WRLCK, F_UNLCK):
        raise SyscallError(errno.EINVAL)
    low, high = _range(file, whence, start, length)
    owner: Owner = file if ofd else task.fds
    if command in (F_GETLK, F_OFD_GETLK):
        return _get_lock(task, file, owner, (kind, whence, start, length), (low, high), argument)
    if (kind == F_RDLCK and not file.readable) or (kind == F_WRLCK and not file.writable):
        raise SyscallError(errno.EBADF)
    if kind == F_UNLCK:
        found = locks.find(file)
        if found is not None:
            found.set(owner, kind, low, high, 0)
            locks.tidy(file)
        return 0
    if ofd:
        locks.keep_by_file(file)
    else:
        locks.keep_by_table(task.fds)
    number = -1 if ofd else task.group.pid
    found = locks.locks_of(file)
    try:
        found.set(owner, kind, low, high, number)
    except WouldBlockError:
        if command in (F_SETLK, F_OFD_SETLK):
            raise
        return _wait_for_lock(file, found, owner, kind, (low, high), number)
    return 0


async def _wait_for_lock(
    file: OpenFile, found: FileLocks, owner: Owner, kind: int, extent: tuple[int, int], pid: int
) -> int:
    found.waiting += 1
    try:
        while True:
            locks.begin_wait(found, owner, kind, *extent)
            await wait(found.queue)
            locks.end_wait(owner)
            try:
                found.set(owner, kind, *extent, pid)
                return 0
            except WouldBlockError:
                continue
    finally:
        locks.end_wait(owner)
        found.waiting -= 1
        locks.tidy(file)


def _range(file: OpenFile, whence: int, start: int, length: int) -> tuple[int, int]:
    """Return the [start, end) a struct flock means. EINVAL, EOVERFLOW."""
    if whence == 1:
        start += file.offset if not file.pollable else file.seek(0, 1)
    elif whence == 2:
        start += file.stat().size
    elif whence != 0:
        raise SyscallError(errno.EINVAL)
    if start > _MAX_OFFSET:
        raise SyscallError(errno.EOVERFLOW)
    end = start + length if length else END
    if length < 0:
        start, end = end, start
    if start < 0:
        raise SyscallError(errno.EINVAL)
    if end > END:
        raise SyscallError(errno.EOVERFLOW)
    return start, end


def _get_lock(
    task: Task,
    file: OpenFile,
    owner: Owner,
    asked: tuple[int, int, int, int],
    extent: tuple[int, int],
    argument: int,
) -> int:
    """Tell of a lock that is in the way, or that none is."""
    kind, whence, start, length = asked
    if kind == F_UNLCK and not isinstance(owner, OpenFile):
        raise SyscallError(errno.EINVAL)
    found = locks.find(file)
    conflict = found.conflict(owner, kind, *extent) if found is not None else None
    if conflict is None:
        task.mm.write(argument, struct.pack("<h", F_UNLCK))
        return 0
    span = 0 if conflict.end == END else conflict.end - conflict.start
    task.mm.write(argument, _FLOCK.pack(conflict.kind, 0, conflict.start, span, conflict.pid))
    return 0


# flock.


@syscall("flock")
def sys_flock(task: Task, fd: i32, operation: i32) -> Result | Running:
    """flock(2)."""
    kind = operation & ~_LOCK_NB
    file = open_file(task, fd)
    if kind not in (locks.LOCK_SH, locks.LOCK_EX, locks.LOCK_UN):
        raise SyscallError(errno.EINVAL)
    if kind == locks.LOCK_UN:
        held = locks.find(file)
        if held is not None:
            held.flock(file, kind)
            locks.tidy(file)
        return 0
    locks.keep_by_file(file)
    found = locks.locks_of(file)
    try:
        found.flock(file, kind)
    except WouldBlockError:
        if operation & _LOCK_NB:
            raise
        return _wait_for_flock(file, found, kind)
    return 0


async def _wait_for_flock(file: OpenFile, found: FileLocks, kind: int) -> int:
    found.waiting += 1
    try:
        while True:
            await wait(found.queue)
            try:
                found.flock(file, kind)
                return 0
            except WouldBlockError:
                continue
    finally:
        found.waiting -= 1
        locks.tidy(file)
