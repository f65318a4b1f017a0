"""Guest memory for tests of call patching: pages in a dict, a log of what was written, and refusals to order."""

import struct

from systrap.arch import x86_64
from systrap.platforms.systrap.usertrap import PATCH_AFTER, TABLE_NAME, TABLE_SIZE, CallSites

PAGE = 4096
SITE_PAGE = 0x400000
SITE = SITE_PAGE + 0x100
TABLE = 0x64000


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
        done = 0
        while done < len(content):
            number, start = divmod(addr + done, PAGE)
            piece = content[done : done + PAGE - start]
            self.pages.setdefault(number, bytearray(PAGE))[start : start + len(piece)] = piece
            done += len(piece)

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


def with_site(number: int = 39, site: int = SITE, before: bytes = b"") -> FakeCode:
    """Return memory with one call site."""
    code = FakeCode()
    code.put(site - len(before), before + site_bytes(number) + b"\xc3")
    return code


def with_table(code: FakeCode, header: bytes = b"\1\0\0\0", offset: int = 0) -> FakeCode:
    """Put a table into memory, with this header."""
    code.put(TABLE, bytes(TABLE_SIZE))
    code.put(TABLE, header)
    code.areas[TABLE_NAME] = TABLE, offset
    return code


def patch(code: FakeCode, site: int = SITE, number: int = 39, eflags: int = 0x202) -> CallSites:
    """Let a site trap until it is patched, or was refused."""
    sites = CallSites()
    trap_often(sites, code, site, number, eflags)
    assert sites.patched + sites.refused == 1
    return sites


def refused(code: FakeCode, site: int = SITE, number: int = 39, eflags: int = 0x202) -> bool:
    """Tell whether a site is refused, and check that nothing at all was written then."""
    sites = patch(code, site, number, eflags)
    assert bool(sites.refused) == (code.writes == [])
    return bool(sites.refused)


def entry_of(code: FakeCode, site: int = SITE) -> int:
    """Return the entry a patched site jumps through."""
    found = code.at(site, 7)
    assert found[:3] == b"\xff\x24\x25"
    return int.from_bytes(found[3:], "little")
