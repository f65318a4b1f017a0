"""AF_UNIX sockets with connections: SOCK_STREAM and SOCK_SEQPACKET."""

import errno
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import QuietPipeError, SyscallError, WouldBlockError
from systrap.sentry.file import OpenFile
from systrap.sentry.net.addresses import pack_unix
from systrap.sentry.net.flags import MSG_OOB, MSG_PEEK
from systrap.sentry.net.socket import (
    PLAIN,
    SHUT_BOTH,
    SHUT_RECEIVE,
    SHUT_SEND,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    Outgoing,
    Received,
    credentials_of,
)
from systrap.sentry.net.unix import MAX_PIECE, WRITABLE, Packet, UnixSocket, opposite
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLRDHUP, POLLRDNORM, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.net.socket import UCred
    from systrap.sentry.task import Task

_SOMAXCONN: Final = 4096


class UnixConnection(UnixSocket):
    """A stream or seqpacket socket: fresh, listening, or connected to ``peer`` (None when it is gone)."""

    __slots__ = ("_backlog", "_room", "_was_connected", "accepted", "peer", "peer_bound")

    def __init__(self, kernel: "Kernel", kind: int) -> None:
        super().__init__(kernel, kind)
        self.peer: UnixConnection | None = None
        self.peer_bound = b""
        self.accepted: deque[UnixConnection] | None = None
        self._backlog = 0
        self._was_connected = False
        # Who waits for room in the backlog; and where this socket waits for that itself.
        self._room = WaitQueue()

    @property
    def is_stream(self) -> bool:  # type: ignore[override] # both kinds share this class
        """See Socket."""
        return self.type == SOCK_STREAM

    @property
    def listening(self) -> bool:
        """See Socket."""
        return self.accepted is not None

    def pair(self, other: "UnixConnection", creds: "UCred", other_creds: "UCred") -> None:
        """Connect two ends; ``creds`` are this end's owner's."""
        self.peer, other.peer = other, self
        self._was_connected = other._was_connected = True
        self.peer_creds, other.peer_creds = other_creds, creds

    # Connections.

    def listen(self, task: "Task", backlog: int) -> None:
        """See Socket. EINVAL without a name or with a connection."""
        if not self.bound or self._was_connected:
            raise SyscallError(errno.EINVAL)
        self._backlog = min(backlog if backlog >= 0 else _SOMAXCONN, _SOMAXCONN)
        self.creds = credentials_of(task)
        self.peer_creds = self.creds
        if self.accepted is None:
            self.accepted = deque()

    def connect(self, task: "Task", address: bytes) -> None:
        """See Socket: done at once, or not while the listener's backlog is full."""
        if self.accepted is not None:
            raise SyscallError(errno.EINVAL)
        if self._was_connected:
            raise SyscallError(errno.EISCONN)
        listener = self.find(task, address)
        if not isinstance(listener, UnixConnection) or listener.accepted is None or listener.shut & SHUT_RECEIVE:
            raise SyscallError(errno.ECONNREFUSED)
        if len(listener.accepted) > listener._backlog:
            self.connect_queue = listener._room
            raise WouldBlockError
        own = type(self)(self.kernel, self.type)
        own.options.pass_credentials = listener.options.pass_credentials
        own.bound = listener.bound
        # The name belongs to the listener: the end of this socket must not free it.
        own.path_key = (-1, -1)
        self.pair(own, credentials_of(task), listener.creds)
        self.peer_bound, own.peer_bound = listener.bound, self.bound
        listener.accepted.append(own)
        listener.queue.notify(POLLIN | POLLRDNORM)
        self.queue.notify(WRITABLE)

    def accept(self) -> "UnixConnection":
        """See Socket."""
        if self.accepted is None:
            raise SyscallError(errno.EINVAL)
        if not self.accepted:
            if self.shut & SHUT_RECEIVE:
                raise SyscallError(errno.EINVAL)
            raise WouldBlockError
        found = self.accepted.popleft()
        self._room.notify()
        return found

    def peer_name(self) -> bytes:
        """See Socket."""
        if not self._was_connected:
            raise SyscallError(errno.ENOTCONN)
        return pack_unix(self.peer.bound if self.peer is not None else self.peer_bound)

    # Data.

    def send(self, data: "bytes | memoryview[int]", message: Outgoing = PLAIN) -> int:
        """See Socket."""
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if message.address and self.type == SOCK_STREAM:
            raise SyscallError(errno.EISCONN if self._was_connected else errno.EOPNOTSUPP)
        if not self._was_connected:
            raise SyscallError(errno.ENOTCONN)
        self.raise_error()
        peer = self.peer
        if self.shut & SHUT_SEND or peer is None or peer.shut & SHUT_RECEIVE:
            raise SyscallError(errno.EPIPE) if self.type == SOCK_STREAM else QuietPipeError
        if self.type == SOCK_SEQPACKET:
            self.check_size(data)
            return self.send_packet(peer, data, message)
        limit = self.options.send_buffer
        most = min(max(limit // 2 - 64, 1), MAX_PIECE)
        done, files = 0, message.files
        length = len(data)
        if not length:
            return 0
        creds = self.sender_creds(message.creds)
        was_empty = not peer.incoming
        while done < length and self.used < limit:
            piece = bytes(data[done : done + most]) if length > most else bytes(data)
            for file in files:
                file.refs += 1
            packet = Packet(self, piece, files, creds)
            files = ()
            peer.incoming.append(packet)
            self.used += packet.cost
            done += len(piece)
        if not done:
            raise WouldBlockError
        if was_empty or peer.queue.waiters:
            peer.queue.notify(POLLIN | POLLRDNORM)
        return done

    def receive(self, count: int, flags: int) -> Received:
        """See Socket."""
        if flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP if self.type != SOCK_STREAM else errno.EINVAL)
        if not self._was_connected:
            raise SyscallError(errno.EINVAL if self.type == SOCK_STREAM else errno.ENOTCONN)
        if self.incoming:
            return self._receive_stream(count, flags) if self.type == SOCK_STREAM else self.receive_packet(count, flags)
        self.raise_error()
        if self.shut & SHUT_RECEIVE or not count:
            return Received(b"", 0)
        raise WouldBlockError

    def _receive_stream(self, count: int, flags: int) -> Received:
        """Take bytes; not across a change of credentials if the receiver asks for them, nor beyond descriptors."""
        pieces: list[bytes] = []
        files: tuple[OpenFile, ...] = ()
        peek, done, creds = bool(flags & MSG_PEEK), 0, self.incoming[0].creds
        index = 0
        while done < count and index < len(self.incoming):
            packet = self.incoming[index]
            if pieces and (packet.files or (self.options.pass_credentials and packet.creds != creds)):
                break
            left = count - done
            piece = (
                packet.data[packet.start : packet.start + left]
                if packet.start or left < len(packet.data)
                else packet.data
            )
            pieces.append(piece)
            done += len(piece)
            if packet.files:
                files = packet.take_files(peek)
            if peek:
                index += 1
            else:
                packet.start += len(piece)
                if packet.start == len(packet.data):
                    self.incoming.popleft()
                    self.consumed(packet)
            if files:
                break
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return Received(data, len(data), b"", files, creds)

    # State.

    def poll(self) -> int:
        """See OpenFile: as Linux's unix_poll."""
        if self.accepted is not None:
            events = POLLIN | POLLRDNORM if self.accepted else 0
            return events | (POLLHUP if self.shut == SHUT_BOTH else 0) | (POLLRDHUP if self.shut & SHUT_RECEIVE else 0)
        events = self.poll_common()
        if not self._was_connected:
            events |= POLLHUP
        if self.can_send():
            events |= WRITABLE
        return events

    def shutdown(self, how: int) -> None:
        """See Socket: allowed in every state."""
        self.close_directions(how)
        if self.peer is not None:
            self.peer.close_directions(opposite(how))

    def release(self) -> None:
        """See OpenFile: the peer sees the end; lost data and lost connections are ECONNRESET for it."""
        peer, unread = self.peer, bool(self.incoming)
        self.peer = None
        if self.accepted is not None:
            waiting, self.accepted = self.accepted, deque()
            for child in waiting:
                if child.peer is not None:
                    child.peer.error = errno.ECONNRESET
                child.release()
            self._room.notify()
        super().release()
        if peer is not None:
            peer.peer = None
            peer.peer_bound = self.bound
            if unread:
                peer.error = errno.ECONNRESET
            peer.shut = SHUT_BOTH
            peer.queue.notify(POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP | WRITABLE | (POLLERR if peer.error else 0))
