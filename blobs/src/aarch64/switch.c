/* From one context to the next, arm64. */

#include "resume.h"

/*
 * Give `ctx` (NULL: the thread has none yet) back with `new_state`, and wait for the next one.
 *
 * A context that was interrupted while it was queued goes straight back. The sentry sets ctx.interrupt, then reads
 * ctx.thread_id and sends SIGCHLD; here thread_id was stored with release before ctx.interrupt is loaded with acquire, and
 * arm64 keeps these two in order (stlr, ldar). So either the flag is seen here, or the signal comes: it is blocked now, and
 * is delivered as soon as the guest runs. Nothing here has to be told from guest code, for this only runs in the handler.
 */
struct thread_context *switch_context(struct sysmsg *sysmsg, struct thread_context *ctx, u32 new_state)
{
    /* For comparison only: its context may be anybody's by now. */
    u64 old = sysmsg->context;

    for (;;) {
        if (ctx != NULL)
            give_back(sysmsg, ctx, new_state);
        ctx = get_context(sysmsg);
        if (load_acquire(&ctx->interrupt) == 0)
            break;
        store_release(&ctx->interrupt, 0);
        new_state = CONTEXT_FAULT;
        /* It goes back without having run here. give_back names this thread as its last one; the registers are another's. */
        ctx->fpstate_changed = 1;
        ctx->signo = SIGCHLD;
        ctx->siginfo.signo = SIGCHLD;
    }

    /* Do the registers of this thread still hold this context's floating point state? */
    if (old != (u64)ctx || load_acquire(&ctx->last_thread_id) != sysmsg->thread_id)
        ctx->fpstate_changed = 1;
    return ctx;
}
