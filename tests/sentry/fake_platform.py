"""A platform for tests of the memory manager: address spaces are dicts of pages, and what is freed must not be mapped."""

import os
from collections.abc import Sequence

from systrap.memory import MemoryFile
from systrap.platform import (
    Access,
    AddressSpace,
    Context,
    MappableFile,
    MapRequest,
    Platform,
    UnmapRequest,
)

PAGE = 4096


class FakeSpace(AddressSpace):
    """Pages by address: (file, offset, access)."""

    def __init__(self, platform: "FakePlatform") -> None:
        self.platform = platform
        self.pages: dict[int, tuple[MappableFile, int, Access]] = {}
        self.applied = 0
        self.released = False

    def apply(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        assert not self.released
        self.applied += 1
        if self.platform.quiet:
            return
        for request in requests:
            assert request.addr % PAGE == 0
            assert request.length % PAGE == 0
            assert request.length > 0
            for page in range(request.addr, request.addr + request.length, PAGE):
                if isinstance(request, UnmapRequest):
                    self.pages.pop(page, None)
                else:
                    assert request.access
                    assert request.start % PAGE == 0
                    offset = request.start + page - request.addr
                    self.pages[page] = (request.file, offset, request.access)

    def statistics(self) -> "dict[str, int]":
        return {"applied": self.applied}

    def release(self) -> None:
        assert not self.released
        self.released = True
        self.platform.spaces.remove(self)


class FakePlatform(Platform):
    """Makes fake spaces. ``quiet`` ones believe everything: for ranges too big to count page by page."""

    name = "fake"

    def __init__(self) -> None:
        self.spaces: list[FakeSpace] = []
        self.quiet = False

    def min_user_address(self) -> int:
        return 0x1000

    def max_user_address(self) -> int:
        return 0x7F0000000000

    def new_address_space(self) -> FakeSpace:
        space = FakeSpace(self)
        self.spaces.append(space)
        return space

    def new_context(self) -> Context:
        raise NotImplementedError

    def concurrency_count(self) -> int:
        return 1

    def submit(self, context: Context, space: AddressSpace) -> None:
        raise NotImplementedError

    def next_ready(self, deadline: float | None) -> Context | None:
        raise NotImplementedError

    def wake(self) -> None:
        raise NotImplementedError

    def statistics(self) -> "dict[str, int]":
        return {}

    def close(self) -> None:
        return


class CheckedMemoryFile(MemoryFile):
    """Checks the rule of order: no address space maps what is freed. Knows what is allocated."""

    def __init__(self, platform: FakePlatform) -> None:
        super().__init__("test", 1 << 32)
        self.platform = platform
        self.live: set[int] = set()

    def allocate(self, length: int, alignment: int = PAGE) -> int:
        start = super().allocate(length, alignment)
        pages = set(range(start, start + length, PAGE))
        assert not pages & self.live
        self.live |= pages
        return start

    def free(self, start: int, length: int) -> None:
        pages = set(range(start, start + length, PAGE))
        assert pages <= self.live, "freed twice"
        self.live -= pages
        for space in self.platform.spaces:
            for address, (file, offset, _) in space.pages.items():
                assert file is not self or offset not in pages, f"freed while mapped at {address:#x}"
        super().free(start, length)


def page_bytes(file: MappableFile, offset: int, length: int) -> bytes:
    """Read what a guest would see."""
    data = os.pread(file.data_fd(offset, length), length, offset)
    return data + bytes(length - len(data))


def page_write(file: MappableFile, offset: int, data: bytes) -> None:
    """Write as a guest would."""
    os.pwrite(file.data_fd(offset, len(data)), data, offset)
