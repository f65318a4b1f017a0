"""Generates snippets: each recipe makes one unit that shows one thing, and a snippet is a random row of them.

Everything is drawn from a :class:`random.Random`, so that a seed tells the whole snippet; hypothesis can hand in a Random of
its own and shrink what was drawn. What no snippet does, and why:

* read clocks, CPU numbers or CPUID: the answers differ from run to run;
* XSAVE to memory: which components it calls initial is the CPU's business;
* use GS: it belongs to the stub where call sites may be patched;
* jump right at a patchable site's ``syscall`` with another number in eax, or single-step through a patchable site: patching
  is known not to keep these apart (10-stub §6.5, §5);
* set EFLAGS.ID or NT: they stay with the host thread (see trace.MASKS), and PUSHF would show them;
* use the numbers 335 and 336 (uretprobe, uprobe): Linux lets them pass every seccomp filter since 6.14, and sends SIGILL where
  they do not belong. A guest that is trapped by seccomp gets that signal, others an unknown system call;
* have one of the host kernel's restart codes, -512…-516 in all 64 bits, for a number: before the signal is delivered, the kernel
  takes it for the result of a call to restart, and changes rax or rip. Such calls do not exist;
* share memory between twins: their order is not determined.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from systrap.arch import x86_64 as cpu
from systrap.host.auxv import auxiliary_vector
from tests.differential import encoder as x86
from tests.differential import generate_fp as floats
from tests.differential import snippet as s
from tests.differential.answers import FIRST_VALUE, FREE_NUMBERS, VALUES, Action
from tests.differential.encoder import R13, RAX, RCX, RDI, RDX, RSI, RSP, Instr
from tests.differential.snippet import PAGE, Layout, Loop, Node, Places, Snippet, Unit, away, call

Instrs = tuple[Instr, ...]
Recipe = Callable[[Random], Instrs]

_AT_HWCAP2: Final = 26
_FSGSBASE: Final = 2
_U64: Final = (1 << 64) - 1
_AC: Final = 0x40000
_STATUS_FLAGS: Final = (0x1, 0x4, 0x10, 0x40, 0x80, 0x400, 0x800)
_INTERESTING: Final = (0, 1, 2, 0x7F, 0x80, 0xFFFFFFFF, 1 << 31, 1 << 32, 1 << 63, _U64, _U64 - 1, 0x5555555555555555)
_NOT_FILTERED: Final = (335, 336)
_BAD_ADDRESSES: Final = (0, 8, 0x1000, 1 << 46, 1 << 47, (1 << 47) - 8, 1 << 63, _U64 - 7, 0xFFFF800000000000)


def register(random: Random) -> int:
    """Draw a register that no unit relies on."""
    return random.choice(FREE_NUMBERS)


def other_than_rax(random: Random) -> int:
    """Draw one that is not rax, either."""
    return random.choice(FREE_NUMBERS[1:])


def value(random: Random) -> int:
    """Draw 64 bits."""
    return random.choice(_INTERESTING) if random.random() < 0.4 else random.getrandbits(64)


def ordinary(random: Random) -> int:
    """Draw the number of a system call that Linux has, or once had."""
    number = random.randrange(548)
    return 0 if number in _NOT_FILTERED else number


def number32(random: Random) -> int:
    """Draw a system call number as an immediate of 32 bits: ordinary, with an action, x32, negative."""
    kind = random.randrange(12)
    if kind < 4:
        return ordinary(random)
    if kind < 8:
        return int(random.choice(tuple(Action)))
    if kind < 10:
        return FIRST_VALUE + random.randrange(len(VALUES))
    if kind == 10:
        return 0x40000000 | ordinary(random)
    return -random.choice((1, 2, 38, 512, 513, 514, 516, 1 << 31)) & 0xFFFFFFFF


def place(random: Random, size: int = 8) -> int:
    """Draw the displacement of ``size`` bytes, from r13, in one of the twin's pages."""
    page = random.choice((s.PLAIN,) * 4 + (s.READ_ONLY, s.LAZY, s.HOLE, s.BEYOND, s.SHUT))
    if random.random() < 0.1:
        return page + PAGE - random.randrange(1, size)
    return page + random.randrange(PAGE - size)


def no_restart(number: int) -> int:
    """Replace a number that the host kernel would take for a restart code."""
    signed = ((number & _U64) ^ 1 << 63) - (1 << 63)
    return -1 if -516 <= signed <= -512 else number


# Registers and flags.


def set_registers(random: Random) -> Instrs:
    """Load some registers."""
    return tuple(x86.mov_imm64(register(random), value(random)) for _ in range(random.randint(1, 4)))


def arithmetic(random: Random) -> Instrs:
    """Compute."""
    makers: tuple[Callable[[], Instr], ...] = (
        lambda: x86.binary(random.choice(tuple(x86.BINARY)), register(random), register(random)),
        lambda: x86.unary(random.choice(tuple(x86.UNARY)), register(random)),
        lambda: x86.shift(random.choice(tuple(x86.SHIFTS)), register(random), random.randrange(64)),
        lambda: x86.setcc(random.randrange(16), register(random)),
        lambda: x86.cmov(random.randrange(16), register(random), register(random)),
        lambda: x86.imul(register(random), register(random)),
        lambda: x86.xchg(register(random), register(random)),
        lambda: x86.bit_test(register(random), register(random)),
        lambda: x86.bswap(register(random)),
        lambda: x86.lea(register(random), register(random), random.randrange(-99, 99)),
        lambda: x86.mov32(register(random), register(random)),
        lambda: x86.mov_sx(register(random), random.randrange(-(1 << 31), 1 << 31)),
    )
    return tuple(random.choice(makers)() for _ in range(random.randint(1, 5)))


def flags(random: Random) -> Instrs:
    """Change flags, the direction flag among them."""
    return tuple(random.choice(x86.FLAG_CHANGES) for _ in range(random.randint(1, 3)))


def load_flags(random: Random, *extra: int) -> Instrs:
    """Load the flags from the stack: random ones and ``extra``. The stack is where it should be, so that no others are."""
    flags = 0x202 | sum(extra) | sum(flag for flag in _STATUS_FLAGS if random.random() < 0.5)
    return (x86.lea(RSP, R13, s.STACK_TOP), x86.mov_imm32(RDX, flags), x86.push(RDX), x86.POPF)


def read_flags(random: Random) -> Instrs:
    """Load flags, and let the guest see after some event what has become of them."""
    event = random.choice(((), syscall_any(random), patchable(random), fault(random)))
    return (*load_flags(random), *event, x86.PUSHF, x86.pop(register(random)))


def alignment(random: Random) -> Instrs:
    """Set AC, then access memory, perhaps unaligned; and clear it again."""
    reach = s.PLAIN + 8 * random.randrange(64) + random.choice((0, 0, 0, 1, 4))
    middle = (*syscall_any(random), x86.store(R13, reach, register(random)))
    return (*load_flags(random, _AC), *middle, *load_flags(random))


def single_step(random: Random) -> Instrs:
    """Set TF: a trap behind the instruction that follows. No patchable site in reach."""
    following: Instrs = random.choice(
        ((x86.NOP,), (x86.UD2,), (x86.INT3,), (x86.SYSCALL,), (x86.load(RDX, R13, s.LAZY),), (x86.CLD, x86.SYSCALL))
    )
    before = (*load_flags(random, cpu.EFLAGS_TF)[:-1], x86.mov_imm32(RAX, random.randrange(300)))
    return (*before, x86.POPF, *following, x86.NOP)


# Memory.


def memory_access(random: Random) -> Instrs:
    """Load, store, or both at once."""
    make = random.choice((x86.store, x86.store_byte, x86.add_to, x86.xadd_to, None, None))
    if make is None:
        return (x86.load(register(random), R13, place(random)),)
    return (make(R13, place(random), register(random)),)


def bad_address(random: Random) -> Instrs:
    """Access what cannot be mapped or is not an address at all."""
    base = register(random)
    access = x86.load(register(random), base, 0) if random.random() < 0.5 else x86.store(base, 0, register(random))
    return (x86.mov_imm64(base, random.choice(_BAD_ADDRESSES)), access)


def stack(random: Random) -> Instrs:
    """Push and pop."""
    pushed = [x86.push(register(random)) for _ in range(random.randint(1, 4))]
    return (*pushed, *random.choice(((), syscall_any(random))), *(x86.pop(register(random)) for _ in pushed))


def red_zone(random: Random) -> Instrs:
    """Keep values below the stack pointer while something happens."""
    places = [-8 * random.randint(1, 16) for _ in range(3)]
    event = random.choice((syscall_any, fault, patchable))(random)
    stores = tuple(x86.store(RSP, where, register(random)) for where in places)
    return (*stores, *event, *(x86.load(other_than_rax(random), RSP, where) for where in places))


def no_stack(random: Random) -> Instrs:
    """Have a useless stack pointer while something happens."""
    bad = x86.mov_imm64(RSP, random.choice((*_BAD_ADDRESSES, value(random))))
    event = random.choice((plain_patchable, fault, plain_call))(random)
    return (bad, *event, x86.lea(RSP, R13, s.STACK_TOP))


def string(random: Random) -> Instrs:
    """Fill or copy some bytes, forwards or backwards, perhaps into a page that faults on the way."""
    where = random.choice((s.PLAIN + 0x800, s.READ_ONLY - 8, s.READ_ONLY + 0xFF8, s.LAZY + 16))
    count = x86.mov_imm32(RCX, random.randrange(1, 24))
    direction = random.choice((x86.CLD, x86.CLD, x86.STD))
    if random.random() < 0.5:
        return (x86.lea(RDI, R13, where), count, direction, x86.REP_STOSB)
    # Only the source can fault: the access is then known to be a read.
    return (x86.lea(RDI, R13, s.PLAIN + 0x400), x86.lea(RSI, R13, where), count, direction, x86.REP_MOVSB)


def thread_base(random: Random) -> Instrs:
    """Set and use the FS base."""
    base = random.choice(
        ((x86.lea(RDX, R13, 8 * random.randrange(256)),), (x86.mov_imm64(RDX, random.choice(_BAD_ADDRESSES)),))
    )
    return (
        *base,
        x86.base_access(RDX, 2),
        *syscall_any(random),
        x86.base_access(register(random), 0),
        x86.load_fs(RCX),
    )


# System calls.


def patchable(random: Random) -> Instrs:
    """Make the common call site, b8 …, that patching turns into a jump."""
    return call(number32(random))


def plain_patchable(random: Random) -> Instrs:
    """Make the same, with a number that makes the kernel do nothing but answer."""
    return call(ordinary(random))


def plain_call(random: Random) -> Instrs:
    """Make a site that cannot be patched, with such a number."""
    return (x86.mov_imm32(RDX, ordinary(random)), x86.mov32(RAX, RDX), x86.SYSCALL)


def syscall_any(random: Random) -> Instrs:
    """Make a system call whose number reaches rax in one of many ways."""
    number = number32(random)
    via = other_than_rax(random)
    ways: tuple[Instrs, ...] = (
        call(number),
        (x86.mov_imm32(via, number), x86.mov32(RAX, via), x86.SYSCALL),
        (x86.mov_imm32(RAX, number), x86.NOP, x86.SYSCALL),
        (x86.mov_imm64(RAX, number), x86.SYSCALL),
        (x86.mov_sx(RAX, no_restart(number - (number >> 31 << 32))), x86.SYSCALL),
        (x86.mov_imm64(RAX, no_restart(value(random) & ~0xFFFFFFFF | number)), x86.SYSCALL),
        (x86.mov_imm32(RAX, number ^ 5), x86.mov_imm32(RCX, 5), x86.binary("xor", RAX, RCX), x86.SYSCALL),
    )
    return random.choice(ways)


def look_alike(random: Random) -> Instrs:
    """Make the tail of another instruction looks like a patchable site, by its bytes and even by the number in rax."""
    number = ordinary(random)
    in_rax = number if random.random() < 0.7 else number ^ 1000
    imm = number.to_bytes(4, "little")
    tails = (
        x86.mov_imm32(8, number),
        Instr(b"\x48\x8d\xb8" + imm, f"lea rdi,[rax+{number:#x}]"),
        Instr(b"\x8d\xb8" + imm, f"lea edi,[rax+{number:#x}]"),
        Instr(b"\x8b\xb8" + imm, f"mov edi,[rax+{number:#x}]", x86.READ),
        Instr(b"\x49\xb8" + bytes(3) + b"\xb8" + imm, "movabs r8,…"),
        Instr(b"\x69\xff" + imm, f"imul edi,edi,{number:#x}"),
    )
    tail = random.choice(tails)
    via = (x86.mov_imm32(RDX, in_rax), x86.mov32(RAX, RDX))
    return (*via, tail, x86.SYSCALL)


def gate32(random: Random) -> Instrs:
    """Make the gate of 32-bit programs."""
    return (x86.mov_imm32(RDX, random.randrange(400)), x86.mov32(RAX, RDX), x86.INT80)


def at_page_start(random: Random) -> Instrs:
    """Make a system call whose bytes begin a page, with nothing mapped before it."""
    return away(s.EDGE, x86.mov_imm32(RAX, number32(random)))


def site_at_page_start(random: Random) -> Instrs:
    """Make a call site that begins a page."""
    return away(s.EDGE_SITE)


def site_across_pages(random: Random) -> Instrs:
    """Make a call site across the border of two pages; the second one may have to be mapped first."""
    return away(random.choice((s.HALF, s.STRADDLE)))


def vsyscall(random: Random) -> Instrs:
    """Make a call into the vsyscall page: at an entry, or beside one."""
    address = 0xFFFFFFFFFF600000 + random.choice((0, 0x400, 0x800))
    return (x86.mov_imm64(RAX, address), x86.call_to(RAX))


# Faults.


def fault(random: Random) -> Instrs:
    """Make an instruction that faults or traps by itself."""
    instr = random.choice((*x86.PRIVILEGED, *x86.UNDEFINED, *x86.UNDEFINED, *x86.TRAPS, x86.OVERFLOW))
    # The kernel of these runs steps over what a SIGSEGV points at: here that is the next instruction already.
    return (instr, x86.NOP) if instr == x86.OVERFLOW else (instr,)


def division(random: Random) -> Instrs:
    """Divide, perhaps by zero."""
    return (x86.mov_imm64(RDX, 0), x86.mov_imm64(RCX, random.choice((0, 0, 3))), x86.div(RCX))


def wild_jump(random: Random) -> Instrs:
    """Jump to where no code is."""
    return away(random.choice((*_BAD_ADDRESSES, s.TWIN, s.TWIN + s.HOLE, 0xFFFFFFFFFF600008)))


RECIPES: Final[tuple[tuple[int, Recipe], ...]] = (
    (8, set_registers), (8, arithmetic), (3, flags), (3, read_flags), (2, alignment), (2, single_step), (10, memory_access),
    (2, bad_address),
    (4, stack), (4, red_zone), (4, no_stack), (3, string), (14, patchable), (10, syscall_any), (4, look_alike),
    (2, gate32),
    (2, at_page_start), (2, site_at_page_start), (3, site_across_pages), (2, vsyscall), (4, fault), (2, division), (2, wild_jump),
    (6, floats.legacy), (6, floats.sse), (2, floats.exception), (2, floats.control),
)  # fmt: skip
OPTIONAL: Final[dict[str, tuple[tuple[int, Recipe], ...]]] = {
    "avx": ((6, floats.avx),),
    "avx512f": ((5, floats.avx512),),
    "fsgsbase": ((3, thread_base),),
}
"""Recipes that need something of the CPU, and of the kernel."""


def cpu_features() -> frozenset[str]:
    """Return what of OPTIONAL this machine has."""
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    found = {name for name in OPTIONAL if name in flags}
    if not auxiliary_vector().get(_AT_HWCAP2, 0) & _FSGSBASE:
        found.discard("fsgsbase")
    return frozenset(found)


def recipes(features: frozenset[str]) -> list[tuple[int, Recipe]]:
    """Return the recipes with their weights for a CPU."""
    return [*RECIPES, *(entry for name in sorted(features) for entry in OPTIONAL[name])]


def generate(random: Random, features: frozenset[str]) -> Snippet:
    """Draw a snippet."""
    weighted = recipes(features)
    weights = [weight for weight, _ in weighted]

    def unit() -> Unit:
        recipe = random.choices([recipe for _, recipe in weighted], weights)[0]
        return Unit(recipe.__name__, recipe(random))

    nodes: list[Node] = []
    for _ in range(random.randint(1, 9)):
        if random.random() < 0.3:
            body = tuple(unit() for _ in range(random.randint(1, 3)))
            nodes.append(Loop(random.randint(2, 4), body))
        else:
            nodes.append(unit())
    places = Places(number32(random), number32(random), random.randint(1, 6), ordinary(random), random.randint(1, 6))
    snippet = Snippet(
        tuple(nodes),
        start=random.choice((0, random.randrange(64), PAGE - random.randrange(1, 200))),
        salt=random.getrandbits(32),
        twins=random.choice((1, 1, 2, s.MAX_TWINS)),
        pull=random.random() < 0.4,
        places=places,
    )
    assert Layout(snippet).fits()
    return snippet


def from_seed(seed: int, index: int, features: frozenset[str]) -> Snippet:
    """Return snippet ``index`` of a seed."""
    return generate(Random(f"{seed}:{index}"), features)
