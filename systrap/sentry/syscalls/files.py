"""Reading and writing, descriptors."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import Interrupted, SyscallError, WouldBlockError
from systrap.sentry.file import O_APPEND, O_ASYNC, O_CLOEXEC, O_NONBLOCK, O_PATH, OpenFile
from systrap.sentry.fs import locks
from systrap.sentry.limits import RLIMIT_FSIZE
from systrap.sentry.signals import SI_USER, SIGPIPE, SIGXFSZ, Info
from systrap.sentry.syscalls.table import Result, addr, i32, i64, syscall, u32, u64
from systrap.sentry.wait import Wait

if TYPE_CHECKING:
    from systrap.sentry.task import Task

MAX_COUNT: Final = 0x7FFFF000
_IOV_MAX: Final = 1024
_PIECE: Final = 1 << 20
_FIONCLEX: Final = 0x5450
_FIOCLEX: Final = 0x5451
_FIONBIO: Final = 0x5421
_FIOASYNC: Final = 0x5452
_RWF_APPEND: Final = 0x10
_RWF_NOWAIT: Final = 0x08
_RWF_KNOWN: Final = 0x1F
_CLOSE_RANGE_UNSHARE: Final = 2
_CLOSE_RANGE_CLOEXEC: Final = 4


def readable(task: Task, fd: int) -> OpenFile:
    """Return a description that may be read. EBADF."""
    file = task.fds.get(fd)
    if not file.readable:
        raise SyscallError(errno.EBADF)
    return file


def writable(task: Task, fd: int) -> OpenFile:
    """Return a description that may be written. EBADF."""
    file = task.fds.get(fd)
    if not file.writable:
        raise SyscallError(errno.EBADF)
    return file


async def read_file(task: Task, file: OpenFile, count: int) -> bytes:
    """Read at the position, waiting for data as the file's flags say."""
    count = min(count, MAX_COUNT)
    while True:
        try:
            return file.read(min(count, _PIECE) if not file.pollable else count)
        except WouldBlockError:
            if file.nonblocking:
                raise
        await Wait((file.queue,))


@syscall("read")
async def sys_read(task: Task, fd: i32, buffer: addr, count: u64) -> Result:
    """read(2)."""
    file = readable(task, fd)
    if count > _PIECE and not file.pollable:
        return _read_much(task, file, buffer, min(count, MAX_COUNT))
    data = await read_file(task, file, count)
    if data:
        task.mm.write(buffer, data)
    return len(data)


def _read_much(task: Task, file: OpenFile, buffer: int, count: int) -> int:
    """Read a big piece of a plain file in portions, so that no read makes the sentry hold all of it at once."""
    done = 0
    while done < count:
        data = file.read(min(count - done, _PIECE))
        if not data:
            break
        try:
            task.mm.write(buffer + done, data)
        except SyscallError:
            if done:
                break
            raise
        done += len(data)
    return done


def _size_limit(task: Task, offset: int, count: int) -> int:
    """Apply RLIMIT_FSIZE: how much may be written at ``offset``. EFBIG, with SIGXFSZ, for nothing at all."""
    limit = task.group.limits.soft(RLIMIT_FSIZE)
    if offset + count <= limit:
        return count
    if offset >= limit:
        task.kernel.signals.send_task(task, SIGXFSZ)
        raise SyscallError(errno.EFBIG)
    return limit - offset


async def write_file(task: Task, file: OpenFile, data: bytes) -> int:
    """Write at the position. A blocking write goes on until everything is written; a signal ends it with what was."""
    if not file.pollable:
        offset = file.stat().size if file.flags & O_APPEND else file.offset
        return file.write(data[: _size_limit(task, offset, len(data))])
    view = memoryview(data)
    done = 0
    try:
        while True:
            try:
                done += file.write(view[done:])
                if done >= len(view):
                    return done
                continue
            except WouldBlockError:
                if file.nonblocking:
                    if done:
                        return done
                    raise
            await Wait((file.queue,))
    except Interrupted:
        if done:
            return done
        raise
    except SyscallError as error:
        if error.errno == errno.EPIPE:
            task.kernel.signals.send_task(task, SIGPIPE, _sigpipe(task))
        if done and error.errno != errno.EAGAIN:
            return done
        raise


def _sigpipe(task: Task) -> Info:
    return Info(SIGPIPE, SI_USER, pid=task.group.pid, uid=task.creds.ruid)


@syscall("write")
async def sys_write(task: Task, fd: i32, buffer: addr, count: u64) -> Result:
    """write(2)."""
    file = writable(task, fd)
    if count > _PIECE and not file.pollable:
        return _write_much(task, file, buffer, min(count, MAX_COUNT))
    data = task.mm.read_partial(buffer, min(count, MAX_COUNT)) if count else b""
    if count and not data:
        raise SyscallError(errno.EFAULT)
    return await write_file(task, file, data)


def _write_much(task: Task, file: OpenFile, buffer: int, count: int) -> int:
    done = 0
    while done < count:
        try:
            data = task.mm.read_partial(buffer + done, min(count - done, _PIECE))
        except SyscallError:
            data = b""
        if not data:
            if done:
                break
            raise SyscallError(errno.EFAULT)
        offset = file.stat().size if file.flags & O_APPEND else file.offset
        written = file.write(data[: _size_limit(task, offset, len(data))])
        done += written
        if written < len(data):
            break
    return done


def _pread(task: Task, file: OpenFile, buffer: int, count: int, offset: int) -> int:
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    data = file.pread(min(count, MAX_COUNT, 16 * _PIECE), offset)
    if data:
        task.mm.write(buffer, data)
    return len(data)


def _pwrite(task: Task, file: OpenFile, buffer: int, count: int, offset: int) -> int:
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    data = task.mm.read(buffer, min(count, MAX_COUNT, 16 * _PIECE)) if count else b""
    if file.flags & O_APPEND:
        offset = file.stat().size
    if not file.pollable:
        data = data[: _size_limit(task, offset, len(data))]
    return file.pwrite(data, offset)


@syscall("pread64")
def sys_pread64(task: Task, fd: i32, buffer: addr, count: u64, offset: i64) -> Result:
    """pread(2)."""
    return _pread(task, readable(task, fd), buffer, count, offset)


@syscall("pwrite64")
def sys_pwrite64(task: Task, fd: i32, buffer: addr, count: u64, offset: i64) -> Result:
    """pwrite(2)."""
    return _pwrite(task, writable(task, fd), buffer, count, offset)


def iovec(task: Task, vector: int, count: int) -> list[tuple[int, int]]:
    """Read an iovec. EINVAL for too many entries or bytes."""
    if not 0 <= count <= _IOV_MAX:
        raise SyscallError(errno.EINVAL)
    return task.mm.read_iovec(vector, count)


def scatter(task: Task, vector: list[tuple[int, int]], data: bytes) -> None:
    """Write bytes to the pieces of an iovec."""
    at = 0
    for base, length in vector:
        if at >= len(data):
            return
        if length:
            task.mm.write(base, data[at : at + length])
            at += length


def gather(task: Task, vector: list[tuple[int, int]]) -> bytes:
    """Read the pieces of an iovec."""
    return b"".join(task.mm.read(base, length) for base, length in vector if length)


@syscall("readv")
async def sys_readv(task: Task, fd: i32, vector: addr, count: i32) -> Result:
    """readv(2)."""
    file = readable(task, fd)
    pieces = iovec(task, vector, count)
    data = await read_file(task, file, sum(length for _, length in pieces))
    scatter(task, pieces, data)
    return len(data)


@syscall("writev")
async def sys_writev(task: Task, fd: i32, vector: addr, count: i32) -> Result:
    """writev(2)."""
    file = writable(task, fd)
    return await write_file(task, file, gather(task, iovec(task, vector, count)))


@syscall("preadv")
def sys_preadv(task: Task, fd: i32, vector: addr, count: i32, offset: i64) -> Result:
    """preadv(2)."""
    return _preadv(task, readable(task, fd), iovec(task, vector, count), offset)


def _preadv(task: Task, file: OpenFile, pieces: list[tuple[int, int]], offset: int) -> int:
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    data = file.pread(min(sum(length for _, length in pieces), MAX_COUNT), offset)
    scatter(task, pieces, data)
    return len(data)


@syscall("pwritev")
def sys_pwritev(task: Task, fd: i32, vector: addr, count: i32, offset: i64) -> Result:
    """pwritev(2)."""
    return _pwritev(task, writable(task, fd), iovec(task, vector, count), offset)


def _pwritev(task: Task, file: OpenFile, pieces: list[tuple[int, int]], offset: int) -> int:
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    data = gather(task, pieces)
    if file.flags & O_APPEND:
        offset = file.stat().size
    return file.pwrite(data[: _size_limit(task, offset, len(data))], offset)


@syscall("preadv2")
async def sys_preadv2(task: Task, fd: i32, vector: addr, count: i32, offset: i64, high: u64, flags: i32) -> Result:
    """preadv2(2); offset −1 is the position."""
    if flags & ~_RWF_KNOWN:
        raise SyscallError(errno.EOPNOTSUPP)
    if offset == -1:
        return await sys_readv(task, fd, vector, count)
    return _preadv(task, readable(task, fd), iovec(task, vector, count), offset)


@syscall("pwritev2")
async def sys_pwritev2(task: Task, fd: i32, vector: addr, count: i32, offset: i64, high: u64, flags: i32) -> Result:
    """pwritev2(2); offset −1 is the position."""
    if flags & ~_RWF_KNOWN:
        raise SyscallError(errno.EOPNOTSUPP)
    if offset == -1:
        return await sys_writev(task, fd, vector, count)
    file = writable(task, fd)
    if flags & _RWF_APPEND:
        offset = file.stat().size
    return _pwritev(task, file, iovec(task, vector, count), offset)


@syscall("lseek")
def sys_lseek(task: Task, fd: i32, offset: i64, whence: u32) -> Result:
    """lseek(2)."""
    file = task.fds.get(fd)
    if file.flags & O_PATH:
        raise SyscallError(errno.EBADF)
    return file.seek(offset, whence)


# Descriptors.


@syscall("close")
def sys_close(task: Task, fd: i32) -> Result:
    """close(2)."""
    file = task.fds.get(fd)
    locks.closed(task, file)
    task.fds.close(fd)
    return 0


@syscall("close_range")
def sys_close_range(task: Task, first: u32, last: u32, flags: u32) -> Result:
    """close_range(2)."""
    if first > last or flags & ~(_CLOSE_RANGE_UNSHARE | _CLOSE_RANGE_CLOEXEC):
        raise SyscallError(errno.EINVAL)
    if flags & _CLOSE_RANGE_UNSHARE and task.fds.refs > 1:
        task.fds.refs -= 1
        task.fds = task.fds.copy()
    for fd in task.fds.numbers():
        if first <= fd <= last:
            if flags & _CLOSE_RANGE_CLOEXEC:
                task.fds.cloexec.add(fd)
            else:
                locks.closed(task, task.fds.get(fd))
                task.fds.close(fd)
    return 0


@syscall("dup")
def sys_dup(task: Task, fd: i32) -> Result:
    """dup(2)."""
    return task.fds.add(task.fds.get(fd))


def _dup_to(task: Task, old: int, new: int, cloexec: bool) -> int:
    file = task.fds.get(old)
    if new in task.fds.numbers():
        locks.closed(task, task.fds.get(new))
    task.fds.set(new, file, cloexec)
    return new


@syscall("dup2")
def sys_dup2(task: Task, old: i32, new: i32) -> Result:
    """dup2(2)."""
    if old == new:
        task.fds.get(old)
        return new
    return _dup_to(task, old, new, cloexec=False)


@syscall("dup3")
def sys_dup3(task: Task, old: i32, new: i32, flags: i32) -> Result:
    """dup3(2)."""
    if old == new or flags & ~O_CLOEXEC:
        raise SyscallError(errno.EINVAL)
    return _dup_to(task, old, new, bool(flags & O_CLOEXEC))


@syscall("ioctl")
def sys_ioctl(task: Task, fd: i32, request: u32, argument: u64) -> Result:
    """ioctl(2): a few are any file's, the rest the file's own."""
    file = task.fds.get(fd)
    if file.flags & O_PATH:
        raise SyscallError(errno.EBADF)
    if request == _FIOCLEX:
        task.fds.cloexec.add(fd)
    elif request == _FIONCLEX:
        task.fds.cloexec.discard(fd)
    elif request in (_FIONBIO, _FIOASYNC):
        flag = O_NONBLOCK if request == _FIONBIO else O_ASYNC
        on = task.mm.read_u32(argument)
        file.flags = file.flags | flag if on else file.flags & ~flag
    else:
        return file.ioctl(task, request, argument)
    return 0


# Sizes and durability.


@syscall("ftruncate")
def sys_ftruncate(task: Task, fd: i32, length: i64) -> Result:
    """ftruncate(2)."""
    file = task.fds.get(fd)
    if length < 0 or not file.writable:
        raise SyscallError(errno.EINVAL)
    if length > file.stat().size:
        _size_limit(task, length - 1, 1)
    file.truncate(length)
    return 0


@syscall("fallocate")
def sys_fallocate(task: Task, fd: i32, mode: i32, offset: i64, length: i64) -> Result:
    """fallocate(2): plain allocation, KEEP_SIZE, and punching holes."""
    from systrap.sentry.fs.contents import MemoryFileHandle

    file = writable(task, fd)
    if offset < 0 or length <= 0:
        raise SyscallError(errno.EINVAL)
    if file.pollable:
        raise SyscallError(errno.ESPIPE if mode == 0 else errno.EOPNOTSUPP)
    if mode & ~3:
        raise SyscallError(errno.EOPNOTSUPP)
    if mode == 3:
        if not isinstance(file, MemoryFileHandle):
            raise SyscallError(errno.EOPNOTSUPP)
        file.store.punch(offset, length)
    elif mode == 0 and offset + length > file.stat().size:
        file.truncate(offset + length)
    return 0


@syscall("fsync", "fdatasync")
def sys_fsync(task: Task, fd: i32) -> Result:
    """fsync(2), fdatasync(2)."""
    task.fds.get(fd).sync()
    return 0


@syscall("sync")
def sys_sync(task: Task) -> Result:
    """sync(2)."""
    return 0


@syscall("syncfs")
def sys_syncfs(task: Task, fd: i32) -> Result:
    """syncfs(2)."""
    task.fds.get(fd)
    return 0


@syscall("sync_file_range", "fadvise64", "readahead")
def sys_advice(task: Task, fd: i32) -> Result:
    """sync_file_range(2), posix_fadvise(2), readahead(2): hints. ESPIPE for what has no pages."""
    file = task.fds.get(fd)
    if file.pollable:
        raise SyscallError(errno.ESPIPE)
    return 0


@syscall("flock")
async def sys_flock(task: Task, fd: i32, operation: i32) -> Result:
    """flock(2)."""
    await locks.flock(task.fds.get(fd), operation)
    return 0
