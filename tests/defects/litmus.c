/*
 * Two CPUs, each stores its word and then looks at the other's: what a stub that gives a context back and a sentry that goes
 * to sleep do to each other (blobs/src/give_back.c). If both miss the other's store, a wake-up is lost.
 *
 * Built by test_hand_over.py with the project's own atomics; STORE is the store under test.
 */

#include "arch.h"
#include "atomic.h"

#define ROUNDS (1u << 20)

/* Each word has a cache line of its own; seen[side][round] is whether that side saw the other's store. */
struct litmus {
    __attribute__((aligned(64))) u32 state;
    __attribute__((aligned(64))) u32 fast_path;
    __attribute__((aligned(64))) u32 arrived[2][16];
    __attribute__((aligned(64))) u32 stop;
    __attribute__((aligned(64))) u8 seen[2][ROUNDS];
};

/* Wait for the other side, so that both stores happen at about the same time. Answers false when the time is up. */
static bool meet(struct litmus *shared, u32 side, u32 round)
{
    store_seq_cst(&shared->arrived[side][0], round);
    while ((s32)(load_acquire(&shared->arrived[1 - side][0]) - round) < 0)
        if (load_relaxed(&shared->stop) != 0)
            return false;
    /* Neither side shall always be the later one. */
    for (u32 i = 0; i < (side == 0 ? round % 61 : round % 53); i++)
        __asm__ volatile("" : : : "memory");
    return true;
}

/* Answers the number of rounds that were finished. */
u32 stub_side(struct litmus *shared) __asm__("__export_stub_side");
u32 stub_side(struct litmus *shared)
{
    u32 round;

    for (round = 0; round < ROUNDS && meet(shared, 0, round + 1); round++) {
        STORE(&shared->state, round + 1);
        shared->seen[0][round] = load_acquire(&shared->fast_path) == round + 1;
    }
    return round;
}

u32 sentry_side(struct litmus *shared) __asm__("__export_sentry_side");
u32 sentry_side(struct litmus *shared)
{
    u32 round;

    for (round = 0; round < ROUNDS && meet(shared, 1, round + 1); round++) {
        store_seq_cst(&shared->fast_path, round + 1);
        shared->seen[1][round] = load_acquire(&shared->state) == round + 1;
    }
    return round;
}
