/*
 * The structures that sentry and stub share, byte for byte as upstream has them (systrap/platforms/systrap/abi.py is the
 * same in Python), and the ready ring, which is ours (docs/images.md).
 *
 * Guest code can write all of this memory. Stub code that is led astray by it harms its own address space only; sentry
 * code must read each word once and validate the copy.
 */
#pragma once

#include "types.h"
#include "arch_abi.h" /* struct ptregs, struct arch_state and CONTEXT_TAIL of the CPU */

#ifndef PAGE_SIZE
#error "the build passes -DPAGE_SIZE"
#endif
#ifndef THREAD_AREA_SIZE
#error "the build passes -DTHREAD_AREA_SIZE"
#endif

#define MAX_CONTEXT_ID 4095u
#define CONTEXT_SLOT_SIZE 4096u
#define RING_ENTRIES 4096u
#define INVALID_ID 0xfefefefeu
#define SPINNING_QUEUE_ENTRIES 256u
#define FPSTATE_SIZE 3584u

/* sysmsg.state */
enum thread_state {
    THREAD_NONE = 0,         /* runs guest code, or is about to: SIGCHLD counts */
    THREAD_DONE = 1,         /* unused */
    THREAD_PREP = 2,         /* in stub code: SIGCHLD is dropped */
    THREAD_ASLEEP = 3,       /* parked, or about to park */
    THREAD_INITIALIZING = 4, /* has not seen its first signal */
};

/* thread_context.state */
enum context_state {
    CONTEXT_NONE = 0,              /* the stub's: queued or running */
    CONTEXT_SYSCALL = 1,           /* a system call, by signal */
    CONTEXT_FAULT = 2,             /* any other signal */
    CONTEXT_SYSCALL_TRAP = 3,      /* a system call of a patched site, by syshandler */
    CONTEXT_SYSCALL_NEED_TRAP = 4, /* a system call, by signal, whose site can be patched */
};

/* thread_context.sentry_fast_path: how the sentry wants to hear of this context */
enum notify {
    NOTIFY_FUTEX = 0,      /* it sleeps on thread_context.state */
    NOTIFY_POLLING = 1,    /* it polls thread_context.state */
    NOTIFY_READY_RING = 2, /* it reads the ready ring (ours) */
};

/* sysmsg.err */
enum stub_error {
    ERROR_BAD_SYSMSG = 0x0bad0000,
    ERROR_BAD_THREAD_STATE = 0x0bad0001,
    ERROR_SPINNING_QUEUE_DECREF = 0x0bad0002,
    ERROR_ARCH_PRCTL = 0x0bad0003,
    ERROR_FUTEX = 0x0bad0004,
    ERROR_BAD_CONTEXT_ID = 0x0bad0005,
    ERROR_FPSTATE_BAD_HEADER = 0x0bad0006,
};

/* One per sysmsg thread, in the last page of its thread area; %gs points here on x86-64. */
struct sysmsg {
    u64 self;
    u64 ret_addr;
    u64 syshandler;
    u64 syshandler_stack;
    u64 app_stack;
    u32 interrupt;
    u32 state;
    u64 context;
    s32 fault_jump;
    s32 err;
    s32 err_additional;
    s32 err_line;
    u64 debug;
    u32 thread_id;
};

LAYOUT(struct sysmsg, self, 0x00);
LAYOUT(struct sysmsg, ret_addr, 0x08);
LAYOUT(struct sysmsg, syshandler, 0x10);
LAYOUT(struct sysmsg, syshandler_stack, 0x18);
LAYOUT(struct sysmsg, app_stack, 0x20);
LAYOUT(struct sysmsg, interrupt, 0x28);
LAYOUT(struct sysmsg, state, 0x2c);
LAYOUT(struct sysmsg, context, 0x30);
LAYOUT(struct sysmsg, fault_jump, 0x38);
LAYOUT(struct sysmsg, err, 0x3c);
LAYOUT(struct sysmsg, err_additional, 0x40);
LAYOUT(struct sysmsg, err_line, 0x44);
LAYOUT(struct sysmsg, debug, 0x48);
LAYOUT(struct sysmsg, thread_id, 0x50);
SIZE(struct sysmsg, 88);

/* The kernel's siginfo, as far as anyone looks into it. */
struct siginfo {
    s32 signo;
    s32 error;
    s32 code;
    u32 pad;
    u64 addr; /* si_addr, si_call_addr */
    s32 syscall;
    u32 arch;
    u64 rest[12];
};

LAYOUT(struct siginfo, signo, 0);
LAYOUT(struct siginfo, error, 4);
LAYOUT(struct siginfo, code, 8);
LAYOUT(struct siginfo, addr, 16);
LAYOUT(struct siginfo, syscall, 24);
LAYOUT(struct siginfo, arch, 28);
SIZE(struct siginfo, 128);

/* One guest thread. Slots of CONTEXT_SLOT_SIZE bytes; the slot's index is the context id. */
struct thread_context {
    u8 fpstate[FPSTATE_SIZE];
    u64 fpstate_changed;
    struct ptregs ptregs;
    struct siginfo siginfo;
    u64 signo;
    u32 state;
    u32 interrupt;
    u32 thread_id;
    u32 last_thread_id;
    u32 sentry_fast_path;
    u32 pad;
    u64 acked_time;
    u64 state_changed_time;
    u64 tls;
    u64 debug; /* free; ours holds where the context runs (cpu_number) */
    u64 err;
};

LAYOUT(struct thread_context, fpstate, 0x000);
LAYOUT(struct thread_context, fpstate_changed, 0xe00);
LAYOUT(struct thread_context, ptregs, 0xe08);
LAYOUT(struct thread_context, siginfo, CONTEXT_TAIL + 0x00);
LAYOUT(struct thread_context, signo, CONTEXT_TAIL + 0x80);
LAYOUT(struct thread_context, state, CONTEXT_TAIL + 0x88);
LAYOUT(struct thread_context, interrupt, CONTEXT_TAIL + 0x8c);
LAYOUT(struct thread_context, thread_id, CONTEXT_TAIL + 0x90);
LAYOUT(struct thread_context, last_thread_id, CONTEXT_TAIL + 0x94);
LAYOUT(struct thread_context, sentry_fast_path, CONTEXT_TAIL + 0x98);
LAYOUT(struct thread_context, acked_time, CONTEXT_TAIL + 0xa0);
LAYOUT(struct thread_context, state_changed_time, CONTEXT_TAIL + 0xa8);
LAYOUT(struct thread_context, tls, CONTEXT_TAIL + 0xb0);
LAYOUT(struct thread_context, debug, CONTEXT_TAIL + 0xb8);
LAYOUT(struct thread_context, err, CONTEXT_TAIL + 0xc0);
SIZE(struct thread_context, CONTEXT_TAIL + 0xc8);
_Static_assert(sizeof(struct thread_context) <= CONTEXT_SLOT_SIZE, "a context fits its slot");

#define CACHE_LINE __attribute__((aligned(64)))

/* The run queue of one address space; each group of words with one writer has a cache line. */
struct context_queue {
    CACHE_LINE u32 end;   /* sentry: the next index to write */
    CACHE_LINE u32 start; /* stub: the next index to read */
    CACHE_LINE u32 fast_path_disabled;
    u32 num_awake_contexts;
    u32 sentry_cpu; /* ours: where the sentry ran last (cpu_number); upstream leaves these bytes unused, 0 */
    CACHE_LINE u32 num_active_threads;
    u32 num_spinning_threads;
    CACHE_LINE u32 num_threads_to_wakeup; /* tokens; the word that stub threads park on */
    CACHE_LINE u32 num_active_contexts;
    u32 used_fast_path;
    CACHE_LINE u64 ring[RING_ENTRIES]; /* index << 32 | context id */
};

LAYOUT(struct context_queue, end, 0x000);
LAYOUT(struct context_queue, start, 0x040);
LAYOUT(struct context_queue, fast_path_disabled, 0x080);
LAYOUT(struct context_queue, num_awake_contexts, 0x084);
LAYOUT(struct context_queue, sentry_cpu, 0x088);
LAYOUT(struct context_queue, num_active_threads, 0x0c0);
LAYOUT(struct context_queue, num_spinning_threads, 0x0c4);
LAYOUT(struct context_queue, num_threads_to_wakeup, 0x100);
LAYOUT(struct context_queue, num_active_contexts, 0x140);
LAYOUT(struct context_queue, used_fast_path, 0x144);
LAYOUT(struct context_queue, ring, 0x180);
SIZE(struct context_queue, 33152);

/* Who spins, since when; private to the stub. */
struct spinning_queue {
    u32 len;
    u32 start;
    u32 end;
    u64 start_times[SPINNING_QUEUE_ENTRIES];
    u8 num_times_re_enqueued[SPINNING_QUEUE_ENTRIES];
};

LAYOUT(struct spinning_queue, len, 0x000);
LAYOUT(struct spinning_queue, start, 0x004);
LAYOUT(struct spinning_queue, end, 0x008);
LAYOUT(struct spinning_queue, start_times, 0x010);
LAYOUT(struct spinning_queue, num_times_re_enqueued, 0x810);
SIZE(struct spinning_queue, 2320);

/* Contexts on their way back to the sentry (ours; docs/images.md). */
struct ready_ring {
    CACHE_LINE u32 tail;
    CACHE_LINE u32 bell;
    CACHE_LINE u32 waiting;
    __attribute__((aligned(256))) u64 slots[RING_ENTRIES]; /* (index + 1) << 32 | context id */
};

LAYOUT(struct ready_ring, tail, 0x000);
LAYOUT(struct ready_ring, bell, 0x040);
LAYOUT(struct ready_ring, waiting, 0x080);
LAYOUT(struct ready_ring, slots, 0x100);
