"""An address space whose pages a test keeps the books of, so that a platform can reach the code in them (platform.GuestCode)."""

from typing import NamedTuple

from systrap.memory import MemoryFile
from systrap.platform import Access, AddressSpace, Platform
from tests.differential.snippet import PAGE

R, X = Access.READ, Access.EXECUTE


class Page(NamedTuple):
    """What is mapped at an address: an offset of the file, and for which accesses."""

    offset: int
    access: Access


class _Area(NamedTuple):
    start: int
    length: int
    name: str


class GuestPages:
    """A space and its pages, all private to it: a copy-on-write page has been copied already."""

    def __init__(self, platform: Platform, file: MemoryFile) -> None:
        """Make an empty space. Raises PlatformError."""
        self.space: AddressSpace = platform.new_address_space()
        self.space.code = self
        self.file = file
        self.pages: dict[int, Page] = {}
        self.areas: list[_Area] = []
        self._allocated: list[tuple[int, int]] = []

    def take(self, length: int) -> int:
        """Return the offset of zeroed pages that live as long as the space."""
        offset = self.file.allocate(length)
        self._allocated.append((offset, length))
        return offset

    def map(self, addr: int, offset: int, access: Access) -> None:
        """Map one page."""
        self.space.map_file(addr, self.file, offset, PAGE, access)
        self.pages[addr] = Page(offset, access)

    def release(self) -> None:
        """Give the space and its pages back."""
        self.space.release()
        for offset, length in self._allocated:
            self.file.free(offset, length)

    # platform.GuestCode.

    def _ranges(self, addr: int, length: int) -> list[tuple[int, int]] | None:
        """Return offset and length of the pieces of a range; None if some of it is not mapped."""
        pieces = []
        while length > 0:
            page = self.pages.get(addr & -PAGE)
            if page is None or page.offset >= self.file.size:
                return None
            count = min(length, PAGE - addr % PAGE)
            pieces.append((page.offset + addr % PAGE, count))
            addr, length = addr + count, length - count
        return pieces

    def read_code(self, addr: int, length: int) -> bytes | None:
        """See platform.GuestCode."""
        pieces = self._ranges(addr, length)
        return None if pieces is None else b"".join(self.file.data[o : o + n] for o, n in pieces)

    def may_write_code(self, addr: int, length: int) -> bool:
        """See platform.GuestCode."""
        return self._ranges(addr, length) is not None

    def write_code(self, addr: int, data: bytes) -> bool:
        """See platform.GuestCode."""
        pieces = self._ranges(addr, len(data))
        if pieces is None:
            return False
        done = 0
        for offset, count in pieces:
            self.file.data[offset : offset + count] = data[done : done + count]
            done += count
        return True

    def find_area(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        """See platform.GuestCode."""
        return next(((a.start, 0) for a in self.areas if a.name == name and low <= a.start < high), None)

    def map_code(self, addr: int, length: int, name: str) -> bool:
        """See platform.GuestCode."""
        if any(page in self.pages for page in range(addr, addr + length, PAGE)):
            return False
        offset = self.take(length)
        self.space.map_file(addr, self.file, offset, length, R | X, precommit=True)
        for done in range(0, length, PAGE):
            self.pages[addr + done] = Page(offset + done, R | X)
        self.areas.append(_Area(addr, length, name))
        return True
