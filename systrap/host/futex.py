"""Futexes on words of shared memory. Shared futexes only: the words lie in files mapped by several processes."""

import ctypes
from typing import Final

from systrap.host.sys import NR, syscall

_WAIT: Final = 0
_WAKE: Final = 1


def wait(address: int, expected: int, timeout: float) -> bool:
    """Sleep while the u32 at ``address`` is ``expected``, at most ``timeout`` seconds. Releases the GIL.

    Returns False when the time was up, True otherwise: woken, changed before, or interrupted. Look at the word again.
    """
    span = (ctypes.c_long * 2)(int(timeout), int(timeout % 1 * 1e9))
    return syscall(NR["futex"], address, _WAIT, expected, ctypes.addressof(span), 0, 0) != -110


def wake(address: int, count: int = 1) -> int:
    """Wake up to ``count`` sleepers and return how many there were."""
    return syscall(NR["futex"], address, _WAKE, count, 0, 0, 0)
