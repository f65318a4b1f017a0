"""Call patching: system call sites of guest code become calls into the stub (10-stub §5, §6; S-080…S-094, P-054…P-056).

A site is the seven bytes ``b8 imm32 0f 05``, mov $number, %eax; syscall. The stub recognises one when it traps
(``SYSCALL_NEED_TRAP``); here it is replaced by a jump of the same length through a word of the *trampoline table*::

    site   ff 24 25 <entry>            jmp *entry        entry = 0x0006a1a0, say
    entry  +0   u64 entry + 8          the jump's operand
           +8   movl $PREP, %gs:state  from here on an interrupt is postponed
           +20  mov %rsp, %gs:app_stack
           +29  mov %gs:syshandler_stack, %rsp
           +38  movabs $resume, %rax
           +48  mov %rax, %gs:ret_addr
           +57  mov $number, %eax
           +62  jmp *%gs:syshandler

Other threads of the guest may run the site at any moment of the change. Its sixth byte, where ``syscall`` began, becomes 06
first and stays so: the table lies where that is the third byte of every address, and 06 is no instruction. So a thread finds
the old pair, or the new jump, or old mov and 06: that is a SIGILL, and :meth:`CallSites.fix_up` sends it back to the jump. A
thread that trapped just before finds out in the stub's handler, which reads the site twice.

The table lives in the guest's memory, so that fork copies it. The guest can write it and the sites; all that it reaches by
that is its own code. Whatever is read from there is checked before it leads a write anywhere.
"""

import os
import struct
import threading
from enum import Enum
from typing import Final

from systrap.arch import x86_64
from systrap.platform import GuestCode
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ThreadState
from systrap.platforms.systrap.instruction_tails import LOOK_BACK, tail_of

TABLE_NAME: Final = "[usertrap]"
TABLE_SIZE: Final = 0x5000
TABLE_LOW: Final = 0x60000
TABLE_HIGH: Final = 0x6A000
"""The lowest and the highest start of the table: every address in it has 06 as its third byte."""

ENTRY_SIZE: Final = 80
MAX_INDEX: Final = TABLE_SIZE // ENTRY_SIZE
FIRST_INDEX: Final = 1
"""Entry 0 holds the table's header: a u32, the next free index."""

SITE_LENGTH: Final = 7
PATCH_AFTER: Final = 8
"""A site is patched when it trapped so often. Upstream patches at once; but a patch costs a private copy of a page of code and
two changes of the address space, which a site that is run a few times never earns back (docs/spec.md)."""

_MAX_COUNTED: Final = 4096
_JMP: Final = b"\xff\x24\x25"
_SYSCALL: Final = b"\x0f\x05"
_MOV_EAX: Final = 0xB8
_SYSCALL_LENGTH: Final = 2
_RESTART_SYSCALL: Final = 219
_TRAP_FLAG: Final = 0x100
_PAGE: Final = 4096

_ENTRY: Final = struct.Struct("<Q 4sII 5sI 5sI 2sQ 5sI sI 4sI")
_START: Final = 8
_RESUME: Final = 40
_NUMBER: Final = 58
"""Where in an entry its code begins, and where its two operands are that differ from entry to entry."""


class Fixed(Enum):
    """What became of an event that may be the work of a patch."""

    NO = 0
    """Not ours: the guest's own."""
    RUN_AGAIN = 1
    """The registers lead back to the patched site."""
    SYSCALL = 2
    """A system call after all; the registers say which."""


def encode_entry(entry: int, resume: int, number: int) -> bytes:
    """Return the 70 bytes of a trampoline at ``entry`` for the site that ends at ``resume`` (S-082)."""
    return _ENTRY.pack(
        entry + _START,
        b"\x65\xc7\x04\x25", abi.SYSMSG_STATE, ThreadState.PREP,
        b"\x65\x48\x89\x24\x25", abi.SYSMSG_APP_STACK,
        b"\x65\x48\x8b\x24\x25", abi.SYSMSG_SYSHANDLER_STACK,
        b"\x48\xb8", resume,
        b"\x65\x48\x89\x04\x25", abi.SYSMSG_RET_ADDR,
        b"\xb8", number,
        b"\x65\xff\x24\x25", abi.SYSMSG_SYSHANDLER,
    )  # fmt: skip


def next_index(index: int) -> int | None:
    """Return the first entry from ``index`` on that can be used: it must not straddle two pages. None: the table is full.

    A fault in the middle of a trampoline would find the thread neither here nor there. Index 256 lies behind the table
    (upstream hands it out: docs/upstream-defects.md).
    """
    offset = index * ENTRY_SIZE
    if offset // _PAGE != (offset + ENTRY_SIZE) // _PAGE:
        index += 1
    return index if index < MAX_INDEX else None


class CallSites:
    """The patched call sites of one address space. Any thread; one change at a time.

    ``patched``, ``refused``, ``fixed`` count what was done. Between pre_fork() and post_fork() nothing is half patched,
    and nothing is begun.
    """

    __slots__ = ("_counts", "_lock", "fixed", "patched", "refused")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        self.patched = 0
        self.refused = 0
        self.fixed = 0

    def pre_fork(self) -> None:
        """Wait for a patch that is under way, and let none begin (S-088, P-035)."""
        self._lock.acquire()

    def post_fork(self) -> None:
        """Let patches begin again."""
        self._lock.release()

    # A site that trapped.

    def trapped(self, code: GuestCode, regs: "memoryview[int]") -> None:
        """Count a trap of a site that could be patched, and patch it when it has trapped often enough.

        The system call itself is handled as any other, whatever comes of this (S-094).
        """
        site = regs[x86_64.RIP] - SITE_LENGTH
        if site < 0:
            return
        counts = self._counts
        count = counts.get(site, 0) + 1
        if count > PATCH_AFTER:
            return
        if len(counts) >= _MAX_COUNTED:
            counts.clear()
        counts[site] = count
        if count == PATCH_AFTER:
            with self._lock:
                if self._patch(code, site, regs):
                    self.patched += 1
                else:
                    self.refused += 1

    def _patch(self, code: GuestCode, site: int, regs: "memoryview[int]") -> bool:
        """Patch the site if it is what the stub said it is (S-080): a guest can say anything. Lock held."""
        number = regs[x86_64.ORIG_RAX]
        if regs[x86_64.EFLAGS] & _TRAP_FLAG or not 0 <= number < 1 << 31:
            return False
        expected = struct.pack("<BI", _MOV_EAX, number) + _SYSCALL
        if code.read_code(site, SITE_LENGTH) != expected or tail_of(_bytes_before(code, site)) is not None:
            return False
        if not code.may_write_code(site, SITE_LENGTH):
            return False
        entry = self._allocate(code, site + SITE_LENGTH, number)
        return entry is not None and _write_site(code, site, expected, entry)

    @staticmethod
    def _allocate(code: GuestCode, resume: int, number: int) -> int | None:
        """Write the next trampoline and return its address; None where there is no table to be had, or it is full."""
        table = _find_or_map(code)
        if table is None:
            return None
        header = code.read_code(table, 4)
        index = int.from_bytes(header, "little") if header is not None else 0
        # A header that makes no sense was written by the guest: index 0 would overwrite the header itself (S-147).
        usable = next_index(index) if FIRST_INDEX <= index <= MAX_INDEX else None
        if usable is None:
            return None
        entry = table + usable * ENTRY_SIZE
        if not code.write_code(entry, encode_entry(entry, resume, number)):
            return None
        return entry if code.write_code(table, (usable + 1).to_bytes(4, "little")) else None

    # Events that a patch may be behind.

    def fix_up(self, code: GuestCode, regs: "memoryview[int]") -> Fixed:
        """Look at a SIGILL: the instruction 06 of a patched site sends the thread back to the site's first byte.

        It gets there when it ran the old mov as the site was patched, or when a restarted system call was rewound by two
        bytes (S-085). Waits for a patch that is under way; one that could not be finished has left the old code again.
        """
        rip = regs[x86_64.RIP]
        site = rip + _SYSCALL_LENGTH - SITE_LENGTH
        if site < 0:
            return Fixed.NO
        with self._lock:
            found = code.read_code(site, SITE_LENGTH)
            if found is None or not (_is_patched(found) or _is_undone(found)):
                return Fixed.NO
            self.fixed += 1
        if regs[x86_64.RAX] == _RESTART_SYSCALL:
            regs[x86_64.ORIG_RAX] = _RESTART_SYSCALL
            regs[x86_64.RIP] = rip + _SYSCALL_LENGTH
            return Fixed.SYSCALL
        regs[x86_64.RIP] = site
        return Fixed.RUN_AGAIN

    def stepped(self, code: GuestCode, regs: "memoryview[int]") -> Fixed:
        """Look at a SIGTRAP: a guest that single-steps through a patched site must not step into the trampoline.

        The trap comes with the first instruction of the trampoline still to be executed: all registers are the guest's.
        So the call is made here, as if the site had trapped.
        """
        entry = regs[x86_64.RIP] - _START
        if not regs[x86_64.EFLAGS] & _TRAP_FLAG or not _in_table(entry):
            return Fixed.NO
        found = code.read_code(entry, _ENTRY.size)
        if found is None:
            return Fixed.NO
        # Not unpack(): of what is not a trampoline nothing else would be numbers either.
        (resume,) = struct.unpack_from("<Q", found, _RESUME)
        (number,) = struct.unpack_from("<I", found, _NUMBER)
        if found != encode_entry(entry, resume, number):
            return Fixed.NO
        regs[x86_64.RIP] = resume
        regs[x86_64.RAX] = regs[x86_64.ORIG_RAX] = number
        return Fixed.SYSCALL


def _bytes_before(code: GuestCode, site: int) -> bytes:
    """Return up to LOOK_BACK bytes in front of a site: fewer where the page begins and the one before cannot be read."""
    start = max(site - LOOK_BACK, 0)
    found = code.read_code(start, site - start)
    if found is None:
        start = max(start, site & -_PAGE)
        found = code.read_code(start, site - start) if start < site else b""
    return found or b""


def _find_or_map(code: GuestCode) -> int | None:
    """Return the start of the guest's table, mapping it at a random place when there is none (S-081)."""
    found = code.find_area(TABLE_NAME, TABLE_LOW, TABLE_HIGH + TABLE_SIZE)
    if found is not None:
        start, offset = found
        # What begins in the middle was partly mapped over.
        return start if offset == 0 and start % _PAGE == 0 and start <= TABLE_HIGH else None
    places = list(range(TABLE_LOW, TABLE_HIGH + 1, _PAGE))
    while places:
        table = places.pop(int.from_bytes(os.urandom(4), "little") % len(places))
        if code.map_code(table, TABLE_SIZE, TABLE_NAME):
            return table if code.write_code(table, FIRST_INDEX.to_bytes(4, "little")) else None
    return None


def _in_table(entry: int) -> bool:
    """Tell whether an address can be that of a trampoline, wherever the table is. Its third byte is then 06."""
    return TABLE_LOW < entry < TABLE_HIGH + TABLE_SIZE


def _is_patched(found: bytes) -> bool:
    """Tell whether a site is a jump through an entry of the table."""
    return found[:3] == _JMP and _in_table(int.from_bytes(found[3:], "little"))


def _is_undone(found: bytes) -> bool:
    """Tell whether a site is as it was before. A syscall instruction itself is never illegal: the 06 was there and went."""
    return found[0] == _MOV_EAX and found[5:] == _SYSCALL


def _write_site(code: GuestCode, site: int, old: bytes, entry: int) -> bool:
    """Turn the site into its jump, in the three steps that let other threads run it meanwhile (S-083).

    A write can fail although may_write_code() said yes, where there is no memory for a copy of the page; each writes all or
    nothing. Then what was written is undone, the guard last: until it is gone nobody gets past it with half a number.
    """
    new = _JMP + entry.to_bytes(4, "little")
    if not code.write_code(site + 5, new[5:6]):
        return False
    if code.write_code(site + 1, new[1:]):
        if code.write_code(site, new[:1]):
            return True
        code.write_code(site + 1, old[1:5])
        code.write_code(site + 6, old[6:])
    code.write_code(site + 5, old[5:6])
    return False
