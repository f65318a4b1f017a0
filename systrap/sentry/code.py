"""The guest's code as a platform reaches it: to read an instruction, to patch a call site, to map a table of trampolines.

All of it goes around the protection of the pages, and around nothing else: what a guest could not get written by making its
pages writable first (mprotect) is not written here either, pages that others share are copied first, and a file never changes.
"""

import os
import sys
from typing import TYPE_CHECKING, Final, Literal

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.mm_map import MAP_FIXED_NOREPLACE, MAP_PRIVATE
from systrap.sentry.mm_pages import PAGE_MASK
from systrap.sentry.pages import PageStore
from systrap.sentry.pma import Run
from systrap.sentry.vma import PROT_ALL, PROT_EXEC, PROT_READ, PROT_WRITE, VM_SHARED, Vma

if TYPE_CHECKING:
    from systrap.sentry.mm import MemoryManager

_WORDS: Final[dict[int, Literal["H", "I", "Q"]]] = {2: "H", 4: "I", 8: "Q"}


class MemoryCode:
    """The code in one MemoryManager's memory. A platform.GuestCode: that says what each method promises."""

    __slots__ = ("_mm",)

    def __init__(self, mm: "MemoryManager") -> None:
        self._mm = mm

    # Reading.

    def read_code(self, addr: int, length: int) -> bytes | None:
        """Return ``length`` bytes from ``addr``, or None. Puts no page anywhere, and no stack grows."""
        end = addr + length
        pieces: list[bytes] = []
        try:
            while addr < end:
                piece = self._read_piece(addr, end)
                if not piece:
                    return None
                pieces.append(piece)
                addr += len(piece)
        except (OSError, SyscallError):
            # A host file that cannot be read (any more).
            return None
        return b"".join(pieces)

    def _read_piece(self, addr: int, end: int) -> bytes:
        """Return the bytes from ``addr`` as far as one area and one run of pages have them; b"" if there are none."""
        mm = self._mm
        area = mm.vmas.find(addr)
        if area is None:
            return b""
        end = min(end, area.end)
        run = mm.runs.find(addr)
        if run is not None:
            return self._read_run(run, addr, min(end, run.end))
        end = mm.runs.gap_around(addr, area.start, end)[1]
        if area.mappable is None:
            return bytes(end - addr)
        # From the start of the page, for only that tells a page with the end of a file from one behind it.
        page = addr & ~PAGE_MASK
        content = area.mappable.read_page_bytes(area.offset + page - area.start, end - page)
        return _with_whole_pages(content)[addr - page : end - page]

    def _read_run(self, run: Run, addr: int, end: int) -> bytes:
        """Return bytes of pages that are there."""
        at = run.offset + addr - run.start
        if run.memory:
            return self._mm.memory.data[at : at + end - addr]
        page = at & ~PAGE_MASK
        length = at + end - addr - page
        content = os.pread(run.file.data_fd(page, length), length, page)
        return _with_whole_pages(content)[at - page : length]

    # Writing.

    def may_write_code(self, addr: int, length: int) -> bool:
        """Tell whether all of a range is private, may be made writable, and has something behind it."""
        end = addr + length
        position = addr
        while position < end:
            area = self._mm.vmas.find(position)
            if area is None or area.flags & VM_SHARED or not area.max_prot & PROT_WRITE:
                return False
            position = area.end
        return self.read_code(addr, length) is not None

    def write_code(self, addr: int, data: bytes) -> bool:
        """Write all of ``data`` or nothing. The protection stays; who shares the pages (a fork, a file) keeps the old ones."""
        end = addr + len(data)
        if not self.may_write_code(addr, len(data)):
            return False
        try:
            pieces = self._private_pieces(addr, end)
        except (OSError, SyscallError):
            # No memory for a copy.
            return False
        done = 0
        for at, length in pieces:
            self._store(at, data[done : done + length])
            done += length
        return done == len(data)

    def _private_pieces(self, addr: int, end: int) -> list[tuple[int, int]]:
        """Make pages private and return where they are in the MemoryFile: offset and length of each piece of the range."""
        mm = self._mm
        pieces: list[tuple[int, int]] = []
        while addr < end:
            area = mm.vmas.find(addr)
            if area is None:
                break
            run = mm.commit(area, addr & ~PAGE_MASK, True)
            stop = min(end, run.end, area.end)
            pieces.append((run.offset + addr - run.start, stop - addr))
            addr = stop
        return pieces

    def _store(self, at: int, data: bytes) -> None:
        """Write into the MemoryFile: an aligned word with one store, since guest threads may be running there."""
        memory = self._mm.memory.data
        word_format = _WORDS.get(len(data))
        if word_format is None or at % len(data):
            memory[at : at + len(data)] = data
            return
        with memoryview(memory) as whole, whole[at : at + len(data)] as part, part.cast(word_format) as word:
            word[0] = int.from_bytes(data, sys.byteorder)

    # Areas.

    def find_area(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        """Return the first area of that name that begins in ``[low, high)``.

        Its offset is not 0 when the beginning of what map_code() made is gone: unmapped, or covered by something else.
        """
        for area in self._mm.vmas.overlapping(low, high):
            if area.name == name and area.start >= low:
                return area.start, area.offset
        return None

    def map_code(self, addr: int, length: int, name: str) -> bool:
        """Map zeroed private pages, readable and executable, where nothing is. The limits of mmap count."""
        mm = self._mm
        # Anonymous memory forgets what it lost; a private mapping of zeros that are our own knows its offsets.
        zeros = PageStore(mm.memory, length)
        try:
            area = Vma(0, length, PROT_READ | PROT_EXEC, 0, PROT_ALL, zeros, 0, None, name)
            mm.map_area(addr, area, MAP_PRIVATE | MAP_FIXED_NOREPLACE)
        except SyscallError:
            return False
        finally:
            zeros.release()
        try:
            self._private_pieces(addr, addr + length)
        except SyscallError:
            mm.unmap(addr, length)
            return False
        return True


def _with_whole_pages(content: bytes) -> bytes:
    """Return the contents of a file with the zeros that complete its last page."""
    return content + bytes(-len(content) % PAGE_SIZE)
