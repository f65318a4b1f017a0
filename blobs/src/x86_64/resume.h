/* What signal handler and syshandler have in common on x86-64. */
#pragma once

#include "sysmsg.h"

/* eflags.AC: a guest may have alignment checks on. The compiler's code does not expect them. */
#define EFLAGS_AC 0x40000ul

/* switch.c */
struct thread_context *switch_context(struct sysmsg *sysmsg, struct thread_context *ctx, u32 new_state);
u64 read_fs_base(struct sysmsg *sysmsg);
void write_fs_base(struct sysmsg *sysmsg, u64 base);
