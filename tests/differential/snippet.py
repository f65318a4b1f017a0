"""Snippets of guest code: units, loops of units, and how they become pages of code.

A unit is what shrinking keeps or drops as a whole. It assumes nothing of what stands before it but the reserved registers:

* rsp is the stack, r13 the base of the twin's own pages, rbp the counter of the loop around;
* r15 is where to go on when control was sent somewhere else (see :func:`away`).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from systrap.platform import Access
from tests.differential import encoder as x86
from tests.differential.encoder import Instr

PAGE: Final = 4096

CODE: Final = 0x10000000
CODE_PAGES: Final = 4
EDGE: Final = 0x10100000
"""A page with nothing mapped before it: a system call at its very first byte."""
EDGE_SITE: Final = 0x10110000
"""The same with a whole patchable call site."""
STRADDLE: Final = 0x10120000
"""Two pages: a jump to a call site across their border."""
HALF: Final = 0x10130000
"""The same; the second page is mapped when the fetch faults."""

TWIN: Final = 0x20000000
TWIN_SPACING: Final = 0x100000
PLAIN, READ_ONLY, LAZY, HOLE, BEYOND, SHUT = (number * PAGE for number in range(6))
"""A twin's own pages, from its base: written freely, copied when written, mapped when touched, never mapped, mapped beyond
the end of the file, mapped without any permission."""
STACK: Final = 0x80000
STACK_PAGES: Final = 2
STACK_TOP: Final = STACK + PAGE + 0x400
MAX_TWINS: Final = 3

END: Final = 0x7E57
"""The number of the system call that ends a snippet."""

BACK: Final = Instr(bytes.fromhex("41ffe7"), "jmp r15")


class Unit(NamedTuple):
    """Some instructions that only make sense together. ``name`` says what they are to show."""

    name: str
    instrs: tuple[Instr, ...]


class Loop(NamedTuple):
    """Units that are run ``turns`` times, so that call sites are met again after they were patched."""

    turns: int
    body: tuple[Unit, ...]


Node = Unit | Loop


class Places(NamedTuple):
    """The numbers and the split of the call sites outside the snippet's own pages."""

    edge_site: int
    straddle: int
    straddle_split: int
    half: int
    half_split: int


class Snippet(NamedTuple):
    """What one run executes: the same code by each of ``twins`` contexts at once, each with its own memory.

    ``start``: where in the code pages it begins. ``salt``: what the kernel's answers are derived from, besides the numbers.
    ``pull``: the FP state is looked at after each event, not only in the end.
    """

    nodes: tuple[Node, ...]
    start: int
    salt: int
    twins: int
    pull: bool
    places: Places


class Layout:
    """A snippet's code, and what is known about each address of it."""

    def __init__(self, snippet: Snippet) -> None:
        """Lay the instructions out one behind the other."""
        self.instrs = list(flatten(snippet.nodes))
        self.start = CODE + snippet.start
        ends = list(accumulate((len(instr.code) for instr in self.instrs), initial=self.start))
        self.addresses = ends[:-1]
        self.end = ends[-1]
        self.code = b"".join(instr.code for instr in self.instrs)
        self.accesses = {a: i.access for a, i in zip(self.addresses, self.instrs, strict=True)}

    def follows(self, address: int) -> int | None:
        """Return the start of the instruction behind the one at ``address``; None outside the code."""
        if not self.start <= address < self.end:
            return None
        index = bisect_right(self.addresses, address)
        return self.addresses[index] if index < len(self.addresses) else None

    def is_start(self, address: int) -> bool:
        """Tell whether an instruction starts there."""
        return address in self.accesses

    def is_site(self, address: int) -> bool:
        """Tell whether a call site that can be patched starts there."""
        code = self.code[address - self.start :][:7] if address >= self.start else b""
        return code[:1] == b"\xb8" and code[5:] == x86.SYSCALL.code

    def fits(self) -> bool:
        """Tell whether the code fits into its pages."""
        return self.end <= CODE + CODE_PAGES * PAGE


def call(number_in_eax: int) -> tuple[Instr, ...]:
    """Return a call site of the form that can be patched."""
    return (x86.mov_imm32(x86.RAX, number_in_eax), x86.SYSCALL)


def away(target: int, *before: Instr) -> tuple[Instr, ...]:
    """Return a jump to an address out of line; r15 says where to come back to."""
    jump = x86.jump_to(x86.R14)
    return (x86.mov_imm64(x86.R14, target), *before, x86.lea_ahead(x86.R15, len(jump.code)), jump)


_END: Final = (x86.mov_imm32(x86.RDX, END), x86.mov32(x86.RAX, x86.RDX), x86.SYSCALL)


def flatten(nodes: Sequence[Node]) -> Iterator[Instr]:
    """Return the instructions of a snippet, with those that make the loops and the one that ends it."""
    for node in nodes:
        if isinstance(node, Unit):
            yield from node.instrs
            continue
        yield x86.mov_imm32(x86.RBP, node.turns)
        body = [instr for unit in node.body for instr in unit.instrs]
        count = Instr(bytes.fromhex("ffcd"), "dec ebp")
        length = sum(len(instr.code) for instr in body) + len(count.code)
        yield from body
        yield count
        back = x86.jump_if(5, 0)
        yield x86.jump_if(5, -(length + len(back.code)))
    yield from _END


def out_of_line(places: Places) -> list[tuple[int, bytes]]:
    """Return the contents of the pages outside the code: address and bytes."""
    pages = [(EDGE, x86.SYSCALL.code + BACK.code), (EDGE_SITE, site(places.edge_site) + BACK.code)]
    across = ((STRADDLE, places.straddle, places.straddle_split), (HALF, places.half, places.half_split))
    for page, number, split in across:
        pages.append((page, b"\xe9" + (PAGE - split - 5).to_bytes(4, "little")))
        pages.append((page + PAGE - split, site(number) + BACK.code))
    return pages


def site(number: int) -> bytes:
    """Return the seven bytes of a call site that can be patched."""
    return b"".join(instr.code for instr in call(number))


def mapped_access(page: int) -> Access:
    """Return with what permissions a twin's page at this offset is mapped at first."""
    return {PLAIN: Access.READ | Access.WRITE, READ_ONLY: Access.READ, BEYOND: Access.READ | Access.WRITE}.get(
        page, Access.NONE
    )


def listing(snippet: Snippet) -> str:
    """Return the snippet for a reader: addresses, bytes, instructions, and the names of the units."""
    lines = [f"salt {snippet.salt:#x}, twins {snippet.twins}, pull {snippet.pull}, {snippet.places}"]
    address = CODE + snippet.start

    def show(instrs: Sequence[Instr], indent: str) -> None:
        nonlocal address
        for instr in instrs:
            lines.append(f"{address:#x}: {instr.code.hex():<24} {indent}{instr.text}")
            address += len(instr.code)

    for node in snippet.nodes:
        if isinstance(node, Unit):
            lines.append(f"  ; {node.name}")
            show(node.instrs, "")
            continue
        lines.append(f"  ; {node.turns} times")
        inner = list(flatten((node,)))[: -len(_END)]
        show(inner[:1], "")
        taken = 1
        for unit in node.body:
            lines.append(f"    ; {unit.name}")
            show(unit.instrs, "  ")
            taken += len(unit.instrs)
        show(inner[taken:], "")
    lines.append("  ; end")
    show(_END, "")
    return "\n".join(lines)
