/* A context goes to its stub: onto the run queue, and a stub thread is woken if none will look there by itself. */

#include "dispatch.h"

/* Make the context the stub's. The store of the state publishes what the sentry wrote into the context before. */
static void release_context(const struct dispatch_block *block)
{
    struct thread_context *ctx = block->context;

    store_relaxed(&ctx->sentry_fast_path, block->notify);
    store_relaxed(&ctx->acked_time, 0);
    store_relaxed(&ctx->state_changed_time, 0);
    store_release(&ctx->state, CONTEXT_NONE);
}

/* Begin to measure how long it takes until a stub thread takes a context; one measurement at a time. */
static void sample(struct dispatch_block *block)
{
    if (block->period == 0 || block->sample_context != 0 || block->notify != NOTIFY_READY_RING)
        return;
    block->sample_context = (u64)block->context;
    block->sample_start = counter();
}

/* Answers false if the queue says it is full, which it never is: guest code has written to it. Counting `end` up and
 * writing the slot lie next to each other here because stub threads spin in between. */
static bool enqueue(struct context_queue *queue, u32 context_id)
{
    u32 index;

    fetch_add(&queue->num_active_contexts, 1);
    index = fetch_add(&queue->end, 1);
    if ((index + 1) % RING_ENTRIES == load_acquire(&queue->start) % RING_ENTRIES)
        return false;
    store_seq_cst(&queue->ring[index % RING_ENTRIES], (u64)index << 32 | context_id);
    return true;
}

/*
 * Hand dispatch_block.context over. Answers 0; 1 when a thread should be created in that space; -EPERM when the queue is
 * corrupt.
 */
int submit(void)
{
    struct dispatch_block *block = config_dispatch_block;
    struct context_queue *queue = block->queue;
    u32 spin_off, cpu;

    prefetch_for_write(&queue->end);
    prefetch(&queue->start);
    prefetch(&queue->num_active_threads);
    /* A context that is waited for on its own word is not of those that next_ready gives back. */
    if (block->notify == NOTIFY_READY_RING)
        block->outstanding += 1;
    spin_off = block->stub_spin_off != 0 || busy_threads(block) > block->spin_limit;

    release_context(block);
    sample(block);
    /* Stored only when different: stub threads that spin read this cache line. */
    if (load_relaxed(&queue->fast_path_disabled) != spin_off)
        store_release(&queue->fast_path_disabled, spin_off);
    cpu = cpu_number(block->rdpid);
    if (load_relaxed(&queue->sentry_cpu) != cpu)
        store_relaxed(&queue->sentry_cpu, cpu);
    if (!enqueue(queue, block->context_id))
        return -EPERM;
    if (spin_off != 0 || load_seq_cst(&queue->num_active_threads) == 0)
        return kick(block, queue, block->threads);
    return 0;
}

/*
 * Hand the context that next_ready gave last over again, and wait for the next one: submit and next_ready in one call, for a
 * context whose space and registers are as they were. Answers what next_ready answers, or -EPERM where submit does.
 */
int answer(void) __asm__("__export_answer");
int answer(void)
{
    struct dispatch_block *block = config_dispatch_block;
    const struct space *space = &block->spaces[block->ready_space % MAX_SPACES];
    int result;

    block->queue = space->queue;
    block->context_id = block->ready_context % (MAX_CONTEXT_ID + 1);
    block->context = (struct thread_context *)(space->contexts + (u64)block->context_id * CONTEXT_SLOT_SIZE);
    block->threads = space->threads;
    block->notify = NOTIFY_READY_RING;
    result = submit();
    if (result == 0)
        return next_ready();
    if (result > 0)
        block->thread_space = block->ready_space;
    return result > 0 ? RESULT_THREAD : result;
}
