/* What the benchmark's guest needs that is x86-64's own. */
#pragma once

#include "arch.h"

#define NR_write 1
#define NR_mmap 9
#define NR_munmap 11
#define NR_madvise 28
#define NR_nanosleep 35
#define NR_wait4 61
#define NR_kill 62

#define SA_RESTORER 0x04000000u

struct kernel_sigaction {
    u64 handler;
    u64 flags;
    u64 restorer;
    u64 mask;
};

__asm__(".section .text.first,\"ax\",@progbits\n"
        ".globl _start\n"
        "_start:\n"
        "        mov %rsp, %rdi\n"
        "        and $-16, %rsp\n"
        "        call ladder_main\n"
        "        hlt\n"
        "restorer:\n"
        "        mov $15, %eax\n"
        "        syscall\n"
        ".text\n");
extern void restorer(void);

/* Handlers return through code of the program's own. */
ALWAYS_INLINE void prepare_action(struct kernel_sigaction *action)
{
    action->flags |= SA_RESTORER;
    action->restorer = (u64)restorer;
}

/* A value the compiler cannot see through, so that it ends up in a register. */
ALWAYS_INLINE u64 hidden(u64 value)
{
    __asm__ volatile("" : "+D"(value));
    return value;
}

ALWAYS_INLINE void getpid_at_a_site(void)
{
    u64 result;
    __asm__ volatile(".byte 0xb8, 39, 0, 0, 0, 0x0f, 0x05 # mov $39, %%eax; syscall"
                     : "=a"(result)
                     :
                     : "rcx", "r11", "memory");
}

/* Begin a thread that runs body(argument) on `stack` and exits; *id is its id, and 0 when it is gone. */
static s64 raw_clone(u64 flags, u8 *stack, u32 *id, void (*body)(u64), u64 argument)
{
    register u64 r10 __asm__("r10") = (u64)id;
    register u64 r8 __asm__("r8") = 0;
    register u64 r12 __asm__("r12") = (u64)body;
    register u64 r13 __asm__("r13") = argument;
    s64 result;

    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %%r13, %%rdi\n\t"
                     "call *%%r12\n\t"
                     "mov $60, %%eax\n\t"
                     "xor %%edi, %%edi\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(NR_clone), "D"(flags), "S"(stack), "d"(id), "r"(r10), "r"(r8), "r"(r12), "r"(r13)
                     : "rcx", "r11", "memory");
    return result;
}
