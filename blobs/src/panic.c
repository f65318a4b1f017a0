/*
 * The end of a stub thread that met something impossible.
 *
 * The sentry is told what and where (sysmsg.err...), is woken as for any event, and finds the context's thread_id still
 * set: that marks the event as an error. Then the thread dies, and with it the whole stub.
 */

#include "sysmsg.h"

/* Whether `ctx` is the address of a slot: a panic must not follow a pointer that may be the very thing that is wrong. */
static bool is_context(const struct thread_context *ctx)
{
    u64 offset = (u64)ctx - config_context_region;
    return offset <= (u64)MAX_CONTEXT_ID * CONTEXT_SLOT_SIZE && offset % CONTEXT_SLOT_SIZE == 0;
}

/* Report through the thread's current context, if it still is this thread's: what was given back is the sentry's. */
static void report(struct sysmsg *sysmsg)
{
    struct thread_context *ctx = current_context(sysmsg);
    if (!is_context(ctx) || load_acquire(&ctx->thread_id) != sysmsg->thread_id)
        return;
    store_seq_cst(&ctx->state, CONTEXT_FAULT);
    if (load_acquire(&ctx->sentry_fast_path) == NOTIFY_READY_RING && ready_ring() != NULL)
        push_ready(ready_ring(), id_of_context(ctx));
    futex_wake_one(&ctx->state);
}

/*
 * Never returns. With SIGSYS blocked, as it is in the handler, exit is denied by the filter F1 and the kernel kills. Where SIGSYS is
 * open (in syshandler, and everywhere with user_resume) the handler is entered once more, finds sysmsg.err set, and comes here
 * with all signals blocked.
 */
void die(s32 line)
{
    for (;;) {
        syscall6(NR_exit, (u64)line & 0x7f, 0, 0, 0, 0, 0);
        /* Where no filter is in force, or a hostile one: a store to a page that nobody can map. */
        *(volatile u32 *)(u64)((u32)line % 4096 & ~3u) = (u32)line;
    }
}

/* Report `error` and die. `additional` is what the error is about; `line` the place in the source. */
void panic(struct sysmsg *sysmsg, enum stub_error error, s32 additional, s32 line)
{
    sysmsg->err_additional = additional;
    sysmsg->err_line = line;
    store_release(&sysmsg->err, (s32)error);
    report(sysmsg);
    die(line);
}
