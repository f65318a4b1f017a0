"""Call patching without a guest: which sites, what is written, in which order, and where it is refused (10-stub §6)."""

import struct
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.arch import x86_64
from systrap.platforms.systrap.usertrap import (
    ENTRY_SIZE,
    PATCH_AFTER,
    TABLE_HIGH,
    TABLE_LOW,
    TABLE_NAME,
    TABLE_SIZE,
    CallSites,
    encode_entry,
    next_index,
)
from tests.platforms.systrap.fake_code import PAGE, SITE_PAGE, FakeCode, registers, site_bytes, trap_often, trapped_at
from tests.programs.support import need_program

SITE = SITE_PAGE + 0x100
TABLE = 0x64000
STRADDLING = {51, 102, 153, 204, 255}
"""Entries that would lie in two pages (10-stub §6.1)."""


def with_site(number: int = 39, site: int = SITE, before: bytes = b"") -> FakeCode:
    code = FakeCode()
    code.put(site - len(before), before + site_bytes(number) + b"\xc3")
    return code


def with_table(code: FakeCode, header: bytes = b"\1\0\0\0", offset: int = 0) -> FakeCode:
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


# Which sites.


@pytest.mark.parametrize(
    "found",
    [
        site_bytes(40),
        b"\xbf" + site_bytes(39)[1:],
        site_bytes(39)[:5] + b"\x0f\x34",
        site_bytes(39)[:5] + b"\x06\x05",
        b"\xff\x24\x25\xa0\xa1\x06\x00",
    ],
)
def test_site_must_be_what_the_stub_said(found: bytes) -> None:
    """S-080: all seven bytes are checked, before anything is written."""
    code = FakeCode()
    code.put(SITE, found)
    assert refused(code)


@pytest.mark.parametrize("number", [1 << 31, (1 << 32) - 1, (1 << 64) - 1, 1 << 32 | 39])
def test_number_that_no_mov_could_have_set(number: int) -> None:
    """S-080: what the registers say is not believed either."""
    assert refused(with_site(39), number=number)


@pytest.mark.parametrize("number", [0, 39, 334, (1 << 31) - 1])
def test_numbers(number: int) -> None:
    code = with_site(number)
    assert patch(code, number=number).patched
    assert code.at(entry_of(code) + 57, 5) == struct.pack("<BI", 0xB8, number)


def test_site_that_is_not_there() -> None:
    assert refused(FakeCode())


@pytest.mark.parametrize("rip", [0, 3, 6])
def test_site_below_zero(rip: int) -> None:
    """A forged context: refused without a look."""
    sites, code = CallSites(), FakeCode()
    for _ in range(2 * PATCH_AFTER):
        sites.trapped(code, registers(rip=rip, orig_rax=39))
    assert not sites.patched
    assert code.attempts == 0


@pytest.mark.parametrize("readonly", [(0,), (1,), (0, 1)])
def test_pages_that_may_not_be_written(readonly: tuple[int, ...]) -> None:
    """10-stub §6.3 [H]: both pages are asked for before the first write, so that no half of a patch is left."""
    site = SITE_PAGE + PAGE - 3
    code = with_site(site=site)
    code.readonly = {site // PAGE + page for page in readonly}
    assert refused(code, site)


def test_single_stepping_guest() -> None:
    """Its next calls would step into the trampoline."""
    assert refused(with_site(), eflags=0x302)


def test_tail_of_another_instruction() -> None:
    """10-stub §6.5: mov $39, %r8d is torn apart by no patch; what is in front of it does not matter."""
    assert refused(with_site(before=b"\x90\x90\x90\x90\x90\x90\x41"))
    assert not refused(with_site(before=b"\x90\x90\x90\x90\x90\x41\x90"))


@pytest.mark.parametrize("back", range(8))
@pytest.mark.parametrize("before_is_there", [False, True])
def test_site_at_the_start_of_a_page(back: int, before_is_there: bool) -> None:
    """The bytes in front count as far as they can be read, also in the page before."""
    site = SITE_PAGE + back
    code = with_site(site=site)
    if before_is_there:
        code.put(SITE_PAGE - PAGE, b"\x90" * PAGE)
        code.put(site - 1, b"\x41")
        assert refused(code, site)
    else:
        assert not refused(code, site)


def test_site_at_the_very_beginning_of_memory() -> None:
    assert not refused(with_site(site=2), 2)


def test_looks_far_enough_back() -> None:
    """An instruction whose first byte is the farthest that the list of tails knows: valignq with SIB and disp32."""
    assert refused(with_site(before=bytes.fromhex("62f3fd48038424")))


# When.


def test_patched_when_it_has_trapped_often_enough() -> None:
    """Not before; and a site that was dealt with is not looked at again."""
    sites, code = CallSites(), with_site()
    for _ in range(PATCH_AFTER - 1):
        sites.trapped(code, trapped_at(SITE, 39))
    assert code.attempts == 0
    for _ in range(3 * PATCH_AFTER):
        sites.trapped(code, trapped_at(SITE, 39))
    assert (sites.patched, sites.refused) == (1, 0)


def test_sites_are_counted_for_themselves() -> None:
    sites, code = CallSites(), with_site()
    for number in range(PATCH_AFTER - 1):
        for site in (SITE, SITE + 16 * number + 16):
            sites.trapped(code, trapped_at(site, 39))
    assert sites.patched == sites.refused == 0
    sites.trapped(code, trapped_at(SITE, 39))
    assert sites.patched == 1


def test_books_stay_small() -> None:
    """A guest that runs code at ever new addresses does not fill the sentry's memory, and its hot sites are patched."""
    sites, code = CallSites(), with_site()
    for step in range(10000):
        sites.trapped(code, trapped_at(0x10000000 + 16 * step, 39))
    assert len(sites._counts) <= 4096
    trap_often(sites, code, SITE, 39)
    assert sites.patched == 1


def test_registers_are_left_alone() -> None:
    """S-094: the call that led to the patch goes on as any other."""
    regs = trapped_at(SITE, 39)
    before = list(regs)
    sites, code = CallSites(), with_site()
    for _ in range(PATCH_AFTER):
        sites.trapped(code, regs)
    assert sites.patched
    assert list(regs) == before


# How.


def test_order_of_writes() -> None:
    """S-083: trampoline, header; the guard, the operand, and the opcode last."""
    code = with_table(with_site())
    patch(code)
    entry = TABLE + ENTRY_SIZE
    new = b"\xff\x24\x25" + struct.pack("<I", entry)
    assert code.writes == [
        (entry, encode_entry(entry, SITE + 7, 39)),
        (TABLE, b"\2\0\0\0"),
        (SITE + 5, b"\x06"),
        (SITE + 1, new[1:]),
        (SITE, b"\xff"),
    ]


def test_site_can_be_run_after_every_single_byte() -> None:
    """S-083: whatever byte of a write lands first, there is the old pair, or old mov and 06, or the jump."""
    code = with_table(with_site())
    patch(code)
    stages = [site_bytes(39)]
    for addr, data in code.writes:
        if addr < SITE:
            continue
        at = addr - SITE
        for written in range(1 << len(data)):
            mixed = bytearray(stages[-1])
            for index, byte in enumerate(data):
                if written >> index & 1:
                    mixed[at + index] = byte
            old, guarded = mixed == stages[0], mixed[0] == 0xB8 and mixed[5] == 0x06
            assert old or guarded or mixed == code.at(SITE, 7)
        stages.append(stages[-1][:at] + data + stages[-1][at + len(data) :])
    assert stages[-1] == code.at(SITE, 7)


@pytest.mark.parametrize("failing", range(5))
def test_write_that_fails(failing: int) -> None:
    """S-083, 10-stub §11: no half of a patch is left, though may_write_code() had said yes."""
    code = with_table(with_site())
    code.refuse = {failing}
    sites = patch(code)
    assert (sites.patched, sites.refused) == (0, 1)
    assert code.at(SITE, 7) == site_bytes(39)


def test_page_that_cannot_be_copied() -> None:
    """A site in two pages, and memory for a copy of the second only: what was written goes back without the first."""
    site = SITE_PAGE + PAGE - 3
    code = with_table(with_site(site=site))
    write = code.write_code

    def short_of_memory(addr: int, data: bytes) -> bool:
        return not SITE_PAGE <= addr < SITE_PAGE + PAGE and write(addr, data)

    code.write_code = short_of_memory  # type: ignore[method-assign]
    assert patch(code, site).refused
    assert code.at(site, 7) == site_bytes(39)
    assert any(addr >= SITE_PAGE for addr, _ in code.writes)


def test_undoing_keeps_the_guard_to_the_last() -> None:
    """While half a number stands there, nobody must get past the guard."""
    code = with_table(with_site())
    code.refuse = {4}
    patch(code)
    *_, last = code.writes
    assert last == (SITE + 5, b"\x0f")


# Forking.


def test_no_patch_while_memory_is_copied() -> None:
    """P-035, S-088: between pre_fork and post_fork a patch that is due waits, and nothing is written."""
    sites, code = CallSites(), with_site()
    for _ in range(PATCH_AFTER - 1):
        sites.trapped(code, trapped_at(SITE, 39))
    sites.pre_fork()
    thread = threading.Thread(target=sites.trapped, args=(code, trapped_at(SITE, 39)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert code.attempts == 0
    assert code.at(SITE, 7) == site_bytes(39)
    sites.post_fork()
    thread.join(20)
    assert not thread.is_alive()
    assert sites.patched == 1


def test_fork_waits_for_a_patch() -> None:
    """P-035: the other way round."""
    sites, code = CallSites(), with_table(with_site())
    reached, go = threading.Event(), threading.Event()
    write = code.write_code

    def slow(addr: int, data: bytes) -> bool:
        if addr == SITE + 1:
            reached.set()
            assert go.wait(20)
        return write(addr, data)

    code.write_code = slow  # type: ignore[method-assign]
    patcher = threading.Thread(target=trap_often, args=(sites, code, SITE, 39))
    patcher.start()
    assert reached.wait(20)
    forker = threading.Thread(target=sites.pre_fork)
    forker.start()
    forker.join(0.1)
    assert forker.is_alive(), "the fork would copy half a patch"
    go.set()
    forker.join(20)
    assert code.at(SITE, 3) == b"\xff\x24\x25"
    sites.post_fork()
    patcher.join(20)


def test_child_goes_on_in_the_inherited_table() -> None:
    """S-088: a child has books of its own, and finds the table and its header in the memory it inherited."""
    code = with_site()
    patch(code)
    code.put(SITE + 32, site_bytes(1))
    patch(code, SITE + 32, 1)
    assert len(code.mapped) == 1
    assert entry_of(code, SITE + 32) == entry_of(code) + ENTRY_SIZE


def test_registers_by_name() -> None:
    """The helper of these tests agrees with the module about which register is which."""
    assert registers(rip=5)[x86_64.RIP] == 5
