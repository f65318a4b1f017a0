"""Seccomp user notifications, from the listener's side (ioctls of seccomp_unotify(2))."""

import errno
import fcntl
import select
import struct
from typing import Final, NamedTuple

_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_RESPONSE = struct.Struct("<QqiI")


class Notification(NamedTuple):
    """A system call that waits for our answer: its arguments, as 64-bit numbers."""

    id: int
    args: tuple[int, ...]


class ListenerClosed(OSError):  # noqa: N818 - a condition, told by the kernel
    """Every task with this filter is dead."""


def sync_wake_up(fd: int) -> bool:
    """Ask for hand-over on one CPU (Linux 6.6). Returns False where the kernel does not know it."""
    try:
        fcntl.ioctl(fd, _SET_FLAGS, _SYNC_WAKE_UP)
    except OSError:
        return False
    return True


def receive(fd: int, timeout: float) -> Notification | None:
    """Return the next notification, or None when ``timeout`` seconds passed or one was withdrawn: try again.

    Raises ListenerClosed when nobody is left. Polls first: older kernels would block for ever on a dead peer.
    """
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    events = poller.poll(timeout * 1000)
    if not events:
        return None
    if not events[0][1] & select.POLLIN:
        raise ListenerClosed(errno.ENOENT, "the seccomp listener has no tasks left")
    # The kernel insists on zeroes.
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(fd, _RECV, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    fields = _NOTIFICATION.unpack(buffer)
    return Notification(fields[0], fields[6:])


def answer(fd: int, notification_id: int) -> bool:
    """Let the call return 0. Returns False when the notification was withdrawn (freezer, signal): receive it anew."""
    try:
        fcntl.ioctl(fd, _SEND, _RESPONSE.pack(notification_id, 0, 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
