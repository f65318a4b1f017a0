"""/proc/net: the loopback network of a run. Sockets are listed by net/ when it can (``net.proc.lines``)."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.fs.synthetic import Directory, Read, tree

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel

_TCP: Final = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
_TCP6: Final = (
    b"  sl  local_address                         remote_address                        "
    b"st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)
_UDP: Final = (
    b"   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
    b"             \n"
)
_DEV: Final = (
    b"Inter-|   Receive                                                |  Transmit\n"
    b" face |bytes    packets errs drop fifo frame compressed multicast"
    b"|bytes    packets errs drop fifo colls carrier compressed\n"
    b"    lo:       0       0    0    0    0     0          0         0"
    b"        0       0    0    0    0     0       0          0\n"
)
_ROUTE: Final = b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
_UNIX: Final = b"Num       RefCount Protocol Flags    Type St Inode Path\n"
_IF_INET6: Final = b"00000000000000000000000000000001 01 80 10 80       lo\n"
_SOCKSTAT: Final = b"sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\n"

_HEADS: Final = {"tcp": _TCP, "tcp6": _TCP6, "udp": _UDP, "udp6": _TCP6, "unix": _UNIX, "raw": _UDP, "raw6": _TCP6}

Lines = Callable[["Kernel", str], bytes]


def _sockets(kernel: "Kernel", kind: str) -> bytes:
    """Return the table of one kind of sockets."""
    head = _HEADS[kind]
    try:
        module = importlib.import_module("systrap.sentry.net.proc")
    except ImportError:
        return head
    lines: Lines = module.lines
    return head + lines(kernel, kind)


def net_directory(kernel: "Kernel") -> Directory:
    """Return /proc/net."""

    def table(kind: str) -> Read:
        return lambda: _sockets(kernel, kind)

    tables: dict[str, Read] = {kind: table(kind) for kind in _HEADS}
    tables |= {
        "arp": lambda: b"IP address       HW type     Flags       HW address            Mask     Device\n",
        "dev": lambda: _DEV,
        "if_inet6": lambda: _IF_INET6,
        "ipv6_route": lambda: b"",
        "netlink": lambda: b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n",
        "packet": lambda: b"sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n",
        "protocols": lambda: b"protocol  size sockets  memory press maxhdr  slab module\n",
        "route": lambda: _ROUTE,
        "sockstat": lambda: _SOCKSTAT,
    }
    return tree("net", tables)
