"""What all sockets have in common."""

import errno
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_RDWR, OpenFile
from systrap.sentry.net import options as opt
from systrap.sentry.net.options import Options
from systrap.sentry.net.stack import new_number, stack_of

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Stat
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

SOCK_STREAM: Final = 1
SOCK_DGRAM: Final = 2
SOCK_RAW: Final = 3
SOCK_SEQPACKET: Final = 5

SHUT_RECEIVE: Final = 1
SHUT_SEND: Final = 2
SHUT_BOTH: Final = 3

UCred = tuple[int, int, int]
"""Process, user and group id: struct ucred."""

Control = list[tuple[int, int, bytes]]
"""Ancillary data as (level, type, data)."""

_FIONREAD: Final = 0x541B
_SIOCOUTQ: Final = 0x5411
_SIOCGSTAMP: Final = (0x8906, 0x8907)
_SIOCATMARK: Final = 0x8905
_SOCK_DEV: Final = 8
_S_IFSOCK: Final = 0o140000


class Received(NamedTuple):
    """What a receive found. ``length`` is that of the whole message, of which ``data`` may be only the beginning."""

    data: bytes
    length: int
    address: bytes = b""
    files: tuple[OpenFile, ...] = ()
    creds: UCred | None = None
    flags: int = 0
    control: tuple[tuple[int, int, bytes], ...] = ()


class Outgoing(NamedTuple):
    """What goes with data that is sent: where to (b"": the peer), descriptors, credentials if the sender named any.

    ``control``: other ancillary data, as (level, type, data).
    """

    address: bytes = b""
    files: tuple[OpenFile, ...] = ()
    creds: UCred | None = None
    flags: int = 0
    control: tuple[tuple[int, int, bytes], ...] = ()


PLAIN: Final = Outgoing()


class Socket(OpenFile):
    """A socket. Operations never wait: WouldBlockError, and ``queue`` is notified when that changes.

    ``error``: what SO_ERROR or the next call returns, 0 for nothing. ``shut``: SHUT_… bits of directions that are closed.
    ``is_stream``: no message boundaries. ``connect_queue``: where who connects waits. ``slow_connect``: what a connect
    that is not done at once fails with where it must not wait.
    """

    __slots__ = ("connect_queue", "error", "family", "kernel", "number", "options", "protocol", "shut", "type")

    is_stream = False
    slow_connect = errno.EAGAIN

    def __init__(self, kernel: "Kernel", family: int, kind: int, protocol: int) -> None:
        super().__init__(O_RDWR)
        self.kernel = kernel
        self.connect_queue = self.queue
        self.family = family
        self.type = kind
        self.protocol = protocol
        self.options = Options()
        self.error = 0
        self.shut = 0
        self.number = new_number()
        stack_of(kernel).sockets[self] = None

    @property
    def listening(self) -> bool:
        """It accepts connections."""
        return False

    # What kinds of sockets do differently.

    def bind(self, task: "Task", address: bytes) -> None:
        """Give the socket a name (bind)."""
        raise SyscallError(errno.EOPNOTSUPP)

    def connect(self, task: "Task", address: bytes) -> None:
        """Connect. WouldBlockError: not yet; call ``connected`` when ``connect_queue`` was notified."""
        raise SyscallError(errno.EOPNOTSUPP)

    def connected(self, task: "Task", address: bytes) -> None:
        """Go on with a connect. WouldBlockError: still not; any other error is why it failed."""
        self.connect(task, address)

    def listen(self, task: "Task", backlog: int) -> None:
        """Accept connections from now on."""
        raise SyscallError(errno.EOPNOTSUPP)

    def accept(self) -> "Socket":
        """Return the socket of the next connection. WouldBlockError."""
        raise SyscallError(errno.EOPNOTSUPP)

    def send(self, data: "bytes | memoryview[int]", message: Outgoing = PLAIN) -> int:
        """Send; return how much was taken (all, of a message). WouldBlockError."""
        raise SyscallError(errno.EOPNOTSUPP)

    def receive(self, count: int, flags: int) -> Received:
        """Receive up to ``count`` bytes, or one message. WouldBlockError; empty data at the end of a stream."""
        raise SyscallError(errno.EOPNOTSUPP)

    def shutdown(self, how: int) -> None:
        """Close directions (SHUT_… bits)."""
        raise SyscallError(errno.ENOTCONN)

    def name(self) -> bytes:
        """Return the struct sockaddr of getsockname."""
        return struct.pack("<H", self.family)

    def peer_name(self) -> bytes:
        """Return the struct sockaddr of getpeername. ENOTCONN."""
        raise SyscallError(errno.ENOTCONN)

    def pending_bytes(self) -> int:
        """Return what FIONREAD tells."""
        return 0

    def unsent_bytes(self) -> int:
        """Return what SIOCOUTQ tells."""
        return 0

    def at_mark(self) -> bool:
        """Tell whether the next byte to read is where urgent data was (SIOCATMARK)."""
        return False

    # What is the same for all.

    def take_error(self) -> int:
        """Return the pending error and forget it."""
        error = self.error
        self.error = 0
        return error

    def raise_error(self) -> None:
        """Raise the pending error, if there is one, and forget it."""
        if self.error:
            raise SyscallError(self.take_error())

    @property
    def read_timeout(self) -> float | None:
        """SO_RCVTIMEO in seconds."""
        return self.options.receive_timeout

    @property
    def write_timeout(self) -> float | None:
        """SO_SNDTIMEO in seconds."""
        return self.options.send_timeout

    def read(self, count: int) -> bytes:
        """See OpenFile. Descriptors that came with the data are lost."""
        found = self.receive(count, 0)
        discard(found.files)
        return found.data

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        return self.send(data)

    def get_option(self, level: int, name: int) -> bytes:
        """Return an option's value (getsockopt). ENOPROTOOPT."""
        if level == opt.SOL_SOCKET:
            computed = {
                opt.SO_TYPE: lambda: self.type,
                opt.SO_DOMAIN: lambda: self.family,
                opt.SO_PROTOCOL: lambda: self.protocol,
                opt.SO_ACCEPTCONN: lambda: int(self.listening),
                opt.SO_ERROR: self.take_error,
            }
            if name in computed:
                return struct.pack("<i", computed[name]())
            if name == opt.SO_PEERNAME:
                return self.peer_name()
        return self.options.get(self.family, level, name)

    def set_option(self, task: "Task", level: int, name: int, data: bytes) -> None:
        """Set an option (setsockopt). ENOPROTOOPT, EINVAL, EPERM."""
        if level == opt.SOL_SOCKET:
            if name in (opt.SO_SNDBUFFORCE, opt.SO_RCVBUFFORCE) and task.creds.euid != 0:
                raise SyscallError(errno.EPERM)
            if name in (opt.SO_TYPE, opt.SO_DOMAIN, opt.SO_PROTOCOL, opt.SO_ERROR, opt.SO_ACCEPTCONN, opt.SO_PEERCRED):
                raise SyscallError(errno.ENOPROTOOPT)
        self.options.set(self.family, level, name, data)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile: FIONREAD and kin; questions about the one network interface."""
        if request == _FIONREAD:
            if self.listening:
                raise SyscallError(errno.EINVAL)
            task.mm.write(argument, struct.pack("<i", self.pending_bytes()))
        elif request == _SIOCOUTQ:
            task.mm.write(argument, struct.pack("<i", self.unsent_bytes()))
        elif request == _SIOCATMARK:
            task.mm.write_u32(argument, int(self.at_mark()))
        elif request in _SIOCGSTAMP:
            raise SyscallError(errno.ENOENT)
        else:
            from systrap.sentry.net.interfaces import interface_ioctl

            interface_ioctl(task, request, argument)
        return 0

    def stat(self) -> "Stat":
        """See OpenFile."""
        from systrap.sentry.fs.inode import Stat

        return Stat(_SOCK_DEV, self.number, _S_IFSOCK | 0o777)

    def describe(self) -> str:
        """See OpenFile."""
        return f"socket:[{self.number}]"

    def release(self) -> None:
        """See OpenFile."""
        stack_of(self.kernel).sockets.pop(self, None)


def discard(files: tuple[OpenFile, ...]) -> None:
    """Give up descriptors nobody received."""
    from systrap.sentry.file import drop

    for file in files:
        drop(file)


def credentials_of(task: "Task | None") -> UCred:
    """Return the credentials messages of a task carry."""
    if task is None:
        return (0, 65534, 65534)
    return (task.group.pid, task.creds.ruid, task.creds.rgid)
