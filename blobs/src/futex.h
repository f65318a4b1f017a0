/*
 * The two futex calls of the stub.
 *
 * The filter F1 lets pass exactly these argument values: WAKE(addr, 1, 1, 0, 0, 0), WAIT(addr, 0, value, 0, 0, 0).
 */
#pragma once

#include "arch.h"

/* Wake one waiter. Answers how many were woken, or -errno. */
ALWAYS_INLINE s64 futex_wake_one(u32 *word)
{
    return syscall6(NR_futex, (u64)word, FUTEX_WAKE, 1, 0, 0, 0);
}

/* Sleep until woken, unless the word is not `value` (any more). There is no timeout; the caller looks again after any
 * answer, for a signal or an old wake-up may end the sleep early. */
ALWAYS_INLINE void futex_wait(u32 *word, u32 value)
{
    syscall6(NR_futex, (u64)word, FUTEX_WAIT, value, 0, 0, 0);
}
