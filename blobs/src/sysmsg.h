/* What the parts of the sysmsg image know of each other. */
#pragma once

#include "abi.h"
#include "arch.h"
#include "atomic.h"
#include "futex.h"

/*
 * Words that the sentry patches before the image becomes executable and read-only. They are defined in config.S, where
 * the compiler cannot see that they are zero.
 */
extern IMAGE_DATA const u64 config_deep_sleep_timeout __asm__("__export_deep_sleep_timeout");
extern IMAGE_DATA const u64 config_context_region __asm__("__export_context_region");
extern IMAGE_DATA const u64 config_stub_start __asm__("__export_stub_start");
extern IMAGE_DATA const struct arch_state config_arch_state __asm__("__export_arch_state");
extern IMAGE_DATA const u64 config_context_queue_addr __asm__("__export_context_queue_addr");
extern IMAGE_DATA const u64 config_spinning_queue_addr __asm__("__export_spinning_queue_addr");
extern IMAGE_DATA const u64 config_disable_syscall_patching __asm__("__export_disable_syscall_patching");
extern IMAGE_DATA const u64 config_ready_ring __asm__("__export_ready_ring");
extern IMAGE_DATA const u64 config_rdpid __asm__("__export_rdpid");
extern IMAGE_DATA const u64 config_user_resume __asm__("__export_user_resume");

ALWAYS_INLINE struct context_queue *context_queue(void)
{
    return (struct context_queue *)config_context_queue_addr;
}

ALWAYS_INLINE struct spinning_queue *spinning_queue(void)
{
    return (struct spinning_queue *)config_spinning_queue_addr;
}

/* The ready ring, or NULL when the sentry does not use it. */
ALWAYS_INLINE struct ready_ring *ready_ring(void)
{
    return (struct ready_ring *)config_ready_ring;
}

ALWAYS_INLINE struct thread_context *context_of_id(u32 id)
{
    return (struct thread_context *)(config_context_region + (u64)id * CONTEXT_SLOT_SIZE);
}

ALWAYS_INLINE u32 id_of_context(const struct thread_context *ctx)
{
    return (u32)(((u64)ctx - config_context_region) / CONTEXT_SLOT_SIZE);
}

ALWAYS_INLINE struct thread_context *current_context(const struct sysmsg *sysmsg)
{
    return (struct thread_context *)sysmsg->context;
}

/* Ticks from `then` until now. Counters of two CPUs may be a little apart: what would be negative is 0. */
ALWAYS_INLINE u64 ticks_since(u64 then)
{
    s64 elapsed = (s64)(counter() - then);
    return elapsed < 0 ? 0 : (u64)elapsed;
}

/* panic.c */
__attribute__((noreturn)) void panic(struct sysmsg *sysmsg, enum stub_error error, s32 additional, s32 line);
__attribute__((noreturn)) void die(s32 line);
#define PANIC(sysmsg, error, additional) panic((sysmsg), (error), (s32)(additional), __LINE__)

/* spinning_queue.c */
bool spinning_queue_push(struct spinning_queue *queue, u8 times_re_enqueued);
void spinning_queue_pop(struct spinning_queue *queue);
bool spinning_queue_remove_first(struct spinning_queue *queue, u64 timeout);

/* give_back.c */
void give_back(struct sysmsg *sysmsg, struct thread_context *ctx, u32 new_state);
s64 push_ready(struct ready_ring *ring, u32 context_id);

/* context_queue.c */
void join_active_threads(void);
struct thread_context *get_context(struct sysmsg *sysmsg);
