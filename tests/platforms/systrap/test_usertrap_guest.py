"""Call patching on the real platform: what guests see of it (10-stub §5, §6)."""

import struct

import pytest

from systrap.platforms.systrap import abi
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.usertrap import (
    ENTRY_SIZE,
    PATCH_AFTER,
    TABLE_HIGH,
    TABLE_LOW,
    TABLE_SIZE,
    encode_entry,
)
from tests.platforms.kernel import DATA, PAGE, STACK_TOP, R, X, addr, reg, set_reg, signo
from tests.platforms.systrap.patching import (
    ELSEWHERE,
    GETPID,
    LOOP,
    SITE,
    START,
    PatchedGuest,
    all_registers,
    came_by_trampoline,
    guest,
)

__all__ = ["guest"]

CF, ZF, TF, DF, OF, AC = 1, 1 << 6, 1 << 8, 1 << 10, 1 << 11, 1 << 18
FLAGS = 0x202

EVERY_REGISTER = bytes.fromhex(
    "488d5b01488d7b02488d7303488d53044c8d53054c8d43064c8d4b074c8d63084c8d73094c8d7b0a488d6b0b"
    "b8270000000f054989c5ebc8"
)
"""1: lea 1(%rbx), %rbx; lea 2(%rbx), %rdi; lea 3(%rbx), %rsi; lea 4(%rbx), %rdx; lea 5(%rbx), %r10; lea 6(%rbx), %r8;
lea 7(%rbx), %r9; lea 8(%rbx), %r12; lea 9(%rbx), %r14; lea 10(%rbx), %r15; lea 11(%rbx), %rbp; mov $39, %eax; syscall;
mov %rax, %r13; jmp 1b. No flag changes."""
UNPATCHABLE = EVERY_REGISTER.replace(
    b"\xb8\x27\x00\x00\x00\x0f\x05\x49\x89\xc5\xeb\xc8", b"\x6a\x27\x58\x90\x90\x0f\x05\x49\x89\xc5\xeb\xc8"
)
"""The same with push $39; pop %rax; nop; nop; syscall."""
DOUBLE_YMM3 = bytes.fromhex("b8270000000f05c5e5fedbebf3")
"""1: mov $39, %eax; syscall; vpaddd %ymm3, %ymm3, %ymm3; jmp 1b"""


# What a patch is.


def test_site_becomes_a_jump(guest: PatchedGuest) -> None:
    """S-080, S-081, S-082: seven bytes, an entry for them, and a table that is R-X at an allowed place."""
    context = guest.context()
    guest.patch(context)
    entry = guest.entry()
    assert guest.at(START + 7, 2) == LOOP[7:]
    assert guest.at(entry, 70) == encode_entry(entry, START + 7, GETPID)
    (table,) = [found for found in guest.memory._segments if found.name]
    assert table.start == guest.table() == entry - ENTRY_SIZE
    assert table.start % PAGE == 0
    assert TABLE_LOW <= table.start <= TABLE_HIGH
    assert table.end - table.start == TABLE_SIZE
    assert table.access == R | X


def test_stub_shows_the_table_as_it_is(guest: PatchedGuest) -> None:
    """S-081: in the host's own view of the stub: R-X, where the table is."""
    guest.patch(guest.context())
    with open(f"/proc/{guest.space.stub.pid}/maps", encoding="ascii") as maps:
        found = [line.split()[:2] for line in maps if line.startswith(f"{guest.table():08x}-")]
    assert found == [[f"{guest.table():08x}-{guest.table() + TABLE_SIZE:08x}", "r-xs"]]


def test_every_call_arrives_once(guest: PatchedGuest) -> None:
    """S-094: also the one that led to the patch; afterwards they come by the trampoline."""
    count = PATCH_AFTER + 20
    context = guest.context()
    ways = []
    for _ in range(count):
        guest.call(context)
        assert reg(context, "rip") == START + 7
        ways.append(came_by_trampoline(context))
    assert ways == [False] * PATCH_AFTER + [True] * (count - PATCH_AFTER)


# What a guest sees of it.


def dumps(guest: PatchedGuest, code: bytes, calls: int) -> list[dict[str, int]]:
    """Return the registers at each call, where each is answered with its number. rcx and r11 are the hardware's to clobber."""
    guest.memory.map_anonymous(ELSEWHERE - 16, PAGE, R | X)
    guest.memory.write(ELSEWHERE, code)
    context = guest.context(ELSEWHERE)
    found = []
    for number in range(calls):
        guest.call(context, result=(number << 40) - 1 & (1 << 64) - 1)
        found.append({name: value for name, value in all_registers(context).items() if name not in ("rcx", "r11")})
    return found


def test_patched_and_trapped_calls_look_the_same(guest: PatchedGuest) -> None:
    """P-054, S-092: for a thousand calls; arguments go in, results come out, flags and stack pointer stay."""
    patched, trapped = dumps(guest, EVERY_REGISTER, 1000), dumps(guest, UNPATCHABLE, 1000)
    assert guest.sites.patched == 1
    assert patched == trapped


@pytest.mark.parametrize("flags", [FLAGS, FLAGS | CF | ZF | OF, FLAGS | DF, FLAGS | AC, FLAGS | AC | DF | CF])
def test_registers_survive(guest: PatchedGuest, flags: int) -> None:
    """S-092, S-093: every register but rax, so rcx and r11 too; flags with DF and AC set; and what is below the stack."""
    guest.memory.write(START, EVERY_REGISTER)
    guest.patch(context := guest.context())
    below = bytes(range(256)) * 2
    guest.memory.write(STACK_TOP - 0x800 - len(below), below)
    for name, value in (("rcx", 0xCCCC), ("r11", 0x1111), ("rsp", STACK_TOP - 0x800), ("eflags", flags), ("rbx", 0)):
        set_reg(context, name, value)
    for turn in range(1, 6):
        guest.call(context, result=turn)
        assert came_by_trampoline(context)
        found = all_registers(context)
        assert (found["rcx"], found["r11"], found["rsp"]) == (0xCCCC, 0x1111, STACK_TOP - 0x800)
        assert found["eflags"] == flags
        assert [found[name] - turn for name in ("rbx", "rdi", "rsi", "rdx", "r10", "r8", "r9", "r12", "r14", "r15", "rbp")] == [
            0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
        ]  # fmt: skip
        assert turn == 1 or found["r13"] == turn - 1
    assert guest.at(STACK_TOP - 0x800 - len(below), len(below)) == below


def test_trapped_calls_after_patched_ones(guest: PatchedGuest) -> None:
    """A context that alternates between the two ways keeps its FP state and registers (BUG-FP of 10-stub §3.1)."""
    guest.memory.write(START, DOUBLE_YMM3[:7] + bytes.fromhex("c5e5fedb" "6a2758" "0f05" "ebee"))
    context = guest.context()
    guest.memory.write(STACK_TOP - 16, bytes(16))
    for _ in range(PATCH_AFTER):
        guest.call(context)
        guest.call(context)
    set_xmm3(context, 3)
    for turn in range(10):
        guest.call(context)
        assert came_by_trampoline(context)
        assert xmm3(context) == 3 << turn
        guest.call(context)
        assert not came_by_trampoline(context)
        assert xmm3(context) == 6 << turn


def set_xmm3(context: object, value: int) -> None:
    assert isinstance(context, SystrapContext)
    context.pull_full_state()
    context.fp[160 + 48 : 160 + 64] = struct.pack("<4I", *[value] * 4)
    context.fp[512] |= 3
    context.full_state_changed()


def xmm3(context: object) -> int:
    assert isinstance(context, SystrapContext)
    context.pull_full_state()
    words = struct.unpack_from("<4I", context.fp, 160 + 48)
    assert len(set(words)) == 1
    return int(words[0])


def test_fp_state_of_several_contexts(guest: PatchedGuest) -> None:
    """P-061 for patched calls: more contexts than threads, each with registers of its own."""
    guest.memory.write(START, DOUBLE_YMM3)
    guest.patch(guest.context())
    contexts = [guest.context() for _ in range(guest.platform.concurrency_count() + 3)]
    for number, context in enumerate(contexts, 1):
        set_xmm3(context, number)
    for turn in range(8):
        guest.kernel.run_all([(context, guest.space) for context in contexts])
        for number, context in enumerate(contexts, 1):
            assert came_by_trampoline(context)
            assert xmm3(context) == number << turn


def test_fs_base(guest: PatchedGuest) -> None:
    """S-048 for patched calls: the sentry changes it at a call (arch_prctl), and each context keeps its own."""
    guest.memory.write(START, SITE + bytes.fromhex("644c8b242500000000" "ebee"))  # mov %fs:0, %r12; jmp
    guest.memory.write(DATA, struct.pack("<2Q", 0x1111, 0x2222))
    contexts = [guest.context(fs_base=DATA), guest.context(fs_base=DATA + 8)]
    guest.patch(contexts[0])
    for _ in range(3):
        guest.kernel.run_all([(context, guest.space) for context in contexts])
    assert [reg(context, "r12") for context in contexts] == [0x1111, 0x2222]
    for context, base in zip(contexts, (DATA + 8, DATA), strict=True):
        set_reg(context, "fs_base", base)
        guest.call(context)
    assert [reg(context, "r12") for context in contexts] == [0x2222, 0x1111]


# Faults.


def test_illegal_instruction_of_the_guest(guest: PatchedGuest) -> None:
    """S-086: a 06 that is no patch."""
    guest.patch(guest.context())
    guest.memory.map_anonymous(ELSEWHERE - 16, PAGE, R | X)
    guest.memory.write(ELSEWHERE, b"\xff\x24\x25\xa0\xa1\x07\x06\x06\x06")
    context = guest.context(ELSEWHERE + 7)
    event = guest.run(context)
    assert signo(event) == abi.SIGILL
    assert reg(context, "rip") == ELSEWHERE + 7
    assert addr(event) == ELSEWHERE + 7


def test_restart(guest: PatchedGuest) -> None:
    """S-085: a kernel that rewinds by two bytes lands on the 06; the call is made again, with the arguments of before."""
    context = guest.context(rdi=77)
    guest.patch(context)
    for _ in range(3):
        guest.call(context)
        set_reg(context, "rip", reg(context, "rip") - 2)
        set_reg(context, "rax", GETPID)
        guest.call(context)
        assert reg(context, "rip") == START + 7
        assert reg(context, "rdi") == 77
        assert came_by_trampoline(context)
    assert guest.sites.fixed == 3


def test_restart_with_a_block(guest: PatchedGuest) -> None:
    """P-056: restart_syscall at a patched site is restart_syscall; then the guest goes on behind the site."""
    context = guest.context()
    guest.patch(context)
    set_reg(context, "rip", START + 5)
    set_reg(context, "rax", 219)
    guest.call(context, 219)
    assert reg(context, "rip") == START + 7
    guest.call(context)


def test_patched_while_another_restarts(guest: PatchedGuest) -> None:
    """S-085: rewound to a syscall instruction, and before it runs again that is a 06."""
    restarting, other = guest.context(rdi=5), guest.context()
    guest.call(restarting)
    set_reg(restarting, "rip", START + 5)
    set_reg(restarting, "rax", GETPID)
    for _ in range(PATCH_AFTER - 1):
        guest.call(other)
    assert guest.is_patched()
    guest.call(restarting)
    assert (reg(restarting, "rip"), reg(restarting, "rdi")) == (START + 7, 5)
    assert guest.sites.fixed == 1


def test_single_steps(guest: PatchedGuest) -> None:
    """A guest that steps sees its own instructions only: the site is one step, and the call is made once."""
    guest.memory.write(START, SITE + bytes.fromhex("9090" "ebf5"))
    context = guest.context()
    guest.patch(context)
    set_reg(context, "eflags", FLAGS | TF)
    for _ in range(3):
        steps = []
        while reg(context, "rip") != START:
            event = guest.run(context)
            assert signo(event) == abi.SIGTRAP
            steps.append(reg(context, "rip"))
        assert steps[-2:] == [START + 9, START]
        guest.call(context)
        assert reg(context, "rip") == START + 7
        assert reg(context, "eflags") & TF
