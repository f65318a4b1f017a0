/* What the benchmark's guest needs that is arm64's own. */
#pragma once

#include "arch.h"

#define NR_write 64
#define NR_nanosleep 101
#define NR_kill 129
#define NR_munmap 215
#define NR_mmap 222
#define NR_madvise 233
#define NR_wait4 260

/* The kernel's own layout: there is no restorer, the vDSO has the code that handlers return through. */
struct kernel_sigaction {
    u64 handler;
    u64 flags;
    u64 mask;
    u64 unused;
};

__asm__(".section .text.first,\"ax\",%progbits\n"
        ".globl _start\n"
        "_start:\n"
        "        mov x0, sp\n"
        "        bl ladder_main\n"
        "        brk #0\n"
        ".text\n");

ALWAYS_INLINE void prepare_action(struct kernel_sigaction *action)
{
    (void)action;
}

/* A value the compiler cannot see through. */
ALWAYS_INLINE u64 hidden(u64 value)
{
    __asm__ volatile("" : "+r"(value));
    return value;
}

/* No site is ever patched on this CPU. */
ALWAYS_INLINE void getpid_at_a_site(void)
{
    syscall6(NR_getpid, 0, 0, 0, 0, 0, 0);
}

/* Begin a thread that runs body(argument) on `stack` and exits; *id is its id, and 0 when it is gone. */
static s64 raw_clone(u64 flags, u8 *stack, u32 *id, void (*body)(u64), u64 argument)
{
    register u64 x8 __asm__("x8") = NR_clone;
    register u64 x0 __asm__("x0") = flags;
    register u64 x1 __asm__("x1") = (u64)stack;
    register u64 x2 __asm__("x2") = (u64)id;
    register u64 x3 __asm__("x3") = 0;
    register u64 x4 __asm__("x4") = (u64)id;
    register u64 x19 __asm__("x19") = (u64)body;
    register u64 x20 __asm__("x20") = argument;

    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x0, x20\n\t"
                     "blr x19\n\t"
                     "mov x8, #93\n\t"
                     "mov x0, #0\n\t"
                     "svc #0\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x19), "r"(x20)
                     : "x30", "memory");
    return (s64)x0;
}
