"""Moving bytes between guest memory and open files, waiting where a file is not ready. The core of read, write and kin.

*Segments* are (address, length) pairs, the lengths' sum at most MAX_IO. A transfer that moved something before an error or a
signal returns how much; the error shows at the next call, as on Linux.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import Interrupted, QuietPipeError, SyscallError, WouldBlockError
from systrap.sentry.eventfd import AnonymousFile
from systrap.sentry.file import O_APPEND, O_PATH, OpenFile, drop
from systrap.sentry.fs.notify import IN_ACCESS, IN_MODIFY, on_file, watched
from systrap.sentry.limits import INFINITY, RLIMIT_FSIZE
from systrap.sentry.mm_io import MAX_IO
from systrap.sentry.wait import deadline_of, wait

if TYPE_CHECKING:
    from systrap.sentry.mm import MemoryManager
    from systrap.sentry.syscalls.table import Running
    from systrap.sentry.task import Task

Segments = list[tuple[int, int]]

CHUNK: Final = 1 << 20
"""The most bytes moved through the sentry at once."""

_SIGPIPE: Final = 13
_SIGXFSZ: Final = 25


def is_stream(file: OpenFile) -> bool:
    """Tell whether a blocking write goes on until everything is written (pipes, sockets, terminals)."""
    return file.pollable and not isinstance(file, AnonymousFile)


def _checked(task: Task, segments: Segments) -> Segments:
    """Apply what Linux checks of a buffer before it looks at the file. EINVAL, EFAULT."""
    if len(segments) != 1:
        return segments
    base, length = segments[0]
    if length >= 1 << 63:
        raise SyscallError(errno.EINVAL)
    if base + length > task.mm.max_address and length:
        raise SyscallError(errno.EFAULT)
    return [(base, min(length, MAX_IO))]


def _writable_prefix(mm: MemoryManager, segments: Segments) -> int:
    """Return how many bytes can be written to segments before the first that cannot."""
    total = 0
    for base, length in segments:
        try:
            mm.check_range(base, length, True)
        except SyscallError:
            at = base
            try:
                while at < base + length:
                    mm.check_range(at, 1, True)
                    at = (at | PAGE_SIZE - 1) + 1
            except SyscallError:
                pass
            return total + at - base
        total += length
    return total


def _scatter(mm: MemoryManager, segments: Segments, data: bytes) -> int:
    """Write ``data`` to segments; return how much could be."""
    if len(segments) == 1:
        try:
            mm.write(segments[0][0], data)
        except SyscallError:
            return mm.write_partial(segments[0][0], data)
        return len(data)
    done = 0
    for base, length in segments:
        if done >= len(data):
            break
        piece = data[done : done + length]
        moved = mm.write_partial(base, piece)
        done += moved
        if moved < len(piece):
            break
    return done


def _skip(segments: Segments, count: int) -> Segments:
    """Return what is left of segments after ``count`` bytes."""
    left: Segments = []
    for base, length in segments:
        if count >= length:
            count -= length
            continue
        left.append((base + count, length - count))
        count = 0
    return left


# Reading.


def read_slow(task: Task, file: OpenFile, segments: Segments) -> int | Running:
    """Read at the position: any length, any number of segments."""
    segments = _checked(task, segments)
    return read_segments(task, file, segments)


def read_segments(task: Task, file: OpenFile, segments: Segments, nowait: bool = False) -> int | Running:
    """Read at the position into checked segments."""
    total = sum(length for _, length in segments)
    if not total:
        if is_stream(file):
            return 0
        file.read(0)
        return 0
    if file.pollable:
        prefix = _writable_prefix(task.mm, segments)
        if prefix < total:
            if not prefix:
                raise SyscallError(errno.EFAULT)
            total = prefix
    try:
        return _read_now(task, file, segments, total)
    except WouldBlockError:
        if nowait or file.nonblocking:
            raise
    return _read_waiting(task, file, segments, total)


async def _read_waiting(task: Task, file: OpenFile, segments: Segments, total: int) -> int:
    deadline = deadline_of(file.read_timeout)
    file.refs += 1
    try:
        while True:
            in_time = await wait(file.queue, deadline=deadline)
            try:
                return _read_now(task, file, segments, total)
            except WouldBlockError:
                if file.nonblocking or not in_time:
                    raise
    except Interrupted:
        if deadline is not None:
            raise SyscallError(errno.EINTR) from None
        raise
    finally:
        drop(file)


def _read_now(task: Task, file: OpenFile, segments: Segments, total: int) -> int:
    """Read what is there."""
    done = 0
    while True:
        want = min(total - done, CHUNK)
        try:
            data = file.read(want)
        except (SyscallError, Interrupted):
            if done:
                return done
            raise
        moved = _scatter(task.mm, segments, data)
        done += moved
        if watched and moved:
            on_file(file, IN_ACCESS)
        if moved < len(data):
            if not file.pollable:
                file.offset -= len(data) - moved
            if not done:
                raise SyscallError(errno.EFAULT)
            return done
        if len(data) < want or done >= total or isinstance(file, AnonymousFile):
            return done
        segments = _skip(segments, moved)


def read_at(task: Task, file: OpenFile, segments: Segments, offset: int) -> int:
    """Read at an offset."""
    if file.flags & O_PATH:
        raise SyscallError(errno.EBADF)
    if not file.readable:
        if file.pollable:
            file.pread(0, offset)
        raise SyscallError(errno.EBADF)
    segments = _checked(task, segments)
    total = sum(length for _, length in segments)
    if not total:
        file.pread(0, offset)
        return 0
    done = 0
    while True:
        want = min(total - done, CHUNK)
        try:
            data = file.pread(want, offset + done)
        except SyscallError:
            if done:
                return done
            raise
        moved = _scatter(task.mm, segments, data)
        done += moved
        if watched and moved:
            on_file(file, IN_ACCESS)
        if moved < len(data) and not done:
            raise SyscallError(errno.EFAULT)
        if moved < want or done >= total:
            return done
        segments = _skip(segments, moved)


# Writing.


def write_failed(task: Task, error: SyscallError) -> SyscallError:
    """Return the error a write ends with; EPIPE sends SIGPIPE first."""
    if error.errno == errno.EPIPE and not isinstance(error, QuietPipeError):
        task.kernel.signals.send_task(task, _SIGPIPE, None)
    return error


def check_file_size(task: Task, file: OpenFile, data: bytes, offset: int | None) -> bytes:
    """Apply RLIMIT_FSIZE: cut what may be written to a plain file; SIGXFSZ and EFBIG when nothing may."""
    limit = task.group.limits.soft(RLIMIT_FSIZE)
    if limit == INFINITY or file.pollable or not _is_plain(file):
        return data
    if file.flags & O_APPEND:
        offset = file.stat().size
    at = file.offset if offset is None else offset
    if at >= limit:
        task.kernel.signals.send_task(task, _SIGXFSZ, None)
        raise SyscallError(errno.EFBIG)
    return data[: limit - at]


def _is_plain(file: OpenFile) -> bool:
    return file.stat().mode & 0o170000 == 0o100000


def _gather(mm: MemoryManager, segments: Segments, limit: int) -> tuple[bytes, bool]:
    """Return up to ``limit`` bytes of segments, and whether all that was wanted could be read. EFAULT when nothing could."""
    pieces: list[bytes] = []
    left = limit
    whole = True
    for base, length in segments:
        take = min(length, left)
        if not take:
            continue
        piece = mm.read_partial(base, take)
        pieces.append(piece)
        left -= len(piece)
        if len(piece) < take:
            whole = False
            break
    data = b"".join(pieces)
    if not data and not whole:
        raise SyscallError(errno.EFAULT)
    return data, whole


def write_slow(task: Task, file: OpenFile, segments: Segments) -> int | Running:
    """Write at the position: any length, any number of segments."""
    segments = _checked(task, segments)
    return write_segments(task, file, segments)


def write_segments(task: Task, file: OpenFile, segments: Segments, nowait: bool = False) -> int | Running:
    """Write checked segments at the position."""
    total = sum(length for _, length in segments)
    nowait = nowait or file.nonblocking
    if not total:
        return file.write(b"") if isinstance(file, AnonymousFile) else 0
    done = 0
    while done < total:
        try:
            data, whole = _gather(task.mm, segments, CHUNK)
        except SyscallError:
            if done:
                return done
            raise
        try:
            moved = _write_piece(task, file, data)
        except SyscallError as error:
            if done and (nowait or not isinstance(error, WouldBlockError)):
                return done
            if nowait or not isinstance(error, WouldBlockError):
                raise write_failed(task, error) from None
            moved = 0
        if moved < len(data):
            if nowait or not is_stream(file):
                return done + moved
            return _write_all(task, file, segments, done, data, moved)
        done += moved
        if not whole or isinstance(file, AnonymousFile):
            return done
        segments = _skip(segments, moved)
    return done


def _write_piece(task: Task, file: OpenFile, data: bytes) -> int:
    """Write what can be written at once."""
    if not file.pollable:
        data = check_file_size(task, file, data, None)
    moved = file.write(data)
    if watched:
        on_file(file, IN_MODIFY)
    return moved


async def _write_all(task: Task, file: OpenFile, segments: Segments, done: int, data: bytes, moved: int) -> int:
    """Write the rest of ``data``, then of the segments, waiting for room; ``done`` bytes went before ``data``."""
    while True:
        moved = await write_rest(task, file, data, moved, bool(done))
        done += moved
        if moved < len(data):
            return done
        segments = _skip(segments, moved)
        if not segments:
            return done
        try:
            data, _ = _gather(task.mm, segments, CHUNK)
        except SyscallError:
            return done
        moved = 0


async def write_rest(task: Task, file: OpenFile, data: bytes, done: int, progress: bool = False) -> int:
    """Write ``data`` from ``done`` on, waiting for room, and return how much of it is written then.

    ``progress``: something else was written before, so that errors and signals end the call quietly.
    """
    view, deadline, in_time = memoryview(data), deadline_of(file.write_timeout), True
    file.refs += 1
    try:
        while done < len(data):
            try:
                moved = file.write(view[done:])
                done += moved
            except WouldBlockError:
                if file.nonblocking or not in_time:
                    if done or progress:
                        break
                    raise
                in_time = await wait(file.queue, deadline=deadline)
    except Interrupted:
        if not done and not progress:
            raise
    except SyscallError as error:
        # SIGPIPE comes even when part of the data was taken.
        failed = write_failed(task, error)
        if not done and not progress:
            raise failed from None
    finally:
        drop(file)
    return done


def write_at(task: Task, file: OpenFile, segments: Segments, offset: int, append: bool = False) -> int:
    """Write at an offset; a file open for appending (or ``append``) gets it at the end. The position stays."""
    if file.flags & O_PATH:
        raise SyscallError(errno.EBADF)
    if not file.writable:
        if file.pollable:
            file.pwrite(b"", offset)
        raise SyscallError(errno.EBADF)
    segments = _checked(task, segments)
    total = sum(length for _, length in segments)
    if not total:
        file.pwrite(b"", offset)
        return 0
    if (append or file.flags & O_APPEND) and not file.pollable:
        offset = file.stat().size
    done = 0
    while done < total:
        try:
            data, whole = _gather(task.mm, segments, CHUNK)
            data = check_file_size(task, file, data, offset + done)
            moved = file.pwrite(data, offset + done)
            if watched:
                on_file(file, IN_MODIFY)
        except SyscallError:
            if done:
                return done
            raise
        done += moved
        if moved < len(data) or not whole:
            return done
        segments = _skip(segments, moved)
    return done
