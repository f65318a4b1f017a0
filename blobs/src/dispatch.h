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

/* One address space: its ready ring, mapped in the sentry, and the index of the slot to read next. */
struct space {
    struct ready_ring *ring;
    u32 head;
    u32 bell; /* scratch of next_ready: the bell's value before it says that it sleeps */
};

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
    __attribute__((aligned(128))) struct space spaces[MAX_SPACES + 1];
    struct futex_waitv waiters[MAX_SPACES + 1];
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
LAYOUT(struct dispatch_block, spaces, 0x080);
LAYOUT(struct dispatch_block, waiters, 0x880);
SIZE(struct space, 16);
SIZE(struct futex_waitv, 24);
_Static_assert(sizeof(struct dispatch_block) <= 8192, "the block has two pages of 4096");

/* Patched by the sentry; defined in dispatch_config.S. */
extern struct dispatch_block *const config_dispatch_block __asm__("__export_dispatch_block");
