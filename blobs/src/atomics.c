/*
 * Single atomic operations for Python, whose own loads and stores are plain ones. Each word must be aligned to its size.
 * Read-modify-write operations are full fences and answer the old value.
 */

#include "arch.h"
#include "atomic.h"

#define EXPORT(type, name, parameters)                      \
    type export_##name parameters __asm__("__export_" #name); \
    type export_##name parameters

EXPORT(u32, atomic_add32, (u32 *word, u32 n))
{
    u32 old = fetch_add(word, n);
    fence_after_rmw();
    return old;
}

EXPORT(u32, atomic_xchg32, (u32 *word, u32 value))
{
    u32 old = exchange(word, value);
    fence_after_rmw();
    return old;
}

EXPORT(u32, atomic_cas32, (u32 *word, u32 expected, u32 desired))
{
    __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    fence_after_rmw();
    return expected;
}

EXPORT(u32, load_acquire32, (u32 *word))
{
    return load_acquire(word);
}

EXPORT(u64, load_acquire64, (u64 *word))
{
    return load_acquire(word);
}

EXPORT(void, store_release32, (u32 *word, u32 value))
{
    store_release(word, value);
}

EXPORT(void, store_release64, (u64 *word, u64 value))
{
    store_release(word, value);
}

EXPORT(void, fence, (void))
{
    full_fence();
}

/* The clock of the contexts' time stamps, not read before the loads in front of the call. */
EXPORT(u64, counter, (void))
{
    return counter_ordered();
}
