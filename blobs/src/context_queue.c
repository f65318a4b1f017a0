/*
 * The stub's half of the way in: threads take contexts from the run queue, spin a while when there is none, and park.
 *
 * No wake-up is lost. The sentry does: (A1) num_active_contexts += 1, (A2) write the slot, (A3) look at
 * num_active_threads and the tokens. A thread that goes to sleep does: (B1) num_active_threads -= 1, (B2) read
 * num_active_contexts, (B3) look into the queue once more if there are more contexts than threads left. Each first step is
 * a full fence. So either the thread sees the new context, or the sentry sees that the thread is gone and leaves a token.
 */

#include "sysmsg.h"

/* Spinning, it is looked so often into the queue before it is asked whether to go on: to ask takes as long as to look. */
#define LOOKS_IN_A_ROW 8

/* "This thread is still counted in num_active_threads." */
#define STILL_ACTIVE 0xffffffffu

/* Take a wake-up token. Each is taken by one thread only. */
static bool take_token(struct context_queue *queue)
{
    u32 tokens = load_acquire(&queue->num_threads_to_wakeup);

    while (tokens != 0) {
        if (compare_and_swap_u32(&queue->num_threads_to_wakeup, tokens, tokens - 1))
            return true;
        cpu_pause();
        tokens = load_acquire(&queue->num_threads_to_wakeup);
    }
    return false;
}

/* A new thread takes the token that was left to wake it, if there is one, and counts itself in. In this order: counted twice
 * for a moment, it would keep the sentry from waking another. */
void join_active_threads(void)
{
    take_token(context_queue());
    fetch_add(&context_queue()->num_active_threads, 1);
}

/* The context with this id is now this thread's. */
static struct thread_context *own_context(struct sysmsg *sysmsg, u32 id)
{
    struct thread_context *ctx;

    if (id > MAX_CONTEXT_ID)
        PANIC(sysmsg, ERROR_BAD_CONTEXT_ID, id);
    ctx = context_of_id(id);
    sysmsg->context = (u64)ctx;
    store_relaxed(&ctx->debug, cpu_number(config_rdpid));
    store_release(&ctx->acked_time, counter());
    store_release(&ctx->thread_id, sysmsg->thread_id);
    return ctx;
}

/* Whether a slot holds the entry with this index. At index 0 a slot that was never written looks like one: high half 0. */
static bool is_entry(u64 entry, u32 index)
{
    return (u32)(entry >> 32) == index && (u32)entry != INVALID_ID;
}

/*
 * The next context of the run queue, or NULL. `end` is looked at last: the sentry writes it, and has it for itself while there
 * is something to take. An entry carries its index, so that one of an earlier lap is not taken for
 * new. Waits (for the length of two instructions, or of the other's time slice) for a sentry that has counted `end` up and
 * not written the slot, and for a thread that has cleared the slot and not counted `start` up.
 */
static struct thread_context *dequeue(struct sysmsg *sysmsg)
{
    struct context_queue *queue = context_queue();

    for (;; cpu_pause()) {
        u32 start = load_acquire(&queue->start);
        u64 *slot = &queue->ring[start % RING_ENTRIES];
        u64 entry = load_acquire(slot);

        if (!is_entry(entry, start)) {
            if (start == load_acquire(&queue->end))
                return NULL;
            continue;
        }
        if (!compare_and_swap_u64(slot, entry, INVALID_ID))
            continue;
        fetch_add(&queue->start, 1);
        return own_context(sysmsg, (u32)entry);
    }
}

/* Whether dequeue() would find a context at once. Without a look at `end`, so that the sentry can count it up undisturbed. */
static bool entry_is_there(struct context_queue *queue)
{
    u32 start = load_acquire(&queue->start);

    return is_entry(load_acquire(&queue->ring[start % RING_ENTRIES]), start);
}

/* Leave the spin loop in the oldest entry's name; there must be one, for this thread is in the queue. */
static void leave_spinning(struct sysmsg *sysmsg)
{
    if (!spinning_queue_remove_first(spinning_queue(), 0))
        PANIC(sysmsg, ERROR_SPINNING_QUEUE_DECREF, 0);
}

/* Whether the sentry wants this very CPU: to spin here is to keep it from what is waited for. */
static bool sentry_is_here(const struct context_queue *queue)
{
    return is_this_cpu(load_relaxed(&queue->sentry_cpu), config_rdpid);
}

/*
 * Spin for a context. NULL: it is time to park. A thread that leaves because there are more threads than contexts has
 * already counted itself out, and *active is the new num_active_threads.
 */
static struct thread_context *spin(struct sysmsg *sysmsg, u32 *active)
{
    struct context_queue *queue = context_queue();
    struct thread_context *ctx;

    if (!spinning_queue_push(spinning_queue(), 0))
        return NULL;
    if (load_relaxed(&queue->used_fast_path) == 0)
        store_release(&queue->used_fast_path, 1);

    for (u32 turn = 1;; turn++, cpu_pause()) {
        u32 threads;

        bool look_further = turn % LOOKS_IN_A_ROW == 0;

        ctx = look_further || entry_is_there(queue) ? dequeue(sysmsg) : NULL;
        if (ctx != NULL) {
            spinning_queue_pop(spinning_queue());
            return ctx;
        }
        if (!look_further)
            continue;
        if (load_acquire(&queue->fast_path_disabled) != 0 || sentry_is_here(queue)) {
            leave_spinning(sysmsg);
            return NULL;
        }
        threads = load_acquire(&queue->num_active_threads);
        if (load_acquire(&queue->num_awake_contexts) < threads &&
            compare_and_swap_u32(&queue->num_active_threads, threads, threads - 1)) {
            leave_spinning(sysmsg);
            *active = threads - 1;
            return NULL;
        }
        if (spinning_queue_remove_first(spinning_queue(), config_deep_sleep_timeout))
            return NULL;
    }
}

/* A thread that was counted out has a context: it works again. */
static struct thread_context *back_to_work(struct sysmsg *sysmsg, struct thread_context *ctx)
{
    store_release(&sysmsg->state, THREAD_PREP);
    fetch_add(&context_queue()->num_active_threads, 1);
    return ctx;
}

/* Sleep until there is a context. A thread without a token sleeps; one with a token and no context has taken an old one. */
static struct thread_context *park(struct sysmsg *sysmsg)
{
    struct context_queue *queue = context_queue();

    for (;;) {
        struct thread_context *ctx;

        if (!take_token(queue)) {
            futex_wait(&queue->num_threads_to_wakeup, 0);
            continue;
        }
        ctx = dequeue(sysmsg);
        if (ctx != NULL)
            return back_to_work(sysmsg, ctx);
    }
}

/* The next context for this thread; sleeps until there is one. The thread's state is PREP when it returns. */
struct thread_context *get_context(struct sysmsg *sysmsg)
{
    struct context_queue *queue = context_queue();
    struct thread_context *ctx;
    u32 active = STILL_ACTIVE;

    fetch_add(&queue->num_spinning_threads, 1);
    store_release(&sysmsg->state, THREAD_PREP);

    ctx = dequeue(sysmsg);
    if (ctx == NULL && load_acquire(&queue->fast_path_disabled) == 0)
        ctx = spin(sysmsg, &active);
    if (ctx != NULL) {
        fetch_sub(&queue->num_spinning_threads, 1);
        return ctx;
    }

    if (active == STILL_ACTIVE)
        active = fetch_sub(&queue->num_active_threads, 1) - 1;
    fetch_sub(&queue->num_spinning_threads, 1);
    store_release(&sysmsg->state, THREAD_ASLEEP);

    if (active < load_seq_cst(&queue->num_active_contexts)) {
        ctx = dequeue(sysmsg);
        if (ctx != NULL)
            return back_to_work(sysmsg, ctx);
    }
    return park(sysmsg);
}
