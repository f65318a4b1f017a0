/* x86-64 in C: the instructions that C has no words for. */
#pragma once

#include "kernel.h"
#include "types.h"

/* For data of another object file of the image. Nothing: the linker turns a load from a table of addresses into a lea. */
#define IMAGE_DATA

/* The clock that both sides put into the context: the time stamp counter. */
ALWAYS_INLINE u64 counter(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

/* The same, not taken before the loads in front of it. */
ALWAYS_INLINE u64 counter_ordered(void)
{
    u32 low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (u64)high << 32 | low;
}

/*
 * The number of the CPU this runs on, plus one; 0 would mean that it cannot be told. By the instruction rdpid where the CPU has
 * it; else from the limit of a segment that the kernel sets up for this purpose, which takes 100 ns when it is not in a cache.
 */
ALWAYS_INLINE u32 cpu_number(u64 has_rdpid)
{
    u32 limit = 0;

    if (has_rdpid != 0) {
        u64 id;
        __asm__ volatile("rdpid %0" : "=r"(id));
        return ((u32)id & 0xfff) + 1;
    }
    __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(0x7b) : "cc");
    return (limit & 0xfff) + 1;
}

/* Whether a number that the other side left is that of the CPU this runs on. */
ALWAYS_INLINE bool is_this_cpu(u64 number, u64 has_rdpid)
{
    return number == cpu_number(has_rdpid);
}

/* Latencies are counted in buckets of 2 to the power of so many ticks: a microsecond at the nominal 2 GHz. */
#define LATENCY_SHIFT 11

/* Makes the read-modify-write in front of it a full fence, also for plain loads behind it: locked instructions are one. */
ALWAYS_INLINE void fence_after_rmw(void)
{
}

/* Begin to fetch a cache line that will be written soon; and one that will be read. Hints: any address will do. */
ALWAYS_INLINE void prefetch_for_write(const volatile void *address)
{
    __asm__ volatile("prefetchw %0" : : "m"(*(const volatile u8 *)address));
}

ALWAYS_INLINE void prefetch(const volatile void *address)
{
    __asm__ volatile("prefetcht0 %0" : : "m"(*(const volatile u8 *)address));
}

/* In the body of every loop that waits for another CPU. */
ALWAYS_INLINE void cpu_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* A system call; answers what the kernel answers: -errno when it failed. */
ALWAYS_INLINE s64 syscall6(u64 nr, u64 a0, u64 a1, u64 a2, u64 a3, u64 a4, u64 a5)
{
    register u64 r10 __asm__("r10") = a3;
    register u64 r8 __asm__("r8") = a4;
    register u64 r9 __asm__("r9") = a5;
    s64 result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a0), "S"(a1), "d"(a2), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* Copy bytes with the one string instruction that every current CPU makes fast: a loop of bytes would cost 1.5 us for a
 * floating point image. DF is clear here: the kernel clears it on the way into a handler, syshandler clears it itself. */
ALWAYS_INLINE void copy_bytes(void *to, const void *from, u64 count)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}
