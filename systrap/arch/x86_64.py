"""x86-64: general registers, system call convention, flags and selectors.

Registers are 27 64-bit words in the order of the kernel's ``struct user_regs_struct``, which ptrace, the stub's
thread_context and our contexts share (10-stub §2.3).
"""

from typing import Final

from systrap.arch import linux, x86_fp

R15: Final = 0
R14: Final = 1
R13: Final = 2
R12: Final = 3
RBP: Final = 4
RBX: Final = 5
R11: Final = 6
R10: Final = 7
R9: Final = 8
R8: Final = 9
RAX: Final = 10
RCX: Final = 11
RDX: Final = 12
RSI: Final = 13
RDI: Final = 14
ORIG_RAX: Final = 15
RIP: Final = 16
CS: Final = 17
EFLAGS: Final = 18
RSP: Final = 19
SS: Final = 20
FS_BASE: Final = 21
GS_BASE: Final = 22
DS: Final = 23
ES: Final = 24
FS: Final = 25
GS: Final = 26

NAMES: Final = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip

EFLAGS_TF: Final = 1 << 8
EFLAGS_IF: Final = 1 << 9
EFLAGS_DF: Final = 1 << 10
EFLAGS_RF: Final = 1 << 16
EFLAGS_RESERVED_ONE: Final = 1 << 1

USER_CS: Final = 0x33
USER_SS: Final = 0x2B

_U64 = (1 << 64) - 1


class X86_64:  # noqa: N801 - the architecture's name
    """What the rest of the program needs to know of x86-64, by the names every architecture module gives.

    A namespace: never instantiated. ``regs`` parameters are a context's window of REG_COUNT words.
    """

    NAME: Final = "x86_64"
    LINUX: Final = linux.X86_64
    ELF_MACHINE: Final = 62
    REG_COUNT: Final = 27
    REG_NAMES: Final = NAMES
    IP: Final = RIP
    SP: Final = RSP
    RESULT: Final = RAX
    SYSCALL_NR: Final = ORIG_RAX
    NUMBER_MASK: Final = _U64
    """What of that register is the number of a system call: the stub has extended it."""
    ARGS: Final = (RDI, RSI, RDX, R10, R8, R9)
    TLS: Final = FS_BASE
    VSYSCALLS: Final = {0xFFFFFFFFFF600000: 96, 0xFFFFFFFFFF600400: 201, 0xFFFFFFFFFF600800: 309}
    """Entries of the vsyscall page, and the system calls they stand for."""
    PATCHED_CALLS: Final = True
    """The systrap platform can turn system calls into function calls (usertrap.py)."""
    HANDLER_FLAGS: Final = 0
    USER_RESUME: Final = True
    GUEST_TOP: Final = (1 << 47) - 4096
    """Where programs expect addresses to end, also on CPUs with 57 bits: Linux goes higher only when asked to."""
    """Flags of the stub's signal handler that only this CPU needs."""

    @staticmethod
    def start_regs(regs: "memoryview[int]", ip: int, sp: int) -> None:
        """Set the registers a fresh program starts with (execve): everything 0 except ip, sp, flags and selectors."""
        for index in range(27):
            regs[index] = 0
        regs[RIP] = ip
        regs[RSP] = sp
        regs[EFLAGS] = EFLAGS_IF | EFLAGS_RESERVED_ONE
        regs[CS] = USER_CS
        regs[SS] = USER_SS
        regs[ORIG_RAX] = _U64

    @staticmethod
    def initial_fp(size: int) -> bytearray:
        """Return the FP state a fresh program starts with, as an image of ``size`` bytes."""
        return x86_fp.initial(size)

    @staticmethod
    def restart_syscall(regs: "memoryview[int]", nr: int, first_argument: int) -> None:
        """Make the context issue system call ``nr`` again with its arguments as they are: back over the instruction.

        The first argument has a register of its own here, and is left alone.
        """
        regs[RAX] = nr
        regs[RIP] = (regs[RIP] - 2) & _U64
