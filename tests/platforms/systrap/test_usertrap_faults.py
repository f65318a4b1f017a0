"""Faults that a patch is behind: the guard byte 06, and single steps into a trampoline (10-stub §6.4; S-085, S-086, P-056)."""

import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.arch import x86_64
from systrap.platforms.systrap.usertrap import (
    ENTRY_SIZE,
    TABLE_HIGH,
    TABLE_LOW,
    TABLE_SIZE,
    CallSites,
    Fixed,
    encode_entry,
)
from tests.platforms.systrap.fake_code import SITE, FakeCode, entry_of, registers, site_bytes, trap_often

TF = 0x100


@pytest.fixture
def code() -> FakeCode:
    """Return memory with a patched call of number 39."""
    code = FakeCode()
    code.put(SITE, site_bytes(39))
    sites = CallSites()
    trap_often(sites, code, SITE, 39)
    assert sites.patched
    return code


# SIGILL.


@pytest.mark.parametrize("rax", [39, 0, (1 << 64) - 4, 0xA1A02524, 218, 220])
def test_guard_leads_back_to_the_site(code: FakeCode, rax: int) -> None:
    """S-085, P-055: whatever the old or half-written mov left in rax. Nothing but rip changes."""
    sites, regs = CallSites(), registers(rip=SITE + 5, rax=rax, orig_rax=(1 << 64) - 1, rcx=7, rsp=8)
    before = list(regs)
    assert sites.fix_up(code, regs) is Fixed.RUN_AGAIN
    assert regs[x86_64.RIP] == SITE
    before[x86_64.RIP] = SITE
    assert list(regs) == before
    assert sites.fixed == 1


def test_restarted_call(code: FakeCode) -> None:
    """P-056: restart_syscall, by a kernel that rewound the instruction, is that call and not the site's."""
    regs = registers(rip=SITE + 5, rax=219, orig_rax=(1 << 64) - 1)
    assert CallSites().fix_up(code, regs) is Fixed.SYSCALL
    assert regs[x86_64.RIP] == SITE + 7
    assert regs[x86_64.ORIG_RAX] == regs[x86_64.RAX] == 219


@pytest.mark.parametrize("rax", [39, 219])
@pytest.mark.parametrize(
    "found",
    [
        b"\x90\x90\x90\x90\x90\x06\x90",
        b"\xb8\x27\x00\x00\x00\x06\x05",
        b"\xff\x24\x25\xa0\xa1\x07\x00",
        b"\xff\x24\x25\xa0\xa1\x06\x01",
        b"\xff\x24\x25\x00\x00\x06\x00"[:6] + b"\x80",
        b"\xff\x24\x24\xa0\xa1\x06\x00",
        b"\xfe\x24\x25\xa0\xa1\x06\x00",
        struct.pack("<3sI", b"\xff\x24\x25", TABLE_HIGH + TABLE_SIZE),
        struct.pack("<3sI", b"\xff\x24\x25", TABLE_LOW),
    ],
)
def test_illegal_instruction_of_the_guest(found: bytes, rax: int) -> None:
    """S-086: a real 06, also behind bytes that nearly are a patch. No register changes."""
    code = FakeCode()
    code.put(SITE, found)
    sites, regs = CallSites(), registers(rip=SITE + 5, rax=rax)
    before = list(regs)
    assert sites.fix_up(code, regs) is Fixed.NO
    assert list(regs) == before
    assert sites.fixed == 0


def test_site_that_is_gone() -> None:
    assert CallSites().fix_up(FakeCode(), registers(rip=SITE + 5)) is Fixed.NO


@pytest.mark.parametrize("rip", [0, 1, 4, (1 << 64) - 1])
def test_impossible_addresses(rip: int) -> None:
    """A forged context."""
    regs = registers(rip=rip, eflags=TF)
    assert CallSites().fix_up(FakeCode(), regs) is Fixed.NO
    assert CallSites().stepped(FakeCode(), regs) is Fixed.NO


def test_patch_that_was_undone_meanwhile() -> None:
    """A thread met the 06 of a patch that then failed: the call is there again, and nobody hears of a SIGILL."""
    code = FakeCode()
    code.put(SITE, site_bytes(39))
    regs = registers(rip=SITE + 5, rax=0xA1A02524)
    assert CallSites().fix_up(code, regs) is Fixed.RUN_AGAIN
    assert regs[x86_64.RIP] == SITE


def test_waits_for_the_patch_it_met() -> None:
    """10-stub §6.4: a thread that hits the 06 before the opcode is written must not get a signal."""
    code, sites = FakeCode(), CallSites()
    code.put(SITE, site_bytes(39))
    reached, go = threading.Event(), threading.Event()
    write = code.write_code

    def slow(addr: int, data: bytes) -> bool:
        if addr == SITE:
            reached.set()
            assert go.wait(20)
        return write(addr, data)

    code.write_code = slow  # type: ignore[method-assign]
    patcher = threading.Thread(target=trap_often, args=(sites, code, SITE, 39))
    patcher.start()
    assert reached.wait(20)
    answers: list[Fixed] = []
    regs = registers(rip=SITE + 5, rax=39)
    victim = threading.Thread(target=lambda: answers.append(sites.fix_up(code, regs)))
    victim.start()
    victim.join(0.1)
    assert not answers, "it looked at half a patch"
    go.set()
    victim.join(20)
    patcher.join(20)
    assert answers == [Fixed.RUN_AGAIN]


# SIGTRAP.


def test_step_into_a_trampoline(code: FakeCode) -> None:
    """The call is made as if the site had trapped: number, and the address behind it. No other register changes."""
    regs = registers(rip=entry_of(code) + 8, rax=5, orig_rax=(1 << 64) - 1, rcx=7, rsp=8, eflags=0x302)
    before = list(regs)
    assert CallSites().stepped(code, regs) is Fixed.SYSCALL
    before[x86_64.RIP] = SITE + 7
    before[x86_64.RAX] = before[x86_64.ORIG_RAX] = 39
    assert list(regs) == before


def test_breakpoint_in_a_trampoline(code: FakeCode) -> None:
    """Without TF it is the guest's own int3."""
    assert CallSites().stepped(code, registers(rip=entry_of(code) + 8, eflags=0x202)) is Fixed.NO


@pytest.mark.parametrize("offset", [0, 7, 9, 20, 29, 57, 70, ENTRY_SIZE + 8])
def test_step_elsewhere(code: FakeCode, offset: int) -> None:
    assert CallSites().stepped(code, registers(rip=entry_of(code) + offset, eflags=0x302)) is Fixed.NO


@pytest.mark.parametrize("rip", [SITE, SITE + 7, TABLE_LOW, TABLE_HIGH + TABLE_SIZE + 8, 0x7F0000000008])
def test_step_far_away(code: FakeCode, rip: int) -> None:
    assert CallSites().stepped(code, registers(rip=rip, eflags=0x302)) is Fixed.NO


def test_step_into_a_table_that_is_gone() -> None:
    assert CallSites().stepped(FakeCode(), registers(rip=TABLE_LOW + 88, eflags=0x302)) is Fixed.NO


@given(st.integers(0, 69), st.integers(1, 255))
def test_step_into_a_forged_trampoline(at: int, change: int) -> None:
    """The guest can write the table: what is no trampoline is its own code. A changed operand is another trampoline."""
    code, entry = FakeCode(), TABLE_LOW + ENTRY_SIZE
    forged = bytearray(encode_entry(entry, SITE + 7, 39))
    forged[at] ^= change
    code.put(entry, forged)
    regs = registers(rip=entry + 8, eflags=0x302)
    operand = 40 <= at < 48 or 58 <= at < 62
    assert CallSites().stepped(code, regs) is (Fixed.SYSCALL if operand else Fixed.NO)
    assert regs[x86_64.RIP] == (struct.unpack_from("<Q", forged, 40)[0] if operand else entry + 8)
