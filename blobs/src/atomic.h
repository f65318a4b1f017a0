/*
 * Atomic operations on words in shared memory, one name per meaning.
 *
 * "acquire", "release" and "seq_cst" are those of C11. Read-modify-write operations are seq_cst throughout, and the
 * arguments about lost wake-ups lean on them as fences: on x86-64 they are locked instructions, which order everything; on
 * arm64 ldaxr and stlxr, which order what comes before them, and the loads behind them that acquire (ldar). So what is
 * looked at behind such an operation is looked at with load_acquire or load_seq_cst, never with load_relaxed.
 * The builtins expand to instructions (never to a library call) for these sizes.
 */
#pragma once

#include "types.h"

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)

/* These answer the old value. */
#define fetch_add(p, n) __atomic_fetch_add((p), (n), __ATOMIC_SEQ_CST)
#define fetch_sub(p, n) __atomic_fetch_sub((p), (n), __ATOMIC_SEQ_CST)
#define exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)

#define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

ALWAYS_INLINE bool compare_and_swap_u32(u32 *word, u32 expected, u32 desired)
{
    return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

ALWAYS_INLINE bool compare_and_swap_u64(u64 *word, u64 expected, u64 desired)
{
    return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
