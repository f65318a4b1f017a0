"""Call patching on the real platform: what guests can do to it, and where nothing is patched (10-stub §6; S-087…S-090, S-145)."""

import os
import signal
import struct
import subprocess
import sys

import pytest

from systrap.cli.driver_memory import Segment
from systrap.memory import MemoryFile
from systrap.platform import Access, EventKind
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ContextState
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.usertrap import PATCH_AFTER, TABLE_SIZE
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, DATA, PAGE, R, W, X, addr, is_syscall, reg, signo
from tests.platforms.systrap.patching import (
    ELSEWHERE,
    GETPID,
    LOOP,
    START,
    PatchedGuest,
    came_by_trampoline,
    guest,
    kernels,
)
from tests.programs.support import ROOT

__all__ = ["guest"]

# What a guest can do to the table.


def test_table_unmapped(guest: PatchedGuest) -> None:
    """The guest gets the fault it made; a new site gets a new table."""
    context = guest.context()
    guest.patch(context)
    entry, table = guest.entry(), guest.table()
    guest.memory.unmap(table, TABLE_SIZE)
    event = guest.run(context)
    assert (signo(event), addr(event), event.access) == (abi.SIGSEGV, entry, Access.READ)
    assert reg(context, "rip") == START
    guest.memory.map_anonymous(ELSEWHERE - 16, PAGE, R | X)
    guest.memory.write(ELSEWHERE, LOOP)
    other = guest.context(ELSEWHERE)
    guest.patch(other)
    guest.call(other)
    assert came_by_trampoline(other)


@pytest.mark.parametrize("access", [Access.NONE, Access.READ, Access.READ | Access.WRITE])
def test_table_protected(guest: PatchedGuest, access: Access) -> None:
    """A fault, at the operand or at the code; with the old protection the same context goes on."""
    context = guest.context()
    guest.patch(context)
    entry = guest.entry()
    guest.memory.protect(guest.table(), TABLE_SIZE, access)
    event = guest.run(context)
    assert signo(event) == abi.SIGSEGV
    if access:
        assert (addr(event), event.access, reg(context, "rip")) == (entry + 8, Access.EXECUTE, entry + 8)
    else:
        assert (addr(event), event.access, reg(context, "rip")) == (entry, Access.READ, START)
    guest.memory.protect(guest.table(), TABLE_SIZE, R | X)
    guest.call(context)
    assert came_by_trampoline(context)


def test_table_mapped_over(guest: PatchedGuest) -> None:
    """10-stub §6.1: overmounted. No new site is patched, nothing of the guest's mapping is written."""
    guest.patch(guest.context())
    table = guest.table()
    guest.memory.map_anonymous(table, PAGE, R | W)
    guest.memory.write(table, b"mine")
    guest.memory.map_anonymous(ELSEWHERE - 16, PAGE, R | X)
    guest.memory.write(ELSEWHERE, LOOP)
    other = guest.context(ELSEWHERE)
    for _ in range(2 * PATCH_AFTER):
        guest.call(other)
    assert guest.sites.refused == 1
    assert guest.at(table, 4) == b"mine"
    assert guest.at(ELSEWHERE, len(LOOP)) == LOOP


def test_entry_overwritten(guest: PatchedGuest) -> None:
    """The guest runs what it wrote there; the next guest is not concerned."""
    context = guest.context()
    guest.patch(context)
    guest.memory.write(guest.entry() + 8, b"\x0f\x0b")
    event = guest.run(context)
    assert signo(event) == abi.SIGILL
    assert reg(context, "rip") == guest.entry() + 8


@pytest.mark.parametrize("header", [0, 255, 256, (1 << 32) - 1])
def test_header_overwritten(guest: PatchedGuest, header: int) -> None:
    """S-147: nothing is patched any more, the table keeps what the guest wrote, old sites work on."""
    context = guest.context()
    guest.patch(context)
    guest.memory.write(guest.table(), struct.pack("<I", header))
    before = guest.at(guest.table(), TABLE_SIZE)
    guest.memory.map_anonymous(ELSEWHERE - 16, PAGE, R | X)
    guest.memory.write(ELSEWHERE, LOOP)
    other = guest.context(ELSEWHERE)
    for _ in range(2 * PATCH_AFTER):
        guest.call(other)
    assert guest.sites.refused == 1
    assert guest.at(guest.table(), TABLE_SIZE) == before
    guest.call(context)
    assert came_by_trampoline(context)


def test_more_sites_than_entries(guest: PatchedGuest) -> None:
    """S-089, S-090: the rest goes on being trapped, and the page behind the table is not touched."""
    count = 310
    guest.patch(guest.context())
    canary = guest.table() + TABLE_SIZE
    guest.memory.map_anonymous(canary, PAGE, R | W)
    guest.memory.write(canary, bytes(range(256)) * 16)
    # nop × 4; mov $500 + i, %eax; syscall; and back at the end. The nops keep what is in front of a site innocent.
    code = b"".join(b"\x90" * 4 + struct.pack("<BI", 0xB8, 500 + i) + b"\x0f\x05" for i in range(count))
    code += b"\xe9" + struct.pack("<i", -len(code) - 5)
    guest.memory.map_anonymous(ELSEWHERE - 16, PAGE, R | X)
    guest.memory.write(ELSEWHERE, code)
    context = guest.context(ELSEWHERE)
    for _ in range(PATCH_AFTER):
        for i in range(count):
            guest.call(context, 500 + i)
    assert (guest.sites.patched, guest.sites.refused) == (250, count - 249)
    for i in range(count):
        guest.call(context, 500 + i)
        assert came_by_trampoline(context) == (i < 249)
    assert guest.at(canary, PAGE) == bytes(range(256)) * 16


# What is not patched.


def forge(guest: PatchedGuest, context: SystrapContext, site: int) -> None:
    """Let a context's slot say that a patchable call came from this site: guests can write that into it."""
    slot = context.slot
    assert slot is not None
    for _ in range(2 * PATCH_AFTER):
        slot.regs[16] = site + 7
        slot.regs[15] = GETPID
        slot._u32[abi.STATE >> 2] = ContextState.SYSCALL_NEED_TRAP
        event = context.collect()
        assert event is not None
        assert event.kind == EventKind.SYSCALL


def test_forged_request_for_a_shared_file(guest: PatchedGuest) -> None:
    """S-145: the bytes are a site's, but the file is not the guest's to write."""
    shared = MemoryFile("library", PAGE)
    shared.allocate(PAGE)
    shared.data[16 : 16 + len(LOOP)] = LOOP
    guest.memory.map(Segment(ELSEWHERE - 16, ELSEWHERE - 16 + PAGE, shared, 0, R | X))
    context = guest.context(ELSEWHERE)
    for _ in range(2 * PATCH_AFTER):
        guest.call(context)
    assert (guest.sites.patched, guest.sites.refused) == (0, 1)
    assert isinstance(context, SystrapContext)
    shared.data[80 : 80 + len(LOOP)] = LOOP
    forge(guest, context, ELSEWHERE + 64)
    assert (guest.sites.patched, guest.sites.refused) == (0, 2)
    assert shared.data[16 : 16 + len(LOOP)] == shared.data[80 : 80 + len(LOOP)] == LOOP
    shared.close()


@pytest.mark.parametrize("site", [0, ELSEWHERE, START + 1, (1 << 64) - 8, 1 << 47, DATA])
def test_forged_request_for_anything(guest: PatchedGuest, site: int) -> None:
    """S-145: addresses that hold something else, or nothing."""
    context = guest.context()
    guest.call(context)
    assert isinstance(context, SystrapContext)
    before = guest.at(CODE, PAGE), guest.at(DATA, PAGE)
    forge(guest, context, site)
    assert guest.sites.patched == 0
    assert (guest.at(CODE, PAGE), guest.at(DATA, PAGE)) == before


def test_stub_that_dies_before_it_is_patched(guest: PatchedGuest) -> None:
    """The call that would be patched comes from a stub that is dead: no change of its memory fails loudly, its end is told."""
    context = guest.context()
    for _ in range(PATCH_AFTER - 1):
        guest.call(context)
    os.kill(guest.space.stub.pid, signal.SIGKILL)
    guest.space.stub.wait_until_gone()
    assert isinstance(context, SystrapContext)
    forge(guest, context, START)
    assert guest.run(context).kind == EventKind.DEATH


SWITCHED_OFF = """
import sys
from systrap.platform import Options, lookup
from tests.platforms.kernel import Kernel
from tests.platforms.systrap.patching import LOOP, PatchedGuest, came_by_trampoline
for disable in {order}:
    kernel = Kernel(lookup("systrap").new(Options(disable_syscall_patching=disable)), "submit")
    guest = PatchedGuest(kernel)
    context = guest.context()
    for _ in range(40):
        guest.call(context)
    print(guest.is_patched(), came_by_trampoline(context), guest.space.sites is not None)
    kernel.close()
"""


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([True, False], ["False False False"] * 2),
        ([False, True, False], ["True True True", "False False False", "False False False"]),
    ],
)
def test_switched_off(order: list[bool], expected: list[str]) -> None:
    """S-087, P-011: once off, it stays off for every later platform of the process (so this needs one of its own)."""
    create("systrap").close()
    done = subprocess.run(
        [sys.executable, "-c", SWITCHED_OFF.format(order=order)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.splitlines() == expected, done.stderr


def test_patching_is_a_spaces_own() -> None:
    """Two spaces with the same code: each is patched for itself, each with a table of its own."""
    for kernel in kernels("submit-seccomp"):
        first, second = PatchedGuest(kernel), PatchedGuest(kernel)
        first.patch(first.context())
        assert not second.is_patched()
        second.patch(second.context())
        contexts = first.context(), second.context()
        first.call(contexts[0])
        second.call(contexts[1])
        assert all(came_by_trampoline(context) for context in contexts)


def test_space_without_code() -> None:
    """A guest kernel that does not show its guests' code gets them unpatched."""
    for kernel in kernels("submit-seccomp"):
        found = PatchedGuest(kernel)
        found.space.code = None
        context = found.context()
        for _ in range(3 * PATCH_AFTER):
            found.call(context)
        assert not found.is_patched()


def test_site_where_memory_begins(guest: PatchedGuest) -> None:
    """S-043: the byte in front cannot be read, so the stub does not ask for a patch; the call is a call all the same."""
    guest.memory.write(CODE, LOOP)
    context = guest.context(CODE)
    for _ in range(2 * PATCH_AFTER):
        guest.call(context)
    assert (guest.sites.patched, guest.sites.refused) == (0, 0)


def test_code_that_is_written_again(guest: PatchedGuest) -> None:
    """Writable pages are patched as well (JIT), and what the guest writes there then is what it runs."""
    guest.memory.map_anonymous(ELSEWHERE - 16, PAGE, R | W | X)
    guest.memory.write(ELSEWHERE, LOOP)
    context = guest.context(ELSEWHERE)
    guest.patch(context)
    guest.call(context)
    assert came_by_trampoline(context)
    guest.memory.write(ELSEWHERE, LOOP)
    assert is_syscall(guest.run(context))
    assert not came_by_trampoline(context)
