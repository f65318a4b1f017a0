"""select, poll, epoll, AF_UNIX and the loopback network, descriptors in flight."""

import os
import select
import socket
import threading

a, b = socket.socketpair()
epoll = select.epoll()
epoll.register(b, select.EPOLLIN | select.EPOLLOUT)
print([events for _, events in epoll.poll(0)])
a.send(b"x")
print([events for _, events in epoll.poll(1)])
print(select.select([b], [], [], 0)[0] == [b], select.select([a], [], [], 0.02)[0])
poll = select.poll()
poll.register(a, select.POLLIN)
print(poll.poll(20))

server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
connection, peer = server.accept()
print(peer == client.getsockname(), client.getpeername() == server.getsockname())
received = []


def drain() -> None:
    while data := connection.recv(65536):
        received.append(len(data))


reader = threading.Thread(target=drain)
reader.start()
client.sendall(b"y" * 1_000_000)
client.shutdown(socket.SHUT_WR)
reader.join()
print(sum(received))
connection.sendall(b"answer")
connection.close()
print(client.recv(99), client.recv(1))

datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
datagrams.sendto(b"self", datagrams.getsockname())
print(datagrams.recv(9))
datagrams.settimeout(0.05)
try:
    datagrams.recv(1)
except TimeoutError as error:
    print(error)

memory = os.memfd_create("x")
os.write(memory, b"fd")
socket.send_fds(a, [b"!"], [memory])
b.recv(1)
message, descriptors, _, _ = socket.recv_fds(b, 9, 1)
print(message, os.pread(descriptors[0], 9, 0))

path = "/tmp/systrap-test-socket"
if os.path.exists(path):
    os.unlink(path)
named = socket.socket(socket.AF_UNIX)
named.bind(path)
named.listen()
other = socket.socket(socket.AF_UNIX)
other.connect(path)
accepted, _ = named.accept()
accepted.send(b"named")
print(other.recv(9), other.getpeername(), named.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
print(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:] == other.getsockopt(1, 17, 12)[4:])
os.unlink(path)
try:
    socket.create_connection(("127.0.0.1", 1))
except OSError as error:
    print(error)
b.close()
try:
    a.send(b"z")
except OSError as error:
    print(error)
