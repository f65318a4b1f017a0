"""Seccomp programs: rules as data, compiled to classic BPF (10-stub §7).

A filter is a table: for each system call a list of alternatives, each a tuple of conditions that must all hold. The first
alternative that holds decides; a system call without one gets the default. Values are compared as 64-bit unsigned numbers.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

RET_TRAP: Final = 0x00030000
RET_TRACE: Final = 0x7FF00000
RET_ALLOW: Final = 0x7FFF0000
RET_USER_NOTIF: Final = 0x7FC00000

_LD_ABS: Final = 0x20
_JEQ: Final = 0x15
_JGT: Final = 0x25
_JGE: Final = 0x35
_JA: Final = 0x05
_RET: Final = 0x06

_NR: Final = 0
_ARCH: Final = 4
IP: Final = 8
"""Offset of the instruction pointer in seccomp_data: the address *behind* the system call instruction."""


def arg(index: int) -> int:
    """Return the offset of argument ``index`` (0…5) in seccomp_data."""
    return 16 + 8 * index


class Condition(NamedTuple):
    """A test of the 64-bit field at ``offset``: equal to ``low``, or in ``[low, high]`` when ``high`` is given."""

    offset: int
    low: int
    high: int | None = None


class Alternative(NamedTuple):
    """All conditions hold → the filter's answer for this call."""

    conditions: tuple[Condition, ...] = ()
    action: int = RET_ALLOW


ANY: Final = Alternative()
"""The alternative without conditions: allow."""

Instruction = tuple[int, int, int, int]


def _conditions(alternative: Alternative) -> list[Instruction]:
    """Compile one alternative. Jumps to "fails" are written as jump 255 and resolved when the length is known."""
    fail = 255
    code: list[Instruction] = []
    for condition in alternative.conditions:
        low, high = condition.low, condition.high
        load_high = (_LD_ABS, 0, 0, condition.offset + 4)
        load_low = (_LD_ABS, 0, 0, condition.offset)
        if high is None:
            code += [load_high, (_JEQ, 0, fail, low >> 32), load_low, (_JEQ, 0, fail, low & 0xFFFFFFFF)]
            continue
        # field >= low: the high word decides unless it is equal, then the low word does.
        code += [
            load_high,
            (_JGT, 3, 0, low >> 32),
            (_JEQ, 0, fail, low >> 32),
            load_low,
            (_JGE, 0, fail, low & 0xFFFFFFFF),
        ]
        # field <= high, the mirror image: a greater high word fails, a smaller one passes.
        code += [
            load_high,
            (_JGT, fail, 0, high >> 32),
            (_JEQ, 0, 2, high >> 32),
            load_low,
            (_JGT, fail, 0, high & 0xFFFFFFFF),
        ]
    code.append((_RET, 0, 0, alternative.action))
    return [_resolve(index, instruction, len(code), fail) for index, instruction in enumerate(code)]


def _resolve(index: int, instruction: Instruction, length: int, fail: int) -> Instruction:
    """Turn the placeholder ``fail`` of a jump into the distance from behind it to the end of the alternative."""
    code, jump_true, jump_false, k = instruction
    if code not in (_JEQ, _JGT, _JGE):
        return instruction
    distance = length - index - 1
    return (code, distance if jump_true == fail else jump_true, distance if jump_false == fail else jump_false, k)


def program(
    rules: Mapping[int, Sequence[Alternative]], audit_arch: int, default: int = RET_TRAP, bad_arch: int = RET_TRAP
) -> bytes:
    """Compile a filter to an array of sock_filter (8 bytes each)."""
    code: list[Instruction] = [
        (_LD_ABS, 0, 0, _ARCH),
        (_JEQ, 1, 0, audit_arch),
        (_RET, 0, 0, bad_arch),
        (_LD_ABS, 0, 0, _NR),
    ]
    for nr, alternatives in rules.items():
        block = [instruction for alternative in alternatives for instruction in _conditions(alternative)]
        block.append((_RET, 0, 0, default))
        # A conditional jump reaches 255 instructions, an unconditional one any number.
        code += [(_JEQ, 1, 0, nr), (_JA, 0, 0, len(block)), *block]
    code.append((_RET, 0, 0, default))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def sock_fprog(filter_program: bytes, address: int) -> bytes:
    """Return a struct sock_fprog for ``address``, followed by the instructions it points to (10-stub §2.7)."""
    return struct.pack("<HxxxxxxQ", len(filter_program) // 8, address + 16) + filter_program


def evaluate(filter_program: bytes, nr: int, audit_arch: int, ip: int, args: Sequence[int] = ()) -> int:
    """Run a filter as the kernel would, and return its answer. For tests and ``doctor``; the programs have no loops."""
    padded = [*args, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", nr, audit_arch, ip, *padded)
    accumulator = 0
    position = 0
    while True:
        code, jump_true, jump_false, k = struct.unpack_from("<HBBI", filter_program, position * 8)
        position += 1
        if code == _LD_ABS:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == _RET:
            return int(k)
        elif code == _JA:
            position += k
        else:
            taken = {_JEQ: accumulator == k, _JGT: accumulator > k, _JGE: accumulator >= k}[code]
            position += jump_true if taken else jump_false
