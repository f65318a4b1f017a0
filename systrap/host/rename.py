"""renameat2(2), which the standard library does not have."""

import ctypes
from typing import Final

from systrap.host.sys import NR, check, syscall

_RENAME_EXCHANGE: Final = 2


def exchange(old_fd: int, old: bytes, new_fd: int, new: bytes) -> None:
    """Exchange two names, each in a directory given by descriptor. Raises OSError."""
    source, target = ctypes.create_string_buffer(old), ctypes.create_string_buffer(new)
    addresses = ctypes.addressof(source), ctypes.addressof(target)
    check(syscall(NR["renameat2"], old_fd, addresses[0], new_fd, addresses[1], _RENAME_EXCHANGE), "renameat2")
