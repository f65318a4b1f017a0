"""TCP over the loopback inside the sentry: connections are pairs of sockets that put bytes into each other's buffers.

There are no segments, but what a program sees of them is there: backlog, half-close, resets, errors that come one call later.
"""

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.net import options as opt
from systrap.sentry.net.addresses import AF_UNSPEC, Endpoint, family_of
from systrap.sentry.net.flags import MSG_OOB, MSG_PEEK, MSG_TRUNC
from systrap.sentry.net.inet import InetSocket
from systrap.sentry.net.socket import PLAIN, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND, SOCK_STREAM, Outgoing, Received
from systrap.sentry.net.stack import Ports, overlap, stack_of
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLRDNORM, POLLWRNORM

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

CLOSED: Final = 0
LISTEN: Final = 1
CONNECTING: Final = 2
CONNECTED: Final = 3

_READABLE: Final = POLLIN | POLLRDNORM
_WRITABLE: Final = POLLOUT | POLLWRNORM
_SOMAXCONN: Final = 4096
_SIGURG: Final = 23
_SEGMENT: Final = 32741
_TCP_STATES: Final = {CLOSED: 7, LISTEN: 10, CONNECTING: 2, CONNECTED: 1}


class TcpSocket(InetSocket):
    """A TCP socket. ``fin``: the peer closed its sending direction; ``peer`` is None when the peer's socket is closed."""

    __slots__ = (
        "_attempted",
        "_backlog",
        "accepted",
        "fin",
        "incoming",
        "mark",
        "peer",
        "size",
        "start",
        "state",
        "urgent",
        "waiting",
    )

    is_stream = True
    slow_connect = errno.EINPROGRESS

    def __init__(self, kernel: "Kernel", family: int) -> None:
        super().__init__(kernel, family, SOCK_STREAM, 6)
        self.options = opt.Options(tcp=True)
        self.state = CLOSED
        self.fin = False
        self.incoming: deque[bytes] = deque()
        self.size = 0
        # How much of the first piece was read already.
        self.start = 0
        # Urgent data: the byte, and how many bytes are before it; -1: none.
        self.urgent = b""
        self.mark = -1
        self.peer: TcpSocket | None = None
        self.accepted: deque[TcpSocket] = deque()
        # Connections that found the backlog full.
        self.waiting: dict[TcpSocket, None] = {}
        self._backlog = 0
        self._attempted = False

    @property
    def ports(self) -> Ports:
        """See InetSocket."""
        return stack_of(self.kernel).tcp

    @property
    def listening(self) -> bool:
        """See Socket."""
        return self.state == LISTEN

    @property
    def capacity(self) -> int:
        """How many bytes may be under way to this socket: its receive buffer and its peer's send buffer."""
        sending = self.peer.options.send_buffer if self.peer is not None else 0
        return self.options.receive_buffer + sending

    # Connections.

    def listen(self, task: "Task", backlog: int) -> None:
        """See Socket."""
        if self.state not in (CLOSED, LISTEN) or self.remote is not None:
            raise SyscallError(errno.EINVAL)
        self.bind_any()
        if self.state == CLOSED:
            clash = [o for o in self.ports.bound.get(self.local.port, ()) if o is not self and o.listening]
            if any(self._clashes(other) for other in clash):
                raise SyscallError(errno.EADDRINUSE)
        self.state = LISTEN
        self.shut = 0
        self._backlog = min(backlog if backlog >= 0 else _SOMAXCONN, _SOMAXCONN)

    def _clashes(self, other: InetSocket) -> bool:
        both = self.options.reuse_port and other.options.reuse_port
        return not both and overlap(self.local.ip, self.v6only, other.local.ip, other.v6only)

    def connect(self, task: "Task", address: bytes) -> None:
        """See Socket: never done at once (WouldBlockError), though the queue may have been notified already."""
        if family_of(address) == AF_UNSPEC:
            self._disconnect()
            return
        if self.state == CONNECTING:
            raise SyscallError(errno.EALREADY) if self.nonblocking else WouldBlockError
        if self.state == CONNECTED and self._attempted:
            self._attempted = False
            return
        if self.state in (CONNECTED, LISTEN):
            raise SyscallError(errno.EISCONN)
        if self._attempted:
            # The last attempt failed; this call tells why, the next one tries again.
            self._attempted = False
            self.shut = 0
            raise SyscallError(self.take_error() or errno.ECONNABORTED)
        remote = self.destination(address)
        self.bind_any()
        self.local = self.source_for(remote)
        self.remote = remote
        self._attempted = True
        self.shut = 0
        self.fin = False
        self.error = 0
        listener = self._listener(remote) if remote.port else None
        if listener is None:
            self.refuse()
        elif len(listener.accepted) > listener._backlog:
            self.state = CONNECTING
            listener.waiting[self] = None
        else:
            listener.take_in(self)
        raise WouldBlockError

    def connected(self, task: "Task", address: bytes) -> None:
        """See Socket."""
        if self.state == CONNECTING:
            raise WouldBlockError
        self._attempted = False
        if self.state != CONNECTED:
            self.shut = 0
            raise SyscallError(self.take_error() or errno.ECONNABORTED)

    def refuse(self) -> None:
        """Fail the connection under way with ECONNREFUSED."""
        self.state = CLOSED
        self.remote = None
        self.error = errno.ECONNREFUSED
        self.shut = SHUT_BOTH
        self.queue.notify()

    def _disconnect(self) -> None:
        if self.state == LISTEN:
            self._stop_listening()
        self._leave_peer(reset=True)
        self.state = CLOSED
        self.forget_peer()
        self.error = self.shut = 0
        self.fin = self._attempted = False

    def _listener(self, remote: Endpoint) -> "TcpSocket | None":
        """Return who accepts connections to an address: bound to just that before everything else."""
        found: list[tuple[int, TcpSocket]] = []
        for other in self.ports.bound.get(remote.port, ()):
            if not isinstance(other, TcpSocket) or not other.listening:
                continue
            if overlap(remote.ip, False, other.local.ip, other.v6only):
                rank = (2 if other.local.ip == remote.ip else 0) + (other.local.is_v4 == remote.is_v4)
                found.append((rank, other))
        if not found:
            return None
        best = max(rank for rank, _ in found)
        equals = [other for rank, other in found if rank == best]
        return min(equals, key=lambda other: len(other.accepted))

    def take_in(self, client: "TcpSocket") -> None:
        """Make the other end of a connection to this listener, and queue it for accept."""
        if client.remote is None:
            return
        own = TcpSocket(self.kernel, self.family)
        own.options.inherit(self.options)
        own.v6only = self.v6only
        own.local = client.remote
        own.remote = client.local
        self.ports.share(own, own.local.port)
        own.state = client.state = CONNECTED
        own.peer, client.peer = client, own
        for end in (own, client):
            # Linux sizes the buffers of a connection by what it carries.
            if not end.options.send_buffer_set:
                end.options.send_buffer = opt.CONNECTED_TCP_SEND
        self.accepted.append(own)
        self.queue.notify(_READABLE)
        client.queue.notify(_WRITABLE)

    def accept(self) -> "TcpSocket":
        """See Socket."""
        if self.state != LISTEN:
            raise SyscallError(errno.EINVAL)
        if not self.accepted:
            raise WouldBlockError
        found = self.accepted.popleft()
        if self.waiting:
            client = next(iter(self.waiting))
            del self.waiting[client]
            self.take_in(client)
        return found

    def peer_name(self) -> bytes:
        """See Socket."""
        if self.state != CONNECTED or self._over():
            raise SyscallError(errno.ENOTCONN)
        return super().peer_name()

    def _over(self) -> bool:
        """Tell whether both ends have closed their directions: the connection is history."""
        return self.fin and bool(self.shut & SHUT_SEND)

    # Data.

    def send(self, data: "bytes | memoryview[int]", message: Outgoing = PLAIN) -> int:
        """See Socket."""
        if self.state == CONNECTING:
            raise WouldBlockError
        self.raise_error()
        if self.shut & SHUT_SEND or self.state != CONNECTED:
            raise SyscallError(errno.EPIPE)
        peer = self.peer
        length = len(data)
        if not length:
            return 0
        if peer is None:
            # The other side closed: it takes the first data with a reset, which shows at the next call.
            # No more of it is taken than there is room for on the way.
            self.reset()
            return min(length, self.options.send_buffer)
        room = peer.capacity - peer.size
        if room <= 0:
            raise WouldBlockError
        piece = bytes(data[:room]) if length > room else bytes(data)
        if message.flags & MSG_OOB and len(piece) == length:
            peer.take_urgent(piece)
        else:
            peer.incoming.append(piece)
            peer.size += len(piece)
        peer.queue.notify(_READABLE)
        return len(piece)

    def take_urgent(self, data: bytes) -> None:
        """Take data in whose last byte is urgent: it is kept aside, or marked in the stream (SO_OOBINLINE)."""
        inline = bool(self.options.number(opt.SOL_SOCKET, opt.SO_OOBINLINE))
        ordinary = data if inline else data[:-1]
        self.urgent = b"" if inline else data[-1:]
        if ordinary:
            self.incoming.append(ordinary)
            self.size += len(ordinary)
        self.mark = self.size - inline
        self.queue.notify(POLLPRI)
        kind, pid, _ = self.owner
        group = self.kernel.groups.get(pid)
        if pid and kind == 2:
            self.kernel.signals.send_pgrp(pid, _SIGURG)
        elif pid and group is not None:
            self.kernel.signals.send_group(group, _SIGURG)

    def _receive_urgent(self, flags: int) -> Received:
        if self.mark < 0 or self.options.number(opt.SOL_SOCKET, opt.SO_OOBINLINE):
            raise SyscallError(errno.EINVAL)
        data = self.urgent
        if not data:
            raise SyscallError(errno.EINVAL)
        if not flags & MSG_PEEK:
            self.urgent = b""
        return Received(data, 1, flags=MSG_OOB)

    def at_mark(self) -> bool:
        """See Socket."""
        return self.mark == 0

    def reset(self) -> None:
        """Take a reset from the other side."""
        self.error = errno.EPIPE if self.fin else errno.ECONNRESET
        self.state = CLOSED
        self.peer = None
        self.shut = SHUT_BOTH
        self.queue.notify(_READABLE | _WRITABLE | POLLHUP | POLLERR | POLLRDHUP)

    def receive(self, count: int, flags: int) -> Received:
        """See Socket."""
        if flags & MSG_OOB:
            return self._receive_urgent(flags)
        if self.state == LISTEN:
            raise SyscallError(errno.ENOTCONN)
        if self.size:
            if 0 < self.mark < count:
                # Nothing is read across the mark at once.
                count = self.mark
            data = self._peek(count) if flags & MSG_PEEK else self._take(count)
            # MSG_TRUNC throws the data away, and tells how much it was.
            return Received(b"" if flags & MSG_TRUNC else data, len(data))
        if self.fin:
            return Received(b"", 0)
        self.raise_error()
        if self.shut & SHUT_RECEIVE or (not count and self.state == CONNECTED):
            return Received(b"", 0)
        if self.state == CLOSED:
            raise SyscallError(errno.ENOTCONN)
        raise WouldBlockError

    def _take(self, count: int) -> bytes:
        """Take up to ``count`` bytes out of the buffer."""
        before = self.capacity - self.size
        pieces: list[bytes] = []
        left = count
        while left and self.incoming:
            first = self.incoming[0]
            rest = len(first) - self.start
            if rest <= left:
                pieces.append(first[self.start :] if self.start else first)
                self.incoming.popleft()
                self.start = 0
                left -= rest
            else:
                pieces.append(first[self.start : self.start + left])
                self.start += left
                left = 0
        self.size -= count - left
        self.mark = self.mark - (count - left) if self.mark > 0 else -1
        peer = self.peer
        if peer is not None:
            # The sender hears of room once there is a third of it, as poll tells.
            threshold = self.capacity // 3
            if before < threshold <= self.capacity - self.size:
                peer.queue.notify(_WRITABLE)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _peek(self, count: int) -> bytes:
        pieces: list[bytes] = []
        start = self.start
        for piece in self.incoming:
            pieces.append(piece[start : start + count])
            count -= len(pieces[-1])
            start = 0
            if not count:
                break
        return b"".join(pieces)

    def pending_bytes(self) -> int:
        """See Socket."""
        return self.size

    def unsent_bytes(self) -> int:
        """See Socket: everything is delivered at once."""
        return 0

    # State.

    def poll(self) -> int:
        """See OpenFile: as Linux's tcp_poll."""
        if self.state == LISTEN:
            return _READABLE if self.accepted else 0
        events = POLLERR if self.error else 0
        if self.state == CLOSED or (self.shut | (SHUT_RECEIVE if self.fin else 0)) == SHUT_BOTH:
            events |= POLLHUP
        if self.fin or self.shut & SHUT_RECEIVE:
            events |= _READABLE | POLLRDHUP
        if self.state == CONNECTING:
            return events
        if self.size:
            events |= _READABLE
        if self.urgent or (self.mark >= 0 and self.options.number(opt.SOL_SOCKET, opt.SO_OOBINLINE)):
            events |= POLLPRI
        if self.shut & SHUT_SEND or self._has_room():
            events |= _WRITABLE
        return events

    def _has_room(self) -> bool:
        peer = self.peer
        return peer is None or (peer.capacity - peer.size) * 3 >= peer.capacity

    def shutdown(self, how: int) -> None:
        """See Socket: closing the sending direction is the peer's end of file."""
        if self.state == LISTEN:
            if how & SHUT_RECEIVE:
                self._stop_listening()
                self.state = CLOSED
                self.queue.notify()
            return
        before = self.shut
        if self.state != CONNECTED or self._over():
            self.shut |= how
            raise SyscallError(errno.ENOTCONN)
        self.shut |= how
        if how & SHUT_SEND and not before & SHUT_SEND and self.peer is not None:
            self.peer.end_of_stream()
        self.queue.notify()

    def end_of_stream(self) -> None:
        """Note that the peer sends nothing any more."""
        self.fin = True
        self.queue.notify(_READABLE | POLLRDHUP | (POLLHUP if self.shut & SHUT_SEND else 0))

    def _leave_peer(self, reset: bool) -> None:
        peer, self.peer = self.peer, None
        if peer is None:
            return
        if reset:
            peer.reset()
            return
        peer.peer = None
        if not peer.fin:
            peer.end_of_stream()
        # Whoever waits for room is not held up by a buffer that nobody empties.
        peer.queue.notify(_WRITABLE)

    def _stop_listening(self) -> None:
        accepted, self.accepted = self.accepted, deque()
        for child in accepted:
            child._leave_peer(reset=True)
            child.release()
        waiting, self.waiting = self.waiting, {}
        for client in waiting:
            client.refuse()

    def get_option(self, level: int, name: int) -> bytes:
        """See Socket."""
        if level == opt.SOL_TCP:
            if name == opt.TCP_INFO:
                return (
                    bytes([self.tcp_state()])
                    + bytes(7)
                    + struct.pack("<8I", 200000, 40000, 32741, 536, 0, 0, 0, 0)
                    + bytes(192)
                )
            if name == opt.TCP_MAXSEG and self.state == CONNECTED:
                return struct.pack("<i", _SEGMENT)
            if name == opt.TCP_CONGESTION:
                return b"cubic".ljust(16, b"\0")
        return super().get_option(level, name)

    def set_option(self, task: "Task", level: int, name: int, data: bytes) -> None:
        """See Socket."""
        if level == opt.SOL_TCP and name == opt.TCP_CONGESTION:
            if data.split(b"\0", 1)[0] not in (b"cubic", b"reno"):
                raise SyscallError(errno.ENOENT)
            return
        super().set_option(task, level, name, data)

    def tcp_state(self) -> int:
        """Return the state as Linux numbers it (/proc/net/tcp, TCP_INFO)."""
        if self.state == CONNECTED:
            sent = bool(self.shut & SHUT_SEND)
            if self.fin:
                return 7 if sent else 8
            return 5 if sent else 1
        return _TCP_STATES[self.state]

    def release(self) -> None:
        """See OpenFile: unread data, or a linger time of 0, make it a reset."""
        if self.state == LISTEN:
            self._stop_listening()
        elif self.state == CONNECTING:
            for other in self.ports.bound.get(self.remote.port if self.remote else 0, ()):
                if isinstance(other, TcpSocket):
                    other.waiting.pop(self, None)
        abort = self.options.linger == (1, 0) or bool(self.size)
        self._leave_peer(reset=abort)
        self.incoming.clear()
        self.size = 0
        self.state = CLOSED
        super().release()
