/* The argument of clone_source (docs/images.md). */
#pragma once

#include "types.h"

/* The kernel's struct sigaction */
struct sigaction {
    u64 handler;
    u64 flags;
    u64 restorer;
    u64 mask;
};

SIZE(struct sigaction, 32);

struct source_params {
    u64 entry;         /* address of `begin` of the bootstrap image */
    u64 request;       /* address of the birth batch */
    u64 expected_ppid; /* what getppid must answer in the child */
    const struct sigaction *sigaction;
    u64 filter;      /* sock_fprog of F0 */
    u64 rseq_offset; /* from the thread pointer */
    u64 rseq_len;    /* 0: this thread has no rseq registered */
    u64 rseq_sig;
    u64 cpuid_fault; /* 1: let CPUID fault in guests, where the CPU can */
};

LAYOUT(struct source_params, sigaction, 3 * 8);
LAYOUT(struct source_params, rseq_offset, 5 * 8);
LAYOUT(struct source_params, cpuid_fault, 8 * 8);
