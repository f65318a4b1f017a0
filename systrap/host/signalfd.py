"""signalfd: this process's blocked signals, read from a descriptor."""

import ctypes
import os
from collections.abc import Iterable
from typing import Final

from systrap.host.sys import check, libc

_RECORD: Final = 128
_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC


def create(signals: Iterable[int]) -> int:
    """Return a descriptor that is readable when one of ``signals`` (which must be blocked) is pending. Raises OSError."""
    mask = 0
    for signo in signals:
        mask |= 1 << (signo - 1)
    words = (ctypes.c_uint64 * 16)(mask)
    result: int = libc.signalfd(-1, ctypes.byref(words), _NONBLOCK_CLOEXEC)
    return check(result if result >= 0 else -ctypes.get_errno(), "signalfd")


def read(fd: int) -> list[int]:
    """Return the signals that were pending, and are not any more."""
    try:
        data = os.read(fd, 16 * _RECORD)
    except BlockingIOError:
        return []
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), _RECORD)]
