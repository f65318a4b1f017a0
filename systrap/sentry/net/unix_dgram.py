"""AF_UNIX datagram sockets."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import QuietPipeError, SyscallError, WouldBlockError
from systrap.sentry.net.addresses import AF_UNSPEC, family_of, pack_unix
from systrap.sentry.net.flags import MSG_DONTWAIT, MSG_OOB
from systrap.sentry.net.socket import PLAIN, SHUT_RECEIVE, SHUT_SEND, SOCK_DGRAM, Outgoing, Received, credentials_of
from systrap.sentry.net.unix import WRITABLE, UnixSocket

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_QUEUE_LENGTH: Final = 512


class UnixDatagram(UnixSocket):
    """A datagram socket; ``peer`` is where messages without an address go, and, if it is set, the only one heard."""

    __slots__ = ("_blocked", "_released", "peer")

    def __init__(self, kernel: "Kernel", kind: int = SOCK_DGRAM) -> None:
        super().__init__(kernel, kind)
        self.peer: UnixDatagram | None = None
        self._released = False
        # Senders that found this socket's queue full.
        self._blocked: dict[UnixDatagram, None] = {}

    def connect(self, task: "Task", address: bytes) -> None:
        """See Socket: choose a peer; AF_UNSPEC forgets it. EPERM where the other one listens to somebody else."""
        if family_of(address) == AF_UNSPEC:
            self.peer = None
            return
        found = self.find(task, address)
        if not isinstance(found, UnixDatagram):
            raise SyscallError(errno.EPROTOTYPE)
        if found.peer is not None and found.peer is not self:
            raise SyscallError(errno.EPERM)
        if self.options.pass_credentials and not self.bound:
            self.autobind()
        self.peer = found
        self.peer_creds = credentials_of(task)

    def peer_name(self) -> bytes:
        """See Socket."""
        if self.peer is None:
            raise SyscallError(errno.ENOTCONN)
        return pack_unix(self.peer.bound)

    def _target(self, address: bytes) -> "UnixDatagram":
        """Return who gets a message. ENOTCONN, ECONNREFUSED, EPERM, EPIPE."""
        if address:
            task = self.kernel.current
            if task is None:
                raise SyscallError(errno.ENOTCONN)
            found = self.find(task, address)
            if not isinstance(found, UnixDatagram):
                raise SyscallError(errno.EPROTOTYPE)
            if found.peer is not None and found.peer is not self:
                raise SyscallError(errno.EPERM)
            target = found
        elif self.peer is None:
            raise SyscallError(errno.ENOTCONN)
        else:
            target = self.peer
            if target._released:
                self.peer = None
                raise SyscallError(errno.ECONNREFUSED)
        if target.shut & SHUT_RECEIVE:
            raise QuietPipeError
        return target

    def send(self, data: "bytes | memoryview[int]", message: Outgoing = PLAIN) -> int:
        """See Socket."""
        if message.flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if self.shut & SHUT_SEND:
            raise QuietPipeError
        self.check_size(data)
        if self.options.pass_credentials and not self.bound:
            self.autobind()
        target = self._target(message.address)
        if target is not self and len(target.incoming) >= _QUEUE_LENGTH:
            target._blocked[self] = None
            raise WouldBlockError
        return self.send_packet(target, data, message)

    def receive(self, count: int, flags: int) -> Received:
        """See Socket."""
        if flags & MSG_OOB:
            raise SyscallError(errno.EOPNOTSUPP)
        if self.incoming:
            found = self.receive_packet(count, flags)
            self._wake_blocked()
            return found
        self.raise_error()
        if self.shut & SHUT_RECEIVE and not (self.nonblocking or flags & MSG_DONTWAIT):
            return Received(b"", 0)
        raise WouldBlockError

    def _wake_blocked(self) -> None:
        """Let senders that found the queue full try again."""
        blocked, self._blocked = self._blocked, {}
        for sender in blocked:
            sender.queue.notify(WRITABLE)

    def poll(self) -> int:
        """See OpenFile."""
        events = self.poll_common()
        full = self.peer is not None and self.peer is not self and len(self.peer.incoming) >= _QUEUE_LENGTH
        if full and self.peer is not None:
            self.peer._blocked[self] = None
        if self.can_send() and not full:
            events |= WRITABLE
        return events

    def shutdown(self, how: int) -> None:
        """See Socket."""
        self.close_directions(how)

    def release(self) -> None:
        """See OpenFile."""
        self._released = True
        super().release()
        self._wake_blocked()
