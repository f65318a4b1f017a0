"""The resource limits that bound an address space."""

from typing import Final, Protocol

RLIMIT_DATA: Final = 2
RLIMIT_STACK: Final = 3
RLIMIT_MEMLOCK: Final = 8
RLIMIT_AS: Final = 9


class MemoryLimits(Protocol):
    """The resource limits that bound an address space."""

    def soft(self, resource: int) -> int:
        """Return the soft limit of RLIMIT_… in bytes; 2**64-1 is none."""


class DefaultLimits:
    """What a process has that nobody limited: an 8 MiB stack and 8 MiB of locked memory."""

    def soft(self, resource: int) -> int:
        """See MemoryLimits."""
        return 8 << 20 if resource in (RLIMIT_STACK, RLIMIT_MEMLOCK) else (1 << 64) - 1
