"""Resource limits of a process."""

import resource
from typing import Final

RLIMIT_CPU: Final = 0
RLIMIT_FSIZE: Final = 1
RLIMIT_STACK: Final = 3
RLIMIT_CORE: Final = 4
RLIMIT_NPROC: Final = 6
RLIMIT_NOFILE: Final = 7
COUNT: Final = 16
INFINITY: Final = (1 << 64) - 1
_MAX_FILES: Final = 1 << 20


class Limits:
    """Soft and hard limits by resource number; INFINITY is none. A first process has the host's."""

    __slots__ = ("_values",)

    def __init__(self, values: "list[tuple[int, int]] | None" = None) -> None:
        """Take (soft, hard) of each resource; by default this process's."""
        self._values = values if values is not None else [_host(number) for number in range(COUNT)]

    def soft(self, number: int) -> int:
        """Return the soft limit."""
        return self._values[number][0]

    def get(self, number: int) -> tuple[int, int]:
        """Return soft and hard limit."""
        return self._values[number]

    def set(self, number: int, soft: int, hard: int) -> None:
        """Set both; the caller has checked them."""
        self._values[number] = (soft, hard)

    @property
    def nofile(self) -> int:
        """The first descriptor number that may not be given out."""
        return min(self.soft(RLIMIT_NOFILE), _MAX_FILES)

    def copy(self) -> "Limits":
        """Return limits of their own (fork)."""
        return Limits(list(self._values))


_start_values: dict[int, tuple[int, int]] = {}


def remember_host_limit(number: int) -> None:
    """Keep a limit as it is now for guests, before the sentry changes its own."""
    _start_values.setdefault(number, _host(number))


def _host(number: int) -> tuple[int, int]:
    if number in _start_values:
        return _start_values[number]
    soft, hard = resource.getrlimit(number)
    return soft & INFINITY, hard & INFINITY
