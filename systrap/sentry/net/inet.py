"""AF_INET and AF_INET6: what TCP and UDP share: addresses of the loopback network, names, options."""

import errno
import struct
from typing import TYPE_CHECKING

from systrap.sentry.errors import SyscallError
from systrap.sentry.net import options as opt
from systrap.sentry.net.addresses import (
    AF_INET,
    AF_INET6,
    ANY4,
    ANY6,
    LOOPBACK4,
    LOOPBACK6,
    NOWHERE4,
    NOWHERE6,
    Endpoint,
    pack_inet,
    parse_inet,
)
from systrap.sentry.net.socket import Socket
from systrap.sentry.net.stack import Ports

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_FIRST_FREE_PORT = 1024
_MTU = 65536


class InetSocket(Socket):
    """Base of TCP and UDP sockets. ``local`` is where it is bound (port 0: nowhere), ``remote`` its peer, if any.

    ``chosen``: what of ``local`` the program asked for.
    """

    __slots__ = ("chosen", "local", "remote", "v6only")

    def __init__(self, kernel: "Kernel", family: int, kind: int, protocol: int) -> None:
        super().__init__(kernel, family, kind, protocol)
        self.local = NOWHERE4 if family == AF_INET else NOWHERE6
        self.chosen = self.local
        self.remote: Endpoint | None = None
        self.v6only = False

    @property
    def ports(self) -> Ports:
        """The ports of this protocol."""
        raise NotImplementedError

    def bind(self, task: "Task", address: bytes) -> None:
        """See Socket. EINVAL when bound, EADDRNOTAVAIL for addresses that are not of this host, EADDRINUSE, EACCES."""
        endpoint = parse_inet(self.family, address)
        if self.family == AF_INET6 and endpoint.is_v4 and (self.v6only or len(address) < 24):
            raise SyscallError(errno.EINVAL if self.v6only else errno.EAFNOSUPPORT)
        if not (endpoint.is_any or endpoint.is_local or (endpoint.is_multicast and self.type == 2)):
            raise SyscallError(errno.EADDRNOTAVAIL)
        if 0 < endpoint.port < _FIRST_FREE_PORT and not task.creds.capable(10):
            raise SyscallError(errno.EACCES)
        if self.local.port:
            raise SyscallError(errno.EINVAL)
        self.local = self.ports.bind(self, endpoint)
        self.chosen = endpoint

    def bind_any(self) -> None:
        """Take a free port on every address, if there is none yet. EADDRINUSE."""
        if not self.local.port:
            self.local = self.ports.bind(self, self.local)

    def destination(self, address: bytes) -> Endpoint:
        """Return where an address leads; nowhere-in-particular is this host. ENETUNREACH, EAFNOSUPPORT."""
        endpoint = parse_inet(self.family, address)
        if self.family == AF_INET6 and endpoint.is_v4 and self.v6only:
            raise SyscallError(errno.ENETUNREACH)
        if endpoint.ip == ANY4:
            endpoint = Endpoint(LOOPBACK4, endpoint.port)
        elif endpoint.ip == ANY6:
            endpoint = Endpoint(LOOPBACK6, endpoint.port)
        if not endpoint.is_local:
            if endpoint.ip == b"\xff" * 4 and not self.options.number(opt.SOL_SOCKET, opt.SO_BROADCAST):
                raise SyscallError(errno.EACCES)
            raise SyscallError(errno.ENETUNREACH)
        if self.local.ip not in (ANY4, ANY6) and self.local.is_v4 != endpoint.is_v4:
            raise SyscallError(errno.ENETUNREACH)
        return endpoint

    def source_for(self, remote: Endpoint) -> Endpoint:
        """Return the local end of traffic to ``remote``."""
        if not self.local.is_any:
            return self.local
        return Endpoint(LOOPBACK4 if remote.is_v4 else LOOPBACK6, self.local.port)

    def name(self) -> bytes:
        """See Socket."""
        return pack_inet(self.family, self.local)

    def peer_name(self) -> bytes:
        """See Socket."""
        if self.remote is None or not self.remote.port:
            raise SyscallError(errno.ENOTCONN)
        return pack_inet(self.family, self.remote)

    def forget_peer(self) -> None:
        """Have no peer any more; of the own address stays what the program asked for."""
        self.remote = None
        if self.chosen.port:
            self.local = Endpoint(self.chosen.ip, self.local.port)
        else:
            self.give_port_back()
            self.local = self.chosen

    def give_port_back(self) -> None:
        """Be bound no more."""
        if self.local.port:
            self.ports.release(self, self.local.port)
        self.local = NOWHERE4 if self.family == AF_INET else NOWHERE6

    def get_option(self, level: int, name: int) -> bytes:
        """See Socket."""
        if level == opt.SOL_IPV6 and self.family == AF_INET6 and name == opt.IPV6_V6ONLY:
            return struct.pack("<i", self.v6only)
        self._check_protocol(level)
        if level == opt.SOL_IP and name == opt.IP_MTU:
            if self.remote is None:
                raise SyscallError(errno.ENOTCONN)
            return struct.pack("<i", _MTU)
        return super().get_option(level, name)

    def set_option(self, task: "Task", level: int, name: int, data: bytes) -> None:
        """See Socket."""
        self._check_protocol(level)
        if level in (opt.SOL_IP, opt.SOL_IPV6) and name in (35, 36, 39, 41, 42, 45, 20, 21) and level_name(level, name):
            # Groups: there is no interface that could carry them.
            raise SyscallError(errno.ENODEV)
        super().set_option(task, level, name, data)
        if level == opt.SOL_IPV6 and name == opt.IPV6_V6ONLY:
            if self.local.port:
                raise SyscallError(errno.EINVAL)
            self.v6only = bool(struct.unpack_from("<i", data)[0])

    def _check_protocol(self, level: int) -> None:
        if level in (opt.SOL_TCP, opt.SOL_UDP, opt.SOL_UDPLITE) and level != self.protocol:
            raise SyscallError(errno.EOPNOTSUPP if self.family == AF_INET else errno.ENOPROTOOPT)

    def release(self) -> None:
        """See OpenFile."""
        self.give_port_back()
        super().release()


def level_name(level: int, name: int) -> bool:
    """Tell whether an option joins or leaves a multicast group."""
    return name in ((35, 36, 39, 42, 45) if level == opt.SOL_IP else (20, 21, 42, 45))
