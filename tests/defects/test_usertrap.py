"""Defects of call patching: the table's end, its header, half patches, instructions that only look like a site (10-stub §6).

Guest memory is a dictionary here. What really runs in stubs is the business of tests/blobs and tests/platforms.
"""

import struct
from collections.abc import Callable, Iterable

import pytest

from systrap.arch import x86_64
from systrap.platforms.systrap import usertrap
from systrap.platforms.systrap.usertrap import CallSites, Fixed
from tests.defects.both_ways import both_ways, demand, verdict

PAGE = 4096
CODE = 0x400000
GETPID = 39
LOW, HIGH = usertrap.TABLE_LOW, usertrap.TABLE_HIGH + usertrap.TABLE_SIZE + PAGE
"""Where trampolines may lie, and a page behind."""
MOV, SYSCALL = 0xB8, b"\x0f\x05"


def site_of(number: int) -> bytes:
    return struct.pack("<BI", MOV, number) + SYSCALL


class Guest:
    """Guest memory with code in it: platform.GuestCode. ``read_only`` are pages that not even patching may change."""

    def __init__(self, code: bytes, at: int = CODE, read_only: Iterable[int] = ()) -> None:
        self.bytes: dict[int, int] = {at + i: byte for i, byte in enumerate(code)}
        self.table: int | None = None
        self.read_only = frozenset(read_only)
        self.table_writes: list[tuple[int, int]] = []
        self.sites = CallSites()

    def read_code(self, addr: int, length: int) -> bytes | None:
        found = [self.bytes.get(addr + i) for i in range(length)]
        return None if None in found else bytes(byte for byte in found if byte is not None)

    def may_write_code(self, addr: int, length: int) -> bool:
        return not {page // PAGE * PAGE for page in (addr, addr + length - 1)} & self.read_only

    def write_code(self, addr: int, data: bytes) -> bool:
        if not self.may_write_code(addr, len(data)):
            return False
        if LOW <= addr < HIGH:
            self.table_writes.append((addr, len(data)))
        self.bytes.update((addr + i, byte) for i, byte in enumerate(data))
        return True

    def find_area(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        return None if self.table is None else (self.table, 0)

    def map_code(self, addr: int, length: int, name: str) -> bool:
        self.table = addr
        self.bytes.update((addr + i, 0) for i in range(length))
        return True

    def trap(self, site: int, number: int = GETPID) -> None:
        """Let a site trap as often as it takes."""
        regs = memoryview(bytearray(8 * x86_64.X86_64.REG_COUNT)).cast("Q")
        regs[x86_64.RIP], regs[x86_64.ORIG_RAX] = site + usertrap.SITE_LENGTH, number
        for _ in range(usertrap.PATCH_AFTER):
            self.sites.trapped(self, regs)


# ---- TABLE-END ----


def next_index_of_upstream(index: int) -> int | None:
    """Say that the table is full before the entry that straddles pages is skipped, and not after."""
    if index >= usertrap.MAX_INDEX:
        return None
    offset = index * usertrap.ENTRY_SIZE
    return index + (offset // PAGE != (offset + usertrap.ENTRY_SIZE) // PAGE)


def check_nothing_is_written_behind_the_table() -> None:
    """More sites than the table has room for."""
    sites = 300
    guest = Guest(site_of(GETPID) * sites)
    for number in range(sites):
        guest.trap(CODE + number * usertrap.SITE_LENGTH)
    assert guest.table is not None
    end = guest.table + usertrap.TABLE_SIZE
    behind = [addr for addr, length in guest.table_writes if not guest.table <= addr <= addr + length <= end]
    demand(not behind, f"a trampoline was written at {len(behind)} places outside the table")
    assert guest.sites.patched == 250


@both_ways
def test_the_end_of_the_table(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """TABLE-END; S-089, S-090."""
    if original:
        monkeypatch.setattr(usertrap, "next_index", next_index_of_upstream)
    with verdict(original):
        check_nothing_is_written_behind_the_table()


# ---- TABLE-HEADER ----


def allocate_by_the_header(code: Guest, resume: int, number: int) -> int | None:
    """Allocate as upstream does: the header is believed."""
    table = usertrap._find_or_map(code)
    header = code.read_code(table, 4) if table is not None else None
    if table is None or header is None:
        return None
    index = next_index_of_upstream(int.from_bytes(header, "little"))
    if index is None:
        return None
    entry = table + index * usertrap.ENTRY_SIZE
    code.write_code(entry, usertrap.encode_entry(entry, resume, number))
    code.write_code(table, (index + 1).to_bytes(4, "little"))
    return entry


def check_a_forged_header(header: int) -> None:
    """Write another number over the next free index, as a guest can; then another of its sites traps."""
    guest = Guest(site_of(GETPID) * 2)
    guest.trap(CODE)
    assert guest.sites.patched == 1
    assert guest.table is not None
    guest.write_code(guest.table, header.to_bytes(4, "little"))
    guest.table_writes.clear()
    guest.trap(CODE + usertrap.SITE_LENGTH)
    for addr, length in guest.table_writes:
        if length == 4:
            continue  # the header itself
        inside = guest.table + usertrap.ENTRY_SIZE <= addr and addr + length <= guest.table + usertrap.TABLE_SIZE
        demand(inside, f"a trampoline was written over the header, or behind the table, at {addr - guest.table:#x}")


@both_ways
@pytest.mark.parametrize("header", [0, 255])
def test_a_forged_header(original: bool, header: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """TABLE-HEADER; S-147."""
    if original:
        monkeypatch.setattr(CallSites, "_allocate", staticmethod(allocate_by_the_header))
    with verdict(original):
        check_a_forged_header(header)


@pytest.mark.parametrize("header", [256, 257, 1 << 31, (1 << 32) - 1])
def test_a_header_beyond_the_table(header: int) -> None:
    """TABLE-HEADER; S-147: large numbers are refused by both."""
    check_a_forged_header(header)


# ---- HALF-PATCH ----


def write_site_without_a_way_back(code: Guest, site: int, old: bytes, entry: int) -> bool:
    """Write the steps as upstream does: whatever a failing one leaves stays."""
    new = b"\xff\x24\x25" + entry.to_bytes(4, "little")
    return all(
        code.write_code(addr, data) for addr, data in ((site + 5, new[5:6]), (site + 1, new[1:]), (site, new[:1]))
    )


class Unasked(Guest):
    """A guest whose permissions nobody asks for before the first write."""

    def write_code(self, addr: int, data: bytes) -> bool:
        return Guest.may_write_code(self, addr, len(data)) and super().write_code(addr, data)

    def may_write_code(self, addr: int, length: int) -> bool:
        return True


def check_a_site_that_can_be_written_in_part(kind: Callable[..., Guest]) -> None:
    """Patch a site that lies across two pages, of which only the second may be changed."""
    site = CODE + PAGE - 5
    guest = kind(site_of(GETPID), site, {CODE})
    guest.trap(site)
    now = guest.read_code(site, usertrap.SITE_LENGTH)
    assert now is not None
    demand(now[5] != 0x06 or now[0] == 0xFF, f"the site is half patched: {now.hex()}")
    assert now == site_of(GETPID)


@both_ways
def test_a_write_that_fails_on_the_way(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """HALF-PATCH; S-083."""
    if original:
        monkeypatch.setattr(usertrap, "_write_site", write_site_without_a_way_back)
    with verdict(original):
        check_a_site_that_can_be_written_in_part(Unasked if original else Guest)


# ---- INSTRUCTION-TAIL, SITE-ENTRY ----

TAILS = {
    "mov $imm32, %r8d": b"\x41",
    "lea disp32(%rax), %edi": b"\x8d",
    "mov disp32(%r8), %edi": b"\x41\x8b",
    "movl $imm32, -0x48(%rbp)": b"\xc7\x45",
    "movabs $imm64, %rax": b"\x48\xb8\x00\x00\x00",
}
"""Instructions that end in b8 and four bytes: what they have in front of these."""


def check_the_tail_of_an_instruction(before: bytes) -> None:
    """Let eax happen to hold the number that the last bytes of another instruction spell."""
    padding = b"\x90" * 16
    guest = Guest(padding + before + site_of(GETPID))
    guest.trap(CODE + len(padding) + len(before))
    demand(guest.sites.patched == 0, "an instruction was torn apart")
    assert guest.sites.refused == 1


@both_ways
@pytest.mark.parametrize("before", TAILS.values(), ids=TAILS)
def test_instructions_that_end_like_a_site(original: bool, before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """INSTRUCTION-TAIL; S-080."""
    if original:
        monkeypatch.setattr(usertrap, "tail_of", lambda _before: None)
    with verdict(original):
        check_the_tail_of_an_instruction(before)


def test_a_jump_at_the_syscall_of_a_patched_site() -> None:
    """SITE-ENTRY: what remains. Whoever jumps behind the mov with a number of its own makes the call of the mov."""
    guest = Guest(site_of(GETPID))
    guest.trap(CODE)
    assert guest.sites.patched == 1
    regs = memoryview(bytearray(8 * x86_64.X86_64.REG_COUNT)).cast("Q")
    regs[x86_64.RIP], regs[x86_64.RAX] = CODE + 5, 1
    assert guest.sites.fix_up(guest, regs) == Fixed.RUN_AGAIN
    assert regs[x86_64.RIP] == CODE
