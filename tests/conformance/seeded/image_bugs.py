"""Seeded bugs of the stub's signal handler: registers that go astray between the signal's frame and the context."""

from typing import Final

from tests.conformance.seeded.mutation import Edit, Mutant

HANDLER: Final = "blobs/src/x86_64/sighandler.c"
SHORT_WAY: Final = "blobs/src/x86_64/signal.S"
LOADED: Final = "        LOAD_REGISTERS\n"


def _bug(identity: str, what: str, ours: str, seeded: str) -> Mutant:
    return Mutant(identity, what, (Edit(HANDLER, ours, seeded),))


def _saved(register: str, value: str, what: str) -> Mutant:
    """Return a mutant that tells the sentry another value of a register."""
    ours = f"    regs->{register} = gregs->{register};\n"
    identity = f"save-{register}" + ("-changed" if value else "")
    return _bug(identity, what, ours, f"    regs->{register} = {value};\n" if value else "")


def _loaded(register: str, value: str, what: str) -> Mutant:
    """Return a mutant that gives the guest another value of a register."""
    ours = f"    gregs->{register} = regs->{register};\n"
    return _bug(f"load-{register}", what, ours, f"    gregs->{register} = {value};\n" if value else "")


def _resumed(what: str, register: str, ours: str, seeded: str) -> Mutant:
    """Return a mutant of the short way back, without rt_sigreturn."""
    return Mutant(f"resume-{register}", what, (Edit(SHORT_WAY, ours, seeded),))


def _spoiled(what: str, register: str, instruction: str) -> Mutant:
    """Return a mutant of that way in which an instruction behind the last load spoils a register."""
    return _resumed(what, register, LOADED, f"{LOADED}        {instruction}\n")


MUTANTS: Final = (
    _spoiled("r9 is not restored on the short way", "r9", "xor     %r9d, %r9d"),
    _spoiled("r10 is restored from r11 on the short way", "r10", "mov     %r11, %r10"),
    _spoiled("rbp is not restored on the short way", "rbp", "xor     %ebp, %ebp"),
    _spoiled("the return value is cut to 32 bits on the short way", "rax", "mov     %eax, %eax"),
    _resumed("DF is lost on the short way", "eflags", "        push    CTX_EFLAGS(%rcx)\n", "        push    $0x202\n"),
    _resumed("FP state is not loaded on the short way", "fp", "        xrstor64 CTX_FPSTATE(%rcx)\n", ""),
    _saved("rbx", "", "rbx is not saved"),
    _saved("rcx", "", "rcx is not saved"),
    _saved("r8", "", "r8 is not saved"),
    _saved("r11", "", "r11 is not saved"),
    _saved("r12", "", "r12 is not saved"),
    _saved("rsp", "", "the stack pointer is not saved"),
    _saved("r14", "(u32)gregs->r14", "the upper half of r14 is lost"),
    _loaded("rbp", "", "rbp is not restored"),
    _loaded("r9", "", "r9 is not restored"),
    _loaded("r10", "regs->rcx", "r10 is restored from rcx"),
    _loaded("r13", "", "r13 is not restored"),
    _loaded("r15", "(u64)(s64)(s32)regs->r15", "r15 is restored as 32 bits with a sign"),
    _loaded("rdx", "", "rdx is not restored"),
    _loaded("rdi", "regs->rsi", "rdi is restored from rsi"),
    _loaded("rcx", "regs->rip", "rcx is the resume address behind faults, too"),
    _loaded("r11", "regs->eflags", "r11 holds the flags behind faults, too"),
    _loaded("rsp", "regs->rsp & ~15ul", "the stack pointer is aligned on the way back"),
    _loaded("eflags", "regs->eflags & ~0x400ul", "DF is lost on the way back"),
    _saved("eflags", "gregs->eflags & ~1ul", "CF is lost on the way out"),
    _loaded("rax", "gregs->rax", "the return value is dropped"),
    _bug(
        "args-swapped-r8-r9",
        "the last two arguments are swapped",
        ("regs->r8 = gregs->r8;\n" "    regs->r9 = gregs->r9;"),
        "regs->r8 = gregs->r9;\n    regs->r9 = gregs->r8;",
    ),
    _bug(
        "args-fourth-is-rcx",
        "the fourth argument is rcx, as in a function call",
        "    regs->r10 = gregs->r10;",
        "    regs->r10 = gregs->rcx;",
    ),
    _bug(
        "args-truncated",
        "arguments are cut to 32 bits",
        "    regs->rsi = gregs->rsi;",
        "    regs->rsi = (u32)gregs->rsi;",
    ),
    _bug(
        "args-sign-extended",
        "arguments are taken as 32 bits with a sign",
        "    regs->rdx = gregs->rdx;",
        "    regs->rdx = (u64)(s64)(s32)gregs->rdx;",
    ),
    _bug(
        "ip-off-by-two",
        "a fault's ip is two bytes too far",
        ("    ctx->ptregs.orig_rax = (u64)-1;\n" "    *new_state"),
        "    ctx->ptregs.rip += 2;\n    ctx->ptregs.orig_rax = (u64)-1;\n    *new_state",
    ),
    _bug(
        "int3-ip",
        "the ip of int3 is at the instruction, not behind it",
        "    case SIGTRAP:\n        break;",
        "        break;\n    case SIGTRAP:\n        ctx->ptregs.rip -= 1;\n        break;",
    ),
    _bug(
        "fault-write-is-read",
        "a write fault is told as a read",
        "ctx->err = uc->gregs.err;",
        "ctx->err = uc->gregs.err & ~2ul;",
    ),
    _bug(
        "fault-fetch-is-read",
        "a fetch fault is told as a read",
        "ctx->err = uc->gregs.err;",
        "ctx->err = uc->gregs.err & ~16ul;",
    ),
    _bug("fault-stale-word", "the error word of the last page fault stays", "    ctx->err = 0;\n", ""),
    _bug(
        "fault-address-missing",
        "a fault's address is not told",
        "    copy_siginfo(ctx, info);\n",
        "    copy_siginfo(ctx, info);\n    if (signo == SIGSEGV) ctx->siginfo.addr = 0;\n",
    ),
    _bug(
        "sigchld-dropped",
        "interrupts of a running guest are dropped",
        "signo == SIGCHLD && thread_state != THREAD_NONE",
        "signo == SIGCHLD",
    ),
    _bug("tls-not-saved", "the FS base is not saved", "    ctx->ptregs.fs_base = fs_base;\n", ""),
    _bug(
        "tls-not-restored",
        "the FS base is not switched",
        "    if (ctx->ptregs.fs_base != fs_base)\n        write_fs_base(sysmsg, ctx->ptregs.fs_base);\n    if ((u32)",
        "    if ((u32)",
    ),
    _bug("foreign-arch", "32-bit calls are told as 64-bit ones", "ctx->siginfo.arch != AUDIT_ARCH_X86_64", "0"),
    _bug(
        "trap-flag-lost",
        "TF is lost on the way back",
        "gregs->eflags = regs->eflags;",
        "gregs->eflags = regs->eflags & ~0x100ul;",
    ),
    _bug(
        "trap-flag-leaks",
        "TF of one context stays for the next",
        "gregs->eflags = regs->eflags;",
        "gregs->eflags = regs->eflags | (gregs->eflags & 0x100);",
    ),
    _bug(
        "stack-clobbered-by-fault",
        "a page fault writes into the red zone",
        "            ctx->err = uc->gregs.err;\n",
        "        { ctx->err = uc->gregs.err; sysmsg->fault_jump = 7;\n"
        '            __asm__ volatile(".byte 0x48, 0xc7, 0x43, 0xf8, 0, 0, 0, 0 # movq $0, -8(%%rbx)"'
        ' : : "b"(uc->gregs.rsp) : "memory");\n'
        "            sysmsg->fault_jump = 0; }\n",
    ),
    _bug("signal-swallowed", "SIGFPE is dropped", "    case SIGFPE:\n", ""),
    _bug(
        "sigbus-is-segv",
        "SIGBUS is told as SIGSEGV",
        ("    ctx->signo = (u64)signo;\n" "    copy_siginfo(ctx, info);"),
        (
            "    ctx->signo = (u64)signo;\n"
            "    copy_siginfo(ctx, info);\n"
            "    if (signo == SIGBUS) ctx->siginfo.signo = SIGSEGV;"
        ),
    ),
)
