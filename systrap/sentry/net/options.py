"""Socket options: what programs ask for, as tables of (level, name) → default.

An option in the tables is stored and given back. Those that change what a socket does are attributes of Options; those that
are computed are the business of Socket.
"""

import errno
import struct
from typing import Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.net.addresses import AF_INET, AF_INET6, AF_NETLINK, AF_UNIX

SOL_IP: Final = 0
SOL_SOCKET: Final = 1
SOL_TCP: Final = 6
SOL_UDP: Final = 17
SOL_IPV6: Final = 41
SOL_UDPLITE: Final = 136
SOL_NETLINK: Final = 270

SO_REUSEADDR: Final = 2
SO_TYPE: Final = 3
SO_ERROR: Final = 4
SO_BROADCAST: Final = 6
SO_SNDBUF: Final = 7
SO_RCVBUF: Final = 8
SO_OOBINLINE: Final = 10
SO_LINGER: Final = 13
SO_REUSEPORT: Final = 15
SO_PASSCRED: Final = 16
SO_PEERCRED: Final = 17
SO_RCVTIMEO: Final = 20
SO_SNDTIMEO: Final = 21
SO_BINDTODEVICE: Final = 25
SO_ATTACH_FILTER: Final = 26
SO_PEERNAME: Final = 28
SO_TIMESTAMP: Final = 29
SO_ACCEPTCONN: Final = 30
SO_PEERSEC: Final = 31
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_PROTOCOL: Final = 38
SO_DOMAIN: Final = 39
SO_PEERGROUPS: Final = 59
SO_RCVTIMEO_NEW: Final = 66
SO_SNDTIMEO_NEW: Final = 67

IP_TOS: Final = 1
IP_TTL: Final = 2
IP_PKTINFO: Final = 8
IP_RECVTTL: Final = 12
IP_RECVTOS: Final = 13
IP_MTU: Final = 14
IPV6_V6ONLY: Final = 26
IPV6_UNICAST_HOPS: Final = 16
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVHOPLIMIT: Final = 51
IPV6_HOPLIMIT: Final = 52
IPV6_RECVTCLASS: Final = 66
IPV6_TCLASS: Final = 67
TCP_MAXSEG: Final = 2
TCP_INFO: Final = 11
TCP_CONGESTION: Final = 13

DEFAULT_BUFFER: Final = 212992
FRESH_TCP_SEND: Final = 16384
CONNECTED_TCP_SEND: Final = 2626560
DEFAULT_TCP_RECEIVE: Final = 131072
_MAX_BUFFER: Final = 212992
_TICK: Final = 4000
_MIN_SEND: Final = 4608
_MIN_RECEIVE: Final = 2304

# DEBUG, REUSEADDR, DONTROUTE, BROADCAST, KEEPALIVE, OOBINLINE, NO_CHECK, REUSEPORT, PASSCRED, TIMESTAMP(NS), PASSSEC, RXQ_OVFL,
# WIFI_STATUS, NOFCS, SELECT_ERR_QUEUE, ZEROCOPY: on or off.
_SWITCHES: Final = frozenset({1, 2, 5, 6, 9, 10, 11, 15, 16, 29, 34, 35, 40, 41, 43, 45, 60, 63, 64})

# PASSCRED, PASSSEC
_UNIX_ONLY: Final = frozenset({16, 34})

# Options that hold a number, with what it is at first.
_NUMBERS: Final[dict[int, dict[int, int]]] = {
    # PRIORITY, BSDCOMPAT, RCVLOWAT, MARK, PEEK_OFF, LOCK_FILTER, BUSY_POLL, BPF_EXTENSIONS, PREFER_BUSY_POLL, BUF_LOCK,
    # RESERVE_MEM, TXREHASH, RCVMARK
    SOL_SOCKET: {
        12: 0, 14: 0, 18: 1, 36: 0, 42: -1, 44: 0, 46: 0, 48: 64, 69: 0, 72: 0, 73: 0, 74: 1, 75: 0,
    },
    # NODELAY, MAXSEG, CORK, KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT, LINGER2, DEFER_ACCEPT, WINDOW_CLAMP, QUICKACK, THIN_LINEAR…,
    # THIN_DUPACK, USER_TIMEOUT, REPAIR, FASTOPEN, TIMESTAMP, NOTSENT_LOWAT, SAVE_SYN, FASTOPEN_…, INQ, TX_DELAY
    SOL_TCP: {
        1: 0, 2: 536, 3: 0, 4: 7200, 5: 75, 6: 9, 7: 6, 8: 60, 9: 0, 10: 0, 12: 1, 16: 0, 17: 0, 18: 0, 19: 0, 23: 0, 24: 0,
        25: 0, 27: 0, 30: 0, 34: 0, 36: 0, 37: 0,
    },
    # CORK, NO_CHECK6_TX, NO_CHECK6_RX, SEGMENT, GRO
    SOL_UDP: {1: 0, 101: 0, 102: 0, 103: 0, 104: 0},
    # TOS, TTL, HDRINCL, ROUTER_ALERT, RECVOPTS, RETOPTS, PKTINFO, MTU_DISCOVER, RECVERR, RECVTTL, RECVTOS, FREEBIND,
    # PASSSEC, TRANSPARENT, MINTTL, NODEFRAG, CHECKSUM, BIND_ADDRESS_NO_PORT, RECVERR_RFC4884, MULTICAST_IF, _TTL, _LOOP, _ALL,
    # UNICAST_IF, LOCAL_PORT_RANGE, PROTOCOL
    SOL_IP: {
        1: 0, 2: 64, 3: 0, 5: 0, 6: 0, 7: 0, 8: 0, 10: 1, 11: 0, 12: 0, 13: 0, 15: 0, 18: 0, 19: 0, 21: 0, 22: 0,
        23: 0, 24: 0, 25: 0, 26: 0, 32: 0, 33: 1, 34: 1, 49: 1, 50: 0, 51: 0,
    },
    # ADDRFORM, UNICAST_HOPS, MULTICAST_IF, _HOPS, _LOOP, ROUTER_ALERT, MTU_DISCOVER, MTU, RECVERR, V6ONLY, RECVPKTINFO,
    # RECVHOPLIMIT, RECVTCLASS, TCLASS, FREEBIND…
    SOL_IPV6: {
        1: AF_INET6, 16: 64, 17: 0, 18: 1, 19: 1, 22: 0, 23: 1, 24: 65536, 25: 0, 26: 0, 49: 0, 51: 0, 53: 0, 56: 0, 58: 0, 60: 0,
        61: 0, 66: 0, 67: 0, 70: 1, 72: 0x500, 74: 0, 75: 0, 78: 0, 29: 1, 33: 0, 76: 0,
    },
    # SEND_CSCOV, RECV_CSCOV
    SOL_UDPLITE: {10: 0, 11: 0},
    SOL_NETLINK: {1: 0, 3: 0, 4: 0, 5: 0, 8: 0, 10: 0, 11: 0, 12: 0},
}  # fmt: skip

_LEVELS: Final = {
    AF_UNIX: (SOL_SOCKET,),
    AF_INET: (SOL_SOCKET, SOL_IP, SOL_TCP, SOL_UDP, SOL_UDPLITE),
    AF_INET6: (SOL_SOCKET, SOL_IP, SOL_IPV6, SOL_TCP, SOL_UDP, SOL_UDPLITE),
}


class Options:
    """The options of one socket. The sizes of buffers are in bytes, as the guest reads them; time-outs in seconds."""

    __slots__ = (
        "_values", "linger", "pass_credentials", "receive_buffer", "receive_timeout", "reuse_address",
        "reuse_port", "send_buffer", "send_buffer_set", "send_timeout",
    )  # fmt: skip

    def __init__(self, tcp: bool = False) -> None:
        self._values: dict[tuple[int, int], int] = {}
        self.linger: tuple[int, int] = (0, 0)
        self.pass_credentials = False
        self.reuse_address = False
        self.reuse_port = False
        self.receive_timeout: float | None = None
        self.send_timeout: float | None = None
        self.send_buffer = FRESH_TCP_SEND if tcp else DEFAULT_BUFFER
        self.receive_buffer = DEFAULT_TCP_RECEIVE if tcp else DEFAULT_BUFFER
        self.send_buffer_set = False

    def inherit(self, other: "Options") -> None:
        """Take over a listener's options."""
        for name in Options.__slots__:
            if name != "_values":
                setattr(self, name, getattr(other, name))
        self._values = dict(other._values)

    def number(self, level: int, name: int) -> int:
        """Return the value of a stored option."""
        return self._values.get((level, name), _NUMBERS.get(level, {}).get(name, 0))

    def get(self, family: int, level: int, name: int) -> bytes:
        """Return an option's value as getsockopt gives it. ENOPROTOOPT, EOPNOTSUPP."""
        _check_level(family, level)
        if level == SOL_SOCKET and name in _UNIX_ONLY and family not in (AF_UNIX, AF_NETLINK):
            raise SyscallError(errno.EOPNOTSUPP)
        if level == SOL_SOCKET:
            special = self._get_special(name)
            if special is not None:
                return special
        known = (level == SOL_SOCKET and name in _SWITCHES) or name in _NUMBERS[level]
        if not known:
            raise SyscallError(errno.ENOPROTOOPT)
        return struct.pack("<i", self.number(level, name))

    def _get_special(self, name: int) -> bytes | None:
        if name == SO_SNDBUF:
            return struct.pack("<i", self.send_buffer)
        if name == SO_RCVBUF:
            return struct.pack("<i", self.receive_buffer)
        if name == SO_LINGER:
            return struct.pack("<2i", *self.linger)
        if name in (SO_RCVTIMEO, SO_RCVTIMEO_NEW):
            return _pack_timeout(self.receive_timeout)
        if name in (SO_SNDTIMEO, SO_SNDTIMEO_NEW):
            return _pack_timeout(self.send_timeout)
        if name == 19:  # SO_SNDLOWAT
            return struct.pack("<i", 1)
        if name in (SO_BINDTODEVICE, SO_ATTACH_FILTER):
            return b""
        if name == 47:  # SO_MAX_PACING_RATE
            return b"\xff" * 8
        if name == 57:  # SO_COOKIE
            return struct.pack("<Q", id(self) & 0xFFFFFF)
        return None

    def set(self, family: int, level: int, name: int, data: bytes) -> None:
        """Set an option. EINVAL for values that are too short, ENOPROTOOPT, EOPNOTSUPP, EDOM."""
        _check_level(family, level)
        if level == SOL_SOCKET and name in _UNIX_ONLY and family not in (AF_UNIX, AF_NETLINK):
            raise SyscallError(errno.EOPNOTSUPP)
        if level == SOL_SOCKET and self._set_special(name, data):
            return
        known = (level == SOL_SOCKET and name in _SWITCHES) or name in _NUMBERS[level]
        if not known:
            raise SyscallError(errno.ENOPROTOOPT)
        if len(data) < 4:
            # Options of the IP level may be single bytes.
            if level != SOL_IP or not data:
                raise SyscallError(errno.EINVAL)
            value = data[0]
        else:
            (value,) = struct.unpack_from("<i", data)
        if level == SOL_SOCKET and name in _SWITCHES:
            value = int(bool(value))
        self._values[(level, name)] = value
        if level == SOL_SOCKET:
            if name == SO_REUSEADDR:
                self.reuse_address = bool(value)
            elif name == SO_REUSEPORT:
                self.reuse_port = bool(value)
            elif name == SO_PASSCRED:
                self.pass_credentials = bool(value)

    def _set_special(self, name: int, data: bytes) -> bool:
        """Set what is no plain number. Returns False when ``name`` is none of these."""
        if name in (SO_SNDBUF, SO_SNDBUFFORCE, SO_RCVBUF, SO_RCVBUFFORCE):
            (value,) = _fields("<i", data)
            if name in (SO_SNDBUF, SO_RCVBUF):
                value = min(value, _MAX_BUFFER)
            if name in (SO_SNDBUF, SO_SNDBUFFORCE):
                self.send_buffer = max(value * 2, _MIN_SEND)
                self.send_buffer_set = True
            else:
                self.receive_buffer = max(value * 2, _MIN_RECEIVE)
        elif name == SO_LINGER:
            on, seconds = _fields("<2i", data)
            self.linger = (int(bool(on)), seconds if on else self.linger[1])
        elif name in (SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW):
            seconds, micros = _fields("<2q", data)
            if not 0 <= micros < 1_000_000:
                raise SyscallError(errno.EDOM)
            # In whole ticks of a kernel with 250 of them in a second.
            timeout: float | None = max(seconds, 0) + -(-micros // _TICK) * _TICK / 1e6
            if seconds == 0 and micros == 0:
                timeout = None
            if name in (SO_RCVTIMEO, SO_RCVTIMEO_NEW):
                self.receive_timeout = timeout
            else:
                self.send_timeout = timeout
        elif name == SO_BINDTODEVICE:
            if data.split(b"\0", 1)[0] not in (b"", b"lo"):
                raise SyscallError(errno.ENODEV)
        elif name in (SO_ATTACH_FILTER, 27, 44, 50, 51, 52):
            # Packet filters are not there: as a kernel built without CONFIG_BPF.
            raise SyscallError(errno.ENOPROTOOPT)
        else:
            # SO_MAX_PACING_RATE is accepted: nothing here is that fast.
            return name == 47
        return True


def _check_level(family: int, level: int) -> None:
    if level not in _LEVELS.get(family, (SOL_SOCKET, SOL_NETLINK)):
        raise SyscallError(errno.EOPNOTSUPP if family in (AF_UNIX, AF_INET) else errno.ENOPROTOOPT)


def _fields(layout: str, data: bytes) -> tuple[int, ...]:
    if len(data) < struct.calcsize(layout):
        raise SyscallError(errno.EINVAL)
    found: tuple[int, ...] = struct.unpack_from(layout, data)
    return found


def _pack_timeout(seconds: float | None) -> bytes:
    if seconds is None:
        return bytes(16)
    return struct.pack("<2q", int(seconds), int(round(seconds % 1 * 1e6)))
