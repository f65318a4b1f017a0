/* From one context to the next, x86-64. */

#include "resume.h"

/*
 * Give `ctx` (NULL: the thread has none yet) back with `new_state`, and wait for the next one. When it returns, the
 * thread's state is NONE: a SIGCHLD counts from here on, and takes the context as it lies in memory.
 *
 * A context that was interrupted while it was queued goes straight back. The sentry sets ctx.interrupt, then reads
 * ctx.thread_id and sends SIGCHLD; here thread_id was written before ctx.interrupt is read, with a locked instruction in
 * between. So either the flag is seen here, or the signal comes.
 */
struct thread_context *switch_context(struct sysmsg *sysmsg, struct thread_context *ctx, u32 new_state)
{
    /* For comparison only: its context may be anybody's by now. */
    u64 old = sysmsg->context;

    for (;;) {
        if (ctx != NULL)
            give_back(sysmsg, ctx, new_state);
        ctx = get_context(sysmsg);
        store_release(&sysmsg->state, THREAD_NONE);
        if (load_acquire(&ctx->interrupt) == 0)
            break;
        store_release(&sysmsg->state, THREAD_PREP);
        store_release(&ctx->interrupt, 0);
        new_state = CONTEXT_FAULT;
        /* It goes back without having run here. give_back names this thread as its last one; the registers are another's. */
        ctx->fpstate_changed = 1;
        ctx->signo = SIGCHLD;
        ctx->siginfo.signo = SIGCHLD;
        ctx->ptregs.orig_rax = (u64)-1;
    }

    /* Do the registers of this thread still hold this context's floating point state? */
    if (old != (u64)ctx || load_acquire(&ctx->last_thread_id) != sysmsg->thread_id)
        ctx->fpstate_changed = 1;
    return ctx;
}

u64 read_fs_base(struct sysmsg *sysmsg)
{
    u64 base = 0;

    if (config_arch_state.fsgsbase != 0) {
        __asm__ volatile("rdfsbase %0" : "=r"(base));
    } else {
        s64 result = syscall6(NR_arch_prctl, ARCH_GET_FS, (u64)&base, 0, 0, 0, 0);
        if (result != 0)
            PANIC(sysmsg, ERROR_ARCH_PRCTL, result);
    }
    return base;
}

void write_fs_base(struct sysmsg *sysmsg, u64 base)
{
    if (config_arch_state.fsgsbase != 0) {
        __asm__ volatile("wrfsbase %0" : : "r"(base));
    } else {
        s64 result = syscall6(NR_arch_prctl, ARCH_SET_FS, base, 0, 0, 0, 0);
        if (result != 0)
            PANIC(sysmsg, ERROR_ARCH_PRCTL, result);
    }
}
