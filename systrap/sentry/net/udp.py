"""UDP over the loopback inside the sentry."""

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.sentry.errors import QuietPipeError, SyscallError, WouldBlockError
from systrap.sentry.net import options as opt
from systrap.sentry.net.addresses import AF_INET6, AF_UNSPEC, Endpoint, family_of, pack_inet
from systrap.sentry.net.flags import MSG_DONTWAIT, MSG_OOB, MSG_PEEK
from systrap.sentry.net.inet import InetSocket
from systrap.sentry.net.socket import (
    PLAIN,
    SHUT_BOTH,
    SHUT_RECEIVE,
    SHUT_SEND,
    SOCK_DGRAM,
    Outgoing,
    Received,
)
from systrap.sentry.net.stack import Ports, overlap, stack_of
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_MAX_DATAGRAM: Final = 65507
_OVERHEAD: Final = 768
IPPROTO_UDP: Final = 17


class Datagram(NamedTuple):
    """What is sent: data, where from and to, hop limit (time to live) and traffic class (type of service)."""

    data: bytes
    source: Endpoint
    target: Endpoint
    hops: int
    traffic_class: int


class UdpSocket(InetSocket):
    """A UDP socket. With a ``remote`` it hears that one only."""

    __slots__ = ("incoming", "used")

    def __init__(self, kernel: "Kernel", family: int, protocol: int = IPPROTO_UDP) -> None:
        super().__init__(kernel, family, SOCK_DGRAM, protocol)
        self.incoming: deque[Datagram] = deque()
        self.used = 0

    @property
    def ports(self) -> Ports:
        """See InetSocket."""
        stack = stack_of(self.kernel)
        return stack.udp if self.protocol == IPPROTO_UDP else stack.udplite

    def connect(self, task: "Task", address: bytes) -> None:
        """See Socket: choose a peer; AF_UNSPEC forgets it."""
        if family_of(address) == AF_UNSPEC:
            self.forget_peer()
            return
        remote = self.destination(address)
        self.bind_any()
        self.local = self.source_for(remote)
        self.remote = remote

    def send(self, data: "bytes | memoryview[int]", message: Outgoing = PLAIN) -> int:
        """See Socket. EDESTADDRREQ without a destination, ECONNREFUSED when an earlier datagram found nobody."""
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        self.bind_any()
        if len(data) > _MAX_DATAGRAM:
            raise SyscallError(errno.EMSGSIZE)
        if message.address and not (self.remote is not None and family_of(message.address) == AF_UNSPEC):
            target = self.destination(message.address)
            if not target.port:
                raise SyscallError(errno.EINVAL)
        elif self.remote is not None:
            target = self.remote
        else:
            raise SyscallError(errno.EDESTADDRREQ)
        self.raise_error()
        if self.shut & SHUT_SEND:
            raise QuietPipeError
        source = self.source_for(target)
        receiver = self._receiver(target, source)
        if receiver is not None:
            hops, traffic_class = self._header(target, message)
            receiver.deliver(Datagram(bytes(data), source, target, hops, traffic_class))
        elif self.remote is not None:
            # ICMP port unreachable: told at the next call.
            self.error = errno.ECONNREFUSED
            self.queue.notify(POLLERR | POLLIN | POLLOUT)
        return len(data)

    def _header(self, target: Endpoint, message: Outgoing) -> tuple[int, int]:
        """Return hop limit and traffic class: those sent along as ancillary data, else the socket's."""
        options = self.options
        if target.is_v4:
            level, names = opt.SOL_IP, (opt.IP_TTL, opt.IP_TOS)
            values = [options.number(level, name) for name in names]
        else:
            level, names = opt.SOL_IPV6, (opt.IPV6_HOPLIMIT, opt.IPV6_TCLASS)
            values = [options.number(level, opt.IPV6_UNICAST_HOPS), options.number(level, opt.IPV6_TCLASS)]
        for found_level, kind, body in message.control:
            if found_level == level and kind in names and len(body) >= 4:
                (value,) = struct.unpack_from("<i", body)
                if not -1 <= value <= 255:
                    raise SyscallError(errno.EINVAL)
                values[names.index(kind)] = value
        return (values[0] if values[0] >= 0 else 64, max(values[1], 0))

    def _receiver(self, target: Endpoint, source: Endpoint) -> "UdpSocket | None":
        """Return who hears a datagram: connected to its sender before others, then bound to just that address."""
        best: UdpSocket | None = None
        best_rank = -1
        for other in self.ports.bound.get(target.port, ()):
            if not isinstance(other, UdpSocket) or not overlap(target.ip, False, other.local.ip, other.v6only):
                continue
            if other.remote is not None and other.remote != source:
                continue
            rank = (4 if other.remote is not None else 0) + (2 if other.local.ip == target.ip else 0)
            rank += other.local.is_v4 == target.is_v4
            # Of equals the last one bound hears it.
            if rank >= best_rank:
                best, best_rank = other, rank
        return best

    def deliver(self, datagram: Datagram) -> None:
        """Take a datagram in; it is lost where the buffer is full."""
        if self.shut & SHUT_RECEIVE:
            return
        cost = len(datagram.data) + _OVERHEAD
        if self.used + cost > self.options.receive_buffer and self.incoming:
            return
        self.used += cost
        self.incoming.append(datagram)
        self.queue.notify(POLLIN | POLLRDNORM)

    def receive(self, count: int, flags: int) -> Received:
        """See Socket."""
        self.raise_error()
        if not self.incoming:
            if self.shut & SHUT_RECEIVE and not (self.nonblocking or flags & MSG_DONTWAIT):
                return Received(b"", 0)
            raise WouldBlockError
        first = self.incoming[0]
        data = first.data
        if not flags & MSG_PEEK:
            self.incoming.popleft()
            self.used -= len(data) + _OVERHEAD
        return Received(data[:count], len(data), pack_inet(self.family, first.source), control=self._control(first))

    def _control(self, datagram: Datagram) -> tuple[tuple[int, int, bytes], ...]:
        """Return the ancillary data the receiver asked for, in Linux's order."""
        found: list[tuple[int, int, bytes]] = []
        options, target = self.options, datagram.target
        hops = struct.pack("<i", datagram.hops)
        if target.is_v4:
            if options.number(opt.SOL_IP, opt.IP_PKTINFO):
                found.append((opt.SOL_IP, opt.IP_PKTINFO, struct.pack("<i", 1) + target.ip[12:] * 2))
            if options.number(opt.SOL_IP, opt.IP_RECVTTL):
                found.append((opt.SOL_IP, opt.IP_TTL, hops))
            if options.number(opt.SOL_IP, opt.IP_RECVTOS):
                found.append((opt.SOL_IP, opt.IP_TOS, bytes([datagram.traffic_class])))
        if self.family == AF_INET6:
            if options.number(opt.SOL_IPV6, opt.IPV6_RECVPKTINFO):
                found.append((opt.SOL_IPV6, opt.IPV6_PKTINFO, target.ip + struct.pack("<i", 1)))
            if options.number(opt.SOL_IPV6, opt.IPV6_RECVHOPLIMIT):
                found.append((opt.SOL_IPV6, opt.IPV6_HOPLIMIT, hops))
            if options.number(opt.SOL_IPV6, opt.IPV6_RECVTCLASS):
                found.append((opt.SOL_IPV6, opt.IPV6_TCLASS, struct.pack("<i", datagram.traffic_class)))
        if options.number(opt.SOL_SOCKET, opt.SO_TIMESTAMP):
            import time

            now = time.time_ns() // 1000
            found.append((opt.SOL_SOCKET, opt.SO_TIMESTAMP, struct.pack("<2q", now // 1_000_000, now % 1_000_000)))
        return tuple(found)

    def poll(self) -> int:
        """See OpenFile: as Linux's datagram_poll."""
        events = POLLOUT | POLLWRNORM | POLLWRBAND | (POLLERR if self.error else 0)
        if self.incoming:
            events |= POLLIN | POLLRDNORM
        if self.shut & SHUT_RECEIVE:
            events |= POLLIN | POLLRDNORM | POLLRDHUP
        if self.shut == SHUT_BOTH:
            events |= POLLHUP
        return events

    def shutdown(self, how: int) -> None:
        """See Socket. Without a peer it is ENOTCONN, and done all the same."""
        self.shut |= how
        self.queue.notify()
        if self.remote is None:
            raise SyscallError(errno.ENOTCONN)

    def pending_bytes(self) -> int:
        """See Socket: the length of the first datagram."""
        return len(self.incoming[0].data) if self.incoming else 0
