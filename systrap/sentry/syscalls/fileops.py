"""What is done to an open file besides moving bytes: ioctl, synchronising, lengths, advice."""

from __future__ import annotations

import errno
import stat as stats
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_ASYNC, O_NONBLOCK, OpenFile
from systrap.sentry.fs.inode import BLOCK_SIZE
from systrap.sentry.fs.notify import IN_MODIFY, on_file
from systrap.sentry.limits import INFINITY, RLIMIT_FSIZE
from systrap.sentry.pages import PageStore
from systrap.sentry.syscalls.files import open_file, readable_file, writable_file
from systrap.sentry.syscalls.table import Result, i32, i64, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task

FIGETBSZ: Final = 2
FIONREAD: Final = 0x541B
FIONBIO: Final = 0x5421
FIONCLEX: Final = 0x5450
FIOCLEX: Final = 0x5451
FIOASYNC: Final = 0x5452
FIOQSIZE: Final = 0x5460
FICLONE: Final = 0x40049409
FICLONERANGE: Final = 0x4020940D
FIDEDUPERANGE: Final = 0xC0189436
_NOT_HERE: Final = (FICLONE, FICLONERANGE, FIDEDUPERANGE)

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_ZERO_RANGE: Final = 0x10
_SIGXFSZ: Final = 25
_MAX_OFFSET: Final = (1 << 63) - 1
_ZEROS: Final = 1 << 20


@syscall("ioctl")
def sys_ioctl(task: Task, fd: i32, request: u32, argument: u64) -> Result:
    """ioctl(2): what all files know, then what this one knows."""
    file = open_file(task, fd)
    if request == FIOCLEX:
        task.fds.cloexec.add(fd)
    elif request == FIONCLEX:
        task.fds.cloexec.discard(fd)
    elif request == FIONBIO:
        _switch(task, file, O_NONBLOCK, argument)
    elif request == FIOASYNC:
        _switch(task, file, O_ASYNC, argument)
    else:
        return _file_ioctl(task, file, request, argument)
    return 0


def _switch(task: Task, file: OpenFile, flag: int, argument: int) -> None:
    """Set or clear a status flag by the int at ``argument``."""
    if task.mm.read_u32(argument):
        file.flags |= flag
    else:
        file.flags &= ~flag


def _file_ioctl(task: Task, file: OpenFile, request: int, argument: int) -> int:
    if file.pollable:
        return file.ioctl(task, request, argument)
    stat = file.stat()
    regular = stats.S_ISREG(stat.mode)
    if request == FIONREAD and regular:
        task.mm.write(argument, struct.pack("<i", max(-(1 << 31), min(stat.size - file.offset, (1 << 31) - 1))))
    elif request == FIGETBSZ and (regular or stats.S_ISDIR(stat.mode)):
        task.mm.write_u32(argument, BLOCK_SIZE)
    elif request == FIOQSIZE and (regular or stats.S_ISDIR(stat.mode)):
        task.mm.write_u64(argument, stat.size)
    elif request in _NOT_HERE and regular:
        raise SyscallError(errno.EOPNOTSUPP)
    else:
        return file.ioctl(task, request, argument)
    return 0


# Synchronising.


@syscall("fsync", "fdatasync")
def sys_fsync(task: Task, fd: i32) -> Result:
    """fsync(2), fdatasync(2)."""
    open_file(task, fd).sync()
    return 0


@syscall("sync")
def sys_sync(task: Task) -> Result:
    """sync(2): nothing is ever left unwritten here."""
    return 0


@syscall("syncfs")
def sys_syncfs(task: Task, fd: i32) -> Result:
    """syncfs(2)."""
    open_file(task, fd)
    return 0


@syscall("sync_file_range")
def sys_sync_file_range(task: Task, fd: i32, offset: i64, length: i64, flags: u32) -> Result:
    """sync_file_range(2)."""
    file = open_file(task, fd)
    if flags & ~7 or offset < 0 or length < 0 or offset + length > _MAX_OFFSET:
        raise SyscallError(errno.EINVAL)
    if stats.S_IFMT(file.stat().mode) not in (stats.S_IFREG, stats.S_IFDIR, stats.S_IFLNK, stats.S_IFBLK):
        raise SyscallError(errno.ESPIPE)
    return 0


# Lengths.


def check_length(task: Task, length: int) -> None:
    """Apply RLIMIT_FSIZE to a new length. EFBIG with SIGXFSZ."""
    limit = task.group.limits.soft(RLIMIT_FSIZE)
    if limit != INFINITY and length > limit:
        task.kernel.signals.send_task(task, _SIGXFSZ, None)
        raise SyscallError(errno.EFBIG)


@syscall("ftruncate")
def sys_ftruncate(task: Task, fd: i32, length: i64) -> Result:
    """ftruncate(2)."""
    if length < 0:
        raise SyscallError(errno.EINVAL)
    file = open_file(task, fd)
    if not file.writable or not stats.S_ISREG(file.stat().mode):
        raise SyscallError(errno.EINVAL)
    check_length(task, length)
    file.truncate(length)
    on_file(file, IN_MODIFY)
    return 0


@syscall("fallocate")
def sys_fallocate(task: Task, fd: i32, mode: i32, offset: i64, length: i64) -> Result:
    """fallocate(2): growing, punching holes, zeroing. Disk space is not reserved: there is no disk."""
    if offset < 0 or length <= 0:
        task.fds.get(fd)
        raise SyscallError(errno.EINVAL)
    punch, zero = bool(mode & _PUNCH_HOLE), bool(mode & _ZERO_RANGE)
    if mode & ~(_KEEP_SIZE | _PUNCH_HOLE | _ZERO_RANGE) or (punch and (zero or not mode & _KEEP_SIZE)):
        open_file(task, fd)
        raise SyscallError(errno.EOPNOTSUPP)
    file = writable_file(task, fd)
    stat = file.stat()
    if stats.S_ISFIFO(stat.mode):
        raise SyscallError(errno.ESPIPE)
    if not stats.S_ISREG(stat.mode):
        raise SyscallError(errno.ENODEV)
    if offset + length > _MAX_OFFSET:
        raise SyscallError(errno.EFBIG)
    if punch or zero:
        _clear(file, offset, length, stat.size)
    if not mode & _KEEP_SIZE and offset + length > stat.size:
        check_length(task, offset + length)
        file.truncate(offset + length)
    return 0


def _clear(file: OpenFile, offset: int, length: int, size: int) -> None:
    """Make a range read as zeros, within the size."""
    check = getattr(file, "check_punch", None)
    if check is not None:
        check()
    store = getattr(file, "store", None)
    if isinstance(store, PageStore):
        store.punch(offset, length)
        return
    end = min(offset + length, size)
    while offset < end:
        offset += file.pwrite(bytes(min(end - offset, _ZEROS)), offset)


# Advice.


@syscall("fadvise64")
def sys_fadvise64(task: Task, fd: i32, offset: i64, length: i64, advice: i32) -> Result:
    """posix_fadvise(2): taken, and of no effect."""
    file = open_file(task, fd)
    if stats.S_ISFIFO(file.stat().mode):
        raise SyscallError(errno.ESPIPE)
    if not 0 <= advice <= 5 or length < 0:
        raise SyscallError(errno.EINVAL)
    return 0


@syscall("readahead")
def sys_readahead(task: Task, fd: i32, offset: i64, count: u64) -> Result:
    """readahead(2)."""
    file = readable_file(task, fd)
    if stats.S_IFMT(file.stat().mode) not in (stats.S_IFREG, stats.S_IFBLK):
        raise SyscallError(errno.EINVAL)
    return 0


@syscall("cachestat")
def sys_cachestat(task: Task) -> Result:
    """cachestat(2): there is no page cache to tell about."""
    raise SyscallError(errno.EOPNOTSUPP)
