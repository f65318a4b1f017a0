"""Socket addresses: the struct sockaddr of each family, to and from what the sentry reckons with.

Internet addresses are (ip, port) with ``ip`` as 16 bytes, IPv4 in its v6-mapped form: the two families share one network.
"""

import errno
import struct
from typing import Final, NamedTuple

from systrap.sentry.errors import SyscallError

AF_UNSPEC: Final = 0
AF_UNIX: Final = 1
AF_INET: Final = 2
AF_INET6: Final = 10
AF_NETLINK: Final = 16

SUN_PATH_MAX: Final = 108
_MAPPED: Final = bytes(10) + b"\xff\xff"
ANY4: Final = _MAPPED + bytes(4)
ANY6: Final = bytes(16)
LOOPBACK4: Final = _MAPPED + b"\x7f\0\0\1"
LOOPBACK6: Final = bytes(15) + b"\1"


class Endpoint(NamedTuple):
    """An internet address and port."""

    ip: bytes
    port: int

    @property
    def is_v4(self) -> bool:
        """It is an IPv4 address."""
        return self.ip.startswith(_MAPPED)

    @property
    def is_any(self) -> bool:
        """It is 0.0.0.0 or ::."""
        return self.ip in (ANY4, ANY6)

    @property
    def is_local(self) -> bool:
        """It is an address of this host: 127.0.0.0/8 or ::1."""
        return self.ip == LOOPBACK6 or (self.is_v4 and self.ip[12] == 127)

    @property
    def is_multicast(self) -> bool:
        """It is a group's address."""
        return self.ip[12] & 0xF0 == 0xE0 if self.is_v4 else self.ip[0] == 0xFF


NOWHERE4: Final = Endpoint(ANY4, 0)
NOWHERE6: Final = Endpoint(ANY6, 0)


def family_of(address: bytes) -> int:
    """Return the family of a struct sockaddr. EINVAL when it is too short to have one."""
    if len(address) < 2:
        raise SyscallError(errno.EINVAL)
    return address[0] | address[1] << 8


def parse_inet(family: int, address: bytes) -> Endpoint:
    """Return what a struct sockaddr_in or sockaddr_in6 says, for a socket of ``family``. EINVAL, EAFNOSUPPORT."""
    found = family_of(address)
    if family == AF_INET:
        if len(address) < 16:
            raise SyscallError(errno.EINVAL)
        if found not in (AF_INET, AF_UNSPEC):
            raise SyscallError(errno.EAFNOSUPPORT)
        return Endpoint(_MAPPED + address[4:8], int.from_bytes(address[2:4], "big"))
    if found == AF_INET and len(address) >= 16:
        return Endpoint(_MAPPED + address[4:8], int.from_bytes(address[2:4], "big"))
    if len(address) < 24:
        raise SyscallError(errno.EINVAL)
    if found != AF_INET6:
        raise SyscallError(errno.EAFNOSUPPORT)
    return Endpoint(address[8:24], int.from_bytes(address[2:4], "big"))


def pack_inet(family: int, endpoint: Endpoint) -> bytes:
    """Return a struct sockaddr_in or sockaddr_in6, as ``family`` is."""
    if family == AF_INET:
        return struct.pack("<H", AF_INET) + endpoint.port.to_bytes(2, "big") + endpoint.ip[12:] + bytes(8)
    return struct.pack("<H", AF_INET6) + endpoint.port.to_bytes(2, "big") + bytes(4) + endpoint.ip + bytes(4)


def parse_unix(address: bytes) -> bytes:
    """Return the name in a struct sockaddr_un: a path, an abstract name with its NUL in front, or b"" for none. EINVAL."""
    if len(address) < 2 or len(address) > SUN_PATH_MAX + 2 or family_of(address) != AF_UNIX:
        raise SyscallError(errno.EINVAL)
    name = address[2:]
    if name and name[0]:
        return name.split(b"\0", 1)[0]
    return name


def pack_unix(name: bytes) -> bytes:
    """Return a struct sockaddr_un for a name (see parse_unix)."""
    tail = b"\0" if name and name[0] else b""
    return struct.pack("<H", AF_UNIX) + name + tail
