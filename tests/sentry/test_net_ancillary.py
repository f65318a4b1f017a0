"""What goes beside the data of internet sockets: urgent data, hop limits and traffic classes."""

import errno
import struct

import pytest

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.net import options as opt
from systrap.sentry.net.addresses import AF_INET, AF_INET6, LOOPBACK4, LOOPBACK6, Endpoint, pack_inet
from systrap.sentry.net.flags import MSG_OOB, MSG_PEEK
from systrap.sentry.net.socket import Outgoing
from systrap.sentry.net.tcp import TcpSocket
from systrap.sentry.net.udp import UdpSocket
from systrap.sentry.wait import POLLPRI
from tests.sentry.test_net import Caller


def _connection(caller: Caller) -> tuple[TcpSocket, TcpSocket]:
    listener = TcpSocket(caller.kernel, AF_INET)  # type: ignore[arg-type] # as much of a kernel as sockets know
    caller.kernel.groups = {}  # type: ignore[attr-defined] # nobody owns the sockets
    listener.bind(caller, pack_inet(AF_INET, Endpoint(LOOPBACK4, 0)))  # type: ignore[arg-type] # a stand-in
    listener.listen(caller, 1)  # type: ignore[arg-type] # a stand-in
    client = TcpSocket(caller.kernel, AF_INET)  # type: ignore[arg-type] # see above
    with pytest.raises(WouldBlockError):
        client.connect(caller, listener.name())  # type: ignore[arg-type] # a stand-in
    return client, listener.accept()


def test_urgent_data_is_read_apart_and_marks_its_place() -> None:
    client, server = _connection(Caller())
    client.send(b"ab!", Outgoing(flags=MSG_OOB))
    client.send(b"cd")
    assert server.poll() & POLLPRI
    assert server.receive(9, MSG_OOB | MSG_PEEK).data == b"!"
    assert server.receive(9, 0).data == b"ab"
    assert server.at_mark()
    assert server.receive(9, MSG_OOB).data == b"!"
    with pytest.raises(SyscallError) as failed:
        server.receive(9, MSG_OOB)
    assert failed.value.errno == errno.EINVAL
    assert server.receive(9, 0).data == b"cd"
    assert not server.poll() & POLLPRI
    assert not server.at_mark()


def test_urgent_data_in_line() -> None:
    caller = Caller()
    client, server = _connection(caller)
    server.set_option(caller, opt.SOL_SOCKET, opt.SO_OOBINLINE, struct.pack("<i", 1))  # type: ignore[arg-type] # a stand-in
    client.send(b"ab!", Outgoing(flags=MSG_OOB))
    assert server.receive(9, 0).data == b"ab"
    assert server.at_mark()
    assert server.receive(9, 0).data == b"!"
    with pytest.raises(SyscallError):
        server.receive(9, MSG_OOB)


def test_a_datagram_tells_its_hop_limit_and_traffic_class() -> None:
    caller = Caller()
    receiver, sender = (UdpSocket(caller.kernel, AF_INET6) for _ in range(2))  # type: ignore[arg-type] # see above
    receiver.bind(caller, pack_inet(AF_INET6, Endpoint(LOOPBACK6, 0)))  # type: ignore[arg-type] # a stand-in
    for name in (opt.IPV6_RECVHOPLIMIT, opt.IPV6_RECVTCLASS, opt.IPV6_RECVPKTINFO):
        receiver.set_option(caller, opt.SOL_IPV6, name, struct.pack("<i", 1))  # type: ignore[arg-type] # a stand-in
    control = ((opt.SOL_IPV6, opt.IPV6_HOPLIMIT, struct.pack("<i", 9)),)
    sender.set_option(caller, opt.SOL_IPV6, opt.IPV6_TCLASS, struct.pack("<i", 4))  # type: ignore[arg-type] # a stand-in
    sender.send(b"x", Outgoing(receiver.name(), control=control))
    assert receiver.receive(9, 0).control == (
        (opt.SOL_IPV6, opt.IPV6_PKTINFO, LOOPBACK6 + struct.pack("<i", 1)),
        (opt.SOL_IPV6, opt.IPV6_HOPLIMIT, struct.pack("<i", 9)),
        (opt.SOL_IPV6, opt.IPV6_TCLASS, struct.pack("<i", 4)),
    )
    with pytest.raises(SyscallError) as failed:
        sender.send(b"x", Outgoing(receiver.name(), control=((opt.SOL_IPV6, 52, struct.pack("<i", 256)),)))
    assert failed.value.errno == errno.EINVAL


def test_a_closed_peer_takes_one_buffer_at_most_before_the_error_shows() -> None:
    caller = Caller()
    client, server = _connection(caller)
    client.set_option(caller, opt.SOL_SOCKET, opt.SO_SNDBUF, struct.pack("<i", 4096))  # type: ignore[arg-type] # a stand-in
    server.release()
    assert client.send(bytes(100_000)) == 8192
    with pytest.raises(SyscallError) as failed:
        client.send(b"x")
    assert failed.value.errno == errno.EPIPE
