"""Lesson 02: filtering by number, and why the number alone is not enough."""

import os
import signal
import struct
from typing import Final

from lesson00_call import CODE, code_page, function, libc, make_call, require_this_machine
from lesson01_sigsys import GREGS, RAX, install_filter, install_handler, registers_at

GUEST: Final = 0x10_0000_0000
"""Guest code lies here and in the 4 GiB above, where an ordinary process has nothing."""

GETPPID: Final = 110
GETUID: Final = 102
AUDIT_ARCH_X86_64: Final = 0xC000003E

LOAD: Final = 0x20
"""Load a 32-bit word of struct seccomp_data: number 0, architecture 4, address of the code 8 and 12, arguments 16…"""
EQUAL: Final = 0x15
RETURN: Final = 0x06
TRAP: Final = 0x00030000
ALLOW: Final = 0x7FFF0000

Instruction = tuple[int, int, int, int]
"""Operation, how many to skip if true, how many if false, constant."""


def assemble(*instructions: Instruction) -> bytes:
    """Return the instructions as the kernel wants them, eight bytes each."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def by_number(*numbers: int) -> bytes:
    """Trap these calls, whoever makes them."""
    checks = [(EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    return assemble(
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        (RETURN, 0, 0, TRAP),  # int 0x80 has a table of its own, with other numbers for everything
        (LOAD, 0, 0, 0),
        *checks,
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, TRAP),
    )


def by_address() -> bytes:
    """Trap every call of guest code, and none of ours: the upper half of its address decides."""
    return assemble(
        (LOAD, 0, 0, 12),
        (EQUAL, 0, 1, GUEST >> 32),
        (RETURN, 0, 0, TRAP),
        (RETURN, 0, 0, ALLOW),
    )


trapped: Final[list[int]] = []


def answer(_number: int, _siginfo: int, ucontext: int) -> None:
    """Answer 4711 to everything, and remember what it was."""
    registers = registers_at(ucontext + GREGS)
    trapped.append(registers[RAX])
    registers[RAX] = 4711


def main() -> None:
    """First a filter that asks what is called, then a second one that asks from where."""
    require_this_machine()
    parent, user = os.getppid(), os.getuid()
    call = make_call()
    guest_call = function(code_page(CODE, GUEST))
    install_handler([signal.SIGSYS], answer)

    install_filter(by_number(GETPPID))
    print(f"getppid by hand: {call(GETPPID)}; its neighbour getuid is itself: {call(GETUID) == user}")
    print(f"getppid by libc: trapped, too: {libc.getppid() != parent}; the filter does not know who asks")

    before = len(trapped)
    install_filter(by_address())
    print(f"getuid from guest code: {guest_call(GETUID, 0, 0, 0, 0, 0, 0)}")
    print(f"getuid from our own code is itself: {call(GETUID) == user}")
    print(f"trapped since then: {trapped[before:]}")


if __name__ == "__main__":
    main()
