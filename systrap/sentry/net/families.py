"""Making sockets: which families, types and protocols there are."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.net.addresses import AF_INET, AF_INET6, AF_NETLINK, AF_UNIX
from systrap.sentry.net.socket import SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, Socket, credentials_of

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_AF_PACKET: Final = 17
_MAX_TYPE: Final = 10
_MAX_FAMILY: Final = 46
_MAX_PROTOCOL: Final = 263
_PING: Final = {AF_INET: 1, AF_INET6: 58}
_IPPROTO_UDPLITE: Final = 136
_PROTOCOLS: Final = {SOCK_STREAM: (0, 6), SOCK_DGRAM: (0, 17, _IPPROTO_UDPLITE)}


def make_socket(task: "Task", family: int, kind: int, protocol: int) -> Socket:
    """Return a fresh socket. EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EPERM as Linux tells them apart."""
    if not 0 <= family < _MAX_FAMILY:
        raise SyscallError(errno.EAFNOSUPPORT)
    if not 0 <= kind <= _MAX_TYPE:
        raise SyscallError(errno.EINVAL)
    if family == AF_UNIX:
        if protocol not in (0, AF_UNIX):
            raise SyscallError(errno.EPROTONOSUPPORT)
        return _make_unix(task, kind)
    if family in (AF_INET, AF_INET6):
        return _make_inet(task, family, kind, protocol)
    if family == AF_NETLINK:
        from systrap.sentry.net.netlink import NETLINK_KOBJECT_UEVENT, NETLINK_ROUTE, NetlinkSocket

        if kind not in (SOCK_RAW, SOCK_DGRAM):
            raise SyscallError(errno.ESOCKTNOSUPPORT)
        if protocol not in (NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT):
            raise SyscallError(errno.EPROTONOSUPPORT)
        return NetlinkSocket(task.kernel, kind, protocol)
    if family == _AF_PACKET:
        raise SyscallError(errno.EPERM)
    raise SyscallError(errno.EAFNOSUPPORT)


def _make_unix(task: "Task", kind: int) -> Socket:
    if kind in (SOCK_STREAM, SOCK_SEQPACKET):
        from systrap.sentry.net.unix_stream import UnixConnection

        return UnixConnection(task.kernel, kind)
    if kind in (SOCK_DGRAM, SOCK_RAW):
        from systrap.sentry.net.unix_dgram import UnixDatagram

        return UnixDatagram(task.kernel)
    raise SyscallError(errno.ESOCKTNOSUPPORT)


def _make_inet(task: "Task", family: int, kind: int, protocol: int) -> Socket:
    if not 0 <= protocol < _MAX_PROTOCOL:
        raise SyscallError(errno.EINVAL)
    if kind == SOCK_RAW:
        raise SyscallError(errno.EPERM if protocol else errno.EPROTONOSUPPORT)
    if kind not in _PROTOCOLS:
        raise SyscallError(errno.ESOCKTNOSUPPORT)
    if kind == SOCK_DGRAM and protocol == _PING[family]:
        raise SyscallError(errno.EACCES)
    if protocol not in _PROTOCOLS[kind]:
        raise SyscallError(errno.EPROTONOSUPPORT)
    if kind == SOCK_STREAM:
        from systrap.sentry.net.tcp import TcpSocket

        return TcpSocket(task.kernel, family)
    from systrap.sentry.net.udp import IPPROTO_UDP, UdpSocket

    return UdpSocket(task.kernel, family, protocol or IPPROTO_UDP)


def make_pair(task: "Task", family: int, kind: int, protocol: int) -> tuple[Socket, Socket]:
    """Return two connected sockets (socketpair). EOPNOTSUPP for families other than AF_UNIX."""
    first = make_socket(task, family, kind, protocol)
    second = make_socket(task, family, kind, protocol)
    from systrap.sentry.net.unix_dgram import UnixDatagram
    from systrap.sentry.net.unix_stream import UnixConnection

    own = credentials_of(task)
    if isinstance(first, UnixConnection) and isinstance(second, UnixConnection):
        first.pair(second, own, own)
    elif isinstance(first, UnixDatagram) and isinstance(second, UnixDatagram):
        first.peer, second.peer = second, first
        first.peer_creds = second.peer_creds = own
    else:
        first.release()
        second.release()
        raise SyscallError(errno.EOPNOTSUPP)
    return first, second
