"""A timer as a descriptor: readable once its deadline passed."""

import ctypes
import os
import struct
import time
from typing import Final

from systrap.host.mem import address_of
from systrap.host.sys import check, libc

_TFD_TIMER_ABSTIME: Final = 1
_TFD_CLOEXEC: Final = os.O_CLOEXEC


_TIMERSPEC: Final = struct.Struct("4l")
"""struct itimerspec: interval and value, each seconds and nanoseconds."""

_settime = libc.timerfd_settime
_settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t)


class DeadlineTimer:
    """A one-shot timer on the clock of time.monotonic(). ``fd`` blocks in read() until the deadline."""

    __slots__ = ("_address", "_spec", "fd")

    def __init__(self) -> None:
        """Create it, not armed. Raises OSError."""
        self.fd = int(libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_CLOEXEC))
        if self.fd < 0:
            check(-ctypes.get_errno(), "timerfd_create")
        self._spec = bytearray(_TIMERSPEC.size)
        self._address = address_of(self._spec)

    def arm(self, deadline: float) -> None:
        """Set the deadline (time.monotonic() seconds), in place of an earlier one. Raises OSError."""
        nanoseconds = max(int(deadline * 1e9), 1)
        _TIMERSPEC.pack_into(self._spec, 0, 0, 0, *divmod(nanoseconds, 1_000_000_000))
        if _settime(self.fd, _TFD_TIMER_ABSTIME, self._address, 0) != 0:
            check(-ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
