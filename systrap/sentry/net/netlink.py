"""AF_NETLINK: the routing family's questions about the one interface (getifaddrs, if_nameindex, ``ip addr``)."""

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.net import interfaces as lo
from systrap.sentry.net.addresses import AF_INET, AF_INET6, AF_NETLINK, LOOPBACK6, family_of
from systrap.sentry.net.flags import MSG_PEEK
from systrap.sentry.net.socket import PLAIN, Outgoing, Received, Socket
from systrap.sentry.net.stack import stack_of
from systrap.sentry.wait import POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

NETLINK_ROUTE: Final = 0
NETLINK_KOBJECT_UEVENT: Final = 15

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_F_REQUEST: Final = 1
_F_MULTI: Final = 2
_F_ACK: Final = 4
_F_DUMP: Final = 0x300
_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_RTM_GETROUTE: Final = 26
_HEADER: Final = struct.Struct("<IHHII")
_SCOPE_HOST: Final = 254
_FOREVER: Final = 0xFFFFFFFF


def _attribute(kind: int, data: bytes) -> bytes:
    """Return a struct rtattr."""
    return (struct.pack("<HH", 4 + len(data), kind) + data).ljust(4 + (len(data) + 3 & ~3), b"\0")


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("<I", value))


def _link() -> bytes:
    """Return lo as the body of an RTM_NEWLINK message."""
    flags = lo.FLAGS | 0x10000  # IFF_LOWER_UP
    body = struct.pack("<BxHiII", 0, lo.ARPHRD_LOOPBACK, lo.INDEX, flags, 0)
    body += _attribute(3, lo.NAME + b"\0")  # IFLA_IFNAME
    body += _u32(13, lo.QUEUE_LENGTH)  # IFLA_TXQLEN
    body += _attribute(16, b"\0") + _attribute(17, b"\0")  # IFLA_OPERSTATE unknown, IFLA_LINKMODE
    body += _u32(4, lo.MTU) + _u32(50, 0) + _u32(51, 0)  # IFLA_MTU, _MIN_MTU, _MAX_MTU
    body += (
        _u32(27, 0) + _u32(30, 0) + _u32(31, 1) + _u32(32, 1)
    )  # IFLA_GROUP, _PROMISCUITY, _NUM_TX_QUEUES, _NUM_RX_QUEUES
    body += _attribute(1, bytes(6)) + _attribute(2, bytes(6))  # IFLA_ADDRESS, IFLA_BROADCAST
    body += _attribute(6, b"noqueue\0")  # IFLA_QDISC
    body += _attribute(7, bytes(96)) + _attribute(23, bytes(192))  # IFLA_STATS, IFLA_STATS64
    return body


def _address(family: int) -> bytes:
    """Return lo's address of a family as the body of an RTM_NEWADDR message."""
    raw, prefix = (b"\x7f\0\0\1", 8) if family == AF_INET else (LOOPBACK6, 128)
    body = struct.pack("<4BI", family, prefix, 0x80, _SCOPE_HOST, lo.INDEX)
    body += _attribute(1, raw)  # IFA_ADDRESS
    if family == AF_INET:
        body += _attribute(2, raw) + _attribute(3, lo.NAME + b"\0")  # IFA_LOCAL, IFA_LABEL
    body += _u32(8, 0x80)  # IFA_FLAGS: permanent
    return body + _attribute(6, struct.pack("<4I", _FOREVER, _FOREVER, 0, 0))  # IFA_CACHEINFO


class NetlinkSocket(Socket):
    """A netlink socket. Answers are queued when the question is sent."""

    __slots__ = ("incoming", "port")

    def __init__(self, kernel: "Kernel", kind: int, protocol: int) -> None:
        super().__init__(kernel, AF_NETLINK, kind, protocol)
        self.incoming: deque[bytes] = deque()
        self.port = 0

    def bind(self, task: "Task", address: bytes) -> None:
        """See Socket: groups are accepted; nothing is ever told to them."""
        if len(address) < 12 or family_of(address) != AF_NETLINK:
            raise SyscallError(errno.EINVAL)
        port = int.from_bytes(address[4:8], "little")
        if self.port and port and port != self.port:
            raise SyscallError(errno.EINVAL)
        self._take_port(port or self.port)

    def _take_port(self, port: int) -> None:
        taken = {s.port for s in stack_of(self.kernel).sockets if isinstance(s, NetlinkSocket) and s is not self}
        if not port:
            current = self.kernel.current
            port = current.group.pid if current is not None else 1
            while port in taken:
                port = (port | 0x80000000) + 1 & 0xFFFFFFFF
        elif port in taken:
            raise SyscallError(errno.EADDRINUSE)
        self.port = port

    def connect(self, task: "Task", address: bytes) -> None:
        """See Socket: the kernel is the only peer."""
        if len(address) < 12:
            raise SyscallError(errno.EINVAL)
        if not self.port:
            self._take_port(0)

    def name(self) -> bytes:
        """See Socket."""
        return struct.pack("<HHII", AF_NETLINK, 0, self.port, 0)

    def peer_name(self) -> bytes:
        """See Socket: the kernel."""
        return struct.pack("<HHII", AF_NETLINK, 0, 0, 0)

    def send(self, data: "bytes | memoryview[int]", message: Outgoing = PLAIN) -> int:
        """See Socket: answer every message in ``data``."""
        if message.address and len(message.address) >= 8 and int.from_bytes(message.address[4:8], "little"):
            raise SyscallError(errno.ECONNREFUSED)
        if not self.port:
            self._take_port(0)
        rest = bytes(data)
        while len(rest) >= _HEADER.size:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(rest)
            if not _HEADER.size <= length <= len(rest):
                break
            if flags & _F_REQUEST and self.protocol == NETLINK_ROUTE:
                self._answer(rest[:length], kind, flags, sequence)
            rest = rest[length + 3 & ~3 :]
        if self.incoming:
            self.queue.notify(POLLIN | POLLRDNORM)
        return len(data)

    def _message(self, kind: int, flags: int, sequence: int, body: bytes) -> bytes:
        size = _HEADER.size + len(body)
        return (_HEADER.pack(size, kind, flags, sequence, self.port) + body).ljust(size + 3 & ~3, b"\0")

    def _answer(self, request: bytes, kind: int, flags: int, sequence: int) -> None:
        body = request[_HEADER.size :]
        dump = flags & _F_DUMP == _F_DUMP
        if dump and kind >= 16 and kind % 4 == 2:
            family = body[0] if body else 0
            found = b"".join(self._message(new, _F_MULTI, sequence, item) for new, item in _dump(kind, family))
            if found:
                self.incoming.append(found)
            self.incoming.append(self._message(_NLMSG_DONE, _F_MULTI, sequence, bytes(4)))
            return
        error = 0
        if kind == _RTM_GETLINK:
            if _names_lo(body):
                self.incoming.append(self._message(_RTM_NEWLINK, 0, sequence, _link()))
            else:
                error = errno.ENODEV
        elif kind == _RTM_GETROUTE:
            error = errno.ENETUNREACH
        elif kind >= 16:
            error = errno.EOPNOTSUPP if kind % 4 == 2 else errno.EPERM
        if error or flags & _F_ACK:
            echoed = request if error else request[: _HEADER.size]
            self.incoming.append(self._message(_NLMSG_ERROR, 0, sequence, struct.pack("<i", -error) + echoed))

    def receive(self, count: int, flags: int) -> Received:
        """See Socket."""
        if not self.incoming:
            self.raise_error()
            raise WouldBlockError
        data = self.incoming[0] if flags & MSG_PEEK else self.incoming.popleft()
        return Received(data[:count], len(data), struct.pack("<HHII", AF_NETLINK, 0, 0, 0), creds=(0, 0, 0))

    def poll(self) -> int:
        """See OpenFile."""
        return (POLLIN | POLLRDNORM if self.incoming else 0) | POLLOUT | POLLWRNORM

    def shutdown(self, how: int) -> None:
        """See Socket."""
        raise SyscallError(errno.EOPNOTSUPP)

    def pending_bytes(self) -> int:
        """See Socket."""
        return len(self.incoming[0]) if self.incoming else 0


def _names_lo(body: bytes) -> bool:
    """Tell whether a struct ifinfomsg, or the name behind it, means lo."""
    if len(body) >= 8 and int.from_bytes(body[4:8], "little"):
        return int.from_bytes(body[4:8], "little") == lo.INDEX
    rest = body[16:]
    while len(rest) >= 4:
        length, kind = struct.unpack_from("<HH", rest)
        if length < 4:
            break
        if kind == 3:
            return rest[4:length].rstrip(b"\0") == lo.NAME
        rest = rest[length + 3 & ~3 :]
    return False


def _dump(kind: int, family: int) -> list[tuple[int, bytes]]:
    """Return what a dump request lists, as (message type, body)."""
    if kind == _RTM_GETLINK:
        return [(_RTM_NEWLINK, _link())]
    if kind == _RTM_GETADDR:
        return [(_RTM_NEWADDR, _address(f)) for f in (AF_INET, AF_INET6) if family in (0, f)]
    return []
