/* What the birth of the source needs that is x86-64's own. */
#pragma once

#include "arch.h"
#include "source.h"

/* Where the C library's per-thread data lie; its first word is its own address. */
ALWAYS_INLINE u64 thread_pointer(void)
{
    u64 address;
    __asm__("mov %%fs:0, %0" : "=r"(address));
    return address;
}

/* Let CPUID fault in this process and all that are cloned from it. */
ALWAYS_INLINE void ask_for_cpuid_faults(void)
{
    syscall6(NR_arch_prctl, ARCH_SET_CPUID, 0, 0, 0, 0, 0);
}

/* Into the bootstrap image: r12 = request page, r15 = expected parent, rbp = first call. */
static __attribute__((noreturn)) void enter_bootstrap(const struct source_params *params)
{
    __asm__ volatile("mov %0, %%rax\n\t"
                     "mov %1, %%r12\n\t"
                     "mov %2, %%r15\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "jmp *%%rax"
                     :
                     : "r"(params->entry), "r"(params->request), "r"(params->expected_ppid)
                     : "rax", "r12", "r15", "memory");
    __builtin_unreachable();
}
