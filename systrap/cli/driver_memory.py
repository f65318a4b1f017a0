"""The memory of the conformance driver's guests: which bytes of which file lie where, and access to them by guest address."""

import errno
from typing import NamedTuple

from systrap.memory import MemoryFile
from systrap.platform import Access, AddressSpace, MapError, MapRequest, UnmapRequest


class Segment(NamedTuple):
    """A mapped range: ``[start, end)`` shows ``file`` from ``offset`` on. Access NONE: known here, not mapped."""

    start: int
    end: int
    file: MemoryFile
    offset: int
    access: Access
    name: str = ""

    def cut(self, low: int, high: int) -> "Segment":
        """Return the part within ``[low, high)``."""
        start = max(self.start, low)
        return self._replace(start=start, end=min(self.end, high), offset=self.offset + start - self.start)


class GuestMemory:
    """One address space and what the driver knows of it. Addresses and lengths are page multiples, except for transfers.

    It is the platform's GuestCode, too: anonymous memory counts as private, named files of the protocol as shared.
    """

    def __init__(self, space: AddressSpace, anonymous: MemoryFile) -> None:
        """Use ``anonymous`` for memory that belongs to nobody else; it is given back with the space."""
        self.space = space
        self._anonymous = anonymous
        self._allocated: list[tuple[int, int]] = []
        self._segments: list[Segment] = []
        self._named: dict[str, int] = {}
        space.code = self

    def map_anonymous(self, addr: int, length: int, access: Access, name: str = "") -> None:
        """Map zeroed memory. Raises MapError, MemoryError."""
        offset = self._anonymous.allocate(length)
        self._allocated.append((offset, length))
        self._named[name] = offset
        self.map(Segment(addr, addr + length, self._anonymous, offset, access, name))

    def map(self, segment: Segment) -> None:
        """Map a segment in place of what was there. Raises MapError."""
        self._forget(segment.start, segment.end)
        self._show([segment])
        self._segments.append(segment)
        self._segments.sort(key=lambda found: found.start)

    def unmap(self, addr: int, length: int) -> None:
        """Unmap a range."""
        self._forget(addr, addr + length)
        self.space.unmap(addr, length)

    def protect(self, addr: int, length: int, access: Access) -> None:
        """Change the access of a range that is mapped throughout. Raises MapError, OSError (ENOMEM: a gap)."""
        end = addr + length
        parts = [
            found.cut(addr, end)._replace(access=access)
            for found in self._segments
            if found.end > addr and found.start < end
        ]
        if sum(part.end - part.start for part in parts) != length:
            raise OSError(errno.ENOMEM, "not mapped throughout")
        self._forget(addr, end)
        self._show(parts)
        self._segments = sorted([*self._segments, *parts], key=lambda found: found.start)

    def _show(self, segments: list[Segment]) -> None:
        """Let the guest see segments as they are."""
        self.space.apply(
            [
                MapRequest(found.start, found.end - found.start, found.file, found.offset, found.access)
                if found.access
                else UnmapRequest(found.start, found.end - found.start)
                for found in segments
            ]
        )

    def _forget(self, low: int, high: int) -> None:
        """Drop a range from the table."""
        kept: list[Segment] = []
        for found in self._segments:
            if found.end <= low or found.start >= high:
                kept.append(found)
                continue
            if found.start < low:
                kept.append(found.cut(found.start, low))
            if found.end > high:
                kept.append(found.cut(high, found.end))
        self._segments = kept

    def read(self, addr: int, length: int) -> bytes:
        """Return what is at ``addr``, whatever the guest may do there; less where the mapping ends."""
        pieces = [
            bytes(part.file.data[part.offset : part.offset + part.end - part.start]) for part in self._run(addr, length)
        ]
        return b"".join(pieces)

    def write(self, addr: int, data: bytes) -> int:
        """Put bytes at ``addr``, and return how many there was room for."""
        done = 0
        for part in self._run(addr, len(data)):
            size = part.end - part.start
            part.file.data[part.offset : part.offset + size] = data[done : done + size]
            done += size
        return done

    def _run(self, addr: int, length: int) -> list[Segment]:
        """Return the segments of a transfer, up to the first gap or the end of a file."""
        parts = []
        end = addr + length
        for found in self._segments:
            if found.end <= addr or found.start > addr or addr >= end:
                continue
            part = found.cut(addr, end)
            room = max(min(part.end - part.start, part.file.size - part.offset), 0)
            parts.append(part._replace(end=part.start + room))
            if room < part.end - part.start:
                break
            addr = part.end
        return parts

    # platform.GuestCode.

    def read_code(self, addr: int, length: int) -> bytes | None:
        """Return bytes, or None when not all of them are there."""
        found = self.read(addr, length)
        return found if len(found) == length else None

    def may_write_code(self, addr: int, length: int) -> bool:
        """Tell whether a range is anonymous throughout."""
        parts = self._run(addr, length)
        return sum(part.end - part.start for part in parts) == length and all(
            part.file is self._anonymous for part in parts
        )

    def write_code(self, addr: int, data: bytes) -> bool:
        """Write to anonymous memory."""
        return self.may_write_code(addr, len(data)) and self.write(addr, data) == len(data)

    def find_area(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        """Return start and offset of what is left of the area of that name."""
        for found in self._segments:
            if found.name == name and low <= found.start < high:
                return found.start, found.offset - self._named[name]
        return None

    def map_code(self, addr: int, length: int, name: str) -> bool:
        """Map a table of trampolines where nothing is."""
        if any(found.start < addr + length and found.end > addr for found in self._segments):
            return False
        try:
            self.map_anonymous(addr, length, Access.READ | Access.EXECUTE, name)
        except (MapError, MemoryError):
            return False
        return True

    def release(self) -> None:
        """Give everything back."""
        self.space.release()
        for offset, length in self._allocated:
            self._anonymous.free(offset, length)
