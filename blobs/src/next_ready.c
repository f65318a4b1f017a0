/*
 * The sentry waits for the next context that comes back, from any address space: look, spin a while, sleep.
 *
 * Going to sleep without missing anything: read each bell, say in each ring that the sentry waits, full fence, look once
 * more, then futex_waitv with the bells' values read first. A stub does the reverse (push_ready in give_back.c). If it
 * does not see `waiting`, this side's last look sees its entry; if it does, the bell has changed and the kernel does not
 * let us sleep, or wakes us.
 */

#include "dispatch.h"

/* So often, while contexts come back without a wait, is it asked whether others are left lying. */
#define CLAIM_CHECK_INTERVAL 32

/* Wake-ups that lead to nothing, in a row, before the caller is let in between. A guest can ring its bell for ever. */
#define MAX_FRUITLESS 64

/* Spinning, it is looked so often before anything else is: each look elsewhere takes a cache line from a stub thread at work. */
#define LOOKS_IN_A_ROW 64

#define NSEC_PER_SEC 1000000000ll

/* What a look found. NOTHING is not a result of next_ready. */
enum found { FOUND_WAKE = 0, FOUND_CONTEXT = 1, FOUND_NOTHING = 2 };

/* Take the entry at the ring's head, if it is there. */
static bool take_entry(struct space *space, u32 *context_id)
{
    u64 entry = load_acquire(&space->ring->slots[space->head % RING_ENTRIES]);

    if ((u32)(entry >> 32) != space->head + 1)
        return false;
    space->head += 1;
    *context_id = (u32)entry;
    return true;
}

/* Look at `wake` and at every ring once, beginning with the space behind the one that was served last. */
static enum found look(struct dispatch_block *block)
{
    u32 count = space_count(block);
    u32 wake = load_acquire(&block->wake);
    u32 index = block->next_space;

    if (wake != block->wake_seen) {
        block->wake_seen = wake;
        return FOUND_WAKE;
    }
    for (u32 i = 0; i < count; i++, index++) {
        if (index >= count)
            index = 0;
        if (take_entry(&block->spaces[index], &block->ready_context)) {
            block->ready_space = index;
            block->next_space = index + 1;
            return FOUND_CONTEXT;
        }
    }
    return FOUND_NOTHING;
}

/*
 * Whether the one context that is out there runs, or ran, on this very CPU: to spin here is to keep it from coming back. (The
 * word is in guest memory: at worst the sentry sleeps where it could have spun, or the other way round.)
 */
static bool guest_is_here(const struct dispatch_block *block)
{
    return block->outstanding == 1 && is_this_cpu(load_relaxed(&block->context->debug), block->rdpid) &&
           load_relaxed(&block->context->acked_time) != 0;
}

/*
 * How long to wait until a context that lies in a queue gets a stub thread kicked awake. Not long where a CPU is free for it.
 * Where none is, the thread that is awake does better alone: it takes one context after the other, and with a second one three
 * would share two CPUs. So that thread gets half the time in which the sentry spins; what it has not taken then, it will not
 * take soon.
 */
static u64 patience(const struct dispatch_block *block)
{
    bool crowded = block->outstanding > 1 && busy_threads(block) >= block->spin_limit;

    return crowded ? block->spin / 2 : block->handshake;
}

/*
 * Look until something is there, for `spin` ticks. Contexts that no stub thread takes get one kicked awake; *wanted: a space
 * should have another thread.
 */
static enum found spin(struct dispatch_block *block, bool *wanted)
{
    u64 begin = counter(), passed = 0, kick_after = patience(block);
    bool kicked = false;

    do {
        for (u32 i = 0; i < LOOKS_IN_A_ROW; i++, cpu_pause()) {
            enum found found = look(block);
            if (found != FOUND_NOTHING)
                return found;
        }
        if (guest_is_here(block))
            return FOUND_NOTHING;
        if (!kicked && passed > kick_after) {
            kicked = true;
            *wanted = kick_unclaimed(block);
            if (*wanted)
                return FOUND_NOTHING;
        }
        passed = counter() - begin;
    } while (passed < block->spin);
    block->used_spin = 1;
    return FOUND_NOTHING;
}

/* To spin makes sense while something is out there that can come back, and it leaves a CPU for the spinning. */
static bool may_spin(const struct dispatch_block *block)
{
    return block->spin != 0 && block->outstanding != 0 && busy_threads(block) <= block->spin_limit;
}

/* ---- measuring ---- */

/* Both times were written by a stub: a guest can write there, too. What makes no sense is dropped. */
static void count_latency(u32 *buckets, u64 from, u64 to)
{
    u64 bucket = (to - from) >> LATENCY_SHIFT;

    if (from == 0 || (s64)(to - from) <= 0)
        return;
    buckets[bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1] += 1;
}

/* Note how long this context took to be taken, and to come back from the stub. Answers whether a period is over. */
static bool measure(struct dispatch_block *block)
{
    const struct space *space = &block->spaces[block->ready_space];
    const struct thread_context *ctx;
    u64 now = counter();

    if (block->ready_context <= MAX_CONTEXT_ID) {
        ctx = (const struct thread_context *)(space->contexts + (u64)block->ready_context * CONTEXT_SLOT_SIZE);
        count_latency(block->sentry_latency, load_relaxed(&ctx->state_changed_time), now);
        if (block->sample_context == (u64)ctx) {
            count_latency(block->stub_latency, block->sample_start, load_relaxed(&ctx->acked_time));
            block->sample_context = 0;
        }
    }
    if (now - block->period_start < block->period)
        return false;
    block->period_start = now;
    block->sample_context = 0;
    return true;
}

/*
 * Fetch the cache lines that handing this context over again will write, while Python works on the answer: one after the other
 * they would cost more than the answer itself. (Lines that a spinning stub thread reads are left out: it would take them back.)
 */
static void expect_answer(struct context_queue *queue, struct thread_context *ctx)
{
    prefetch_for_write(&ctx->state);
    prefetch_for_write(&ctx->acked_time);
    prefetch_for_write(call_result(&ctx->ptregs));
    prefetch_for_write(&queue->num_active_contexts);
    prefetch_for_write(&queue->ring[load_relaxed(&queue->end) % RING_ENTRIES]);
}

/*
 * What is added to RESULT_CONTEXT when the context brought a plain system call back: one that can be answered without a look at
 * anything but its arguments. Each word is read once; what is not plain is left to the caller to look at, with all its checks.
 */
static int quick_result(struct dispatch_block *block)
{
    const struct space *space = &block->spaces[block->ready_space];
    struct thread_context *ctx;
    u32 state;

    if (block->ready_context > MAX_CONTEXT_ID)
        return 0;
    ctx = (struct thread_context *)(space->contexts + (u64)block->ready_context * CONTEXT_SLOT_SIZE);
    expect_answer(space->queue, ctx);
    state = load_acquire(&ctx->state);
    if (state != CONTEXT_SYSCALL && state != CONTEXT_SYSCALL_TRAP)
        return 0;
    if (load_relaxed(&ctx->thread_id) != INVALID_ID || !plain_registers(&ctx->ptregs))
        return 0;
    block->number = call_number(&ctx->ptregs);
    return RESULT_QUICK | (int)(block->ready_context << RESULT_ID_SHIFT | block->ready_space << RESULT_SPACE_SHIFT);
}

/* What next_ready answers when a context came back. */
static int give(struct dispatch_block *block)
{
    int result = RESULT_CONTEXT | quick_result(block);

    if (block->outstanding != 0)
        block->outstanding -= 1;
    if (block->period != 0 && measure(block))
        result |= RESULT_PERIOD;
    if (++block->rounds % CLAIM_CHECK_INTERVAL == 0 && kick_stalled(block))
        result |= RESULT_THREAD;
    return result;
}

/* ---- deadlines ---- */

static bool has_deadline(const struct dispatch_block *block)
{
    return block->deadline.sec >= 0;
}

/* Nanoseconds until the deadline, at most one hour; 0 or less when it has passed. */
static s64 time_left(const struct dispatch_block *block)
{
    struct timespec now = {0, 0};
    s64 sec;

    syscall6(NR_clock_gettime, CLOCK_MONOTONIC, (u64)&now, 0, 0, 0, 0);
    sec = block->deadline.sec - now.sec;
    if (sec > 3600)
        sec = 3600;
    if (sec < -1)
        return 0;
    return sec * NSEC_PER_SEC + block->deadline.nsec - now.nsec;
}

/* ---- sleeping ---- */

static void announce(struct dispatch_block *block, u32 waiting)
{
    for (u32 i = 0; i < space_count(block); i++)
        store_release(&block->spaces[i].ring->waiting, waiting);
}

static void set_waiter(struct futex_waitv *waiter, u32 *word, u32 value)
{
    waiter->value = value;
    waiter->word = (u64)word;
    waiter->flags = FUTEX2_SIZE_U32;
    waiter->reserved = 0;
}

/* The words to sleep on: `wake`, as it was last seen, and the bells, as they are now. */
static u32 fill_waiters(struct dispatch_block *block)
{
    u32 count = space_count(block);

    set_waiter(&block->waiters[0], &block->wake, block->wake_seen);
    for (u32 i = 0; i < count; i++) {
        u32 *bell = &block->spaces[i].ring->bell;
        set_waiter(&block->waiters[i + 1], bell, load_acquire(bell));
    }
    return count + 1;
}

/* Sleep until a bell rings, `wake` changes, the deadline passes or a signal comes. *found: what the last look found. */
static s64 sleep_on_bells(struct dispatch_block *block, enum found *found)
{
    u32 count = fill_waiters(block);
    u64 timeout = has_deadline(block) ? (u64)&block->deadline : 0;
    s64 result = 0;

    announce(block, 1);
    full_fence();
    *found = look(block);
    if (*found == FOUND_NOTHING)
        result = syscall6(NR_futex_waitv, (u64)block->waiters, count, 0, timeout, CLOCK_MONOTONIC, 0);
    announce(block, 0);
    return result;
}

/* The same for kernels without futex_waitv: sleep on `wake` alone, for a short time. */
static s64 sleep_a_little(struct dispatch_block *block, enum found *found)
{
    s64 nsec = block->poll_ns < (u64)NSEC_PER_SEC ? (s64)block->poll_ns : NSEC_PER_SEC;
    struct timespec timeout;
    s64 result;

    *found = FOUND_NOTHING;
    if (has_deadline(block)) {
        s64 left = time_left(block);
        if (left <= 0)
            return -ETIMEDOUT;
        if (left < nsec)
            nsec = left;
    }
    timeout.sec = nsec / NSEC_PER_SEC;
    timeout.nsec = nsec % NSEC_PER_SEC;
    result = syscall6(NR_futex, (u64)&block->wake, FUTEX_WAIT, block->wake_seen, (u64)&timeout, 0, 0);
    return result == -ETIMEDOUT ? -EAGAIN : result;
}

/*
 * Answers a sum: RESULT_CONTEXT, dispatch_block.ready_space and ready_context name the context (the id is what the stub wrote,
 * not validated); RESULT_QUICK and both once more, it made a plain system call; RESULT_PERIOD, a period of measuring is over; RESULT_THREAD, the space thread_space should have another
 * thread. 0: somebody changed `wake`; -ETIMEDOUT: the deadline has passed; -EINTR: a signal came, or many wake-ups without
 * reason; another -errno: the kernel refuses to let us sleep.
 */
int next_ready(void)
{
    struct dispatch_block *block = config_dispatch_block;
    enum found found = look(block);
    bool wanted = false;

    if (found == FOUND_NOTHING && may_spin(block))
        found = spin(block, &wanted);
    for (u32 round = 0; found == FOUND_NOTHING; round++) {
        s64 result;

        if (wanted || kick_unclaimed(block))
            return RESULT_THREAD;
        if (round == MAX_FRUITLESS && block->poll_ns == 0)
            return -EINTR;
        result = block->poll_ns != 0 ? sleep_a_little(block, &found) : sleep_on_bells(block, &found);
        if (found == FOUND_NOTHING)
            found = look(block);
        if (found != FOUND_NOTHING)
            break;
        if (result < 0 && result != -EAGAIN)
            return (int)result;
        /* A kernel that finds a bell changed does not look at its timeout. */
        if (has_deadline(block) && time_left(block) <= 0)
            return -ETIMEDOUT;
    }
    return found == FOUND_CONTEXT ? give(block) : 0;
}
