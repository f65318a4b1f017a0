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

/* Where thread_context.siginfo lies: right behind ptregs. */
#define CONTEXT_TAIL 0xf18

/* Written by the sentry into the image. */
struct arch_state {
    u32 fp_len; /* bytes of a context's floating point image: 528, of which 520 are used */
};

LAYOUT(struct arch_state, fp_len, 0);
SIZE(struct arch_state, 4);
