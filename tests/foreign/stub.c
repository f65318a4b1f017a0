/*
 * A sysmsg image of another make: written from 10-stub.md alone, as small as a stub can be that follows it. It never spins and
 * never asks for patching; a thread without work parks at once. The FP state is copied in both directions each time, into
 * the frame the kernel has made, so that neither fpstate_changed nor the frame's software area matters.
 */
#include "spec_abi.h"

extern const spec_u64 context_region __attribute__((visibility("hidden")));
extern const spec_u64 context_queue_addr __attribute__((visibility("hidden")));
extern const volatile struct spec_arch_state arch_state __attribute__((visibility("hidden")));

/* The kernel's frame: rt_sigframe's ucontext, as far as it is touched. */
struct frame {
    spec_u64 flags, link, stack[3];
    spec_u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
    spec_u16 cs, gs, fs, ss;
    spec_u64 err, trapno, oldmask, cr2;
    spec_u8 *fpregs;
};
_Static_assert(__builtin_offsetof(struct frame, r8) == 40, "gregs");
_Static_assert(__builtin_offsetof(struct frame, fpregs) == 224, "fpregs");

enum { SIGILL = 4, SIGTRAP = 5, SIGBUS = 7, SIGFPE = 8, SIGSEGV = 11, SIGCHLD = 17, SIGSYS = 31 };
enum { NR_futex = 202, NR_arch_prctl = 158, ARCH_SET_FS = 0x1002, ARCH_GET_FS = 0x1003 };
enum { PAGE_FAULT = 14, NATIVE = 0xC000003E, FOREIGN_CALLS = 0x86000000u, ENOSYS = 38 };
enum { SOFTWARE_AREA = 464, LEGACY = 512, FEATURES = 0xE7 };

#define READ(word) __atomic_load_n(&(word), __ATOMIC_SEQ_CST)
#define SET(word, value) __atomic_store_n(&(word), value, __ATOMIC_SEQ_CST)
#define ADD(word, n) __atomic_add_fetch(&(word), n, __ATOMIC_SEQ_CST)

static struct spec_queue *queue(void)
{
    return (struct spec_queue *)*(const volatile spec_u64 *)&context_queue_addr;
}

static spec_s64 call(spec_u64 nr, spec_u64 a, spec_u64 b, spec_u64 c)
{
    register spec_u64 fourth __asm__("r10") = 0, fifth __asm__("r8") = 0, sixth __asm__("r9") = 0;
    spec_s64 result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return result;
}

static spec_s64 wake_one(spec_u32 *word)
{
    return call(NR_futex, (spec_u64)word, 1, 1);
}

static spec_u64 counter(void)
{
    spec_u32 low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (spec_u64)high << 32 | low;
}

static void copy(volatile spec_u8 *to, const volatile spec_u8 *from, spec_u64 n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* §9. The last line kills: SIGSYS is blocked here, and the call is one that no filter lets through. */
static __attribute__((noreturn)) void give_up(struct spec_sysmsg *me, spec_u32 error, spec_s32 detail, spec_s32 line)
{
    struct spec_context *context = (struct spec_context *)me->context;
    spec_u64 offset = me->context - *(const volatile spec_u64 *)&context_region;

    me->err = (spec_s32)error;
    me->err_additional = detail;
    me->err_line = line;
    if (offset % SPEC_CONTEXT_SLOT == 0 && offset / SPEC_CONTEXT_SLOT <= SPEC_MAX_CONTEXTS) {
        SET(context->state, SPEC_CONTEXT_FAULT);
        wake_one(&context->state);
    }
    for (;;)
        call(39, 0, 0, 0);
}

static spec_u64 get_fs(struct spec_sysmsg *me)
{
    spec_u64 base = 0;
    spec_s64 result;

    if (arch_state.fsgsbase) {
        __asm__ volatile("rdfsbase %0" : "=r"(base));
        return base;
    }
    result = call(NR_arch_prctl, ARCH_GET_FS, (spec_u64)&base, 0);
    if (result != 0)
        give_up(me, SPEC_ARCH_PRCTL, (spec_s32)result, __LINE__);
    return base;
}

static void set_fs(struct spec_sysmsg *me, spec_u64 base)
{
    spec_s64 result;

    if (arch_state.fsgsbase) {
        __asm__ volatile("wrfsbase %0" : : "r"(base));
        return;
    }
    result = call(NR_arch_prctl, ARCH_SET_FS, base, 0);
    if (result != 0)
        give_up(me, SPEC_ARCH_PRCTL, (spec_s32)result, __LINE__);
}

/* The registers of a frame and of a context, name by name. */
#define EACH_REGISTER(DO)                                                                                              \
    DO(r8) DO(r9) DO(r10) DO(r11) DO(r12) DO(r13) DO(r14) DO(r15) DO(rdi) DO(rsi) DO(rbp) DO(rbx) DO(rdx) DO(rax)      \
        DO(rcx) DO(rsp) DO(rip) DO(eflags) DO(cs) DO(gs) DO(fs) DO(ss)

static void save(struct spec_context *context, struct frame *frame)
{
    spec_u32 length = arch_state.fp_len;

#define SAVE(name) context->ptregs.name = frame->name;
    EACH_REGISTER(SAVE)
    copy(context->fpstate, frame->fpregs, length);
    if (length > LEGACY)
        *(spec_u64 *)(context->fpstate + LEGACY) &= FEATURES;
}

static void load(struct spec_context *context, struct frame *frame)
{
    spec_u32 length = arch_state.fp_len;

#define LOAD(name) frame->name = (__typeof__(frame->name))context->ptregs.name;
    EACH_REGISTER(LOAD)
    copy(frame->fpregs, context->fpstate, SOFTWARE_AREA);
    if (length > LEGACY)
        copy(frame->fpregs + LEGACY, context->fpstate + LEGACY, length - LEGACY);
}

/* §3.2. Answers the new state, or 0 for a signal that is none of ours. */
static spec_u32 classify(struct spec_context *context, struct frame *frame, int signo)
{
    switch (signo) {
    case SIGSYS:
        context->ptregs.orig_rax = frame->rax;
        if (context->siginfo.arch != NATIVE)
            context->ptregs.orig_rax += FOREIGN_CALLS;
        context->ptregs.rax = (spec_u64)-ENOSYS;
        return SPEC_CONTEXT_SYSCALL;
    case SIGSEGV:
        if (frame->trapno == PAGE_FAULT)
            context->err = frame->err;
        break;
    case SIGILL:
    case SIGTRAP:
    case SIGBUS:
    case SIGFPE:
    case SIGCHLD:
        break;
    default:
        return 0;
    }
    context->ptregs.orig_rax = (spec_u64)-1;
    return SPEC_CONTEXT_FAULT;
}

/* §4.1 */
static void give_back(struct spec_sysmsg *me, struct spec_context *context, spec_u32 state)
{
    spec_s64 result;

    ADD(queue()->num_active_contexts, -1);
    SET(context->last_thread_id, me->thread_id);
    SET(context->state_changed_time, counter());
    SET(context->thread_id, SPEC_INVALID_ID);
    SET(context->state, state);
    if (READ(context->sentry_fast_path))
        return;
    result = wake_one(&context->state);
    if (result < 0)
        give_up(me, SPEC_FUTEX, (spec_s32)result, __LINE__);
}

/* §4.2 */
static struct spec_context *dequeue(struct spec_sysmsg *me)
{
    struct spec_queue *q = queue();
    struct spec_context *context;
    spec_u32 index, id;
    spec_u64 entry, *slot;

    for (;;) {
        index = READ(q->start);
        if (index == READ(q->end))
            return 0;
        slot = &q->ringbuffer[index % SPEC_RING_ENTRIES];
        entry = READ(*slot);
        id = (spec_u32)entry;
        if (entry >> 32 == index && __atomic_compare_exchange_n(slot, &entry, (spec_u64)SPEC_INVALID_ID, 0,
                                                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            if (id != SPEC_INVALID_ID)
                break;
        }
        __asm__ volatile("pause");
    }
    ADD(q->start, 1);
    if (id > SPEC_MAX_CONTEXTS)
        give_up(me, SPEC_BAD_CONTEXT_ID, (spec_s32)id, __LINE__);
    context = (struct spec_context *)(*(const volatile spec_u64 *)&context_region + (spec_u64)id * SPEC_CONTEXT_SLOT);
    me->context = (spec_u64)context;
    SET(context->acked_time, counter());
    SET(context->thread_id, me->thread_id);
    return context;
}

static int take_token(struct spec_queue *q)
{
    spec_u32 tokens = READ(q->num_threads_to_wakeup);

    while (tokens)
        if (__atomic_compare_exchange_n(&q->num_threads_to_wakeup, &tokens, tokens - 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return 1;
    return 0;
}

/* §4.3, without its middle: nobody spins here. */
static struct spec_context *obtain(struct spec_sysmsg *me)
{
    struct spec_queue *q = queue();
    struct spec_context *context;

    SET(me->state, SPEC_THREAD_PREP);
    context = dequeue(me);
    if (context)
        return context;
    spec_u32 others = ADD(q->num_active_threads, -1);
    SET(me->state, SPEC_THREAD_ASLEEP);
    if (others < READ(q->num_active_contexts))
        context = dequeue(me);
    while (!context) {
        if (take_token(q))
            context = dequeue(me);
        else
            call(NR_futex, (spec_u64)&q->num_threads_to_wakeup, 0, 0);
    }
    SET(me->state, SPEC_THREAD_PREP);
    ADD(q->num_active_threads, 1);
    return context;
}

/* §3.3: the next context to run. One that was interrupted in the queue goes straight back. */
static struct spec_context *next(struct spec_sysmsg *me)
{
    struct spec_context *context;

    for (;;) {
        context = obtain(me);
        SET(me->state, SPEC_THREAD_NONE);
        if (!READ(context->interrupt))
            return context;
        SET(me->state, SPEC_THREAD_PREP);
        SET(context->interrupt, 0);
        context->signo = SIGCHLD;
        context->siginfo.signo = SIGCHLD;
        context->ptregs.orig_rax = (spec_u64)-1;
        give_back(me, context, SPEC_CONTEXT_FAULT);
    }
}

/* §3.1 */
__attribute__((visibility("hidden"))) void handle_signal(int signo, const spec_u8 *info, struct frame *frame);
void handle_signal(int signo, const spec_u8 *info, struct frame *frame)
{
    spec_u64 area = (spec_u64)&area / SPEC_THREAD_AREA * SPEC_THREAD_AREA;
    struct spec_sysmsg *me = (struct spec_sysmsg *)(area + SPEC_THREAD_AREA - SPEC_PAGE);
    spec_u32 thread_state = READ(me->state);
    struct spec_context *context = (struct spec_context *)me->context;
    spec_u64 fs_base = 0;

    if (me->self != (spec_u64)me)
        give_up(me, SPEC_BAD_SYSMSG, 0, __LINE__);
    if (thread_state == SPEC_THREAD_INITIALIZING) {
        ADD(queue()->num_active_threads, 1);
        take_token(queue());
        fs_base = get_fs(me);
    } else {
        /* Without a syshandler, only guest code is ever interrupted. */
        if (signo == SIGCHLD && thread_state != SPEC_THREAD_NONE)
            return;
        fs_base = get_fs(me);
        context->signo = (spec_u64)signo;
        copy((spec_u8 *)&context->siginfo, info, sizeof(context->siginfo));
        context->err = 0;
        save(context, frame);
        context->ptregs.fs_base = fs_base;
        spec_u32 state = classify(context, frame, signo);
        if (!state)
            return;
        SET(context->fpstate_changed, 0);
        give_back(me, context, state);
    }
    context = next(me);
    if (context->ptregs.fs_base != fs_base)
        set_fs(me, context->ptregs.fs_base);
    load(context, frame);
}
