"""arm64: general registers, system call convention, PSTATE.

Registers are 64-bit words: first 34 in the order of the kernel's ``struct user_pt_regs``, which ptrace, the stub's thread_context
and our contexts share (10-stub §2.3); then the thread pointer, tpidr_el0, which those keep elsewhere (S-052).
"""

from typing import Final

from systrap.arch import arm_fp, linux

X0: Final = 0
X8: Final = 8
LR: Final = 30
SP: Final = 31
PC: Final = 32
PSTATE: Final = 33
TPIDR: Final = 34

PTREGS: Final = 34
"""How many of the registers are in struct user_pt_regs."""

NAMES: Final = (*(f"x{number}" for number in range(31)), "sp", "pc", "pstate", "tpidr_el0")

PSTATE_FLAGS: Final = 0xF << 28
"""N, Z, C, V."""
PSTATE_TCO: Final = 1 << 25
PSTATE_DIT: Final = 1 << 24
PSTATE_SSBS: Final = 1 << 12
PSTATE_BTYPE: Final = 3 << 10
"""Set between an indirect branch and its target: a guest that is interrupted there goes on there."""
PSTATE_USER: Final = PSTATE_FLAGS | PSTATE_TCO | PSTATE_DIT | PSTATE_SSBS | PSTATE_BTYPE
"""What a guest may have set. The rest is the mode (EL0, 64-bit: all zero), interrupt masks, and what only a debugger sets."""

SVC_LENGTH: Final = 4
SA_RESTART: Final = 0x10000000
_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1


class AArch64:
    """What the rest of the program needs to know of arm64, by the names every architecture module gives.

    A namespace: never instantiated. ``regs`` parameters are a context's window of REG_COUNT words.
    """

    NAME: Final = "aarch64"
    LINUX: Final = linux.AARCH64
    ELF_MACHINE: Final = 183
    REG_COUNT: Final = 35
    REG_NAMES: Final = NAMES
    IP: Final = PC
    SP: Final = SP
    RESULT: Final = X0
    SYSCALL_NR: Final = X8
    NUMBER_MASK: Final = _U32
    """What of that register is the number of a system call."""
    ARGS: Final = (0, 1, 2, 3, 4, 5)
    TLS: Final = TPIDR
    VSYSCALLS: Final[dict[int, int]] = {}
    """There is no page of system calls at a fixed address."""
    PATCHED_CALLS: Final = False
    """Call sites cannot be patched: four bytes have no room for a jump that reaches anywhere."""
    HANDLER_FLAGS: Final = SA_RESTART
    USER_RESUME: Final = False
    GUEST_TOP: Final = 1 << 48
    """Where programs expect addresses to end, also on CPUs with 52 bits: Linux goes higher only when asked to."""
    """The kernel takes a first argument whose low half is −512 for a wish to restart the call, and without this flag writes
    −EINTR over it before the stub sees it (docs/images.md)."""

    @staticmethod
    def start_regs(regs: "memoryview[int]", ip: int, sp: int) -> None:
        """Set the registers a fresh program starts with (execve): everything 0 except pc and sp. A PSTATE of 0 is user mode."""
        for index in range(35):
            regs[index] = 0
        regs[PC] = ip
        regs[SP] = sp

    @staticmethod
    def initial_fp(size: int) -> bytearray:
        """Return the FP state a fresh program starts with, as an image of ``size`` bytes."""
        return arm_fp.initial(size)

    @staticmethod
    def restart_syscall(regs: "memoryview[int]", nr: int, first_argument: int) -> None:
        """Make the context issue system call ``nr`` again: back over the instruction.

        The result is in the register of the first argument, so whoever wrote it must have kept that (20-platform §5.3).
        """
        regs[X0] = first_argument & _U64
        regs[X8] = nr & _U64
        regs[PC] = (regs[PC] - SVC_LENGTH) & _U64

    @staticmethod
    def syscall_number(regs: "memoryview[int]") -> int:
        """Return the number of the system call a context stopped at: the kernel looks at the low half of x8 only."""
        return regs[X8] & _U32

    @staticmethod
    def sanitize(regs: "memoryview[int]") -> None:
        """Make registers from an untrusted source such as user mode can have (10-stub §10.2 item 4).

        The kernel refuses a signal frame whose PSTATE is not of 64-bit user mode, and kills.
        """
        regs[PSTATE] &= PSTATE_USER
