"""What is x86-64 about tracing: the injected call, the registers of a resumed guest, and what a stop means.

The system call instruction is ``syscall``; a traced thread is at the address behind it when it stops at a call.
"""

import struct
from typing import Final

from systrap.arch.x86_64 import (
    CS,
    DS,
    EFLAGS_IF,
    EFLAGS_RESERVED_ONE,
    ES,
    FS,
    GS,
    ORIG_RAX,
    RAX,
    RCX,
    RIP,
    RSP,
    SS,
    USER_CS,
    USER_SS,
)  # fmt: skip

STUB_CODE: Final = b"\x0f\x05\xcc"
"""A system call, and a trap behind it that nothing should reach."""
SYSCALL_LEN: Final = 2

CALL_BYTES: Final = 21 * 8
"""How much of the register set an injection writes: up to ss. The bases behind it stay as the guest has them."""
REGISTER_BYTES: Final = 27 * 8
CALL_RESULT: Final = RAX
CALL_IP: Final = RIP

FOREIGN_OFFSET: Final = 0x86000000
"""Added to the number of a system call of another convention (int 0x80): no such call exists (P-050)."""
NATIVE: Final = 0xC000003E
VSYSCALL: Final = (0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)

_U64: Final = (1 << 64) - 1
_CALL: Final = struct.Struct("<21Q")


def pack_call(buffer: bytearray, ip: int, nr: int, args: tuple[int, ...]) -> None:
    """Write the registers that make system call ``nr`` at ``ip``, without a stack.

    orig_rax says "not in a system call", or the kernel could restart an interrupted call of the guest's instead.
    """
    a = [value & _U64 for value in args] + [0] * (6 - len(args))
    flags = EFLAGS_IF | EFLAGS_RESERVED_ONE
    _CALL.pack_into(
        buffer, 0, 0, 0, 0, 0, 0, 0, 0, a[3], a[5], a[4], nr, 0, a[2], a[1], a[0], _U64, ip, USER_CS, flags, 0, USER_SS
    )  # fmt: skip


def prepare(regs: "memoryview[int]") -> None:
    """Make a guest's registers loadable: the host's selectors (P-042), and not in a system call."""
    regs[ORIG_RAX] = _U64
    regs[CS] = USER_CS
    regs[SS] = USER_SS
    regs[DS] = regs[ES] = regs[FS] = regs[GS] = 0


def looks_native(regs: "memoryview[int]") -> bool:
    """Tell whether the registers at a system call stop are as ``syscall`` leaves them: rcx = rip.

    A guest can make ``int 0x80`` look so. It then gets its call taken for a native one, which harms nobody else.
    """
    return regs[RCX] == regs[RIP]


def undo_vsyscall(regs: "memoryview[int]", address: int) -> None:
    """Take back the kernel's emulated return from a call into the vsyscall page (P-049)."""
    regs[RIP] = address
    regs[RSP] = (regs[RSP] - 8) & _U64
