"""Which call sites are patched, when, and in which order of writes; without a guest (10-stub §6.3, §6.5)."""

import struct
import threading

import pytest

from systrap.platforms.systrap.usertrap import ENTRY_SIZE, PATCH_AFTER, CallSites, encode_entry
from tests.platforms.systrap.fake_code import (
    PAGE,
    SITE,
    SITE_PAGE,
    TABLE,
    FakeCode,
    entry_of,
    patch,
    refused,
    registers,
    site_bytes,
    trap_often,
    trapped_at,
    with_site,
    with_table,
)

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
