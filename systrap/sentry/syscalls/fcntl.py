"""fcntl: descriptors, flags, record locks."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_APPEND, O_ASYNC, O_DIRECT, O_LARGEFILE, O_NOATIME, O_NONBLOCK, O_PATH, OpenFile
from systrap.sentry.fs import locks
from systrap.sentry.pipe import PipeEnd
from systrap.sentry.syscalls.table import Result, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, F_SETOWN, F_GETOWN, F_SETSIG, F_GETSIG = range(12)
F_SETOWN_EX: Final = 15
F_GETOWN_EX: Final = 16
F_OFD_GETLK: Final = 36
F_OFD_SETLK: Final = 37
F_OFD_SETLKW: Final = 38
F_SETLEASE: Final = 1024
F_GETLEASE: Final = 1025
F_NOTIFY: Final = 1026
F_DUPFD_CLOEXEC: Final = 1030
F_SETPIPE_SZ: Final = 1031
F_GETPIPE_SZ: Final = 1032
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034

_SETTABLE: Final = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK
_FLOCK = struct.Struct("<hh4xqqi4x")
_PATH_COMMANDS: Final = (F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL)


@syscall("fcntl")
async def sys_fcntl(task: Task, fd: i32, command: u32, argument: u64) -> Result:
    """fcntl(2)."""
    file = task.fds.get(fd)
    if file.flags & O_PATH and command not in _PATH_COMMANDS:
        raise SyscallError(errno.EBADF)
    if command in (F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW):
        return await _lock(task, file, command, argument)
    return _simple(task, fd, file, command, argument)


def _simple(task: Task, fd: int, file: OpenFile, command: int, argument: int) -> int:
    """Carry out what cannot wait."""
    if command in (F_DUPFD, F_DUPFD_CLOEXEC):
        lowest = ((argument & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
        if lowest < 0:
            raise SyscallError(errno.EINVAL)
        return task.fds.add(file, command == F_DUPFD_CLOEXEC, lowest)
    if command == F_GETFD:
        return int(fd in task.fds.cloexec)
    if command == F_SETFD:
        if argument & 1:
            task.fds.cloexec.add(fd)
        else:
            task.fds.cloexec.discard(fd)
        return 0
    if command == F_GETFL:
        return file.flags | (0 if file.flags & O_PATH or file.pollable else O_LARGEFILE)
    if command == F_SETFL:
        file.flags = file.flags & ~_SETTABLE | argument & _SETTABLE
        return 0
    if command in (F_GETPIPE_SZ, F_SETPIPE_SZ):
        if not isinstance(file, PipeEnd):
            raise SyscallError(errno.EBADF)
        return file.pipe_size() if command == F_GETPIPE_SZ else file.set_pipe_size(argument & 0x7FFFFFFF)
    if command in (F_ADD_SEALS, F_GET_SEALS):
        from systrap.sentry.fs.memfd import MemFD

        if not isinstance(file, MemFD):
            raise SyscallError(errno.EINVAL)
        return file.seals if command == F_GET_SEALS else file.add_seals(argument & 0xFFFFFFFF)
    if command in (F_GETOWN, F_SETOWN, F_GETSIG, F_SETSIG):
        # Signals on readiness (O_ASYNC) are not there; owners are accepted, as for files that cannot send any.
        return 0
    if command == F_GETLEASE:
        return locks.F_UNLCK
    raise SyscallError(errno.EINVAL)


async def _lock(task: Task, file: OpenFile, command: int, address: int) -> int:
    """Record locks: struct flock in, and for GETLK out."""
    kind, whence, start, length, pid = _FLOCK.unpack(task.mm.read(address, _FLOCK.size))
    if kind not in (locks.F_RDLCK, locks.F_WRLCK, locks.F_UNLCK) or not 0 <= whence <= 2:
        raise SyscallError(errno.EINVAL)
    by_description = command >= F_OFD_GETLK
    if by_description and pid:
        raise SyscallError(errno.EINVAL)
    base = 0 if whence == 0 else file.offset if whence == 1 else file.stat().size
    first = base + start
    end = first + length if length else locks.INFINITE
    if length < 0:
        first, end = end, first
    if first < 0:
        raise SyscallError(errno.EINVAL)
    owner: object = file if by_description else task.group
    if command in (F_GETLK, F_OFD_GETLK):
        found = locks.locks_of(file).conflict(first, end, kind == locks.F_WRLCK, owner)
        if found is None:
            task.mm.write(address, struct.pack("<h", locks.F_UNLCK))
        else:
            size = 0 if found.end == locks.INFINITE else found.end - found.start
            task.mm.write(
                address, _FLOCK.pack(locks.F_WRLCK if found.write else locks.F_RDLCK, 0, found.start, size, found.pid)
            )
        return 0
    if (kind == locks.F_RDLCK and not file.readable) or (kind == locks.F_WRLCK and not file.writable):
        raise SyscallError(errno.EBADF)
    write = None if kind == locks.F_UNLCK else kind == locks.F_WRLCK
    wait = command in (F_SETLKW, F_OFD_SETLKW)
    await locks.set_record(file, first, end, write, owner, -1 if by_description else task.group.pid, wait)
    return 0
