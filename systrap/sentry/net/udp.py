"""UDP over the loopback inside the sentry."""

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import QuietPipeError, SyscallError, WouldBlockError
from systrap.sentry.net import options as opt
from systrap.sentry.net.addresses import AF_INET, AF_UNSPEC, Endpoint, family_of, pack_inet
from systrap.sentry.net.inet import InetSocket
from systrap.sentry.net.socket import (
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    PLAIN,
    POLLWRBAND,
    SHUT_BOTH,
    SHUT_RECEIVE,
    SHUT_SEND,
    SOCK_DGRAM,
    Outgoing,
    Received,
)
from systrap.sentry.net.stack import Ports, overlap, stack_of
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRNORM

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_MAX_DATAGRAM: Final = 65507
_OVERHEAD: Final = 768
_IPPROTO_UDP: Final = 17

Datagram = tuple[bytes, Endpoint, Endpoint]
"""Data, where from, where to."""


class UdpSocket(InetSocket):
    """A UDP socket. With a ``remote`` it hears that one only."""

    __slots__ = ("incoming", "used")

    def __init__(self, kernel: "Kernel", family: int) -> None:
        super().__init__(kernel, family, SOCK_DGRAM, _IPPROTO_UDP)
        self.incoming: deque[Datagram] = deque()
        self.used = 0

    @property
    def ports(self) -> Ports:
        """See InetSocket."""
        return stack_of(self.kernel).udp

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
            receiver.deliver((bytes(data), source, target))
        elif self.remote is not None:
            # ICMP port unreachable: told at the next call.
            self.error = errno.ECONNREFUSED
            self.queue.notify(POLLERR | POLLIN | POLLOUT)
        return len(data)

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
        cost = len(datagram[0]) + _OVERHEAD
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
        data, source, target = self.incoming[0]
        if not flags & MSG_PEEK:
            self.incoming.popleft()
            self.used -= len(data) + _OVERHEAD
        return Received(data[:count], len(data), pack_inet(self.family, source), control=self._control(target))

    def _control(self, target: Endpoint) -> tuple[tuple[int, int, bytes], ...]:
        """Return the ancillary data the receiver asked for: where the datagram went."""
        found: list[tuple[int, int, bytes]] = []
        options = self.options
        if options.number(opt.SOL_IP, opt.IP_PKTINFO) and target.is_v4:
            found.append((opt.SOL_IP, opt.IP_PKTINFO, struct.pack("<i", 1) + target.ip[12:] * 2))
        if self.family != AF_INET and options.number(opt.SOL_IPV6, opt.IPV6_RECVPKTINFO):
            found.append((opt.SOL_IPV6, 50, target.ip + struct.pack("<i", 1)))
        if options.number(opt.SOL_IP, 12):
            found.append((opt.SOL_IP, opt.IP_TTL, struct.pack("<i", 64)))
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
        return len(self.incoming[0][0]) if self.incoming else 0
