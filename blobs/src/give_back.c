/* The stub's half of the way back: a context returns to the sentry. */

#include "sysmsg.h"

/*
 * Put `context_id` on the ready ring and ring the bell if the sentry sleeps. Answers -errno if the wake-up failed.
 *
 * The fence stands between "my entry is in the slot" and "does the sentry sleep?"; the sentry has the mirror image: "I
 * sleep", fence, "is there an entry?". At least one of the two sees the other.
 */
s64 push_ready(struct ready_ring *ring, u32 context_id)
{
    u32 index = fetch_add(&ring->tail, 1);

    store_release(&ring->slots[index % RING_ENTRIES], (u64)(u32)(index + 1) << 32 | context_id);
    full_fence();
    if (load_acquire(&ring->waiting) == 0)
        return 0;
    fetch_add(&ring->bell, 1);
    return futex_wake_one(&ring->bell);
}

/* Tell the sentry, in the way it wants to hear of this context. */
static s64 notify_sentry(struct thread_context *ctx)
{
    switch (load_acquire(&ctx->sentry_fast_path)) {
    case NOTIFY_FUTEX:
        return futex_wake_one(&ctx->state);
    case NOTIFY_READY_RING:
        return ready_ring() != NULL ? push_ready(ready_ring(), id_of_context(ctx)) : 0;
    default:
        return 0;
    }
}

/*
 * Give `ctx` back with `new_state`. The store of the state publishes all that was written into the context before, and
 * from then on the context is the sentry's: of its words only sentry_fast_path is looked at.
 *
 * That store is seq_cst: it must be visible before sentry_fast_path is read, or the sentry, which does the reverse
 * (sentry_fast_path = 0, then sleep while the state is NONE), could go to sleep unseen.
 */
void give_back(struct sysmsg *sysmsg, struct thread_context *ctx, u32 new_state)
{
    s64 result;

    fetch_sub(&context_queue()->num_active_contexts, 1);
    store_release(&ctx->last_thread_id, sysmsg->thread_id);
    store_release(&ctx->state_changed_time, counter());
    store_release(&ctx->thread_id, INVALID_ID);
    store_seq_cst(&ctx->state, new_state);

    result = notify_sentry(ctx);
    if (result < 0)
        PANIC(sysmsg, ERROR_FUTEX, result);
}
