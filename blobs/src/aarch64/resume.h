/* From one context to the next on arm64. */
#pragma once

#include "sysmsg.h"

/* switch.c */
struct thread_context *switch_context(struct sysmsg *sysmsg, struct thread_context *ctx, u32 new_state);
