/* What signal handler and syshandler have in common on x86-64. */
#pragma once

#include "sysmsg.h"

/* eflags.AC: a guest may have alignment checks on. The compiler's code does not expect them. */
#define EFLAGS_AC 0x40000ul
/* eflags.NT: with it iretq faults. Nothing else looks at it. */
#define EFLAGS_NT 0x4000ul

/* signal.S */
extern __attribute__((visibility("hidden"))) const u8 sighandler_begin[] __asm__("__export_sighandler");
extern __attribute__((visibility("hidden"))) const u8 sighandler_marked[];
__attribute__((noreturn)) void resume_guest(const struct thread_context *ctx);

/* switch.c */
struct thread_context *switch_context(struct sysmsg *sysmsg, struct thread_context *ctx, u32 new_state);
u64 read_fs_base(struct sysmsg *sysmsg);
void write_fs_base(struct sysmsg *sysmsg, u64 base);
