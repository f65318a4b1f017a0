/*
 * The sentry image: the sentry's half of a round trip, in one call each.
 *
 * Its functions are called from Python through ctypes (System V calling convention). submit and next_ready take no
 * arguments, for converting one costs more than the work; they find everything in the dispatch block (docs/images.md),
 * which is the sentry's own memory. What they reach from there (queues, contexts, rings) is shared with guests: each word
 * is read once, and no value leads a loop or an address astray.
 */
#pragma once

#include "abi.h"
#include "arch.h"
#include "atomic.h"
#include "futex.h"

#define MAX_SPACES 127u

struct timespec {
    s64 sec;
    s64 nsec;
};

/* One address space: what it shares, as mapped in the sentry, and the sentry's own count of its stub threads. */
struct space {
    struct ready_ring *ring;
    struct context_queue *queue;
    u64 contexts; /* address of its first slot */
    u32 head;     /* index of the ring's slot to read next */
    u32 threads;
    u32 seen_start; /* queue->start when it was last asked whether contexts are left lying */
    u32 reserved;
};

/* A bucket is 1 << LATENCY_SHIFT ticks wide; the last one has no end. */
#define LATENCY_BUCKETS 80u

/* The kernel's struct futex_waitv */
struct futex_waitv {
    u64 value;
    u64 word;
    u32 flags;
    u32 reserved;
};

struct dispatch_block {
    struct context_queue *queue;
    struct thread_context *context;
    u32 context_id;
    u32 max_threads;
    u32 threads;
    u32 notify;
    u32 ready_space;
    u32 ready_context;
    u32 nr_spaces;
    u32 next_space;
    u64 spin;
    struct timespec deadline;
    u32 wake;
    u32 wake_seen;
    u64 poll_ns;
    u32 stub_spin_off;
    u32 spin_limit;
    u32 outstanding;
    u32 used_spin;
    u32 thread_space;
    u32 kicks;
    u64 period;
    u64 period_start;
    u64 sample_context;
    u64 sample_start;
    u64 handshake;
    u32 rounds;
    u32 rdpid; /* the CPU has this instruction */
    u64 number;
    __attribute__((aligned(64))) struct space spaces[MAX_SPACES + 1];
    struct futex_waitv waiters[MAX_SPACES + 1];
    u32 stub_latency[LATENCY_BUCKETS];
    u32 sentry_latency[LATENCY_BUCKETS];
};

LAYOUT(struct dispatch_block, queue, 0x000);
LAYOUT(struct dispatch_block, context, 0x008);
LAYOUT(struct dispatch_block, context_id, 0x010);
LAYOUT(struct dispatch_block, max_threads, 0x014);
LAYOUT(struct dispatch_block, threads, 0x018);
LAYOUT(struct dispatch_block, notify, 0x01c);
LAYOUT(struct dispatch_block, ready_space, 0x020);
LAYOUT(struct dispatch_block, ready_context, 0x024);
LAYOUT(struct dispatch_block, nr_spaces, 0x028);
LAYOUT(struct dispatch_block, next_space, 0x02c);
LAYOUT(struct dispatch_block, spin, 0x030);
LAYOUT(struct dispatch_block, deadline, 0x038);
LAYOUT(struct dispatch_block, wake, 0x048);
LAYOUT(struct dispatch_block, wake_seen, 0x04c);
LAYOUT(struct dispatch_block, poll_ns, 0x050);
LAYOUT(struct dispatch_block, stub_spin_off, 0x058);
LAYOUT(struct dispatch_block, spin_limit, 0x05c);
LAYOUT(struct dispatch_block, outstanding, 0x060);
LAYOUT(struct dispatch_block, used_spin, 0x064);
LAYOUT(struct dispatch_block, thread_space, 0x068);
LAYOUT(struct dispatch_block, kicks, 0x06c);
LAYOUT(struct dispatch_block, period, 0x070);
LAYOUT(struct dispatch_block, period_start, 0x078);
LAYOUT(struct dispatch_block, sample_context, 0x080);
LAYOUT(struct dispatch_block, sample_start, 0x088);
LAYOUT(struct dispatch_block, handshake, 0x090);
LAYOUT(struct dispatch_block, rounds, 0x098);
LAYOUT(struct dispatch_block, rdpid, 0x09c);
LAYOUT(struct dispatch_block, number, 0x0a0);
LAYOUT(struct dispatch_block, spaces, 0x0c0);
LAYOUT(struct dispatch_block, waiters, 0x14c0);
LAYOUT(struct dispatch_block, stub_latency, 0x20c0);
LAYOUT(struct dispatch_block, sentry_latency, 0x2200);
SIZE(struct space, 40);
SIZE(struct futex_waitv, 24);
_Static_assert(sizeof(struct dispatch_block) <= 3 * 4096, "the block has three pages of 4096");

/*
 * next_ready's answers are sums of these; 0: somebody changed `wake`. RESULT_QUICK stands beside RESULT_CONTEXT: a plain system
 * call, of which dispatch_block.number is the number. With it come the context's id and, above it, the index of its space.
 */
#define RESULT_CONTEXT 1
#define RESULT_PERIOD 2
#define RESULT_THREAD 4
#define RESULT_QUICK 8
#define RESULT_ID_SHIFT 4
#define RESULT_SPACE_SHIFT 16

/* submit.c */
int submit(void) __asm__("__export_submit");

/* next_ready.c */
int next_ready(void) __asm__("__export_next_ready");

/* kick.c */
bool kick(struct dispatch_block *block, struct context_queue *queue, u32 threads);
bool kick_unclaimed(struct dispatch_block *block);
bool kick_stalled(struct dispatch_block *block);
u32 space_count(const struct dispatch_block *block);
u64 busy_threads(const struct dispatch_block *block);

/* Patched by the sentry; defined in dispatch_config.S. */
extern IMAGE_DATA struct dispatch_block *const config_dispatch_block __asm__("__export_dispatch_block");
