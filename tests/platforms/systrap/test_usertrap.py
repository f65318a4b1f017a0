"""The table of trampolines, without a guest: what an entry is, which are used, what it may look like (10-stub §6.1, §6.2)."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.platforms.systrap.usertrap import (
    ENTRY_SIZE,
    TABLE_HIGH,
    TABLE_LOW,
    TABLE_NAME,
    TABLE_SIZE,
    CallSites,
    encode_entry,
    next_index,
)
from tests.platforms.systrap.fake_code import (
    PAGE,
    SITE_PAGE,
    TABLE,
    FakeCode,
    entry_of,
    patch,
    refused,
    site_bytes,
    trap_often,
    with_site,
    with_table,
)
from tests.programs.support import need_program

STRADDLING = {51, 102, 153, 204, 255}
"""Entries that would lie in two pages (10-stub §6.1)."""


# The trampoline.


def test_trampoline_byte_by_byte() -> None:
    """S-082: the table of 10-stub §6.2, as bytes."""
    entry, resume, number = 0x6A1A0, 0x1122334455667788, 0x27
    expected = bytes.fromhex(
        "a8a1060000000000"  # the jump's operand: entry + 8
        "65c704252c00000002000000"  # movl $PREP, %gs:state
        "654889242520000000"  # mov %rsp, %gs:app_stack
        "65488b242518000000"  # mov %gs:syshandler_stack, %rsp
        "48b88877665544332211"  # movabs $resume, %rax
        "654889042508000000"  # mov %rax, %gs:ret_addr
        "b827000000"  # mov $number, %eax
        "65ff242510000000"  # jmp *%gs:syshandler
    )
    assert encode_entry(entry, resume, number) == expected
    assert len(expected) == 70 <= ENTRY_SIZE


def test_trampoline_as_an_assembler_has_it(tmp_path: Path) -> None:
    """S-082: independently of our own table of bytes."""
    source = """
        .quad 0x6a1a8
        movl $2, %gs:0x2c
        movq %rsp, %gs:0x20
        movq %gs:0x18, %rsp
        movabsq $0x7f1234567890, %rax
        movq %rax, %gs:0x08
        movl $0x137, %eax
        jmp *%gs:0x10
    """
    (tmp_path / "entry.s").write_text(source)
    subprocess.run([need_program("as"), "--64", "-o", tmp_path / "entry.o", tmp_path / "entry.s"], check=True)
    subprocess.run(
        [need_program("objcopy"), "-O", "binary", "-j", ".text", tmp_path / "entry.o", tmp_path / "entry.bin"],
        check=True,
    )
    assert (tmp_path / "entry.bin").read_bytes() == encode_entry(0x6A1A0, 0x7F1234567890, 0x137)


# The table.


def test_which_entries_are_used() -> None:
    """S-082, S-089: 250 of them, none in two pages, none behind the table."""
    used, index = [], next_index(1)
    while index is not None:
        used.append(index)
        index = next_index(index + 1)
    assert used == [i for i in range(1, 256) if i not in STRADDLING]
    assert len(used) == 250
    for index in used:
        assert index * ENTRY_SIZE // PAGE == (index * ENTRY_SIZE + len(encode_entry(0, 0, 0)) - 1) // PAGE


def test_filling_the_table() -> None:
    """S-089, S-090: sites get one entry after the other; when the table is full nothing is written any more, anywhere."""
    code = with_table(FakeCode())
    sites = CallSites()
    for number in range(300):
        site = SITE_PAGE + 16 * number
        code.put(site, site_bytes(number))
        trap_often(sites, code, site, number)
    assert (sites.patched, sites.refused) == (250, 50)
    entries = [entry_of(code, SITE_PAGE + 16 * number) for number in range(250)]
    assert [(entry - TABLE) // ENTRY_SIZE for entry in entries] == [i for i in range(1, 256) if i not in STRADDLING]
    for number, entry in enumerate(entries):
        assert code.at(entry, 70) == encode_entry(entry, SITE_PAGE + 16 * number + 7, number)
    assert code.at(SITE_PAGE + 16 * 250, 7) == site_bytes(250)
    in_table = [(addr, data) for addr, data in code.writes if addr < SITE_PAGE]
    assert all(addr >= TABLE and addr + len(data) <= TABLE + TABLE_SIZE for addr, data in in_table)
    assert int.from_bytes(code.at(TABLE, 4), "little") == 255


@pytest.mark.parametrize("index", [0, 255, 256, 257, 1 << 31, (1 << 32) - 1])
def test_header_that_makes_no_sense(index: int) -> None:
    """S-147: the guest can write it. Entry 0 must not be overwritten, and nothing behind the table."""
    assert refused(with_table(with_site(), struct.pack("<I", index)))


@given(st.integers(0, (1 << 32) - 1) | st.integers(0, 300))
def test_any_header(index: int) -> None:
    """S-147, S-090: whatever the header says, writes stay between it and the table's end."""
    code = with_table(with_site(), struct.pack("<I", index))
    sites = patch(code)
    assert sites.patched == (1 <= index <= 254)
    for addr, data in code.writes:
        assert addr >= SITE_PAGE or addr == TABLE or TABLE + 4 < addr <= TABLE + TABLE_SIZE - len(data)


def test_table_that_was_mapped_over() -> None:
    """10-stub §6.1: what begins in the middle is not our table any more."""
    assert refused(with_table(with_site(), offset=PAGE))


@pytest.mark.parametrize("start", [TABLE + 8, TABLE_HIGH + PAGE])
def test_table_at_an_impossible_place(start: int) -> None:
    code = with_site()
    code.put(start, b"\1\0\0\0" + bytes(TABLE_SIZE))
    code.areas[TABLE_NAME] = start, 0
    assert refused(code)


def test_where_the_table_is_put() -> None:
    """S-081: every page of the range can be it, none outside; the next try never asks for the same place again."""
    places = set(range(TABLE_LOW, TABLE_HIGH + 1, PAGE))
    for place in places:
        code = with_site()
        code.no_room = places - {place}
        patch(code)
        assert code.mapped == [(place, TABLE_SIZE, TABLE_NAME)]
        assert entry_of(code) == place + ENTRY_SIZE
        assert code.at(place, 4) == b"\2\0\0\0"


def test_table_is_put_at_random() -> None:
    """S-081: two in a row at one place are chance, forty are not."""
    seen = set()
    for _ in range(40):
        code = with_site()
        patch(code)
        seen.add(code.mapped[0][0])
    assert len(seen) > 1


def test_no_room_for_a_table() -> None:
    code = with_site()
    code.no_room = set(range(TABLE_LOW, TABLE_HIGH + 1, PAGE))
    assert refused(code)


def test_third_byte_of_every_entry_is_the_guard() -> None:
    """S-083: wherever the table is, the byte that lands on the old syscall is 06."""
    for table in range(TABLE_LOW, TABLE_HIGH + 1, PAGE):
        for index in range(256):
            assert (table + index * ENTRY_SIZE).to_bytes(4, "little")[2:] == b"\x06\x00"
