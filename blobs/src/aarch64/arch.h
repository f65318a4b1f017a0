/* arm64 in C: the instructions that C has no words for. */
#pragma once

#include "kernel.h"
#include "types.h"

/* For data of another object file of the image: reached directly, since an image has no table of addresses. */
#define IMAGE_DATA __attribute__((visibility("hidden")))

/* The clock that both sides put into the context: the generic timer's virtual count. */
ALWAYS_INLINE u64 counter(void)
{
    u64 count;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(count));
    return count;
}

/* The same, not taken before the loads in front of it. */
ALWAYS_INLINE u64 counter_ordered(void)
{
    u64 count;
    __asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(count) : : "memory");
    return count;
}

/* How often that clock ticks in a second, as firmware says; 24 MHz where it says nothing. */
ALWAYS_INLINE u64 counter_frequency(void)
{
    u64 frequency;
    __asm__("mrs %0, cntfrq_el0" : "=r"(frequency));
    return frequency != 0 ? frequency : 24000000;
}

/* Latencies are counted in buckets of 2 to the power of so many ticks: the power of two nearest below a microsecond. */
ALWAYS_INLINE u32 latency_shift(void)
{
    return 63u - (u32)__builtin_clzll(counter_frequency() / 1000000 | 1);
}
#define LATENCY_SHIFT latency_shift()

/* The number of the CPU this runs on, plus one; 0: it cannot be told. Nothing that user code may read has it. */
ALWAYS_INLINE u32 cpu_number(u64 has_rdpid)
{
    (void)has_rdpid;
    return 0;
}

/* Whether a number that the other side left is that of the CPU this runs on: nobody knows, so nobody holds back. */
ALWAYS_INLINE bool is_this_cpu(u64 number, u64 has_rdpid)
{
    (void)number, (void)has_rdpid;
    return false;
}

/*
 * Makes the read-modify-write in front of it a full fence. Its store is a release and orders what comes before it, and the
 * acquiring loads behind it; but a plain load, as Python does, could be done before that store is seen.
 */
ALWAYS_INLINE void fence_after_rmw(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Begin to fetch a cache line that will be written soon; and one that will be read. Hints: any address will do. */
ALWAYS_INLINE void prefetch_for_write(const volatile void *address)
{
    __asm__ volatile("prfm pstl1keep, %0" : : "Q"(*(const volatile u8 *)address));
}

ALWAYS_INLINE void prefetch(const volatile void *address)
{
    __asm__ volatile("prfm pldl1keep, %0" : : "Q"(*(const volatile u8 *)address));
}

/* In the body of every loop that waits for another CPU. */
ALWAYS_INLINE void cpu_pause(void)
{
    __asm__ volatile("yield" : : : "memory");
}

/* A system call; answers what the kernel answers: -errno when it failed. The kernel keeps every register but x0. */
ALWAYS_INLINE s64 syscall6(u64 nr, u64 a0, u64 a1, u64 a2, u64 a3, u64 a4, u64 a5)
{
    register u64 x8 __asm__("x8") = nr;
    register u64 x0 __asm__("x0") = a0;
    register u64 x1 __asm__("x1") = a1;
    register u64 x2 __asm__("x2") = a2;
    register u64 x3 __asm__("x3") = a3;
    register u64 x4 __asm__("x4") = a4;
    register u64 x5 __asm__("x5") = a5;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return (s64)x0;
}

/* The guest's thread pointer. */
ALWAYS_INLINE u64 read_tls(void)
{
    u64 value;
    __asm__ volatile("mrs %0, tpidr_el0" : "=r"(value));
    return value;
}

ALWAYS_INLINE void write_tls(u64 value)
{
    __asm__ volatile("msr tpidr_el0, %0" : : "r"(value));
}
