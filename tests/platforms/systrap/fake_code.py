"""Guest memory for tests of call patching: pages in a dict, a log of what was written, and refusals to order."""

import struct

from systrap.arch import x86_64
from systrap.platforms.systrap.usertrap import PATCH_AFTER, CallSites

PAGE = 4096
SITE_PAGE = 0x400000


class FakeCode:
    """A platform.GuestCode. ``writes`` is every write that was done; ``refuse`` holds the numbers of writes that fail."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.readonly: set[int] = set()
        self.areas: dict[str, tuple[int, int]] = {}
        self.writes: list[tuple[int, bytes]] = []
        self.refuse: set[int] = set()
        self.attempts = 0
        self.mapped: list[tuple[int, int, str]] = []
        self.no_room: set[int] = set()

    def put(self, addr: int, content: bytes | bytearray) -> None:
        """Make memory exist, with this content; nothing of it is logged."""
        for at, byte in enumerate(content, addr):
            self.pages.setdefault(at // PAGE, bytearray(PAGE))[at % PAGE] = byte

    def at(self, addr: int, length: int) -> bytes:
        """Return what must be there."""
        found = self.read_code(addr, length)
        assert found is not None
        return found

    # platform.GuestCode.

    def read_code(self, addr: int, length: int) -> bytes | None:
        assert addr >= 0
        span = range(addr, addr + length)
        if any(at // PAGE not in self.pages for at in span):
            return None
        return bytes(self.pages[at // PAGE][at % PAGE] for at in span)

    def may_write_code(self, addr: int, length: int) -> bool:
        pages = {addr // PAGE, (addr + length - 1) // PAGE}
        return pages <= self.pages.keys() and not pages & self.readonly

    def write_code(self, addr: int, data: bytes) -> bool:
        self.attempts += 1
        if self.attempts - 1 in self.refuse or not self.may_write_code(addr, len(data)):
            return False
        self.put(addr, data)
        self.writes.append((addr, data))
        return True

    def find_area(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        found = self.areas.get(name)
        return found if found is not None and low <= found[0] < high else None

    def map_code(self, addr: int, length: int, name: str) -> bool:
        if addr in self.no_room:
            return False
        self.put(addr, bytes(length))
        self.areas[name] = addr, 0
        self.mapped.append((addr, length, name))
        return True


def site_bytes(number: int) -> bytes:
    """Return mov $number, %eax; syscall."""
    return struct.pack("<BI", 0xB8, number) + b"\x0f\x05"


def registers(**values: int) -> "memoryview[int]":
    """Return a context's registers with these values."""
    regs = memoryview(bytearray(8 * x86_64.X86_64.REG_COUNT)).cast("Q")
    for name, value in values.items():
        regs[x86_64.NAMES.index(name)] = value
    return regs


def trapped_at(site: int, number: int, eflags: int = 0x202) -> "memoryview[int]":
    """Return the registers of a thread that trapped at the site."""
    return registers(rip=site + 7, orig_rax=number, rax=number, eflags=eflags)


def trap_often(sites: CallSites, code: FakeCode, site: int, number: int, eflags: int = 0x202) -> None:
    """Let a site trap as often as it takes."""
    for _ in range(PATCH_AFTER):
        sites.trapped(code, trapped_at(site, number, eflags))
