"""Bytes that look like ``mov $number, %eax`` and are the tail of another instruction (10-stub §6.5; S-080).

That a thread executed ``syscall`` at some address proves that an instruction begins there. It does not prove that the five
bytes before it, ``b8`` and the number, are an instruction of their own: ``41 b8 imm32`` is ``mov $imm32, %r8d``, and when eax
happens to hold the same number the site fits the pattern. To patch it would tear that instruction apart.

A decoder cannot settle it, for x86 code cannot be decoded backwards without doubt. So the bytes in front are compared with
every encoding in which ``b8`` and four more bytes can be an instruction's last five. Those four end with zeros, as the number
of a system call does; the b8 can be an opcode, ModRM, SIB, or a byte of a displacement or of a 64-bit immediate. A match
refuses the site: at worst a call that could have been patched goes on being trapped. What this list does not know remains,
as in the original; such a coincidence changes code of the guest that it happens to, and nothing else.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

LOOK_BACK: Final = 7
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
# Opcodes behind 0f that have no ModRM byte: syscall, ud2, cpuid and such, conditional jumps, bswap.
_LONG_WITHOUT_MODRM: Final = {
    *range(0x04, 0x0D), *range(0x30, 0x38), 0x77, *range(0x80, 0x90), *range(0xA0, 0xA3), *range(0xA8, 0xAB), *range(0xC8, 0xD0),
}  # fmt: skip

# With an immediate behind the memory operand, by opcode: which values of ModRM's middle field have one.
_ANY: Final = frozenset(range(8))
_WITH_IMM32: Final = {0x69: _ANY, 0x81: _ANY, 0xC7: {0}, 0xF7: {0, 1}}
# An imm8 behind a disp32 would be the number's highest byte, 0. So the opcodes whose result with 0 is known before (shifts,
# imul, test) are not here: nobody writes them, and f6 is a common byte in front of a system call (xor $0x81, %sil; futex).
_WITH_IMM8: Final = {0x80: _ANY, 0x83: _ANY, 0xC6: {0}}
_LONG_WITH_IMM8: Final = {0x70, 0xBA, 0xC2, 0xC4, 0xC6}

_REX: Final = range(0x40, 0x50)
_REX_B: Final = {0x41, 0x43, 0x45, 0x47, 0x49, 0x4B, 0x4D, 0x4F}
_REX_X: Final = {0x42, 0x46}
_SEGMENT: Final = {0x64, 0x65}
_REX2: Final = 0xD5


def _other_register(before: bytes) -> bool:
    """REX.B, or its like in REX2, in front: mov $imm32 to r8d, r16d or r24d."""
    payload = _at(before, 1)
    return payload in _REX_B or (_at(before, 2) == _REX2 and 0 <= payload < 0x80 and payload & 0x11 != 0)


def _half_register(before: bytes) -> bool:
    """66 in front: mov $imm16 to ax, and two bytes of something else."""
    return _at(before, 1) == 0x66


def _prefix_that_jumps_elsewhere(before: bytes) -> bool:
    """Find a prefix that mov to eax ignores and the jump would not: a segment, an index register."""
    return _at(before, 1) in _SEGMENT | _REX_X


def _modrm(before: bytes) -> bool:
    """b8 as ModRM: disp32(%rax) or, with REX.B, disp32(%r8).

    Relative to rax alone the address would be twice the number of a system call, where nothing is mapped: such an
    instruction cannot have been executed before this system call. (Only a division changes rax itself; its opcode is too
    common a last byte, of ``xor %esi, %esi`` for one.) It can relative to r8, to a segment base, and where the address is
    only computed.
    """
    opcode, prefix = _at(before, 1), _at(before, 2)
    if opcode in _TELLING:
        return True
    if prefix == 0x0F and opcode not in _LONG_WITHOUT_MODRM:
        return True
    if opcode not in _MODRM:
        return False
    return prefix in _REX_B | _SEGMENT or (prefix in _REX and _at(before, 3) in _SEGMENT)


def _long_opcode_modrm(before: bytes) -> bool:
    """b8 as ModRM behind 0f 38 xx, or behind a REX2, VEX, XOP or EVEX prefix and an opcode."""
    if _at(before, 3) == 0x0F and _at(before, 2) == 0x38:
        return True
    if _at(before, 3) == _REX2 and _at(before, 2) & 0x11:
        return True
    return _at(before, 3) == 0xC5 or _at(before, 4) in (0xC4, 0x8F) or _at(before, 5) == 0x62


def _sib(before: bytes) -> bool:
    """b8 as SIB: disp32(%rax, %rdi, 4), or (%rax, %rdi, 4) with an imm32 behind it."""
    modrm = _at(before, 1)
    return (modrm >= 0 and modrm & 0xC7 == 0x84) or (modrm & 0xC7 == 0x04 and _has_imm32(before, 1))


def _displacement8(before: bytes) -> bool:
    """b8 as an 8-bit displacement with an imm32 behind it: movl $imm32, -0x48(%rbp)."""
    modrm, above = _at(before, 1), _at(before, 2)
    if modrm & 0xC0 == 0x40 and modrm & 7 != 4 and _has_imm32(before, 1):
        return True
    return above & 0xC7 == 0x44 and _has_imm32(before, 2)


def _displacement32(before: bytes) -> bool:
    """b8 in a 32-bit displacement with an immediate behind it: its last byte, second, or first, for an imm32, imm16, imm8."""
    return (
        any(_has_imm32(before, at) for at in _with_disp32(before, 4))
        or any(_has_imm16(before, at) for at in _with_disp32(before, 2))
        or any(_has_imm8(before, at) for at in _with_disp32(before, 1))
    )


def _with_disp32(before: bytes, last: int) -> list[int]:
    """Return where ModRM can be if a disp32 begins behind distance ``last``: there, or one further in front of a SIB."""
    found = []
    modrm, above = _at(before, last), _at(before, last + 1)
    if modrm >= 0 and (modrm & 0xC7 == 0x05 or (modrm & 0xC0 == 0x80 and modrm & 7 != 4)):
        found.append(last)
    if above >= 0 and (above & 0xC7 == 0x84 or (above & 0xC7 == 0x04 and modrm & 7 == 5)):
        found.append(last + 1)
    return found


def _has_imm32(before: bytes, modrm: int) -> bool:
    """Tell whether the opcode in front of ModRM at distance ``modrm`` has an imm32: add… $imm32, imul, mov to memory, test."""
    return _at(before, modrm) >> 3 & 7 in _WITH_IMM32.get(_at(before, modrm + 1), ())


def _has_imm16(before: bytes, modrm: int) -> bool:
    """Tell the same for an imm16: the operand size prefix stands before opcode and REX."""
    prefix = modrm + 2
    if _at(before, prefix) in _REX:
        prefix += 1
    return _at(before, prefix) == 0x66 and _has_imm32(before, modrm)


def _has_imm8(before: bytes, modrm: int) -> bool:
    """Tell the same for an imm8, also behind longer opcodes."""
    opcode = _at(before, modrm + 1)
    if _at(before, modrm) >> 3 & 7 in _WITH_IMM8.get(opcode, ()):
        return True
    if _at(before, modrm + 2) == 0x0F and opcode in _LONG_WITH_IMM8:
        return True
    if _at(before, modrm + 3) == 0x0F and _at(before, modrm + 2) == 0x3A:
        return True
    return _at(before, modrm + 3) == 0xC5 or _at(before, modrm + 4) in (0xC4, 0x8F) or _at(before, modrm + 5) == 0x62


def _immediate64(before: bytes) -> bool:
    """b8 as the fourth byte of a 64-bit immediate or address: movabs."""
    opcode, rex = _at(before, 4), _at(before, 5)
    return (0xB8 <= opcode <= 0xBF and 0x48 <= rex <= 0x4F) or 0xA0 <= opcode <= 0xA3


TAILS: Final = (
    Tail("mov to another register (REX.B)", _other_register),
    Tail("mov to ax (operand size prefix)", _half_register),
    Tail("mov with a prefix that would misdirect the jump", _prefix_that_jumps_elsewhere),
    Tail("ModRM of an instruction with disp32", _modrm),
    Tail("ModRM behind a longer opcode", _long_opcode_modrm),
    Tail("SIB of an instruction with disp32 or imm32", _sib),
    Tail("disp8 before an imm32", _displacement8),
    Tail("disp32 before an immediate", _displacement32),
    Tail("part of a 64-bit immediate", _immediate64),
)


def tail_of(before: bytes) -> str | None:
    """Return what ``b8 imm32`` behind these bytes may be the tail of; None when it can only be a mov of its own."""
    for tail in TAILS:
        if tail.matches(before):
            return tail.name
    return None
