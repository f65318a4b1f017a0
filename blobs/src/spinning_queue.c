/*
 * Who leaves the spin loop, and when.
 *
 * Several threads of a stub may spin for work. The queue holds one entry for each, ordered by when it began, but an entry
 * is not tied to a thread: who gets work takes away the youngest entry, and who looks at the oldest and finds it expired
 * leaves in its name. So the threads leave one at a time, and only as many spin as work keeps busy.
 *
 * Entries are words that several threads change: each step is one atomic operation, and `start` moves on only after its
 * slot was cleared by compare-and-swap. `len` bounds the occupancy by itself; end - start may be wrong for a moment.
 */

#include "sysmsg.h"

/* An entry that expired is put back so many times less one: absorbs counters of two CPUs that are apart. */
#define MAX_ENQUEUES 2

/* Add an entry that begins now. Answers false when there is no room, or the entry was here often enough. */
bool spinning_queue_push(struct spinning_queue *queue, u8 times_re_enqueued)
{
    u32 index;

    if (times_re_enqueued >= MAX_ENQUEUES)
        return false;
    if (fetch_add(&queue->len, 1) >= SPINNING_QUEUE_ENTRIES) {
        fetch_sub(&queue->len, 1);
        return false;
    }
    index = fetch_add(&queue->end, 1) % SPINNING_QUEUE_ENTRIES;
    store_relaxed(&queue->num_times_re_enqueued[index], times_re_enqueued);
    store_release(&queue->start_times[index], counter());
    return true;
}

/* Take away the youngest entry. The caller is one of those that spin. */
void spinning_queue_pop(struct spinning_queue *queue)
{
    fetch_sub(&queue->end, 1);
    fetch_sub(&queue->len, 1);
}

/*
 * Take away the oldest entry if it is at least `timeout` ticks old. Answers true when the caller must leave; false when
 * it may go on: the entry is too young, or was put back. With timeout 0 the answer is always true.
 */
bool spinning_queue_remove_first(struct spinning_queue *queue, u64 timeout)
{
    u8 times_re_enqueued;

    for (;; cpu_pause()) {
        u32 start = load_acquire(&queue->start);
        u64 *slot = &queue->start_times[start % SPINNING_QUEUE_ENTRIES];
        u64 since = load_acquire(slot);

        if (since == 0) /* reserved, the time is not written yet */
            continue;
        if (ticks_since(since) < timeout)
            return false;
        if (load_acquire(&queue->start) != start)
            continue;
        times_re_enqueued = load_acquire(&queue->num_times_re_enqueued[start % SPINNING_QUEUE_ENTRIES]);
        if (compare_and_swap_u64(slot, since, 0)) {
            fetch_add(&queue->start, 1);
            break;
        }
    }
    fetch_sub(&queue->len, 1);
    if (timeout == 0)
        return true;
    return !spinning_queue_push(queue, (u8)(times_re_enqueued + 1));
}
