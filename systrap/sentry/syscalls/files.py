"""Reading, writing and closing: the system calls on one open file.

What a file cannot do at once is waited for here; see transfer.py. The frequent calls are plain functions that return a
coroutine only when they have to wait.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_CLOEXEC, O_PATH, OpenFile
from systrap.sentry.fs.notify import IN_ACCESS, IN_MODIFY, on_file, watched
from systrap.sentry.limits import INFINITY, RLIMIT_FSIZE
from systrap.sentry.syscalls.table import Result, Running, addr, i32, i64, syscall, u32, u64
from systrap.sentry.syscalls.transfer import (
    CHUNK,
    Segments,
    check_file_size,
    is_stream,
    read_at,
    read_segments,
    read_slow,
    write_at,
    write_failed,
    write_rest,
    write_segments,
    write_slow,
)

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_RWF_NOWAIT: Final = 0x8
_RWF_APPEND: Final = 0x10
_RWF_KNOWN: Final = 0x3F
_CLOSE_RANGE_UNSHARE: Final = 2
_CLOSE_RANGE_CLOEXEC: Final = 4


def readable_file(task: Task, fd: int) -> OpenFile:
    """Return the description of a descriptor that may be read. EBADF."""
    file = task.fds.get(fd)
    if not file.readable:
        raise SyscallError(errno.EBADF)
    return file


def writable_file(task: Task, fd: int) -> OpenFile:
    """Return the description of a descriptor that may be written. EBADF."""
    file = task.fds.get(fd)
    if not file.writable:
        raise SyscallError(errno.EBADF)
    return file


def open_file(task: Task, fd: int) -> OpenFile:
    """Return the description of a descriptor that is more than a place (O_PATH). EBADF."""
    file = task.fds.get(fd)
    if file.flags & O_PATH:
        raise SyscallError(errno.EBADF)
    return file


# Reading and writing at the position.


@syscall("read")
def sys_read(task: Task, fd: i32, buffer: addr, count: u64) -> Result | Running:
    """read(2)."""
    file = readable_file(task, fd)
    if not 0 < count <= CHUNK:
        return read_slow(task, file, [(buffer, count)])
    if file.pollable:
        return read_segments(task, file, [(buffer, count)])
    data = file.read(count)
    try:
        task.mm.write(buffer, data)
    except SyscallError:
        done = task.mm.write_partial(buffer, data)
        file.offset -= len(data) - done
        if not done:
            raise
        return done
    if watched and data:
        on_file(file, IN_ACCESS)
    return len(data)


@syscall("write")
def sys_write(task: Task, fd: i32, buffer: addr, count: u64) -> Result | Running:
    """write(2)."""
    file = writable_file(task, fd)
    if not 0 < count <= CHUNK:
        return write_slow(task, file, [(buffer, count)])
    try:
        data = task.mm.read(buffer, count)
    except SyscallError:
        data = task.mm.read_partial(buffer, count)
        if not data:
            raise
    if not file.pollable and task.group.limits.soft(RLIMIT_FSIZE) != INFINITY:
        data = check_file_size(task, file, data, None)
    try:
        done = file.write(data)
    except WouldBlockError:
        if file.nonblocking:
            raise
        return write_rest(task, file, data, 0)
    except SyscallError as error:
        raise write_failed(task, error) from None
    if watched:
        on_file(file, IN_MODIFY)
    if done < len(data) and not file.nonblocking and is_stream(file):
        return write_rest(task, file, data, done)
    return done


@syscall("readv")
def sys_readv(task: Task, fd: i32, vector: addr, count: i32) -> Result | Running:
    """readv(2)."""
    file = readable_file(task, fd)
    return read_slow(task, file, task.mm.read_iovec(vector, count))


@syscall("writev")
def sys_writev(task: Task, fd: i32, vector: addr, count: i32) -> Result | Running:
    """writev(2)."""
    file = writable_file(task, fd)
    return write_slow(task, file, task.mm.read_iovec(vector, count))


# Reading and writing elsewhere.


def _reader_at(task: Task, fd: int, offset: int) -> OpenFile:
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    return task.fds.get(fd)


@syscall("pread64")
def sys_pread64(task: Task, fd: i32, buffer: addr, count: u64, offset: i64) -> Result:
    """pread(2)."""
    return read_at(task, _reader_at(task, fd, offset), [(buffer, count)], offset)


@syscall("pwrite64")
def sys_pwrite64(task: Task, fd: i32, buffer: addr, count: u64, offset: i64) -> Result:
    """pwrite(2)."""
    return write_at(task, _reader_at(task, fd, offset), [(buffer, count)], offset)


@syscall("preadv")
def sys_preadv(task: Task, fd: i32, vector: addr, count: i32, offset: i64) -> Result:
    """preadv(2)."""
    file = _reader_at(task, fd, offset)
    return read_at(task, file, task.mm.read_iovec(vector, count), offset)


@syscall("pwritev")
def sys_pwritev(task: Task, fd: i32, vector: addr, count: i32, offset: i64) -> Result:
    """pwritev(2)."""
    file = _reader_at(task, fd, offset)
    return write_at(task, file, task.mm.read_iovec(vector, count), offset)


@syscall("preadv2")
def sys_preadv2(task: Task, fd: i32, vector: addr, count: i32, offset: i64, high: u64, flags: i32) -> Result | Running:
    """preadv2(2): offset −1 is the position."""
    if flags & ~_RWF_KNOWN:
        raise SyscallError(errno.EOPNOTSUPP)
    if offset != -1:
        file = _reader_at(task, fd, offset)
        return read_at(task, file, task.mm.read_iovec(vector, count), offset)
    file = readable_file(task, fd)
    return read_segments(task, file, task.mm.read_iovec(vector, count), bool(flags & _RWF_NOWAIT))


@syscall("pwritev2")
def sys_pwritev2(task: Task, fd: i32, vector: addr, count: i32, offset: i64, high: u64, flags: i32) -> Result | Running:
    """pwritev2(2): offset −1 is the position."""
    if flags & ~_RWF_KNOWN:
        raise SyscallError(errno.EOPNOTSUPP)
    if offset != -1 or flags & _RWF_APPEND:
        file = _reader_at(task, fd, max(offset, 0))
        segments: Segments = task.mm.read_iovec(vector, count)
        return write_at(task, file, segments, offset, bool(flags & _RWF_APPEND))
    file = writable_file(task, fd)
    return write_segments(task, file, task.mm.read_iovec(vector, count), bool(flags & _RWF_NOWAIT))


@syscall("lseek")
def sys_lseek(task: Task, fd: i32, offset: i64, whence: u32) -> Result:
    """lseek(2)."""
    file = open_file(task, fd)
    if whence > 4:
        raise SyscallError(errno.EINVAL)
    return file.seek(offset, whence)


# Descriptors.


@syscall("close")
def sys_close(task: Task, fd: i32) -> Result:
    """close(2)."""
    task.fds.close(fd)
    return 0


@syscall("close_range")
def sys_close_range(task: Task, first: u32, last: u32, flags: u32) -> Result:
    """close_range(2)."""
    if flags & ~(_CLOSE_RANGE_UNSHARE | _CLOSE_RANGE_CLOEXEC) or first > last:
        raise SyscallError(errno.EINVAL)
    if flags & _CLOSE_RANGE_UNSHARE and task.fds.refs > 1:
        own = task.fds.copy()
        task.fds.refs -= 1
        task.fds = own
    for fd in task.fds.numbers():
        if first <= fd <= last:
            if flags & _CLOSE_RANGE_CLOEXEC:
                task.fds.cloexec.add(fd)
            else:
                task.fds.close(fd)
    return 0


@syscall("dup")
def sys_dup(task: Task, fd: i32) -> Result:
    """dup(2)."""
    return task.fds.add(task.fds.get(fd))


@syscall("dup2")
def sys_dup2(task: Task, fd: i32, new: i32) -> Result:
    """dup2(2)."""
    file = task.fds.get(fd)
    if fd != new:
        task.fds.set(new, file)
    return new


@syscall("dup3")
def sys_dup3(task: Task, fd: i32, new: i32, flags: i32) -> Result:
    """dup3(2)."""
    if flags & ~O_CLOEXEC or fd == new:
        raise SyscallError(errno.EINVAL)
    task.fds.set(new, task.fds.get(fd), bool(flags & O_CLOEXEC))
    return new
