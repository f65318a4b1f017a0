"""Bytes that look like ``mov $number, %eax`` and are the tail of another instruction (10-stub §6.5; S-080).

That a thread executed ``syscall`` at some address proves that an instruction begins there. It does not prove that the five
bytes before it, ``b8`` and the number, are an instruction of their own: ``41 b8 imm32`` is ``mov $imm32, %r8d``, and when eax
happens to hold the same number the site fits the pattern. To patch it would tear that instruction apart.

A decoder cannot settle it, for x86 code cannot be decoded backwards without doubt. So the bytes in front are compared with
every encoding in which ``b8 imm32`` can be an instruction's last five bytes. A match refuses the site: at worst a call that
could have been patched goes on being trapped. What this list does not know remains, as in the original; such a coincidence
changes code of the guest that it happens to, and nothing else.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

LOOK_BACK: Final = 6
"""How many bytes before the ``b8`` the list looks at."""


class Tail(NamedTuple):
    """One way in which b8 can belong to an earlier byte. ``matches`` gets the bytes before it, the nearest last."""

    name: str
    matches: Callable[[bytes], bool]


def _at(before: bytes, distance: int) -> int:
    """Return the byte ``distance`` before the b8 (1 is the nearest), or −1 where the code does not reach back that far."""
    return before[-distance] if distance <= len(before) else -1


# Opcodes with a ModRM byte and no immediate, which may address memory with a 32-bit displacement.
_ALU: Final = {base + low for base in range(0x00, 0x40, 8) for low in range(4)}
_MODRM: Final = _ALU | {0x62, 0x63, *range(0x84, 0x90), *range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF}
# Of these, the ones that compilers hardly ever leave as the last byte (immediate, displacement, register operand) of the
# instruction in front: to refuse them costs nothing.
_TELLING: Final = {0x63, *range(0x84, 0x90)}
# With imm32 behind ModRM (and SIB, displacement): add… $imm32, imul, mov $imm32 to memory, test.
_WITH_IMM32: Final = {0x69, 0x81, 0xC7, 0xF7}
# Opcodes behind 0f that have no ModRM byte: syscall, ud2, cpuid and such, conditional jumps, bswap.
_LONG_WITHOUT_MODRM: Final = {
    *range(0x04, 0x0D), *range(0x30, 0x38), 0x77, *range(0x80, 0x90), *range(0xA0, 0xA3), *range(0xA8, 0xAB), *range(0xC8, 0xD0),
}  # fmt: skip
_REX_B: Final = {0x41, 0x43, 0x45, 0x47, 0x49, 0x4B, 0x4D, 0x4F}
_SEGMENT: Final = {0x64, 0x65}


def _other_register(before: bytes) -> bool:
    """REX.B in front: mov $imm32 to r8d."""
    return _at(before, 1) in _REX_B


def _half_register(before: bytes) -> bool:
    """66 in front: mov $imm16 to ax, and two bytes of something else."""
    return _at(before, 1) == 0x66


def _modrm(before: bytes) -> bool:
    """b8 as ModRM: disp32(%rax) or, with REX.B, disp32(%r8).

    Relative to rax alone the address would be twice the number of a system call, where nothing is mapped: such an
    instruction cannot have been executed before this system call. It can relative to r8, to a segment base, and where the
    address is only computed.
    """
    opcode = _at(before, 1)
    if opcode in _TELLING:
        return True
    if _at(before, 2) == 0x0F and opcode not in _LONG_WITHOUT_MODRM:
        return True
    return opcode in _MODRM and _at(before, 2) in _REX_B | _SEGMENT


def _long_opcode_modrm(before: bytes) -> bool:
    """b8 as ModRM behind 0f 38 xx or 0f 3a xx, or behind a VEX, XOP or EVEX prefix and an opcode."""
    if _at(before, 3) == 0x0F and _at(before, 2) in (0x38, 0x3A):
        return True
    return _at(before, 3) == 0xC5 or _at(before, 4) in (0xC4, 0x8F) or _at(before, 6) == 0x62


def _sib(before: bytes) -> bool:
    """b8 as SIB: disp32(%rax, %rdi, 4)."""
    modrm = _at(before, 1)
    return modrm >= 0 and modrm & 0xC7 == 0x84


def _displacement8(before: bytes) -> bool:
    """b8 as an 8-bit displacement with an imm32 behind it: movl $imm32, -0x48(%rbp)."""
    modrm, sib_modrm = _at(before, 1), _at(before, 2)
    if modrm >= 0 and modrm & 0xC0 == 0x40 and modrm & 7 != 4 and _at(before, 2) in _WITH_IMM32:
        return True
    return sib_modrm >= 0 and sib_modrm & 0xC7 == 0x44 and _at(before, 3) in _WITH_IMM32


def _displacement32(before: bytes) -> bool:
    """b8 as the last byte of a 32-bit displacement with an imm32 behind it."""
    modrm, sib_modrm = _at(before, 4), _at(before, 5)
    if (
        modrm >= 0
        and (modrm & 0xC0 == 0x80 or modrm & 0xC7 == 0x05)
        and modrm & 7 != 4
        and _at(before, 5) in _WITH_IMM32
    ):
        return True
    return sib_modrm >= 0 and sib_modrm & 0xC7 in (0x84, 0x04) and _at(before, 6) in _WITH_IMM32


def _immediate64(before: bytes) -> bool:
    """b8 as the fourth byte of a 64-bit immediate or address: movabs."""
    opcode, rex = _at(before, 4), _at(before, 5)
    return (0xB8 <= opcode <= 0xBF and 0x48 <= rex <= 0x4F) or (0xA0 <= opcode <= 0xA3 and 0x40 <= rex <= 0x4F)


TAILS: Final = (
    Tail("mov to r8d (REX.B)", _other_register),
    Tail("mov to ax (operand size prefix)", _half_register),
    Tail("ModRM of an instruction with disp32", _modrm),
    Tail("ModRM behind a longer opcode", _long_opcode_modrm),
    Tail("SIB of an instruction with disp32", _sib),
    Tail("disp8 before an imm32", _displacement8),
    Tail("disp32 before an imm32", _displacement32),
    Tail("part of a 64-bit immediate", _immediate64),
)


def tail_of(before: bytes) -> str | None:
    """Return what ``b8 imm32`` behind these bytes may be the tail of; None when it can only be a mov of its own."""
    for tail in TAILS:
        if tail.matches(before):
            return tail.name
    return None
