"""What the sockets of one run share: bound names and ports, and the list of all sockets."""

import errno
import itertools
import os
import weakref
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.net.addresses import ANY4, ANY6, Endpoint

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.net.inet import InetSocket
    from systrap.sentry.net.socket import Socket
    from systrap.sentry.net.unix import UnixSocket

FIRST_EPHEMERAL: Final = 32768
LAST_EPHEMERAL: Final = 60999
_numbers = itertools.count(0x20001)


def new_number() -> int:
    """Return the inode number of a new socket."""
    return next(_numbers)


class Ports:
    """The ports of one protocol (TCP or UDP), and who is bound to each."""

    __slots__ = ("_next", "bound")

    def __init__(self) -> None:
        self.bound: dict[int, list[InetSocket]] = {}
        self._next = FIRST_EPHEMERAL + int.from_bytes(os.urandom(2), "little") % (LAST_EPHEMERAL - FIRST_EPHEMERAL)

    def bind(self, socket: "InetSocket", endpoint: Endpoint) -> Endpoint:
        """Give a socket a port (a free one for port 0) and return where it is bound. EADDRINUSE."""
        port = endpoint.port
        if not port:
            port = self._free_port(socket, endpoint.ip)
        elif any(_conflict(socket, endpoint.ip, other) for other in self.bound.get(port, ())):
            raise SyscallError(errno.EADDRINUSE)
        self.bound.setdefault(port, []).append(socket)
        return Endpoint(endpoint.ip, port)

    def share(self, socket: "InetSocket", port: int) -> None:
        """Note that a connection uses its listener's port."""
        self.bound.setdefault(port, []).append(socket)

    def release(self, socket: "InetSocket", port: int) -> None:
        """Give a port up."""
        owners = self.bound.get(port)
        if owners is not None and socket in owners:
            owners.remove(socket)
            if not owners:
                del self.bound[port]

    def _free_port(self, socket: "InetSocket", ip: bytes) -> int:
        for _ in range(LAST_EPHEMERAL - FIRST_EPHEMERAL + 1):
            self._next = FIRST_EPHEMERAL if self._next >= LAST_EPHEMERAL else self._next + 1
            if self._next not in self.bound:
                return self._next
        raise SyscallError(errno.EADDRINUSE)


def overlap(ip: bytes, v6only: bool, other: bytes, other_v6only: bool) -> bool:
    """Tell whether two bound addresses have an address in common."""
    if ip == other:
        return True
    if ip == ANY6:
        return other != ANY4 and not other.startswith(ANY4[:12]) if v6only else True
    if other == ANY6:
        return overlap(other, other_v6only, ip, v6only)
    if ip == ANY4:
        return other.startswith(ANY4[:12])
    if other == ANY4:
        return ip.startswith(ANY4[:12])
    return False


def _conflict(socket: "InetSocket", ip: bytes, other: "InetSocket") -> bool:
    """Tell whether a socket may not be bound beside another one on the same port."""
    if other is socket or not overlap(ip, socket.v6only, other.local.ip, other.v6only):
        return False
    if socket.options.reuse_port and other.options.reuse_port:
        return False
    return not (socket.options.reuse_address and other.options.reuse_address and not other.listening)


class Stack:
    """All sockets of a run."""

    __slots__ = ("abstract", "autobound", "paths", "sockets", "tcp", "udp", "udplite")

    def __init__(self) -> None:
        self.tcp = Ports()
        self.udp = Ports()
        self.udplite = Ports()
        self.abstract: dict[bytes, UnixSocket] = {}
        self.paths: dict[tuple[int, int], UnixSocket] = {}
        self.sockets: dict[Socket, None] = {}
        self.autobound = itertools.count(int.from_bytes(os.urandom(2), "little"))


_stacks: "weakref.WeakKeyDictionary[Kernel, Stack]" = weakref.WeakKeyDictionary()


def stack_of(kernel: "Kernel") -> Stack:
    """Return the one stack of a kernel."""
    stack = _stacks.get(kernel)
    if stack is None:
        stack = _stacks[kernel] = Stack()
    return stack
