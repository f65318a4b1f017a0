"""Sockets: AF_UNIX, a loopback AF_INET and AF_INET6, and as much netlink as name look-ups need. Nothing reaches the host."""
