/* The parts of the shared structures that are x86-64's own. */
#pragma once

#include "types.h"

/* struct user_regs_struct of ptrace. The stub never writes gs_base, ds and es. */
struct ptregs {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
    u64 rax, rcx, rdx, rsi, rdi;
    u64 orig_rax, rip, cs, eflags, rsp, ss;
    u64 fs_base, gs_base, ds, es, fs, gs;
};

LAYOUT(struct ptregs, r15, 0x00);
LAYOUT(struct ptregs, r14, 0x08);
LAYOUT(struct ptregs, r13, 0x10);
LAYOUT(struct ptregs, r12, 0x18);
LAYOUT(struct ptregs, rbp, 0x20);
LAYOUT(struct ptregs, rbx, 0x28);
LAYOUT(struct ptregs, r11, 0x30);
LAYOUT(struct ptregs, r10, 0x38);
LAYOUT(struct ptregs, r9, 0x40);
LAYOUT(struct ptregs, r8, 0x48);
LAYOUT(struct ptregs, rax, 0x50);
LAYOUT(struct ptregs, rcx, 0x58);
LAYOUT(struct ptregs, rdx, 0x60);
LAYOUT(struct ptregs, rsi, 0x68);
LAYOUT(struct ptregs, rdi, 0x70);
LAYOUT(struct ptregs, orig_rax, 0x78);
LAYOUT(struct ptregs, rip, 0x80);
LAYOUT(struct ptregs, cs, 0x88);
LAYOUT(struct ptregs, eflags, 0x90);
LAYOUT(struct ptregs, rsp, 0x98);
LAYOUT(struct ptregs, ss, 0xa0);
LAYOUT(struct ptregs, fs_base, 0xa8);
LAYOUT(struct ptregs, gs_base, 0xb0);
LAYOUT(struct ptregs, ds, 0xb8);
LAYOUT(struct ptregs, es, 0xc0);
LAYOUT(struct ptregs, fs, 0xc8);
LAYOUT(struct ptregs, gs, 0xd0);
SIZE(struct ptregs, 216);

/* The selectors of user code. */
#define USER_CS 0x33
#define USER_SS 0x2b

/* Where the result of a system call goes. */
ALWAYS_INLINE const u64 *call_result(const struct ptregs *regs)
{
    return &regs->rax;
}

/* The number of the system call that a context brought back. */
ALWAYS_INLINE u64 call_number(const struct ptregs *regs)
{
    return regs->orig_rax;
}

/* Make the registers of a context such as the stub can load them again, if that takes no thought: a guest that uses fs or gs
 * selectors is left to the sentry's longer way. */
ALWAYS_INLINE bool plain_registers(struct ptregs *regs)
{
    if ((regs->fs | regs->gs) != 0)
        return false;
    regs->cs = USER_CS;
    regs->ss = USER_SS;
    return true;
}

/* Where thread_context.siginfo lies: right behind ptregs. */
#define CONTEXT_TAIL 0xee0

/* How syshandler saves the floating point state. */
enum xsave_mode { XSAVE_MODE_FXSAVE = 0, XSAVE_MODE_XSAVE = 1, XSAVE_MODE_XSAVEOPT = 2 };

/* Probed by the sentry, patched into the image. */
struct arch_state {
    u32 xsave_mode;
    u32 fp_len;   /* bytes of the floating point image */
    u32 fsgsbase; /* 1: rdfsbase and wrfsbase may be used */
};

LAYOUT(struct arch_state, xsave_mode, 0);
LAYOUT(struct arch_state, fp_len, 4);
LAYOUT(struct arch_state, fsgsbase, 8);
SIZE(struct arch_state, 12);
