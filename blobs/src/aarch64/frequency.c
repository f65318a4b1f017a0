/* The counter's frequency for the sentry, which computes time-outs in ticks from it (S-073). */

#include "arch.h"

u64 export_counter_frequency(void) __asm__("__export_counter_frequency");
u64 export_counter_frequency(void)
{
    return counter_frequency();
}
