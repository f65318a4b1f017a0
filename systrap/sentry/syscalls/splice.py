"""Moving bytes between files: sendfile, copy_file_range, splice, tee, vmsplice; and memfd_create."""

from __future__ import annotations

import errno
import stat as stats
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import Interrupted, SyscallError, WouldBlockError
from systrap.sentry.file import O_APPEND, OpenFile
from systrap.sentry.fs import memfd
from systrap.sentry.fs.contents import SEEK_CUR, SEEK_SET
from systrap.sentry.fs.locks import key_of
from systrap.sentry.mm_io import MAX_IO
from systrap.sentry.pipe import PipeEnd
from systrap.sentry.syscalls.files import readable_file, writable_file
from systrap.sentry.syscalls.table import Result, Running, addr, i32, syscall, u32, u64
from systrap.sentry.syscalls.transfer import read_segments, write_failed, write_rest, write_segments
from systrap.sentry.wait import wait

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_PIECE: Final = 1 << 18
_SPLICE_F_NONBLOCK: Final = 2
_SPLICE_FLAGS: Final = 15
_MFD_CLOEXEC: Final = 1
_MFD_ALLOW_SEALING: Final = 2
_MFD_HUGETLB: Final = 4
_MFD_NOEXEC_SEAL: Final = 8
_MFD_EXEC: Final = 16
_MFD_HUGE_BITS: Final = 0x3F << 26
_MFD_NAME_MAX: Final = 249
_FORMAT: Final = 0o170000


class _Source:
    """Where bytes are taken from: a file at its position, or at an offset of the caller's."""

    __slots__ = ("at", "file")

    def __init__(self, file: OpenFile, at: int | None) -> None:
        self.file = file
        self.at = at

    def take(self, count: int) -> bytes:
        """Read and advance."""
        if self.at is None:
            return self.file.read(count)
        data = self.file.pread(count, self.at)
        self.at += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        """Take back bytes that found no place."""
        file = self.file
        if self.at is not None:
            self.at -= len(data)
        elif not file.pollable:
            file.offset -= len(data)
        elif isinstance(file, PipeEnd) and data:
            file.pipe.put_back(data)


class _Sink:
    """Where bytes go: a file at its position, or at an offset of the caller's."""

    __slots__ = ("at", "file")

    def __init__(self, file: OpenFile, at: int | None) -> None:
        self.file = file
        self.at = at

    def put(self, data: bytes) -> int:
        """Write and advance."""
        if self.at is None:
            return self.file.write(data)
        count = self.file.pwrite(data, self.at)
        self.at += count
        return count


async def _move(
    task: Task, source: _Source, sink: _Sink, count: int, block_in: bool, block_out: bool, full: bool
) -> int:
    """Move up to ``count`` bytes. ``full``: go on until all is moved or the source ends, else until it would wait."""
    done = 0
    try:
        while done < count:
            try:
                data = source.take(min(count - done, _PIECE))
            except WouldBlockError:
                if done or not block_in:
                    break
                await wait(source.file.queue)
                continue
            if not data:
                return done
            put = await _put_all(task, source, sink, data, block_out)
            done += put
            if put < len(data) or not full:
                return done
    except (SyscallError, Interrupted):
        if not done:
            raise
        return done
    if not done and count:
        raise WouldBlockError
    return done


async def _put_all(task: Task, source: _Source, sink: _Sink, data: bytes, block: bool) -> int:
    """Write ``data``; what cannot be written is given back to the source. WouldBlockError when nothing could."""
    put = 0
    try:
        if sink.at is None and sink.file.pollable and block:
            put = await write_rest(task, sink.file, data, 0)
        else:
            put = sink.put(data)
    except WouldBlockError:
        source.give_back(data)
        raise
    except SyscallError as error:
        source.give_back(data)
        raise write_failed(task, error) from None
    except Interrupted:
        source.give_back(data)
        raise
    if put < len(data):
        source.give_back(data[put:])
    return put


def _offset_at(task: Task, pointer: int) -> int | None:
    """Return the offset at a guest address, None for a null pointer. EINVAL for negative ones."""
    if not pointer:
        return None
    offset = task.mm.read_u64(pointer)
    if offset >= 1 << 63:
        raise SyscallError(errno.EINVAL)
    return offset


# sendfile and copy_file_range.


@syscall("sendfile")
async def sys_sendfile(task: Task, out_fd: i32, in_fd: i32, pointer: addr, count: u64) -> Result:
    """sendfile(2)."""
    offset = _offset_at(task, pointer)
    file = readable_file(task, in_fd)
    if offset is not None and file.pollable:
        raise SyscallError(errno.ESPIPE)
    out = writable_file(task, out_fd)
    if count >= 1 << 63 or (out.flags & O_APPEND and not out.pollable):
        raise SyscallError(errno.EINVAL)
    kind = file.stat().mode & _FORMAT
    if kind == stats.S_IFDIR or (kind in (stats.S_IFSOCK,) and file.pollable):
        raise SyscallError(errno.EINVAL)
    source = _Source(file, offset)
    block = not out.nonblocking
    moved = await _move(task, source, _Sink(out, None), min(count, MAX_IO), not file.nonblocking, block, True)
    if pointer and source.at is not None:
        task.mm.write_u64(pointer, source.at)
    return moved


@syscall("copy_file_range")
def sys_copy_file_range(
    task: Task, in_fd: i32, in_pointer: addr, out_fd: i32, out_pointer: addr, count: u64, flags: u32
) -> Result:
    """copy_file_range(2): between any two regular files."""
    file, out = task.fds.get(in_fd), task.fds.get(out_fd)
    in_offset, out_offset = _offset_at(task, in_pointer), _offset_at(task, out_pointer)
    if flags:
        raise SyscallError(errno.EINVAL)
    for one in (file, out):
        kind = one.stat().mode & _FORMAT
        if kind == stats.S_IFDIR:
            raise SyscallError(errno.EISDIR)
        if kind != stats.S_IFREG:
            raise SyscallError(errno.EINVAL)
    if not file.readable or not out.writable or out.flags & O_APPEND:
        raise SyscallError(errno.EBADF)
    start = file.seek(0, SEEK_CUR) if in_offset is None else in_offset
    target = out.seek(0, SEEK_CUR) if out_offset is None else out_offset
    count = min(count, MAX_IO)
    if count and key_of(file) == key_of(out) and start < target + count and target < start + count:
        raise SyscallError(errno.EINVAL)
    done = 0
    while done < count:
        data = file.pread(min(count - done, _PIECE), start + done)
        if not data:
            break
        done += out.pwrite(data, target + done)
    if in_pointer:
        task.mm.write_u64(in_pointer, start + done)
    else:
        file.seek(start + done, SEEK_SET)
    if out_pointer:
        task.mm.write_u64(out_pointer, target + done)
    else:
        out.seek(target + done, SEEK_SET)
    return done


# splice, tee, vmsplice.


@syscall("splice")
async def sys_splice(
    task: Task, in_fd: i32, in_pointer: addr, out_fd: i32, out_pointer: addr, count: u64, flags: u32
) -> Result:
    """splice(2): one end is a pipe."""
    if flags & ~_SPLICE_FLAGS:
        raise SyscallError(errno.EINVAL)
    if not count:
        return 0
    file, out = readable_file(task, in_fd), writable_file(task, out_fd)
    in_pipe, out_pipe = isinstance(file, PipeEnd), isinstance(out, PipeEnd)
    if not in_pipe and not out_pipe:
        raise SyscallError(errno.EINVAL)
    if (in_pipe and in_pointer) or (out_pipe and out_pointer):
        raise SyscallError(errno.ESPIPE)
    if (in_pointer and file.pollable) or (out_pointer and out.pollable):
        raise SyscallError(errno.EINVAL)
    if isinstance(file, PipeEnd) and isinstance(out, PipeEnd) and file.pipe is out.pipe:
        raise SyscallError(errno.EINVAL)
    if out.flags & O_APPEND and not out_pipe and not out.pollable:
        raise SyscallError(errno.EINVAL)
    source = _Source(file, _offset_at(task, in_pointer))
    sink = _Sink(out, _offset_at(task, out_pointer))
    wanted = flags & _SPLICE_F_NONBLOCK == 0
    count = min(count, MAX_IO)
    if isinstance(out, PipeEnd):
        count = await _room(task, out, count, wanted and not out.nonblocking)
    moved = await _move(task, source, sink, count, wanted and not file.nonblocking, True, in_pipe and not out_pipe)
    if in_pointer and source.at is not None:
        task.mm.write_u64(in_pointer, source.at)
    if out_pointer and sink.at is not None:
        task.mm.write_u64(out_pointer, sink.at)
    return moved


async def _room(task: Task, out: PipeEnd, count: int, block: bool) -> int:
    """Wait until a pipe has room, and return how much of ``count`` fits. EPIPE."""
    while True:
        pipe = out.pipe
        if not pipe.readers:
            raise write_failed(task, SyscallError(errno.EPIPE))
        room = pipe.capacity - pipe.size
        if room > 0:
            return min(count, room)
        if not block:
            raise WouldBlockError
        await wait(out.queue)


@syscall("tee")
async def sys_tee(task: Task, in_fd: i32, out_fd: i32, count: u64, flags: u32) -> Result:
    """tee(2)."""
    if flags & ~_SPLICE_FLAGS:
        raise SyscallError(errno.EINVAL)
    if not count:
        return 0
    file, out = readable_file(task, in_fd), writable_file(task, out_fd)
    if not isinstance(file, PipeEnd) or not isinstance(out, PipeEnd) or file.pipe is out.pipe:
        raise SyscallError(errno.EINVAL)
    block = not flags & _SPLICE_F_NONBLOCK
    while not file.pipe.size:
        if not file.pipe.writers:
            return 0
        if not block or file.nonblocking:
            raise WouldBlockError
        await wait(file.queue)
    count = await _room(task, out, count, block and not out.nonblocking)
    data = file.pipe.peek(count)
    if not data:
        raise WouldBlockError
    left = memoryview(data)
    return out.write(left)


@syscall("vmsplice")
def sys_vmsplice(task: Task, fd: i32, vector: addr, count: u64, flags: u32) -> Result | Running:
    """vmsplice(2): the pages are copied."""
    if flags & ~_SPLICE_FLAGS:
        raise SyscallError(errno.EINVAL)
    file = task.fds.get(fd)
    if not isinstance(file, PipeEnd):
        raise SyscallError(errno.EBADF)
    segments = task.mm.read_iovec(vector, count)
    nowait = bool(flags & _SPLICE_F_NONBLOCK)
    if file.writable:
        return write_segments(task, file, segments, nowait)
    return read_segments(task, file, segments, nowait)


# memfd_create.


@syscall("memfd_create")
def sys_memfd_create(task: Task, name: addr, flags: u32) -> Result:
    """memfd_create(2). Huge pages are granted in name only."""
    known = _MFD_CLOEXEC | _MFD_ALLOW_SEALING | _MFD_NOEXEC_SEAL | _MFD_EXEC
    if flags & _MFD_HUGETLB:
        known |= _MFD_HUGETLB | _MFD_HUGE_BITS
    if flags & ~known or (flags & _MFD_EXEC and flags & _MFD_NOEXEC_SEAL):
        raise SyscallError(errno.EINVAL)
    try:
        text = task.mm.read_string(name, _MFD_NAME_MAX + 1)
    except SyscallError as error:
        raise SyscallError(errno.EINVAL if error.errno == errno.ENAMETOOLONG else error.errno) from None
    seals = 0 if flags & _MFD_ALLOW_SEALING else memfd.F_SEAL_SEAL
    mode = 0o777
    if flags & _MFD_NOEXEC_SEAL:
        mode, seals = 0o666, memfd.F_SEAL_EXEC
    return task.fds.add(memfd.create(task, text, mode, seals), bool(flags & _MFD_CLOEXEC))
