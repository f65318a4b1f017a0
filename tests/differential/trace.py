"""What is recorded of a run, and what is left out of the comparison, with the reasons.

A trace is a list of entries. Two platforms agree on a snippet when their traces are equal, entry by entry.
"""

import hashlib
import marshal
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.arch import x86_64 as cpu
from systrap.platform import Access, Event, EventKind
from tests.differential.snippet import PAGE, Layout

if TYPE_CHECKING:
    from tests.differential.fpstate import FpFormat

SIGSEGV: Final = 11
THREADS_FLAGS: Final = cpu.EFLAGS_RF | 1 << 14 | 1 << 21
"""RF, NT and ID: see MASKS."""
_PAGE_FAULTS: Final = (1, 2)
_VSYSCALL: Final = (0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)
_ENTRIES: Final = (0xFFFFFFFFFF600000, 0xFFFFFFFFFF600400, 0xFFFFFFFFFF600800)

MASKS: Final = {
    "rcx, r11 after a system call": "the syscall instruction overwrites them and a patched call site does not, so nobody may"
    " rely on them. The kernel of these runs sets them as the instruction does before it lets the guest go on.",
    "gs_base": "reserved for the stub's threads where call sites may be patched; snippets do not use it.",
    "ds, es, fs, gs selectors": "signal frames do not hold ds and es; the platforms load the host's (P-042).",
    "eflags.RF": "set by the CPU for the restart of a faulting instruction; it says nothing about the guest.",
    "eflags.ID, eflags.NT": "neither rt_sigreturn nor PTRACE_SETREGS sets them: they stay with the host thread.",
    "access of a page fault, on ptrace only": "ptrace does not tell it: a first write to an unmapped page is reported as a read,"
    " every refusal of a mapped page as a write (20-platform §4.3). There the access that the generator knows of is"
    " taken; systrap has to report that one by itself.",
    "code and address of a jump beside the vsyscall page's entries": "the host kernel reports a general protection fault; ptrace"
    " makes it a page fault, systrap leaves it.",
    "orig_rax at a fault in the vsyscall page": "where the host kernel's filter catches the call it is the number of the call"
    " that the entry stands for, or -1.",
    "trapno, err": "the words of the signal frame, which ptrace does not have.",
    "the bytes of patched call sites, and the table they jump to": "patching is meant to change them. That only whole call sites"
    " are changed, and only where patching is on, is checked.",
    "XSTATE_BV and what it declares initial": "see tests.differential.fpstate.",
    "unasked interrupts": "allowed at any time (20-platform §5.5); they are dropped, and the guest goes on.",
}
"""What differs between the platforms for good reasons, and is not compared."""

_SELECTORS: Final = (cpu.DS, cpu.ES, cpu.FS, cpu.GS)


class Entry(NamedTuple):
    """One event. ``regs`` and ``fp`` are masked; ``fp`` is empty where it was not looked at."""

    kind: int
    signo: int
    code: int
    addr: int
    access: int
    regs: tuple[int, ...]
    fp: bytes


class Note(NamedTuple):
    """Anything else that has to be equal: the end of a run, a page's contents."""

    what: str
    content: bytes


Trace = list[Entry | Note]


def true_access(event: Event, ip: int, layout: Layout, plain: int) -> Access:
    """Return the access of a page fault as the generator knows it: for the platform that has to guess."""
    info = event.info
    if info is None or info.signo != SIGSEGV or info.code not in _PAGE_FAULTS:
        return event.access
    if info.addr != ip and _VSYSCALL[0] <= ip < _VSYSCALL[1]:
        # The host kernel looks whether it could write to the caller's buffers before anybody is asked.
        return Access.WRITE
    if info.addr & -PAGE == plain and info.addr != ip:
        # The page can always be read; it matters where an instruction reads one place and writes another.
        return Access.WRITE
    return layout.accesses.get(ip) or Access.EXECUTE


def masked_regs(regs: "memoryview[int]", native_call: bool) -> list[int]:
    """Return the registers without those that MASKS names."""
    values = list(regs)
    values[cpu.GS_BASE] = 0
    for index in _SELECTORS:
        values[index] = 0
    values[cpu.EFLAGS] &= ~THREADS_FLAGS
    if native_call:
        values[cpu.RCX] = values[cpu.R11] = 0
    return values


def entry(event: Event, regs: "memoryview[int]", access: Access, native_call: bool, fp: bytes) -> Entry:
    """Return the record of an event."""
    signo = code = addr = 0
    if event.info is not None:
        signo, code, addr = event.info.signo, event.info.code, event.info.addr
    values = masked_regs(regs, native_call)
    ip = regs[cpu.RIP]
    if signo == SIGSEGV and _VSYSCALL[0] <= ip < _VSYSCALL[1]:
        values[cpu.ORIG_RAX] = 0
        if ip not in _ENTRIES:
            code = addr = 0
            access = Access.EXECUTE
    return Entry(int(event.kind), signo, code, addr, int(access), tuple(values), fp)


def digest(trace: Trace) -> bytes:
    """Return a short value that is the same for equal traces, in every process."""
    return hashlib.blake2b(marshal.dumps([tuple(item) for item in trace]), digest_size=12).digest()


def difference(wanted: Trace, found: Trace, fp: "FpFormat") -> str:
    """Say in words where two traces begin to differ."""
    for index, (a, b) in enumerate(zip(wanted, found, strict=False)):
        if a != b:
            return f"entry {index}: " + _explain(a, b, fp)
    if len(wanted) == len(found):
        return "no difference"
    longer, index = (wanted, len(found)) if len(wanted) > len(found) else (found, len(wanted))
    who = "the oracle" if longer is wanted else "the other"
    return f"entry {index}: only {who} has {_words(longer[index])}"


def _words(item: Entry | Note) -> str:
    if isinstance(item, Note):
        return f"{item.what} {item.content[:64].hex()}"
    kind = EventKind(item.kind).name
    where = f"rip={item.regs[cpu.RIP]:#x} rax={item.regs[cpu.RAX]:#x}"
    fault = f" signal {item.signo} code {item.code:#x} addr {item.addr:#x} access {item.access}" if item.signo else ""
    return f"{kind}{fault} {where}"


def _explain(a: Entry | Note, b: Entry | Note, fp: "FpFormat") -> str:
    if isinstance(a, Note) and isinstance(b, Note) and a.what == b.what:
        offset = _first(a.content, b.content)
        near = slice(offset & -8, (offset & -8) + 16)
        return f"{a.what} differs at {offset:#x}: oracle {a.content[near].hex()}, other {b.content[near].hex()}"
    if isinstance(a, Note) or isinstance(b, Note) or a[:5] != b[:5]:
        return f"oracle {_words(a)}; other {_words(b)}"
    for name, x, y in zip(cpu.NAMES, a.regs, b.regs, strict=True):
        if x != y:
            return f"{_words(a)}: {name} is {x:#x} for the oracle, {y:#x} for the other"
    offset = _first(a.fp, b.fp)
    near = slice(offset & -8, (offset & -8) + 16)
    return f"{_words(a)}: FP {fp.name(offset)}: oracle {a.fp[near].hex()}, other {b.fp[near].hex()}"


def _first(a: bytes, b: bytes) -> int:
    """Return the first offset at which two byte strings differ."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
