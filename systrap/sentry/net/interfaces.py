"""The one network interface, lo: what ioctls on sockets tell of it."""

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError

if TYPE_CHECKING:
    from systrap.sentry.task import Task

NAME: Final = b"lo"
INDEX: Final = 1
MTU: Final = 65536
QUEUE_LENGTH: Final = 1000
FLAGS: Final = 0x49
"""IFF_UP, IFF_LOOPBACK, IFF_RUNNING."""
ARPHRD_LOOPBACK: Final = 772

_SIOCGIFNAME: Final = 0x8910
_SIOCGIFCONF: Final = 0x8912
_IFREQ_SIZE: Final = 40
_NAME_SIZE: Final = 16


def _inet(address: bytes) -> bytes:
    return struct.pack("<HH", 2, 0) + address + bytes(8)


_ANSWERS: Final[dict[int, bytes]] = {
    0x8913: struct.pack("<h", FLAGS),  # SIOCGIFFLAGS
    0x8915: _inet(b"\x7f\0\0\1"),  # SIOCGIFADDR
    0x8917: _inet(b"\x7f\0\0\1"),  # SIOCGIFDSTADDR
    0x8919: _inet(bytes(4)),  # SIOCGIFBRDADDR
    0x891B: _inet(b"\xff\0\0\0"),  # SIOCGIFNETMASK
    0x891D: struct.pack("<i", 0),  # SIOCGIFMETRIC
    0x8921: struct.pack("<i", MTU),  # SIOCGIFMTU
    0x8927: struct.pack("<H", ARPHRD_LOOPBACK) + bytes(14),  # SIOCGIFHWADDR
    0x8933: struct.pack("<i", INDEX),  # SIOCGIFINDEX
    0x8942: struct.pack("<i", QUEUE_LENGTH),  # SIOCGIFTXQLEN
    0x8970: bytes(24),  # SIOCGIFMAP
}

_CHANGES: Final = frozenset(
    {0x8914, 0x8916, 0x8918, 0x891A, 0x891C, 0x891E, 0x8922, 0x8923, 0x8924, 0x8943, 0x890B, 0x890C, 0x8953, 0x8955}
)


def interface_ioctl(task: "Task", request: int, argument: int) -> None:
    """Answer a question about an interface. ENODEV for others than lo, EPERM for changes, ENOTTY for what is none of these."""
    if request in _CHANGES:
        raise SyscallError(errno.EPERM)
    if request == _SIOCGIFCONF:
        _list(task, argument)
    elif request == _SIOCGIFNAME:
        if task.mm.read_u32(argument + _NAME_SIZE) != INDEX:
            raise SyscallError(errno.ENODEV)
        task.mm.write(argument, NAME.ljust(_NAME_SIZE, b"\0"))
    elif request in _ANSWERS:
        if task.mm.read(argument, _NAME_SIZE).split(b"\0", 1)[0].split(b":")[0] != NAME:
            raise SyscallError(errno.ENODEV)
        task.mm.write(argument + _NAME_SIZE, _ANSWERS[request])
    elif request in (0x8946, 0x89F0, 0x8954):
        # SIOCETHTOOL and kin: lo has nothing to tell.
        raise SyscallError(errno.EOPNOTSUPP)
    else:
        raise SyscallError(errno.ENOTTY)


def _list(task: "Task", address: int) -> None:
    """Answer SIOCGIFCONF: one struct ifreq, or without a buffer the size of one."""
    length, buffer = struct.unpack("<i4xQ", task.mm.read(address, 16))
    if not buffer:
        task.mm.write(address, struct.pack("<i", _IFREQ_SIZE))
        return
    entry = (NAME.ljust(_NAME_SIZE, b"\0") + _inet(b"\x7f\0\0\1")).ljust(_IFREQ_SIZE, b"\0")
    if length < _IFREQ_SIZE:
        entry = b""
    task.mm.write(buffer, entry)
    task.mm.write(address, struct.pack("<i", len(entry)))
