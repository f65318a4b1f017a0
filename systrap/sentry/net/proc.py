"""The lines of /proc/net/tcp, udp, unix and kin."""

import struct
from typing import TYPE_CHECKING

from systrap.sentry.net.addresses import AF_INET, AF_INET6, NOWHERE4, NOWHERE6, Endpoint
from systrap.sentry.net.inet import InetSocket
from systrap.sentry.net.stack import stack_of
from systrap.sentry.net.tcp import TcpSocket
from systrap.sentry.net.udp import UdpSocket
from systrap.sentry.net.unix import UnixSocket
from systrap.sentry.net.unix_stream import UnixConnection

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel


def _hex(family: int, endpoint: Endpoint) -> str:
    """Return an address as these tables show it: words in the machine's order."""
    raw = endpoint.ip[12:] if family == AF_INET else endpoint.ip
    words = struct.unpack(f"<{len(raw) // 4}I", raw)
    return "".join(f"{word:08X}" for word in words) + f":{endpoint.port:04X}"


def _inet_line(number: int, socket: InetSocket) -> str:
    remote = socket.remote or (NOWHERE4 if socket.family == AF_INET else NOWHERE6)
    state = socket.tcp_state() if isinstance(socket, TcpSocket) else (1 if socket.remote else 7)
    return (
        f"{number:4d}: {_hex(socket.family, socket.local)} {_hex(socket.family, remote)} {state:02X} "
        f"00000000:{socket.pending_bytes():08X} 00:00000000 00000000 {0:5d} {0:8d} {socket.number} 2 0000000000000000"
        + (" 0" if isinstance(socket, UdpSocket) else " 100 0 0 10 0")
    )


def _unix_line(socket: UnixSocket) -> str:
    accepts = socket.listening
    state = 3 if isinstance(socket, UnixConnection) and socket.peer is not None else 1
    name = socket.bound.replace(b"\0", b"@").decode("utf-8", "surrogateescape")
    tail = f" {name}" if name else ""
    flags = 0x10000 if accepts else 0
    return f"0000000000000000: {2:08X} {0:08X} {flags:08X} {socket.type:04X} {state:02X} {socket.number:5d}{tail}"


def lines(kernel: "Kernel", kind: str) -> bytes:
    """Return the table of one kind ("tcp", "udp6", "unix"…) without its heading."""
    sockets = list(stack_of(kernel).sockets)
    if kind == "unix":
        found = [_unix_line(socket) for socket in sockets if isinstance(socket, UnixSocket)]
    else:
        family = AF_INET6 if kind.endswith("6") else AF_INET
        wanted: type[InetSocket] = TcpSocket if kind.startswith("tcp") else UdpSocket
        chosen = [s for s in sockets if isinstance(s, wanted) and s.family == family and s.local.port]
        found = [] if kind.startswith("raw") else [_inet_line(index, socket) for index, socket in enumerate(chosen)]
    return "".join(line + "\n" for line in found).encode("utf-8", "surrogateescape")
