/* Waking a stub thread for contexts that nobody takes. Called by the one thread of the sentry that owns the dispatch block. */

#include "dispatch.h"

/* How many entries of `spaces` are in use: the sentry's own number, but an array is an array. */
u32 space_count(const struct dispatch_block *block)
{
    return block->nr_spaces <= MAX_SPACES ? block->nr_spaces : MAX_SPACES;
}

/* From so many spaces on, the machine counts as busy without a look at each. */
#define MANY_SPACES 16u

/*
 * How many stub threads are awake, in all spaces: those that run guest code and those that spin for a context. Whoever spins
 * needs a CPU that none of them has. (Guests can write these words: at worst everybody sleeps, or somebody spins in vain.)
 */
u64 busy_threads(const struct dispatch_block *block)
{
    u32 count = space_count(block);
    u64 busy = 0;

    if (count > MANY_SPACES)
        return count;
    for (u32 i = 0; i < count; i++)
        busy += load_relaxed(&block->spaces[i].queue->num_active_threads);
    return busy;
}

/*
 * Leave a token and wake a thread, if there are more contexts than threads that will look for one. Only this function adds
 * tokens; its own token does not count for its decision. Answers whether the space should have another thread: so long as it
 * has fewer than contexts. (Whether the threads it has are awake does not matter there: all may be busy with guest code.)
 */
bool kick(struct dispatch_block *block, struct context_queue *queue, u32 threads)
{
    u64 active_threads = load_seq_cst(&queue->num_active_threads);
    u64 tokens = load_seq_cst(&queue->num_threads_to_wakeup);
    u32 contexts = load_seq_cst(&queue->num_active_contexts);

    if (active_threads + tokens + 1 <= contexts) {
        fetch_add(&queue->num_threads_to_wakeup, 1);
        futex_wake_one(&queue->num_threads_to_wakeup);
        block->kicks += 1;
    }
    return threads < block->max_threads && threads < contexts;
}

/*
 * Kick every space in which a context waits to be taken; `stalled`: and in which none was taken since this was last asked. While
 * stub threads spin, submit() relies on one of them; but the one that is awake may be busy with guest code. Answers whether a
 * space should have another thread: thread_space.
 */
ALWAYS_INLINE bool kick_spaces(struct dispatch_block *block, bool stalled)
{
    bool wanted = false;

    for (u32 i = 0; i < space_count(block); i++) {
        struct space *space = &block->spaces[i];
        struct context_queue *queue = space->queue;
        u32 start = load_acquire(&queue->start);
        bool moved = start != space->seen_start;

        space->seen_start = start;
        if (start == load_acquire(&queue->end) || (stalled && moved))
            continue;
        if (kick(block, queue, space->threads)) {
            block->thread_space = i;
            wanted = true;
        }
    }
    return wanted;
}

bool kick_unclaimed(struct dispatch_block *block)
{
    return kick_spaces(block, false);
}

bool kick_stalled(struct dispatch_block *block)
{
    return kick_spaces(block, true);
}
