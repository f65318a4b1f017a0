"""A small encoder of x86-64 instructions: what the generator of guest code needs, in the forms it needs.

Every function returns one :class:`Instr`: its bytes, its text in Intel syntax, and the access it makes to memory. Memory
operands are always ``[base + disp32]``. A test has objdump read the bytes back.
"""

from typing import Final, NamedTuple

from systrap.platform import Access

NAMES64: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
NAMES32: Final = (
    "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi",
    "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d",
)  # fmt: skip
NAMES8: Final = (
    "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b", "r13b", "r14b", "r15b",
)  # fmt: skip
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)

READ, WRITE, NONE = Access.READ, Access.WRITE, Access.NONE

CONDITIONS: Final = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
BINARY: Final = {"add": 0x01, "or": 0x09, "adc": 0x11, "sbb": 0x19, "and": 0x21, "sub": 0x29, "xor": 0x31, "cmp": 0x39}
UNARY: Final = {
    "not": (0xF7, 2),
    "neg": (0xF7, 3),
    "mul": (0xF7, 4),
    "imul": (0xF7, 5),
    "inc": (0xFF, 0),
    "dec": (0xFF, 1),
}
SHIFTS: Final = {"rol": 0, "ror": 1, "rcl": 2, "rcr": 3, "shl": 4, "shr": 5, "sar": 7}


class Instr(NamedTuple):
    """One machine instruction. ``access``: what a page fault on its memory operand is (NONE: it has no such operand)."""

    code: bytes
    text: str
    access: Access = NONE


def raw(code: str, text: str, access: Access = NONE) -> Instr:
    """Return an instruction given in hex."""
    return Instr(bytes.fromhex(code), text, access)


def _rex(wide: bool, reg: int, base: int) -> int:
    return 0x40 | wide << 3 | (reg >> 3) << 2 | base >> 3


def _register(reg: int, other: int) -> bytes:
    """Return the ModRM byte of two registers."""
    return bytes((0xC0 | (reg & 7) << 3 | other & 7,))


def _memory(reg: int, base: int, disp: int) -> bytes:
    """Return ModRM, SIB if that base needs one, and the displacement."""
    sib = b"\x24" if base & 7 == RSP else b""
    return bytes((0x80 | (reg & 7) << 3 | base & 7,)) + sib + (disp & 0xFFFFFFFF).to_bytes(4, "little")


def _place(base: int, disp: int) -> str:
    return f"[{NAMES64[base]}{'-' if disp < 0 else '+'}{abs(disp):#x}]"


def _both(opcode: bytes, d: int, s: int, wide: bool = True) -> bytes:
    """Encode an instruction with ``s`` in the reg field and ``d`` in the r/m field."""
    return bytes((_rex(wide, s, d),)) + opcode + _register(s, d)


def _at(opcode: bytes, reg: int, base: int, disp: int, wide: bool = True) -> bytes:
    """Encode an instruction with ``reg`` in the reg field and a memory operand."""
    return bytes((_rex(wide, reg, base),)) + opcode + _memory(reg, base, disp)


# General registers.


def mov_imm64(d: int, value: int) -> Instr:
    """``movabs d, value``."""
    code = bytes((_rex(True, 0, d), 0xB8 | d & 7)) + (value & (1 << 64) - 1).to_bytes(8, "little")
    return Instr(code, f"movabs {NAMES64[d]},{value & (1 << 64) - 1:#x}")


def mov_imm32(d: int, value: int) -> Instr:
    """``mov d32, value``: for eax the five bytes b8 …, the first half of a call site that can be patched."""
    prefix = b"\x41" if d >= 8 else b""
    value &= 0xFFFFFFFF
    return Instr(prefix + bytes((0xB8 | d & 7,)) + value.to_bytes(4, "little"), f"mov {NAMES32[d]},{value:#x}")


def mov_sx(d: int, value: int) -> Instr:
    """``mov d, value``: 32 bits, sign-extended."""
    code = bytes((_rex(True, 0, d), 0xC7)) + _register(0, d) + (value & 0xFFFFFFFF).to_bytes(4, "little")
    return Instr(code, f"mov {NAMES64[d]},{value}")


def mov(d: int, s: int) -> Instr:
    """``mov d, s``."""
    return Instr(_both(b"\x89", d, s), f"mov {NAMES64[d]},{NAMES64[s]}")


def mov32(d: int, s: int) -> Instr:
    """``mov d32, s32``."""
    return Instr(_both(b"\x89", d, s, wide=False), f"mov {NAMES32[d]},{NAMES32[s]}")


def binary(name: str, d: int, s: int) -> Instr:
    """Make an operation of BINARY on two registers."""
    return Instr(_both(bytes((BINARY[name],)), d, s), f"{name} {NAMES64[d]},{NAMES64[s]}")


def bit_test(d: int, s: int) -> Instr:
    """``test d, s``."""
    return Instr(_both(b"\x85", d, s), f"test {NAMES64[d]},{NAMES64[s]}")


def imul(d: int, s: int) -> Instr:
    """``imul d, s``."""
    return Instr(_both(b"\x0f\xaf", s, d), f"imul {NAMES64[d]},{NAMES64[s]}")


def unary(name: str, d: int) -> Instr:
    """Make an operation of UNARY."""
    opcode, digit = UNARY[name]
    return Instr(_both(bytes((opcode,)), d, digit), f"{name} {NAMES64[d]}")


def div(s: int) -> Instr:
    """``div s``: faults when s is 0 or the quotient does not fit."""
    return Instr(_both(b"\xf7", s, 6), f"div {NAMES64[s]}")


def shift(name: str, d: int, count: int) -> Instr:
    """Make a shift of SHIFTS by a constant."""
    return Instr(_both(b"\xc1", d, SHIFTS[name]) + bytes((count,)), f"{name} {NAMES64[d]},{count:#x}")


def bswap(d: int) -> Instr:
    """``bswap d``."""
    return Instr(bytes((_rex(True, 0, d), 0x0F, 0xC8 | d & 7)), f"bswap {NAMES64[d]}")


def setcc(condition: int, d: int) -> Instr:
    """``setCC d8``."""
    code = bytes((_rex(False, 0, d), 0x0F, 0x90 | condition)) + _register(0, d)
    return Instr(code, f"set{CONDITIONS[condition]} {NAMES8[d]}")


def cmov(condition: int, d: int, s: int) -> Instr:
    """``cmovCC d, s``."""
    return Instr(_both(bytes((0x0F, 0x40 | condition)), s, d), f"cmov{CONDITIONS[condition]} {NAMES64[d]},{NAMES64[s]}")


def xchg(d: int, s: int) -> Instr:
    """``xchg d, s``."""
    return Instr(_both(b"\x87", d, s), f"xchg {NAMES64[d]},{NAMES64[s]}")


def lea(d: int, base: int, disp: int) -> Instr:
    """``lea d, [base + disp]``."""
    return Instr(_at(b"\x8d", d, base, disp), f"lea {NAMES64[d]},{_place(base, disp)}")


def lea_ahead(d: int, ahead: int) -> Instr:
    """``lea d, [rip + ahead]``."""
    code = bytes((_rex(True, d, 0), 0x8D, (d & 7) << 3 | 5)) + ahead.to_bytes(4, "little")
    return Instr(code, f"lea {NAMES64[d]},[rip+{ahead:#x}]")


# Memory.


def load(d: int, base: int, disp: int) -> Instr:
    """``mov d, [base + disp]``."""
    return Instr(_at(b"\x8b", d, base, disp), f"mov {NAMES64[d]},{_place(base, disp)}", READ)


def store(base: int, disp: int, s: int) -> Instr:
    """``mov [base + disp], s``."""
    return Instr(_at(b"\x89", s, base, disp), f"mov {_place(base, disp)},{NAMES64[s]}", WRITE)


def store_byte(base: int, disp: int, s: int) -> Instr:
    """``mov byte [base + disp], s8``."""
    return Instr(_at(b"\x88", s, base, disp, wide=False), f"mov {_place(base, disp)},{NAMES8[s]}", WRITE)


def add_to(base: int, disp: int, s: int) -> Instr:
    """``add [base + disp], s``: one access that reads and writes, which the CPU reports as a write."""
    return Instr(_at(b"\x01", s, base, disp), f"add {_place(base, disp)},{NAMES64[s]}", WRITE)


def xadd_to(base: int, disp: int, s: int) -> Instr:
    """``lock xadd [base + disp], s``."""
    return Instr(b"\xf0" + _at(b"\x0f\xc1", s, base, disp), f"lock xadd {_place(base, disp)},{NAMES64[s]}", WRITE)


def load_fs(d: int) -> Instr:
    """``mov d, fs:[0]``."""
    code = bytes((0x64, _rex(True, d, 0), 0x8B, 0x04 | (d & 7) << 3, 0x25, 0, 0, 0, 0))
    return Instr(code, f"mov {NAMES64[d]},fs:0x0", READ)


def push(s: int) -> Instr:
    """``push s``."""
    return Instr((b"\x41" if s >= 8 else b"") + bytes((0x50 | s & 7,)), f"push {NAMES64[s]}", WRITE)


def pop(d: int) -> Instr:
    """``pop d``."""
    return Instr((b"\x41" if d >= 8 else b"") + bytes((0x58 | d & 7,)), f"pop {NAMES64[d]}", READ)


PUSHF: Final = raw("9c", "pushf", WRITE)
POPF: Final = raw("9d", "popf", READ)
REP_STOSB: Final = raw("f3aa", "rep stos BYTE PTR es:[rdi],al", WRITE)
REP_MOVSB: Final = raw("f3a4", "rep movs BYTE PTR es:[rdi],BYTE PTR ds:[rsi]", READ)
CLD, STD = raw("fc", "cld"), raw("fd", "std")
FLAG_CHANGES: Final = (
    CLD,
    STD,
    raw("f8", "clc"),
    raw("f9", "stc"),
    raw("f5", "cmc"),
    raw("9e", "sahf"),
    raw("9f", "lahf"),
)

# Control.

SYSCALL: Final = raw("0f05", "syscall")
INT80: Final = raw("cd80", "int 0x80")
INT3: Final = raw("cc", "int3")
UD2: Final = raw("0f0b", "ud2")
HLT: Final = raw("f4", "hlt")
NOP: Final = raw("90", "nop")
PRIVILEGED: Final = (
    HLT, raw("fa", "cli"), raw("fb", "sti"), raw("ec", "in al,dx"), raw("ee", "out dx,al"), raw("0f08", "invd"),
    raw("0f30", "wrmsr"), raw("0f32", "rdmsr"), raw("0f20c0", "mov rax,cr0"), raw("cd81", "int 0x81"), raw("cd01", "int 0x1"),
    raw("0f01f8", "swapgs"),
)  # fmt: skip
"""What only a kernel may do: a general protection fault."""
UNDEFINED: Final = (
    UD2,
    raw("06", "(bad)"),
    raw("0fb9c0", "ud1 eax,eax"),
    raw("f00f0b", "lock ud2"),
    raw("f090", "lock nop"),
)
"""What no CPU knows. 06 is what patching puts into call sites."""
TRAPS: Final = (INT3, raw("cd03", "int 0x3"), raw("f1", "int1"))
"""Software interrupts that Linux lets everybody use: SIGTRAP, reported behind the instruction."""
OVERFLOW: Final = raw("cd04", "int 0x4")
"""The same, but SIGSEGV."""


def jump_to(reg: int) -> Instr:
    """``jmp reg``."""
    return Instr((b"\x41" if reg >= 8 else b"") + b"\xff" + _register(4, reg), f"jmp {NAMES64[reg]}")


def call_to(reg: int) -> Instr:
    """``call reg``."""
    return Instr((b"\x41" if reg >= 8 else b"") + b"\xff" + _register(2, reg), f"call {NAMES64[reg]}", WRITE)


def jump_if(condition: int, distance: int) -> Instr:
    """``jCC`` to ``distance`` bytes from its end."""
    code = bytes((0x0F, 0x80 | condition)) + (distance & 0xFFFFFFFF).to_bytes(4, "little")
    return Instr(code, f"j{CONDITIONS[condition]} {distance:+d}")


def base_access(reg: int, digit: int) -> Instr:
    """``rdfsbase`` (0), ``rdgsbase`` (1), ``wrfsbase`` (2)."""
    name = ("rdfsbase", "rdgsbase", "wrfsbase")[digit]
    return Instr(b"\xf3" + _both(b"\x0f\xae", reg, digit), f"{name} {NAMES64[reg]}")


# x87, SSE, AVX, AVX-512: memory operands at [base + disp].


def fp_memory(code: str, name: str, digit: int, base: int, disp: int, access: Access = READ) -> Instr:
    """Make an instruction with an opcode extension (or a register below 8) in the reg field, and memory."""
    rex = b"\x41" if base >= 8 else b""
    return Instr(rex + bytes.fromhex(code) + _memory(digit, base, disp), f"{name} {_place(base, disp)}", access)


def sse_load(x: int, base: int, disp: int) -> Instr:
    """``movups xmm, [..]``."""
    return Instr(_at(b"\x0f\x10", x, base, disp, wide=False), f"movups xmm{x},{_place(base, disp)}", READ)


def sse_store(base: int, disp: int, x: int) -> Instr:
    """``movups [..], xmm``."""
    return Instr(_at(b"\x0f\x11", x, base, disp, wide=False), f"movups {_place(base, disp)},xmm{x}", WRITE)


def sse_binary(prefix: str, opcode: int, name: str, d: int, s: int) -> Instr:
    """Make an operation on two xmm registers."""
    code = bytes.fromhex(prefix) + bytes((_rex(False, d, s), 0x0F, opcode)) + _register(d, s)
    return Instr(code, f"{name} xmm{d},xmm{s}")


def _vex(reg: int, second: int, base: int, wide: bool, prefix: int) -> bytes:
    """Return the three-byte VEX prefix of map 0f."""
    return bytes((0xC4, (reg < 8) << 7 | 1 << 6 | (base < 8) << 5 | 1, (15 - second) << 3 | wide << 2 | prefix))


def avx_load(y: int, base: int, disp: int) -> Instr:
    """``vmovups ymm, [..]``."""
    code = _vex(y, 0, base, True, 0) + b"\x10" + _memory(y, base, disp)
    return Instr(code, f"vmovups ymm{y},{_place(base, disp)}", READ)


def avx_store(base: int, disp: int, y: int) -> Instr:
    """``vmovups [..], ymm``."""
    code = _vex(y, 0, base, True, 0) + b"\x11" + _memory(y, base, disp)
    return Instr(code, f"vmovups {_place(base, disp)},ymm{y}", WRITE)


def avx_binary(opcode: int, name: str, d: int, a: int, b: int) -> Instr:
    """Make an operation of three ymm registers."""
    return Instr(_vex(d, a, b, True, 0) + bytes((opcode,)) + _register(d, b), f"{name} ymm{d},ymm{a},ymm{b}")


def _evex(z: int, base: int) -> bytes:
    """Return the EVEX prefix of a 512-bit vmovups: register z of 32, base below 16."""
    rest = (not z >> 3 & 1) << 7 | 1 << 6 | (base < 8) << 5 | (not z >> 4 & 1) << 4 | 1
    return bytes((0x62, rest, 0x7C, 0x48))


def avx512_load(z: int, base: int, disp: int) -> Instr:
    """``vmovups zmm, [..]``."""
    return Instr(_evex(z, base) + b"\x10" + _memory(z, base, disp), f"vmovups zmm{z},{_place(base, disp)}", READ)


def avx512_store(base: int, disp: int, z: int) -> Instr:
    """``vmovups [..], zmm``."""
    return Instr(_evex(z, base) + b"\x11" + _memory(z, base, disp), f"vmovups {_place(base, disp)},zmm{z}", WRITE)


def mask_load(k: int, s: int) -> Instr:
    """``kmovw k, s32``, s below 8."""
    return Instr(bytes((0xC5, 0xF8, 0x92)) + _register(k, s), f"kmovw k{k},{NAMES32[s]}")


def mask_store(d: int, k: int) -> Instr:
    """``kmovw d32, k``, d below 8."""
    return Instr(bytes((0xC5, 0xF8, 0x93)) + _register(d, k), f"kmovw {NAMES32[d]},k{k}")
