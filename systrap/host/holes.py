"""Holes in sparse files: giving pages back without giving the range up."""

import ctypes
import os
from typing import Final

from systrap.host.sys import libc

_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2

_fallocate = libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


def punch_hole(fd: int, start: int, length: int) -> None:
    """Make ``length`` bytes from ``start`` read as zeros, in every mapping too, and free their pages. Raises OSError."""
    if _fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, start, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"punching {length:#x} bytes out of a file: {os.strerror(number)}")


def resident_bytes(fd: int, start: int, end: int) -> int:
    """Return how many bytes of ``[start, end)`` of a sparse file have pages behind them. Moves the file position."""
    total = 0
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:
            break
        if start >= end:
            break
        hole = min(end, os.lseek(fd, start, os.SEEK_HOLE))
        total += hole - start
        start = hole
    return total
