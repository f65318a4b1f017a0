/* The parts of the shared structures that are arm64's own. */
#pragma once

#include "types.h"

/* struct user_pt_regs of ptrace. The thread pointer, tpidr_el0, is not in it: thread_context.tls. */
struct ptregs {
    u64 x[31];
    u64 sp;
    u64 pc;
    u64 pstate;
};

LAYOUT(struct ptregs, x[0], 0x00);
LAYOUT(struct ptregs, x[8], 0x40);
LAYOUT(struct ptregs, x[30], 0xf0);
LAYOUT(struct ptregs, sp, 0xf8);
LAYOUT(struct ptregs, pc, 0x100);
LAYOUT(struct ptregs, pstate, 0x108);
SIZE(struct ptregs, 272);

/* Where the result of a system call goes. */
ALWAYS_INLINE const u64 *call_result(const struct ptregs *regs)
{
    return &regs->x[0];
}

/* The number of the system call that a context brought back. */
ALWAYS_INLINE u64 call_number(const struct ptregs *regs)
{
    return (u32)regs->x[8];
}

/* No context goes back without the sentry's longer way: it keeps a copy of the registers (the thread pointer is not in here). */
ALWAYS_INLINE bool plain_registers(struct ptregs *regs)
{
    (void)regs;
    return false;
}

/* Where thread_context.siginfo lies: right behind ptregs. */
#define CONTEXT_TAIL 0xf18

/* Written by the sentry into the image. */
struct arch_state {
    u32 fp_len; /* bytes of a context's floating point image: 528, of which 520 are used */
};

LAYOUT(struct arch_state, fp_len, 0);
SIZE(struct arch_state, 4);
