"""What poll, errors and the end of a connection look like in each state of each kind of socket; descriptors in messages."""

import array
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable

Pair = tuple[socket.socket, socket.socket]
DONTWAIT, NOSIGNAL = socket.MSG_DONTWAIT, socket.MSG_NOSIGNAL


def show(name: str, call: Callable[..., object], *arguments: object) -> None:
    """Print what a call gives, or its error."""
    try:
        found = repr(call(*arguments))
    except OSError as error:
        found = errno.errorcode[error.errno or 0]
    print(name, found)


def events(one: socket.socket) -> str:
    """Return what poll tells of a socket."""
    poll = select.poll()
    poll.register(one, 0x3FFF)
    return hex(poll.poll(0)[0][1]) if poll.poll(0) else "0"


def settle() -> None:
    """Give a real network the time it needs."""
    time.sleep(0.02)


def tcp(family: int, host: str) -> Pair:
    """Return the two ends of a TCP connection."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host, 0))
        listener.listen(5)
        client = socket.socket(family, socket.SOCK_STREAM)
        client.connect(listener.getsockname())
        return client, listener.accept()[0]


def life(kind: str, make: Callable[[], Pair]) -> None:
    """Walk through the states of a connection."""
    a, b = make()
    print(kind, "fresh", events(a), events(b))
    a.send(b"hello")
    settle()
    print(kind, "sent", events(a), events(b))
    show(kind + " peek", b.recv, 3, socket.MSG_PEEK)
    show(kind + " recv", b.recv, 5)
    show(kind + " empty", b.recv, 10, DONTWAIT)
    a.send(b"xyz")
    a.shutdown(socket.SHUT_WR)
    settle()
    print(kind, "half closed", events(a), events(b))
    show(kind + " send after shutdown", a.send, b"q", NOSIGNAL)
    show(kind + " the rest", b.recv, 10, DONTWAIT)
    show(kind + " end", b.recv, 10, DONTWAIT)
    print(kind, "drained", events(a), events(b))
    show(kind + " back", b.send, b"back")
    settle()
    show(kind + " back", a.recv, 10)
    b.close()
    settle()
    print(kind, "peer closed", events(a))
    show(kind + " end", a.recv, 10, DONTWAIT)
    show(kind + " peer", a.getpeername)
    a, b = make()
    a.send(b"unread")
    settle()
    b.close()
    settle()
    print(kind, "reset", events(a))
    show(kind + " reset", a.recv, 10, DONTWAIT)
    show(kind + " reset", a.recv, 10, DONTWAIT)
    show(kind + " reset", a.send, b"x", NOSIGNAL)
    a, b = make()
    show(kind + " deaf", a.shutdown, socket.SHUT_RD)
    print(kind, "deaf", events(a), events(b))
    show(kind + " deaf", a.recv, 10, DONTWAIT)
    show(kind + " closed", a.shutdown, socket.SHUT_RDWR)
    settle()
    print(kind, "closed", events(a), events(b))


def pipes(kind: str, make: Callable[[], Pair]) -> None:
    """Print which sends to a closed peer give SIGPIPE."""
    seen: list[str] = []
    signal.signal(signal.SIGPIPE, lambda *_: seen.append("SIGPIPE"))
    a, b = make()
    b.close()
    settle()
    for _ in range(3):
        try:
            os.write(a.fileno(), b"x")
            a.send(b"x")
        except OSError as error:
            seen.append(errno.errorcode[error.errno or 0])
        settle()
    print(kind, seen)


def messages(kind: int) -> None:
    """Send descriptors and credentials, with enough room and without."""
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    read, write = os.pipe()

    def receive(count: int = 100, room: int = 1024, flags: int = 0) -> object:
        data, ancillary, answer, _ = b.recvmsg(count, room, flags | DONTWAIT)
        seen = []
        for level, what, body in ancillary:
            seen.append((level, what, len(body)))
            if what == socket.SCM_RIGHTS:
                for fd in array.array("i", body[: len(body) & ~3]):
                    seen.append((fcntl.fcntl(fd, fcntl.F_GETFD), 0, 0))
                    os.close(fd)
        return data, seen, hex(answer)

    def send(data: bytes, what: int, body: bytes) -> int:
        return a.sendmsg([data], [(socket.SOL_SOCKET, what, body)])

    def rights(*fds: int) -> bytes:
        return array.array("i", fds).tobytes()

    send(b"hithere", 1, rights(read, write))
    a.send(b"more")
    show("peek", receive, 3, 1024, socket.MSG_PEEK)
    for _ in range(3):
        show("short", receive, 3)
    show("rest", receive)
    for room in (24, 22, 20, 0):
        send(b"x", 1, rights(read, write, read))
        show("room", receive, 10, room)
    send(b"x", 1, rights(read))
    show("cloexec", receive, 10, 100, socket.MSG_CMSG_CLOEXEC)
    show("bad descriptor", send, b"x", 1, rights(999))
    show("bad type", send, b"x", 99, b"abcd")
    show("too many", send, b"x", 1, rights(*[read] * 254))
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    a.send(b"A")
    show("credentials", receive)
    show("named", send, b"B", 2, struct.pack("3i", os.getpid(), os.getuid(), os.getgid()))
    show("credentials", receive)
    show("nobody there", send, b"B", 2, struct.pack("3i", 999999999, os.getuid(), os.getgid()))
    show("empty", a.send, b"")
    show("empty", receive)
    a.setblocking(False)
    total = 0
    try:
        while True:
            total += a.send(b"x" * 1000)
    except OSError as error:
        print("full", errno.errorcode[error.errno or 0], total)
    print(
        "waiting",
        struct.unpack("i", fcntl.ioctl(b, 0x541B, bytes(4))),
        struct.unpack("i", fcntl.ioctl(a, 0x5411, bytes(4))),
    )


def fresh(family: int, kind: int) -> None:
    """Call everything on a socket that has no peer."""
    one = socket.socket(family, kind)
    places: dict[int, tuple[str, int]] = {socket.AF_INET: ("127.0.0.1", 1), socket.AF_INET6: ("::1", 1)}
    where: object = places.get(family, "/nonexistent")
    name = f"{family} {kind}"
    print(name, events(one))
    show(name + " recv", one.recv, 10, DONTWAIT)
    show(name + " send", one.send, b"x", NOSIGNAL)
    show(name + " accept", one.accept)
    show(name + " peer", one.getpeername)
    show(name + " connect", one.connect, where)
    show(name + " sendto", one.sendto, b"x", where)
    show(name + " shutdown", one.shutdown, socket.SHUT_RDWR)
    print(name, events(one))


KINDS: dict[str, Callable[[], Pair]] = {
    "stream": socket.socketpair,
    "packets": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    "datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    "tcp": lambda: tcp(socket.AF_INET, "127.0.0.1"),
    "tcp6": lambda: tcp(socket.AF_INET6, "::1"),
}
for kind, make in KINDS.items():
    if kind != "tcp6" or socket.has_ipv6:
        life(kind, make)
        pipes(kind, make)
for unix in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
    messages(unix)
    fresh(socket.AF_UNIX, unix)
for inet in (socket.AF_INET, socket.AF_INET6):
    fresh(inet, socket.SOCK_STREAM)
    fresh(inet, socket.SOCK_DGRAM)
