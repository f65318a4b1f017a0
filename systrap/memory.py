"""MemoryFile: pages of a memfd, handed out in page ranges and mapped into the sentry (pgalloc.MemoryFile; 20-platform §9.1).

Guest memory and the structures shared with stubs live in such files: a stub maps ranges by descriptor and offset, the
sentry reads and writes the same pages through one mapping of the whole file. The file is sparse: only touched pages cost.
"""

import bisect
import ctypes
import mmap
import os
from typing import Final

from systrap.host.mem import MAP_NORESERVE
from systrap.host.sys import PAGE_SIZE, libc

_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_DEFAULT_SIZE: Final = 1 << 38

_fallocate = libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


class OutOfMemoryFileError(MemoryError):
    """The file's address range, or the host's memory, is used up."""


class MemoryFile:
    """A sparse memfd of fixed size with an allocator of page ranges. Not thread-safe: one owner.

    ``data`` is the whole file, mapped shared and writable into the sentry; offsets index it directly.
    Satisfies platform.MappableFile.
    """

    __slots__ = ("_free", "_starts", "data", "fd", "size", "used")

    def __init__(self, name: str, size: int = _DEFAULT_SIZE) -> None:
        """Create the file, ``size`` bytes of sparse address range. Raises OSError."""
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, size)
            self.data = mmap.mmap(self.fd, size, mmap.MAP_SHARED | MAP_NORESERVE)
        except OSError:
            os.close(self.fd)
            raise
        self.size = size
        self.used = 0
        # Free ranges, disjoint, not adjacent, by start: the starts twice, so that bisect needs no key.
        self._starts: list[int] = [0]
        self._free: dict[int, int] = {0: size}

    def data_fd(self, start: int, length: int) -> int:
        """Return the memfd: all of it is always valid (DataFD)."""
        return self.fd

    def allocate(self, length: int, alignment: int = PAGE_SIZE) -> int:
        """Return the offset of ``length`` zeroed bytes (a page multiple), first fit from the bottom.

        Allocations in sequence lie side by side, so that the host can merge their mappings into one (field.md D20).
        Raises OutOfMemoryFileError.
        """
        for index, start in enumerate(self._starts):
            aligned = -(-start // alignment) * alignment
            end = start + self._free[start]
            if aligned + length <= end:
                self._take(index, start, end, aligned, aligned + length)
                self.used += length
                return aligned
        raise OutOfMemoryFileError(f"no room for {length:#x} bytes in a memory file of {self.size:#x}")

    def _take(self, index: int, start: int, end: int, low: int, high: int) -> None:
        """Cut ``[low, high)`` out of the free range ``[start, end)`` at ``index``."""
        del self._free[start]
        rest = [(s, e) for s, e in ((start, low), (high, end)) if s < e]
        self._starts[index : index + 1] = [s for s, _ in rest]
        for s, e in rest:
            self._free[s] = e - s

    def clear(self, start: int, length: int) -> None:
        """Make ``[start, start+length)`` zeros and give its memory to the host; it stays allocated and mapped."""
        if _fallocate(self.fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, start, length) != 0:
            raise OSError(ctypes.get_errno(), f"freeing {length:#x} bytes of a memory file")

    def free(self, start: int, length: int) -> None:
        """Give ``[start, start+length)`` back; its pages are freed at once, so the next owner finds zeros.

        The caller has removed every mapping of the range from every stub before (rule of order, 20-platform §4.2).
        """
        self.clear(start, length)
        self.used -= length
        end = start + length
        index = bisect.bisect_left(self._starts, start)
        if index < len(self._starts) and self._starts[index] == end:
            length += self._free.pop(end)
            del self._starts[index]
        if index > 0:
            before = self._starts[index - 1]
            if before + self._free[before] == start:
                self._free[before] += length
                return
        self._starts.insert(index, start)
        self._free[start] = length

    def close(self) -> None:
        """Unmap and close the file. Views of ``data`` must be gone; those that are not keep the mapping alive."""
        os.close(self.fd)
        # The number may be another file's soon: whoever frees late must not punch holes into that.
        self.fd = -1
        try:
            self.data.close()
        except BufferError:
            # Somebody still exports a view: the mapping goes with the last view, or with the process.
            return
