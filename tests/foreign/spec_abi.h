/*
 * The structures that a stub and its sentry share, x86-64, 4096-byte pages: written from the tables of 10-stub §2 alone,
 * by somebody who had not read blobs/src/abi.h. The test's stub is built on it, and test_abi.py compares it with the
 * definitions that the sentry (abi.py) and our own images (abi.h) use.
 */
#pragma once

typedef unsigned char spec_u8;
typedef unsigned short spec_u16;
typedef unsigned int spec_u32;
typedef int spec_s32;
typedef unsigned long long spec_u64;
typedef long long spec_s64;

enum {
    SPEC_PAGE = 4096,
    SPEC_THREAD_AREA = 8 * 4096,
    SPEC_RING_ENTRIES = 4096,
    SPEC_MAX_CONTEXTS = 4095,
    SPEC_CONTEXT_SLOT = 4096,
    SPEC_SPINNING_ENTRIES = 256,
};
#define SPEC_INVALID_ID 0xfefefefeu

/* 2.1; the thread states */
enum spec_thread_state {
    SPEC_THREAD_NONE = 0,
    SPEC_THREAD_DONE = 1,
    SPEC_THREAD_PREP = 2,
    SPEC_THREAD_ASLEEP = 3,
    SPEC_THREAD_INITIALIZING = 4,
};

struct spec_sysmsg {
    spec_u64 self;
    spec_u64 ret_addr;
    spec_u64 syshandler;
    spec_u64 syshandler_stack;
    spec_u64 app_stack;
    spec_u32 interrupt;
    spec_u32 state;
    spec_u64 context;
    spec_s32 fault_jump;
    spec_s32 err;
    spec_s32 err_additional;
    spec_s32 err_line;
    spec_u64 debug;
    spec_u32 thread_id;
};

/* 2.3 */
struct spec_ptregs {
    spec_u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax;
    spec_u64 rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};

/* The kernel's, as far as anybody looks at it. */
struct spec_siginfo {
    spec_s32 signo;
    spec_s32 error;
    spec_s32 code;
    spec_s32 pad;
    spec_u64 addr;
    spec_s32 syscall;
    spec_u32 arch;
    spec_u8 rest[96];
};

/* 2.2; the context states */
enum spec_context_state {
    SPEC_CONTEXT_NONE = 0,
    SPEC_CONTEXT_SYSCALL = 1,
    SPEC_CONTEXT_FAULT = 2,
    SPEC_CONTEXT_SYSCALL_TRAP = 3,
    SPEC_CONTEXT_SYSCALL_NEED_TRAP = 4,
    SPEC_CONTEXT_UNEXPECTED_DEATH = 5,
    SPEC_CONTEXT_INVALID = 6,
};

struct spec_context {
    spec_u8 fpstate[3584];
    spec_u64 fpstate_changed;
    struct spec_ptregs ptregs;
    struct spec_siginfo siginfo;
    spec_u64 signo;
    spec_u32 state;
    spec_u32 interrupt;
    spec_u32 thread_id;
    spec_u32 last_thread_id;
    spec_u32 sentry_fast_path;
    spec_u32 pad;
    spec_u64 acked_time;
    spec_u64 state_changed_time;
    spec_u64 tls;
    spec_u64 debug;
    spec_u64 err;
};

/* 2.4: one line for each group of writers */
#define SPEC_LINE __attribute__((aligned(64)))
struct spec_queue {
    spec_u32 end SPEC_LINE;
    spec_u32 start SPEC_LINE;
    spec_u32 fast_path_disabled SPEC_LINE;
    spec_u32 num_awake_contexts;
    spec_u32 num_active_threads SPEC_LINE;
    spec_u32 num_spinning_threads;
    spec_u32 num_threads_to_wakeup SPEC_LINE;
    spec_u32 num_active_contexts SPEC_LINE;
    spec_u32 used_fast_path;
    spec_u64 ringbuffer[SPEC_RING_ENTRIES] SPEC_LINE;
};

/* 2.5 */
struct spec_spinning_queue {
    spec_u32 len;
    spec_u32 start;
    spec_u32 end;
    spec_u64 start_times[SPEC_SPINNING_ENTRIES];
    spec_u8 num_times_re_enqueued[SPEC_SPINNING_ENTRIES];
};

/* 2.6 */
struct spec_arch_state {
    spec_u32 xsave_mode;
    spec_u32 fp_len;
    spec_u32 fsgsbase;
};

/* 9 */
enum spec_stub_error {
    SPEC_BAD_SYSMSG = 0x0bad0000,
    SPEC_BAD_THREAD_STATE = 0x0bad0001,
    SPEC_SPINNING_QUEUE_DECREF = 0x0bad0002,
    SPEC_ARCH_PRCTL = 0x0bad0003,
    SPEC_FUTEX = 0x0bad0004,
    SPEC_BAD_CONTEXT_ID = 0x0bad0005,
    SPEC_FPSTATE_BAD_HEADER = 0x0bad0006,
};
