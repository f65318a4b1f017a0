"""Sockets: making, naming, connecting them, and their options.

The families live in ``net/``, which is loaded with the first socket.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import Interrupted, SyscallError, WouldBlockError
from systrap.sentry.file import O_CLOEXEC, O_NONBLOCK, O_PATH, drop
from systrap.sentry.syscalls import messages
from systrap.sentry.syscalls.table import Result, addr, i32, syscall
from systrap.sentry.wait import Wait, deadline_of

if TYPE_CHECKING:
    from systrap.sentry.net.socket import Socket
    from systrap.sentry.task import Task

__all__ = ["messages", "socket_of"]

_TYPE_MASK: Final = 0xF
_MAX_ADDRESS: Final = 128
_MAX_OPTION: Final = 65536
_SOL_SOCKET: Final = 1
_SO_PEERPIDFD: Final = 77


def socket_of(task: Task, fd: int) -> Socket:
    """Return the socket of a descriptor. EBADF, ENOTSOCK."""
    from systrap.sentry.net.socket import Socket

    file = task.fds.get(fd)
    if not isinstance(file, Socket):
        raise SyscallError(errno.EBADF if file.flags & O_PATH else errno.ENOTSOCK)
    return file


def read_address(task: Task, address: int, length: int) -> bytes:
    """Read a struct sockaddr of the guest. EINVAL, EFAULT."""
    if not 0 <= length <= _MAX_ADDRESS:
        raise SyscallError(errno.EINVAL)
    return task.mm.read(address, length) if length else b""


def write_address(task: Task, data: bytes, address: int, length_at: int) -> None:
    """Write a struct sockaddr, cut to the guest's buffer, and its full length. EINVAL, EFAULT."""
    (room,) = struct.unpack("<i", task.mm.read(length_at, 4))
    if room < 0:
        raise SyscallError(errno.EINVAL)
    if room:
        task.mm.write(address, data[:room])
    task.mm.write(length_at, struct.pack("<i", len(data)))


def _checked_flags(kind: int) -> tuple[int, int]:
    """Split a socket's type from SOCK_NONBLOCK and SOCK_CLOEXEC. EINVAL."""
    flags = kind & ~_TYPE_MASK
    if flags & ~(O_NONBLOCK | O_CLOEXEC):
        raise SyscallError(errno.EINVAL)
    return kind & _TYPE_MASK, flags


@syscall("socket")
def sys_socket(task: Task, family: i32, kind: i32, protocol: i32) -> Result:
    """socket(2)."""
    from systrap.sentry.net.families import make_socket

    base, flags = _checked_flags(kind)
    made = make_socket(task, family, base, protocol)
    made.flags |= flags & O_NONBLOCK
    return _install(task, made, flags)


def _install(task: Task, made: Socket, flags: int) -> int:
    try:
        return task.fds.add(made, bool(flags & O_CLOEXEC))
    except SyscallError:
        made.release()
        raise


@syscall("socketpair")
def sys_socketpair(task: Task, family: i32, kind: i32, protocol: i32, pair: addr) -> Result:
    """socketpair(2)."""
    from systrap.sentry.net.families import make_pair

    base, flags = _checked_flags(kind)
    task.mm.check_range(pair, 8, True)
    made = make_pair(task, family, base, protocol)
    for end in made:
        end.flags |= flags & O_NONBLOCK
    try:
        first = _install(task, made[0], flags)
    except SyscallError:
        made[1].release()
        raise
    try:
        second = _install(task, made[1], flags)
    except SyscallError:
        task.fds.close(first)
        raise
    task.mm.write(pair, struct.pack("<2i", first, second))
    return 0


@syscall("bind")
def sys_bind(task: Task, fd: i32, address: addr, length: i32) -> Result:
    """bind(2)."""
    socket = socket_of(task, fd)
    socket.bind(task, read_address(task, address, length))
    return 0


@syscall("listen")
def sys_listen(task: Task, fd: i32, backlog: i32) -> Result:
    """listen(2)."""
    socket_of(task, fd).listen(task, backlog)
    return 0


def interrupted(timeout: float | None) -> BaseException:
    """Return what a signal makes of a waiting socket call: EINTR when it has a time-out, else a restart."""
    return SyscallError(errno.EINTR) if timeout is not None else Interrupted()


@syscall("connect")
async def sys_connect(task: Task, fd: i32, address: addr, length: i32) -> Result:
    """connect(2)."""
    socket = socket_of(task, fd)
    data = read_address(task, address, length)
    socket.refs += 1
    try:
        try:
            socket.connect(task, data)
            return 0
        except WouldBlockError:
            if socket.nonblocking:
                raise SyscallError(socket.slow_connect) from None
        timeout = socket.write_timeout
        deadline = deadline_of(timeout)
        while True:
            try:
                socket.connected(task, data)
                return 0
            except WouldBlockError:
                try:
                    in_time = await Wait((socket.connect_queue,), deadline)
                except Interrupted:
                    raise interrupted(timeout) from None
                if not in_time:
                    raise SyscallError(socket.slow_connect) from None
    finally:
        drop(socket)


@syscall("accept")
async def sys_accept(task: Task, fd: i32, address: addr, length: addr) -> Result:
    """accept(2)."""
    return await _accept(task, fd, address, length, 0)


@syscall("accept4")
async def sys_accept4(task: Task, fd: i32, address: addr, length: addr, flags: i32) -> Result:
    """accept4(2)."""
    if flags & ~(O_NONBLOCK | O_CLOEXEC):
        raise SyscallError(errno.EINVAL)
    return await _accept(task, fd, address, length, flags)


async def _accept(task: Task, fd: int, address: int, length: int, flags: int) -> int:
    socket = socket_of(task, fd)
    made = await messages.when_possible(socket, socket.accept, socket.nonblocking, socket.read_timeout)
    made.flags |= flags & O_NONBLOCK
    if address:
        try:
            try:
                name = made.peer_name()
            except SyscallError:
                raise SyscallError(errno.ECONNABORTED) from None
            write_address(task, name, address, length)
        except SyscallError:
            made.release()
            raise
    return _install(task, made, flags)


@syscall("getsockname")
def sys_getsockname(task: Task, fd: i32, address: addr, length: addr) -> Result:
    """getsockname(2)."""
    write_address(task, socket_of(task, fd).name(), address, length)
    return 0


@syscall("getpeername")
def sys_getpeername(task: Task, fd: i32, address: addr, length: addr) -> Result:
    """getpeername(2)."""
    write_address(task, socket_of(task, fd).peer_name(), address, length)
    return 0


@syscall("shutdown")
def sys_shutdown(task: Task, fd: i32, how: i32) -> Result:
    """shutdown(2)."""
    socket = socket_of(task, fd)
    if not 0 <= how <= 2:
        raise SyscallError(errno.EINVAL)
    socket.shutdown(how + 1)
    return 0


@syscall("getsockopt")
def sys_getsockopt(task: Task, fd: i32, level: i32, name: i32, value: addr, length: addr) -> Result:
    """getsockopt(2)."""
    socket = socket_of(task, fd)
    (room,) = struct.unpack("<i", task.mm.read(length, 4))
    if room < 0:
        raise SyscallError(errno.EINVAL)
    data = socket.get_option(level, name)[:room]
    task.mm.write(value, data)
    task.mm.write(length, struct.pack("<i", len(data)))
    return 0


@syscall("setsockopt")
def sys_setsockopt(task: Task, fd: i32, level: i32, name: i32, value: addr, length: i32) -> Result:
    """setsockopt(2)."""
    socket = socket_of(task, fd)
    if length < 0:
        raise SyscallError(errno.EINVAL)
    data = task.mm.read(value, min(length, _MAX_OPTION)) if length else b""
    socket.set_option(task, level, name, data)
    return 0
