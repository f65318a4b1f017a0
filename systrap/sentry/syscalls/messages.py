"""Sending to and receiving from sockets: sendto, recvfrom, sendmsg, recvmsg and their many-message forms."""

from __future__ import annotations

import errno
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from systrap.sentry.errors import Interrupted, QuietPipeError, SyscallError, WouldBlockError
from systrap.sentry.file import drop
from systrap.sentry.net.flags import (
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_NOSIGNAL,
    MSG_PEEK,
    MSG_TRUNC,
    MSG_WAITALL,
    MSG_WAITFORONE,
)
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64
from systrap.sentry.wait import Wait, deadline_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from systrap.sentry.file import OpenFile
    from systrap.sentry.net.socket import Control, Outgoing, Received, Socket, UCred
    from systrap.sentry.task import Task

T = TypeVar("T")

Segments = list[tuple[int, int]]

_AF_UNIX: Final = 1
_SOL_SOCKET: Final = 1
_SCM_RIGHTS: Final = 1
_SCM_CREDENTIALS: Final = 2
_MAX_RIGHTS: Final = 253
_MAX_CONTROL: Final = 20480
_SIGPIPE: Final = 13
_MSGHDR: Final = struct.Struct("<QI4xQQQQI4x")
_MMSGHDR_SIZE: Final = 64
_CMSG: Final = struct.Struct("<Qii")
_UIO_MAXIOV: Final = 1024
_MAX_COUNT: Final = 0x7FFFF000
_RECEIVE_CHUNK: Final = 1 << 20


class Header(NamedTuple):
    """A struct msghdr."""

    name: int
    name_length: int
    vector: int
    vector_length: int
    control: int
    control_length: int
    flags: int


async def when_possible(socket: Socket, attempt: Callable[[], T], nonblocking: bool, timeout: float | None) -> T:
    """Return what ``attempt`` does once it does not raise WouldBlockError any more.

    Raises WouldBlockError at once when ``nonblocking``, and after ``timeout`` seconds. A signal restarts the call only if it
    has no time-out.
    """
    try:
        return attempt()
    except WouldBlockError:
        if nonblocking:
            raise
    deadline = deadline_of(timeout)
    socket.refs += 1
    try:
        while True:
            in_time = await Wait((socket.queue,), deadline)
            try:
                return attempt()
            except WouldBlockError:
                if not in_time:
                    raise
    except Interrupted:
        if timeout is not None:
            raise SyscallError(errno.EINTR) from None
        raise
    finally:
        drop(socket)


# Sending.


def _socket(task: Task, fd: int) -> Socket:
    from systrap.sentry.syscalls.sockets import socket_of

    return socket_of(task, fd)


async def _send(task: Task, socket: Socket, data: bytes, message: Outgoing) -> int:
    """Send all of ``data``, waiting for room. EPIPE sends SIGPIPE unless the flags say no."""
    nonblocking = socket.nonblocking or bool(message.flags & MSG_DONTWAIT)
    done = 0
    try:
        done = socket.send(data, message)
        if done >= len(data) or nonblocking:
            return done
    except WouldBlockError:
        if nonblocking:
            raise
    except SyscallError as error:
        raise _failed(task, error, message.flags) from None
    return await _send_waiting(task, socket, data, message, done)


async def _send_waiting(task: Task, socket: Socket, data: bytes, message: Outgoing, done: int) -> int:
    """Send ``data`` from ``done`` on, waiting for room."""
    timeout = socket.write_timeout
    view, deadline = memoryview(data), deadline_of(timeout)
    socket.refs += 1
    try:
        while True:
            in_time = await Wait((socket.queue,), deadline)
            try:
                done += socket.send(view[done:], message._replace(files=()) if done else message)
                if done >= len(data):
                    return done
            except WouldBlockError:
                if in_time:
                    continue
                if done:
                    return done
                raise
    except Interrupted:
        if done:
            return done
        if timeout is not None:
            raise SyscallError(errno.EINTR) from None
        raise
    except SyscallError as error:
        failed = _failed(task, error, message.flags)
        if done:
            return done
        raise failed from None
    finally:
        drop(socket)


def _failed(task: Task, error: SyscallError, flags: int) -> SyscallError:
    if error.errno == errno.EPIPE and not flags & MSG_NOSIGNAL and not isinstance(error, QuietPipeError):
        task.kernel.signals.send_task(task, _SIGPIPE, None)
    return error


@syscall("sendto")
async def sys_sendto(task: Task, fd: i32, buffer: addr, count: u64, flags: u32, address: addr, length: i32) -> Result:
    """sendto(2)."""
    from systrap.sentry.net.socket import PLAIN, Outgoing
    from systrap.sentry.syscalls.sockets import read_address

    socket = _socket(task, fd)
    message = PLAIN
    if address or flags:
        message = Outgoing(read_address(task, address, length) if address else b"", flags=flags)
    data = task.mm.read(buffer, min(count, _MAX_COUNT)) if count else b""
    return await _send(task, socket, data, message)


def read_header(task: Task, address: int) -> Header:
    """Read a struct msghdr of the guest."""
    header = Header(*_MSGHDR.unpack(task.mm.read(address, _MSGHDR.size)))
    if header.vector_length > _UIO_MAXIOV:
        raise SyscallError(errno.EMSGSIZE)
    if header.name_length >= 1 << 31:
        raise SyscallError(errno.EINVAL)
    return header


def _split_control(data: bytes) -> Control:
    """Return ancillary data as (level, type, data). EINVAL."""
    items: Control = []
    at = 0
    while at + _CMSG.size <= len(data):
        length, level, kind = _CMSG.unpack_from(data, at)
        if length < _CMSG.size or at + length > len(data):
            raise SyscallError(errno.EINVAL)
        items.append((level, kind, data[at + _CMSG.size : at + length]))
        at += length + 7 & ~7
    return items


def _unix_control(task: Task, items: Control) -> tuple[tuple[OpenFile, ...], UCred | None]:
    """Return the descriptors and credentials that ancillary data names. EINVAL, EBADF, EPERM."""
    files: list[OpenFile] = []
    creds: UCred | None = None
    for level, kind, body in items:
        if level != _SOL_SOCKET:
            continue
        if kind == _SCM_RIGHTS:
            numbers = struct.unpack(f"<{len(body) // 4}i", body[: len(body) & ~3])
            if len(files) + len(numbers) > _MAX_RIGHTS:
                raise SyscallError(errno.EINVAL)
            files += [task.fds.get(number) for number in numbers]
        elif kind == _SCM_CREDENTIALS:
            creds = _checked_creds(task, body)
        else:
            raise SyscallError(errno.EINVAL)
    return tuple(files), creds


def _checked_creds(task: Task, body: bytes) -> UCred:
    """Return the credentials a sender names: its own, unless it is root. EPERM, EINVAL."""
    if len(body) != 12:
        raise SyscallError(errno.EINVAL)
    pid, uid, gid = struct.unpack("<3i", body)
    own = task.creds
    if own.euid != 0:
        if (
            pid != task.group.pid
            or uid not in (own.ruid, own.euid, own.suid)
            or gid not in (own.rgid, own.egid, own.sgid)
        ):
            raise SyscallError(errno.EPERM)
    elif pid not in task.kernel.groups:
        raise SyscallError(errno.ESRCH)
    return (pid, uid, gid)


def _outgoing(task: Task, socket: Socket, header: Header, flags: int) -> Outgoing:
    from systrap.sentry.net.socket import Outgoing
    from systrap.sentry.syscalls.sockets import read_address

    address = read_address(task, header.name, header.name_length) if header.name and header.name_length else b""
    files: tuple[OpenFile, ...] = ()
    creds: UCred | None = None
    if header.control and header.control_length:
        if header.control_length > _MAX_CONTROL:
            raise SyscallError(errno.ENOBUFS)
        items = _split_control(task.mm.read(header.control, header.control_length))
        if socket.family != _AF_UNIX:
            return Outgoing(address, flags=flags, control=tuple(items))
        files, creds = _unix_control(task, items)
    return Outgoing(address, files, creds, flags)


async def _sendmsg(task: Task, socket: Socket, header: Header, flags: int) -> int:
    segments = task.mm.read_iovec(header.vector, header.vector_length)
    message = _outgoing(task, socket, header, flags)
    data = b"".join([task.mm.read(base, length) for base, length in segments if length])
    return await _send(task, socket, data, message)


@syscall("sendmsg")
async def sys_sendmsg(task: Task, fd: i32, address: addr, flags: u32) -> Result:
    """sendmsg(2)."""
    socket = _socket(task, fd)
    return await _sendmsg(task, socket, read_header(task, address), flags)


@syscall("sendmmsg")
async def sys_sendmmsg(task: Task, fd: i32, vector: addr, count: u32, flags: u32) -> Result:
    """sendmmsg(2)."""
    socket = _socket(task, fd)
    done = 0
    for index in range(min(count, _UIO_MAXIOV)):
        at = vector + index * _MMSGHDR_SIZE
        try:
            sent = await _sendmsg(task, socket, read_header(task, at), flags)
            task.mm.write_u32(at + _MSGHDR.size, sent)
        except (SyscallError, Interrupted):
            if done:
                break
            raise
        done += 1
    return done


# Receiving.


async def _receive(task: Task, socket: Socket, count: int, flags: int) -> Received:
    """Receive one message, or bytes; with MSG_WAITALL all that are wanted."""
    nonblocking = socket.nonblocking or bool(flags & MSG_DONTWAIT)
    timeout = socket.read_timeout
    if flags & MSG_ERRQUEUE and socket.family != _AF_UNIX:
        raise WouldBlockError
    found = await when_possible(socket, lambda: socket.receive(count, flags), nonblocking, timeout)
    if not flags & MSG_WAITALL or not socket.is_stream or flags & (MSG_PEEK | MSG_TRUNC) or nonblocking:
        return found
    pieces, done = [found.data], len(found.data)
    while done < count and found.data and not found.files:
        left = count - done
        try:
            more = await when_possible(socket, lambda left=left: socket.receive(left, flags), False, timeout)  # type: ignore[misc] # the default binds left now
        except (SyscallError, Interrupted):
            break
        if not more.data:
            break
        pieces.append(more.data)
        done += len(more.data)
        if more.files:
            found = more
            break
    return found._replace(data=b"".join(pieces), length=done)


@syscall("recvfrom")
async def sys_recvfrom(
    task: Task, fd: i32, buffer: addr, count: u64, flags: u32, address: addr, length: addr
) -> Result:
    """recvfrom(2)."""
    from systrap.sentry.net.socket import discard

    socket = _socket(task, fd)
    found = await _receive(task, socket, min(count, _MAX_COUNT), flags)
    discard(found.files)
    if found.data:
        task.mm.write(buffer, found.data)
    if address:
        from systrap.sentry.syscalls.sockets import write_address

        if found.address:
            write_address(task, found.address, address, length)
        else:
            task.mm.write(length, bytes(4))
    return found.length if flags & MSG_TRUNC else len(found.data)


def _scatter(task: Task, segments: Segments, data: bytes) -> None:
    done = 0
    for base, length in segments:
        if done >= len(data):
            return
        task.mm.write(base, data[done : done + length])
        done += length


def _deliver_control(task: Task, socket: Socket, found: Received, room: int, cloexec: bool) -> tuple[bytes, int]:
    """Return the ancillary data for the receiver, and MSG_CTRUNC if there was not room for all of it."""
    items: Control = []
    if socket.options.pass_credentials and found.creds is not None:
        items.append((_SOL_SOCKET, _SCM_CREDENTIALS, struct.pack("<3i", *found.creds)))
    items += found.control
    data, flags = b"", 0
    for level, kind, body in items:
        data, flags = _append(data, flags, room, level, kind, body)
    if found.files:
        fits = max(0, (room - len(data) - _CMSG.size) // 4)
        numbers: list[int] = []
        for file in found.files[:fits]:
            try:
                numbers.append(task.fds.add(file, cloexec))
            except SyscallError:
                break
        if len(numbers) < len(found.files):
            flags |= MSG_CTRUNC
        if numbers:
            body = struct.pack(f"<{len(numbers)}i", *numbers)
            data, flags = _append(data, flags, room, _SOL_SOCKET, _SCM_RIGHTS, body)
    return data, flags


def _append(data: bytes, flags: int, room: int, level: int, kind: int, body: bytes) -> tuple[bytes, int]:
    length = _CMSG.size + len(body)
    left = room - len(data)
    if left < _CMSG.size:
        return data, flags | MSG_CTRUNC
    if length > left:
        length = left
        flags |= MSG_CTRUNC
    item = _CMSG.pack(length, level, kind) + body[: length - _CMSG.size]
    return data + item.ljust(min(length + 7 & ~7, left), b"\0"), flags


async def _recvmsg(task: Task, socket: Socket, address: int, flags: int) -> int:
    from systrap.sentry.net.socket import discard

    header = read_header(task, address)
    segments = task.mm.read_iovec(header.vector, header.vector_length)
    total = sum(length for _, length in segments)
    found = await _receive(task, socket, total, flags)
    room = header.control_length if header.control else 0
    try:
        _scatter(task, segments, found.data)
        control, answer = _deliver_control(task, socket, found, room, bool(flags & MSG_CMSG_CLOEXEC))
    finally:
        discard(found.files)
    if control:
        task.mm.write(header.control, control)
    name_length = header.name_length
    if header.name:
        task.mm.write(header.name, found.address[: header.name_length])
        name_length = len(found.address)
    if found.length > len(found.data) and not socket.is_stream:
        answer |= MSG_TRUNC
    answer |= flags & MSG_CMSG_CLOEXEC
    task.mm.write_u32(address + 8, name_length)
    task.mm.write(address + 40, struct.pack("<QI", len(control), answer))
    return found.length if flags & MSG_TRUNC else len(found.data)


@syscall("recvmsg")
async def sys_recvmsg(task: Task, fd: i32, address: addr, flags: u32) -> Result:
    """recvmsg(2)."""
    return await _recvmsg(task, _socket(task, fd), address, flags)


@syscall("recvmmsg")
async def sys_recvmmsg(task: Task, fd: i32, vector: addr, count: u32, flags: u32, timeout: addr) -> Result:
    """recvmmsg(2): the time-out is looked at after each message, as on Linux."""
    socket = _socket(task, fd)
    end: float | None = None
    if timeout:
        from systrap.sentry.syscalls.poll import read_timespec

        end = deadline_of(read_timespec(task, timeout))
    done = 0
    for index in range(min(count, _UIO_MAXIOV)):
        at = vector + index * _MMSGHDR_SIZE
        try:
            got = await _recvmsg(task, socket, at, flags & ~MSG_WAITFORONE)
            task.mm.write_u32(at + _MSGHDR.size, got)
        except (SyscallError, Interrupted):
            if done:
                break
            raise
        done += 1
        if flags & MSG_WAITFORONE:
            flags |= MSG_DONTWAIT
        if end is not None and time.monotonic() >= end:
            break
    return done
