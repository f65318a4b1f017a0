/* Threads that enter the spinning queue and leave it in the oldest entry's name, all the time. Built by test_spinning.py. */

#include "sysmsg.h"

/* Answers how often there was no room. */
u32 churn(struct spinning_queue *queue, u32 rounds) __asm__("__export_churn");
u32 churn(struct spinning_queue *queue, u32 rounds)
{
    u32 refused = 0;

    for (u32 i = 0; i < rounds; i++) {
        if (spinning_queue_push(queue, 0))
            spinning_queue_remove_first(queue, 0);
        else
            refused++;
    }
    return refused;
}
