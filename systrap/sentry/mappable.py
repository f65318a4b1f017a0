"""What can be mapped into guest memory: the seam between files and the memory manager (memmap.Mappable).

A *mappable* translates page ranges of its contents into ranges of a platform file: a host file as it is, or pages of
the sentry's MemoryFile. The memory manager maps those, and asks again after an invalidation.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

from systrap.platform import MappableFile


class Backing(NamedTuple):
    """A run of pages: ``length`` bytes of ``file`` from ``start``. All page multiples.

    ``in_memory_file`` is True when ``file`` is the sentry's MemoryFile, so that the sentry can touch the bytes directly.
    """

    file: MappableFile
    start: int
    length: int
    in_memory_file: bool


class MappingUser(Protocol):
    """A memory manager that has translations of a mappable in use."""

    def invalidate(self, mappable: "Mappable", offset: int, length: int) -> None:
        """Drop every translation of ``[offset, offset+length)`` from the address space, before the pages go away."""


class Mappable(ABC):
    """Contents that can be mapped. ``users`` counts the mappings of each memory manager, for invalidation."""

    __slots__ = ("users",)

    def __init__(self) -> None:
        self.users: dict[MappingUser, int] = {}

    @abstractmethod
    def translate(self, offset: int, length: int, write: bool) -> Backing:
        """Return the backing of a non-empty prefix of ``[offset, offset+length)``.

        ``write``: the pages will be mapped writable and shared. Raises SyscallError(EFAULT) where there is no page, beyond
        the end of the contents: the guest gets SIGBUS (P-047); SyscallError(EACCES) where it may not be written.
        """

    @abstractmethod
    def read_page_bytes(self, offset: int, length: int) -> bytes:
        """Return contents for a copy-on-write copy or a sentry read; short at the end of the contents."""

    def add_user(self, user: MappingUser) -> None:
        """Count one more mapping of a memory manager."""
        self.users[user] = self.users.get(user, 0) + 1

    def remove_user(self, user: MappingUser) -> None:
        """Count one mapping less."""
        left = self.users[user] - 1
        if left:
            self.users[user] = left
        else:
            del self.users[user]

    def invalidate(self, offset: int, length: int) -> None:
        """Make every memory manager drop its translations of a range (truncate, replaced pages)."""
        for user in list(self.users):
            user.invalidate(self, offset, length)
