"""AF_UNIX: what stream, datagram and seqpacket sockets share: names, and the messages between them."""

import errno
import stat as stats
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import OpenFile
from systrap.sentry.net import options as opt
from systrap.sentry.net.addresses import AF_UNIX, pack_unix, parse_unix
from systrap.sentry.net.flags import MSG_PEEK
from systrap.sentry.net.socket import (
    SHUT_BOTH,
    SHUT_RECEIVE,
    SHUT_SEND,
    SOCK_DGRAM,
    Outgoing,
    Received,
    Socket,
    UCred,
    credentials_of,
    discard,
)
from systrap.sentry.net.stack import stack_of
from systrap.sentry.wait import POLLHUP, POLLIN, POLLOUT, POLLRDHUP, POLLRDNORM, POLLWRBAND, POLLWRNORM

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Inode
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

WRITABLE: Final = POLLOUT | POLLWRNORM | POLLWRBAND
"""What holds of a socket with room for more messages."""
_MAY_WRITE: Final = 2
_META: Final = 256
_SHARED: Final = 320
_MAX_HEAD: Final = {True: PAGE_SIZE - _SHARED, False: 4 * PAGE_SIZE - _SHARED}
MAX_PIECE: Final = PAGE_SIZE - _SHARED + 32768
"""The most bytes one piece of a stream has."""
_NOBODY: Final = struct.pack("<3i", 0, -1, -1)


class Packet:
    """A message on its way: its bytes from ``start`` on, descriptors, and who sent it. ``cost`` is charged to the sender."""

    __slots__ = ("address", "cost", "creds", "data", "files", "sender", "start")

    def __init__(self, sender: "UnixSocket", data: bytes, files: tuple[OpenFile, ...], creds: UCred) -> None:
        self.sender = sender
        self.data = data
        self.start = 0
        self.files = files
        self.creds = creds
        self.address = sender.bound
        self.cost = _cost(len(data), sender.is_stream)

    def take_files(self, peek: bool) -> tuple[OpenFile, ...]:
        """Return the descriptors, with references for the receiver; a peek leaves them here, too."""
        files = self.files
        if peek:
            for file in files:
                file.refs += 1
        else:
            self.files = ()
        return files


class UnixSocket(Socket):
    """Base of the AF_UNIX kinds. ``bound`` is the name, b"" without one; ``used`` what sent messages cost until received."""

    __slots__ = ("bound", "creds", "incoming", "path_key", "peer_creds", "used")

    def __init__(self, kernel: "Kernel", kind: int) -> None:
        super().__init__(kernel, AF_UNIX, kind, 0)
        self.bound = b""
        self.incoming: deque[Packet] = deque()
        self.path_key: tuple[int, int] | None = None
        self.peer_creds: UCred | None = None
        self.used = 0
        self.creds = credentials_of(kernel.current)

    # Names.

    def bind(self, task: "Task", address: bytes) -> None:
        """See Socket: makes a socket's inode for a path. EADDRINUSE, EINVAL when there is a name already."""
        name = parse_unix(address)
        if self.bound:
            if not name:
                return
            if name[0]:
                # Linux makes the inode before it looks.
                self._make(task, name)
                task.kernel.vfs.unlink(task, None, name)
            raise SyscallError(errno.EINVAL)
        stack = stack_of(self.kernel)
        if not name:
            self.autobind()
        elif not name[0]:
            if name in stack.abstract:
                raise SyscallError(errno.EADDRINUSE)
            stack.abstract[name] = self
            self.bound = name
        else:
            self.path_key = _key(self._make(task, name))
            stack.paths[self.path_key] = self
            self.bound = name

    @staticmethod
    def _make(task: "Task", name: bytes) -> "Inode":
        """Make a socket's inode. EADDRINUSE."""
        try:
            return task.kernel.vfs.make(task, None, name, stats.S_IFSOCK | 0o777).inode
        except SyscallError as error:
            raise SyscallError(errno.EADDRINUSE if error.errno == errno.EEXIST else error.errno) from None

    def autobind(self) -> None:
        """Take an unused abstract name of five hexadecimal digits."""
        stack = stack_of(self.kernel)
        while True:
            name = b"\0%05x" % (next(stack.autobound) & 0xFFFFF)
            if name not in stack.abstract:
                break
        stack.abstract[name] = self
        self.bound = name

    def find(self, task: "Task", address: bytes) -> "UnixSocket":
        """Return the socket bound to a name. ECONNREFUSED, ENOENT, EACCES, EPROTOTYPE."""
        name = parse_unix(address)
        if not name:
            raise SyscallError(errno.EINVAL)
        stack = stack_of(self.kernel)
        if not name[0]:
            found = stack.abstract.get(name)
        else:
            inode = task.kernel.vfs.lookup(task, None, name).inode
            if inode.format != stats.S_IFSOCK:
                raise SyscallError(errno.ECONNREFUSED)
            inode.check(task.creds, _MAY_WRITE)
            found = stack.paths.get(_key(inode))
        if found is None:
            raise SyscallError(errno.ECONNREFUSED)
        if found.type != self.type:
            raise SyscallError(errno.EPROTOTYPE)
        return found

    def name(self) -> bytes:
        """See Socket."""
        return pack_unix(self.bound)

    # Messages.

    def check_size(self, data: "bytes | memoryview[int]") -> None:
        """Check that the send buffer could ever hold a message. EMSGSIZE."""
        if len(data) > self.options.send_buffer - 32:
            raise SyscallError(errno.EMSGSIZE)

    def send_packet(self, target: "UnixSocket", data: "bytes | memoryview[int]", message: Outgoing) -> int:
        """Put a whole message into ``target``'s queue; return its length. WouldBlockError while the send buffer is full."""
        if self.used >= self.options.send_buffer:
            raise WouldBlockError
        for file in message.files:
            file.refs += 1
        packet = Packet(self, bytes(data), message.files, self.sender_creds(message.creds))
        self.used += packet.cost
        target.incoming.append(packet)
        target.queue.notify(POLLIN | POLLRDNORM)
        return len(data)

    def receive_packet(self, count: int, flags: int) -> Received:
        """Take (or look at) the first message, which is there."""
        packet = self.incoming[0]
        peek = bool(flags & MSG_PEEK)
        found = Received(
            packet.data[:count], len(packet.data), pack_unix(packet.address) if packet.address else b"",
            packet.take_files(peek), packet.creds,
        )  # fmt: skip
        if not peek:
            self.incoming.popleft()
            self.consumed(packet)
        return found

    def consumed(self, packet: Packet) -> None:
        """Let the sender know that its message is gone."""
        sender = packet.sender
        sender.used -= packet.cost
        if sender.can_send():
            sender.queue.notify(WRITABLE)

    def can_send(self) -> bool:
        """Tell whether writing is worth a try: poll's idea of room, a quarter of the buffer in use at most."""
        return self.used * 4 <= self.options.send_buffer

    def pending_bytes(self) -> int:
        """See Socket: everything of a connection, else the first message."""
        if self.type != SOCK_DGRAM:
            return sum(len(packet.data) - packet.start for packet in self.incoming)
        return len(self.incoming[0].data) if self.incoming else 0

    def unsent_bytes(self) -> int:
        """See Socket."""
        return self.used

    def poll_common(self) -> int:
        """Return what holds of every kind: directions that are closed, messages, a pending error."""
        events = 0x8 if self.error else 0
        if self.shut == SHUT_BOTH:
            events |= POLLHUP
        if self.shut & SHUT_RECEIVE:
            events |= POLLRDHUP | POLLIN | POLLRDNORM
        if self.incoming:
            events |= POLLIN | POLLRDNORM
        return events

    def close_directions(self, how: int) -> None:
        """Close directions of this end, and tell who waits."""
        self.shut |= how
        self.queue.notify(POLLIN | POLLRDNORM | POLLRDHUP | POLLOUT | (POLLHUP if self.shut == SHUT_BOTH else 0))

    # Options, the end.

    def get_option(self, level: int, name: int) -> bytes:
        """See Socket."""
        if level == opt.SOL_SOCKET:
            if name == opt.SO_PEERCRED:
                return struct.pack("<3i", *self.peer_creds) if self.peer_creds is not None else _NOBODY
            if name == opt.SO_PEERGROUPS:
                if self.peer_creds is None:
                    raise SyscallError(errno.ENODATA)
                return b""
        return super().get_option(level, name)

    def sender_creds(self, named: UCred | None) -> UCred:
        """Return the credentials a message carries: those the sender named, else its own."""
        if named is not None:
            return named
        current = self.kernel.current
        return credentials_of(current) if current is not None else self.creds

    def release(self) -> None:
        """See OpenFile: the name is free; a path stays until it is unlinked."""
        stack = stack_of(self.kernel)
        if self.path_key is not None:
            stack.paths.pop(self.path_key, None)
        elif self.bound and stack.abstract.get(self.bound) is self:
            del stack.abstract[self.bound]
        waiting, self.incoming = self.incoming, deque()
        for packet in waiting:
            discard(packet.take_files(False))
            self.consumed(packet)
        super().release()


def _cost(length: int, stream: bool) -> int:
    """Return what a message of ``length`` bytes takes of the send buffer: the sizes of Linux's socket buffers.

    Programs see them: in how much a full socket holds, and by SIOCOUTQ.
    """
    paged = max(0, length - _MAX_HEAD[stream])
    paged = (paged + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
    head = (max(0, length - paged) + 63 & ~63) + _SHARED
    return max(512, 1 << (head - 1).bit_length()) + _META + paged


def _key(inode: "Inode") -> tuple[int, int]:
    stat = inode.stat()
    return (stat.dev, stat.ino)


def opposite(how: int) -> int:
    """Return what the other end loses when this end closes ``how``."""
    return (SHUT_SEND if how & SHUT_RECEIVE else 0) | (SHUT_RECEIVE if how & SHUT_SEND else 0)
