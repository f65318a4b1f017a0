"""Moving bytes from file to file: sendfile, copy_file_range, splice, tee, vmsplice; and memfd_create."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_APPEND
from systrap.sentry.fs.memfd import MemFD
from systrap.sentry.pipe import PipeEnd
from systrap.sentry.syscalls.files import gather, iovec, read_file, readable, writable, write_file
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64
from systrap.sentry.wait import Wait

if TYPE_CHECKING:
    from systrap.sentry.file import OpenFile
    from systrap.sentry.task import Task

_PIECE: Final = 1 << 17
_NONBLOCK: Final = 2
_MFD_CLOEXEC: Final = 1
_MFD_ALLOW_SEALING: Final = 2
_MFD_KNOWN: Final = 0x1F


def _offset(task: Task, address: int) -> int | None:
    if not address:
        return None
    (offset,) = struct.unpack("<q", task.mm.read(address, 8))
    if offset < 0:
        raise SyscallError(errno.EINVAL)
    return int(offset)


async def _copy(
    task: Task, source: OpenFile, source_at: int | None, target: OpenFile, target_at: int | None, count: int
) -> int:
    """Copy up to ``count`` bytes; offsets None are the files' positions. Ends early when something was copied and no more is there."""
    done = 0
    while done < count:
        want = min(count - done, _PIECE)
        try:
            if source_at is not None:
                data = source.pread(want, source_at + done)
            elif done and source.pollable:
                data = source.read(want)
            else:
                data = await read_file(task, source, want)
        except WouldBlockError:
            if done:
                break
            raise
        if not data:
            break
        if target_at is not None:
            written = target.pwrite(data, target_at + done)
        else:
            written = await write_file(task, target, data)
        if written < len(data) and source_at is None and not source.pollable:
            source.seek(written - len(data), 1)
        done += written
        if written < len(data) or (source.pollable and len(data) < want):
            break
    return done


@syscall("sendfile")
async def sys_sendfile(task: Task, out_fd: i32, in_fd: i32, offset: addr, count: u64) -> Result:
    """sendfile(2)."""
    source, target = readable(task, in_fd), writable(task, out_fd)
    if source.pollable:
        raise SyscallError(errno.EINVAL)
    if target.flags & O_APPEND and not target.pollable:
        raise SyscallError(errno.EINVAL)
    at = _offset(task, offset)
    done = await _copy(task, source, at, target, None, min(count, 0x7FFFF000))
    if at is not None:
        task.mm.write(offset, struct.pack("<q", at + done))
    return done


@syscall("copy_file_range")
async def sys_copy_file_range(
    task: Task, in_fd: i32, in_offset: addr, out_fd: i32, out_offset: addr, count: u64, flags: u32
) -> Result:
    """copy_file_range(2)."""
    source, target = readable(task, in_fd), writable(task, out_fd)
    if flags or source.pollable or target.pollable:
        raise SyscallError(errno.EINVAL)
    if target.flags & O_APPEND:
        raise SyscallError(errno.EBADF)
    source_at, target_at = _offset(task, in_offset), _offset(task, out_offset)
    done = await _copy(task, source, source_at, target, target_at, min(count, 0x7FFFF000))
    if source_at is not None:
        task.mm.write(in_offset, struct.pack("<q", source_at + done))
    if target_at is not None:
        task.mm.write(out_offset, struct.pack("<q", target_at + done))
    return done


@syscall("splice")
async def sys_splice(
    task: Task, in_fd: i32, in_offset: addr, out_fd: i32, out_offset: addr, count: u64, flags: u32
) -> Result:
    """splice(2): one end at least is a pipe."""
    source, target = readable(task, in_fd), writable(task, out_fd)
    if not isinstance(source, PipeEnd) and not isinstance(target, PipeEnd):
        raise SyscallError(errno.EINVAL)
    if (isinstance(source, PipeEnd) and in_offset) or (isinstance(target, PipeEnd) and out_offset):
        raise SyscallError(errno.ESPIPE)
    if not count:
        return 0
    if flags & _NONBLOCK and isinstance(source, PipeEnd) and not source.pipe.size and source.pipe.writers:
        raise SyscallError(errno.EAGAIN)
    source_at, target_at = _offset(task, in_offset), _offset(task, out_offset)
    limit = min(count, 0x7FFFF000)
    if isinstance(target, PipeEnd):
        while not target.pipe.capacity - target.pipe.size:
            if flags & _NONBLOCK or target.nonblocking:
                raise SyscallError(errno.EAGAIN)
            await Wait((target.queue,))
        limit = min(limit, target.pipe.capacity - target.pipe.size)
    done = await _copy(task, source, source_at, target, target_at, limit)
    if source_at is not None:
        task.mm.write(in_offset, struct.pack("<q", source_at + done))
    if target_at is not None:
        task.mm.write(out_offset, struct.pack("<q", target_at + done))
    return done


@syscall("tee")
async def sys_tee(task: Task, in_fd: i32, out_fd: i32, count: u64, flags: u32) -> Result:
    """tee(2): copy from pipe to pipe, and leave it where it is."""
    source, target = readable(task, in_fd), writable(task, out_fd)
    if not isinstance(source, PipeEnd) or not isinstance(target, PipeEnd) or source.pipe is target.pipe:
        raise SyscallError(errno.EINVAL)
    while not source.pipe.size and source.pipe.writers:
        if flags & _NONBLOCK:
            raise SyscallError(errno.EAGAIN)
        await Wait((source.queue,))
    data = b"".join(source.pipe.pieces)[: min(count, target.pipe.capacity)]
    return await write_file(task, target, data) if data else 0


@syscall("vmsplice")
async def sys_vmsplice(task: Task, fd: i32, vector: addr, count: u64, flags: u32) -> Result:
    """vmsplice(2): memory into a pipe, copied."""
    file = task.fds.get(fd)
    if not isinstance(file, PipeEnd):
        raise SyscallError(errno.EBADF)
    return await write_file(task, writable(task, fd), gather(task, iovec(task, vector, min(count, 1025))))


@syscall("memfd_create")
def sys_memfd_create(task: Task, name: addr, flags: u32) -> Result:
    """memfd_create(2)."""
    if flags & ~_MFD_KNOWN:
        raise SyscallError(errno.EINVAL)
    try:
        text = task.mm.read_string(name, 250)
    except SyscallError as error:
        raise SyscallError(errno.EINVAL if error.errno == errno.ENAMETOOLONG else error.errno) from None
    file = MemFD(task, text, bool(flags & _MFD_ALLOW_SEALING))
    return task.fds.add(file, bool(flags & _MFD_CLOEXEC))
