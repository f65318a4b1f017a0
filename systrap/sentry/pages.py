"""PageStore: contents of variable size in pages of the MemoryFile. Shared anonymous memory, tmpfs files, memfds."""

import errno
from typing import Final

from systrap.host.holes import punch_hole
from systrap.host.sys import PAGE_SIZE
from systrap.memory import MemoryFile, OutOfMemoryFileError
from systrap.sentry.errors import SyscallError
from systrap.sentry.intervals import IntervalSet
from systrap.sentry.mappable import Backing, Mappable, MappingUser

_MAX_CHUNK: Final = 1 << 20
_MAX_MAPPED_CHUNK: Final = 64 << 20
_MAX_SIZE: Final = (1 << 63) - 1
_PAGE_MASK: Final = PAGE_SIZE - 1


class _Chunk:
    """Contents ``[start, end)`` are in the MemoryFile from ``offset``."""

    __slots__ = ("end", "offset", "start")

    def __init__(self, start: int, end: int, offset: int) -> None:
        self.start = start
        self.end = end
        self.offset = offset

    def part(self, start: int, end: int) -> "_Chunk":
        return _Chunk(start, end, self.offset + start - self.start)

    def joined(self, after: "_Chunk") -> "_Chunk | None":
        if self.offset + self.end - self.start != after.offset:
            return None
        return _Chunk(self.start, after.end, self.offset)


class PageStore(Mappable):
    """Sparse contents of ``size`` bytes; what was never written reads as zeros and costs nothing.

    The pages are freed by ``release`` once nothing is mapped, at the latest when nothing refers to the store any more.
    """

    __slots__ = ("_chunks", "_memory", "_released", "size")

    def __init__(self, memory: MemoryFile, size: int = 0) -> None:
        super().__init__()
        self._memory = memory
        self._chunks: IntervalSet[_Chunk] = IntervalSet()
        self._released = False
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``offset``; b"" at and behind the end."""
        end = min(offset + count, self.size)
        if offset >= end:
            return b""
        chunk = self._chunks.find(offset)
        if chunk is not None and chunk.end >= end:
            at = chunk.offset + offset - chunk.start
            return self._memory.data[at : at + end - offset]
        return self._read_pieces(offset, end)

    def _read_pieces(self, offset: int, end: int) -> bytes:
        pieces: list[bytes] = []
        for chunk in self._chunks.overlapping(offset, end):
            if chunk.start > offset:
                pieces.append(bytes(chunk.start - offset))
                offset = chunk.start
            stop = min(end, chunk.end)
            at = chunk.offset + offset - chunk.start
            pieces.append(self._memory.data[at : at + stop - offset])
            offset = stop
        if offset < end:
            pieces.append(bytes(end - offset))
        return b"".join(pieces)

    def write(self, offset: int, data: "bytes | bytearray | memoryview[int]") -> int:
        """Write all of ``data`` at ``offset``, growing the contents; return its length. EFBIG, ENOSPC."""
        length = len(data)
        end = offset + length
        if end > _MAX_SIZE:
            raise SyscallError(errno.EFBIG)
        position = 0
        while position < length:
            chunk = self._chunks.find(offset)
            if chunk is None:
                chunk = self._allocate(offset, end, _MAX_CHUNK)
            take = min(chunk.end - offset, length - position)
            at = chunk.offset + offset - chunk.start
            self._memory.data[at : at + take] = data if take == length else data[position : position + take]
            position += take
            offset += take
            if offset > self.size:
                self.size = offset
        return length

    def _allocate(self, offset: int, end: int, most: int) -> _Chunk:
        """Put pages behind ``offset``, which has none: as many as are needed until ``end``, and more the bigger the store is."""
        low = offset & ~_PAGE_MASK
        needed = (end + _PAGE_MASK & ~_PAGE_MASK) - low
        ahead = self.size & ~_PAGE_MASK if offset >= self.size else 0
        length = min(max(needed, min(ahead, _MAX_CHUNK)), most)
        low, high = self._chunks.gap_around(offset, low, low + length)
        try:
            at = self._memory.allocate(high - low)
        except OutOfMemoryFileError:
            raise SyscallError(errno.ENOSPC) from None
        return self._join(_Chunk(low, high, at))

    def _join(self, chunk: _Chunk) -> _Chunk:
        return self._chunks.add(chunk)

    def truncate(self, size: int) -> None:
        """Set the size. What is cut off is gone: it reads as zeros should the store grow again. EFBIG."""
        if size > _MAX_SIZE:
            raise SyscallError(errno.EFBIG)
        if size < self.size:
            first_gone = size + _PAGE_MASK & ~_PAGE_MASK
            if self.users:
                self.invalidate(first_gone, max(self._limit() - first_gone, 0))
            self.size = size
            self._drop(first_gone, self._limit())
            if size & _PAGE_MASK:
                self._zero(size, first_gone)
        self.size = size

    def _limit(self) -> int:
        """Return the first offset behind every chunk."""
        return max(self._chunks.items[-1].end if self._chunks.items else 0, self.size + _PAGE_MASK & ~_PAGE_MASK)

    def _drop(self, start: int, end: int) -> None:
        """Free whole pages that no address space maps any more."""
        if start < end:
            for chunk in self._chunks.cut(start, end):
                self._memory.free(chunk.offset, chunk.end - chunk.start)

    def _zero(self, start: int, end: int) -> None:
        """Overwrite part of a page with zeros, if it is there."""
        chunk = self._chunks.find(start)
        if chunk is not None:
            at = chunk.offset + start - chunk.start
            self._memory.data[at : at + end - start] = bytes(end - start)

    def punch(self, offset: int, length: int) -> None:
        """Make a range read as zeros and free its pages (FALLOC_FL_PUNCH_HOLE, MADV_REMOVE). The size stays.

        Mappings stay as well: a hole in the MemoryFile shows in all of them at once.
        """
        end = min(offset + length, self._limit())
        low = offset + _PAGE_MASK & ~_PAGE_MASK
        high = end & ~_PAGE_MASK
        if low > high:
            self._zero(offset, end)
            return
        if offset < low:
            self._zero(offset, low)
        if high < end:
            self._zero(high, end)
        for chunk in self._chunks.overlapping(low, high):
            start, stop = max(chunk.start, low), min(chunk.end, high)
            punch_hole(self._memory.fd, chunk.offset + start - chunk.start, stop - start)

    def next_data(self, offset: int) -> int | None:
        """Return the first offset at or behind ``offset`` that may hold data (SEEK_DATA), None when there is none."""
        for chunk in self._chunks.overlapping(offset, self.size):
            return max(offset, chunk.start)
        return None

    def next_hole(self, offset: int) -> int:
        """Return the first offset at or behind ``offset`` in a hole, or the size (SEEK_HOLE)."""
        for chunk in self._chunks.overlapping(offset, self.size):
            if chunk.start > offset:
                break
            offset = chunk.end
        return min(offset, self.size)

    @property
    def allocated(self) -> int:
        """Bytes that have pages, within the size (st_blocks × 512)."""
        limit = self.size + _PAGE_MASK & ~_PAGE_MASK
        return sum(max(0, min(c.end, limit) - c.start) for c in self._chunks.items)

    def translate(self, offset: int, length: int, write: bool) -> Backing:
        """See Mappable. Holes get pages: their zeros are as sparse as the MemoryFile."""
        limit = self.size + _PAGE_MASK & ~_PAGE_MASK
        if offset >= limit:
            raise SyscallError(errno.EFAULT)
        chunk = self._chunks.find(offset)
        if chunk is None:
            chunk = self._allocate(offset, min(offset + length, limit), _MAX_MAPPED_CHUNK)
        end = min(chunk.end, offset + length, limit)
        return Backing(self._memory, chunk.offset + offset - chunk.start, end - offset, True)

    def read_page_bytes(self, offset: int, length: int) -> bytes:
        """See Mappable."""
        return self.read(offset, length)

    def remove_user(self, user: MappingUser) -> None:
        """See Mappable. The last mapping of a released store frees the pages."""
        super().remove_user(user)
        if self._released and not self.users:
            self._drop(0, self._limit())

    def release(self) -> None:
        """Free the pages as soon as no mapping uses them. The contents must not be used otherwise any more."""
        self._released = True
        if not self.users:
            self._drop(0, self._limit())

    def __del__(self) -> None:
        try:
            self._drop(0, self._limit())
        except (OSError, AttributeError):
            # The MemoryFile was closed before (end of the run): the pages are gone already.
            return


class ZeroPages(Mappable):
    """/dev/zero: mapping it gives anonymous memory. The memory manager makes it so; nothing is ever translated."""

    __slots__ = ()

    def translate(self, offset: int, length: int, write: bool) -> Backing:
        """Never called for a mapping; refuse."""
        raise SyscallError(errno.ENODEV)

    def read_page_bytes(self, offset: int, length: int) -> bytes:
        """Return zeros."""
        return bytes(length)
