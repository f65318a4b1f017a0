"""Sockets by themselves, without guests: what programs see of them is in tests/programs."""

import errno
from typing import TYPE_CHECKING, cast

import pytest

from systrap.sentry.errors import QuietPipeError, SyscallError, WouldBlockError
from systrap.sentry.net import options as opt
from systrap.sentry.net.addresses import (
    AF_INET,
    AF_INET6,
    ANY4,
    ANY6,
    LOOPBACK4,
    LOOPBACK6,
    Endpoint,
    pack_inet,
    pack_unix,
    parse_inet,
    parse_unix,
)
from systrap.sentry.net.families import make_pair, make_socket
from systrap.sentry.net.socket import SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, Socket
from systrap.sentry.net.stack import overlap, stack_of
from systrap.sentry.net.tcp import TcpSocket
from systrap.sentry.wait import POLLHUP, POLLIN, POLLOUT

if TYPE_CHECKING:
    from systrap.sentry.task import Task


class Group:
    pid = 7


class Creds:
    euid = ruid = rgid = 0

    @staticmethod
    def capable(capability: int) -> bool:
        return True


class Kernel:
    """As much of a kernel as sockets know."""

    current: object = None


class Caller:
    """A task that makes calls."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.group = Group()
        self.creds = Creds()
        self.kernel.current = self


@pytest.fixture
def task() -> "Task":
    return cast("Task", Caller())


def failing(error: int, call: object, *arguments: object) -> None:
    assert callable(call)
    with pytest.raises(SyscallError) as caught:
        call(*arguments)
    assert caught.value.errno == error


def connected(task: "Task", family: int = AF_INET) -> tuple[Socket, Socket]:
    listener = make_socket(task, family, SOCK_STREAM, 0)
    listener.listen(task, 5)
    client = make_socket(task, family, SOCK_STREAM, 0)
    with pytest.raises(WouldBlockError):
        client.connect(task, listener.name())
    client.connected(task, listener.name())
    server = listener.accept()
    listener.release()
    return client, server


def test_addresses() -> None:
    assert parse_inet(AF_INET, pack_inet(AF_INET, Endpoint(LOOPBACK4, 80))) == Endpoint(LOOPBACK4, 80)
    assert parse_inet(AF_INET6, pack_inet(AF_INET6, Endpoint(LOOPBACK6, 80))) == Endpoint(LOOPBACK6, 80)
    assert parse_unix(pack_unix(b"/a")) == b"/a"
    assert parse_unix(pack_unix(b"\0a\0b")) == b"\0a\0b"
    failing(errno.EINVAL, parse_unix, b"\1\0" + b"x" * 109)


@pytest.mark.parametrize(
    ("one", "v6only", "other", "expected"),
    [
        (ANY4, False, LOOPBACK4, True),
        (ANY6, False, ANY4, True),
        (ANY6, True, ANY4, False),
        (ANY4, False, LOOPBACK6, False),
        (LOOPBACK4, False, LOOPBACK6, False),
    ],
)
def test_overlap(one: bytes, v6only: bool, other: bytes, expected: bool) -> None:
    assert overlap(one, v6only, other, False) is expected
    assert overlap(other, False, one, v6only) is expected


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM])
def test_pair(task: "Task", kind: int) -> None:
    first, second = make_pair(task, 1, kind, 0)
    assert first.send(b"hello") == 5
    assert first.send(b"world") == 5
    assert second.poll() & POLLIN
    assert second.read(100) == (b"helloworld" if kind == SOCK_STREAM else b"hello")
    if kind != SOCK_STREAM:
        assert second.read(1) == b"w"
    second.release()
    failing(errno.ECONNREFUSED if kind == SOCK_DGRAM else errno.EPIPE, first.send, b"x")


def test_messages_have_no_sigpipe(task: "Task") -> None:
    first, second = make_pair(task, 1, SOCK_SEQPACKET, 0)
    second.release()
    with pytest.raises(QuietPipeError):
        first.send(b"x")


def test_a_stream_holds_what_linux_lets_it_hold(task: "Task") -> None:
    """Measured on Linux 6: pieces of 1000 bytes take 2304 of 212992."""
    first, second = make_pair(task, 1, SOCK_STREAM, 0)
    total = 0
    for _ in range(93):
        total += first.send(b"x" * 1000)
    with pytest.raises(WouldBlockError):
        first.send(b"x")
    assert not first.poll() & POLLOUT
    assert second.pending_bytes() == total
    while total:
        total -= len(second.read(5000))
    assert first.poll() & POLLOUT
    assert first.unsent_bytes() == 0


def test_tcp_ends(task: "Task") -> None:
    client, server = connected(task)
    assert client.peer_name() == server.name()
    client.send(b"question")
    client.shutdown(2)
    assert server.read(100) == b"question"
    assert server.read(100) == b""
    server.send(b"answer")
    server.release()
    assert client.read(100) == b"answer"
    assert client.poll() & POLLHUP
    failing(errno.ENOTCONN, client.peer_name)
    client.release()
    assert not stack_of(task.kernel).tcp.bound
    assert not stack_of(task.kernel).sockets


def test_tcp_reset(task: "Task") -> None:
    client, server = connected(task, AF_INET6)
    client.send(b"unread")
    server.release()
    failing(errno.ECONNRESET, client.read, 1)
    failing(errno.EPIPE, client.send, b"x")


def test_ports(task: "Task") -> None:
    first = make_socket(task, AF_INET, SOCK_STREAM, 0)
    first.bind(task, pack_inet(AF_INET, Endpoint(LOOPBACK4, 8080)))
    second = make_socket(task, AF_INET, SOCK_STREAM, 0)
    failing(errno.EADDRINUSE, second.bind, task, pack_inet(AF_INET, Endpoint(ANY4, 8080)))
    failing(errno.EADDRNOTAVAIL, second.bind, task, pack_inet(AF_INET, Endpoint(ANY4[:12] + b"\x08\x08\x08\x08", 1)))
    second.bind(task, pack_inet(AF_INET, Endpoint(ANY4[:12] + b"\x7f\0\0\2", 8080)))


def test_only_loopback(task: "Task") -> None:
    """Nothing leaves the sentry."""
    away = pack_inet(AF_INET, Endpoint(ANY4[:12] + b"\x08\x08\x08\x08", 53))
    for kind in (SOCK_STREAM, SOCK_DGRAM):
        failing(errno.ENETUNREACH, make_socket(task, AF_INET, kind, 0).connect, task, away)


def test_nobody_listens(task: "Task") -> None:
    client = make_socket(task, AF_INET, SOCK_STREAM, 0)
    assert isinstance(client, TcpSocket)
    with pytest.raises(WouldBlockError):
        client.connect(task, pack_inet(AF_INET, Endpoint(LOOPBACK4, 1)))
    assert client.get_option(opt.SOL_SOCKET, opt.SO_ERROR) == errno.ECONNREFUSED.to_bytes(4, "little")


def test_what_there_is_not(task: "Task") -> None:
    for family, kind, protocol, error in (
        (17, 3, 0, errno.EPERM),
        (29, 3, 1, errno.EAFNOSUPPORT),
        (1, 4, 0, errno.ESOCKTNOSUPPORT),
        (1, 11, 0, errno.EINVAL),
        (AF_INET, 3, 1, errno.EPERM),
        (AF_INET, 2, 1, errno.EACCES),
        (AF_INET, 1, 17, errno.EPROTONOSUPPORT),
    ):
        failing(error, make_socket, task, family, kind, protocol)
