/* What the birth of the source needs that is arm64's own. */
#pragma once

#include "arch.h"
#include "source.h"

/* Where the C library's per-thread data lie. */
ALWAYS_INLINE u64 thread_pointer(void)
{
    return read_tls();
}

/* There is no such instruction here, and the sentry does not ask. */
ALWAYS_INLINE void ask_for_cpuid_faults(void)
{
}

/* Into the bootstrap image: x19 = request page, x22 = expected parent, x24 = first call. */
static __attribute__((noreturn)) void enter_bootstrap(const struct source_params *params)
{
    __asm__ volatile("mov x19, %1\n\t"
                     "mov x22, %2\n\t"
                     "mov x24, xzr\n\t"
                     "br %0"
                     :
                     : "r"(params->entry), "r"(params->request), "r"(params->expected_ppid)
                     : "x19", "x22", "x24", "memory");
    __builtin_unreachable();
}
