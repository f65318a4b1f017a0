/*
 * The signal handler of the sysmsg threads, arm64.
 *
 * Entered by the kernel on the thread's alternate stack for SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGCHLD and SIGSYS
 * with x0 = signal, x1 = siginfo, x2 = ucontext; SIGCHLD and SIGSYS are blocked meanwhile. It copies the guest's state
 * from the signal frame into the context, gives the context back, waits for the next one, and writes that one's state into
 * the same frame: rt_sigreturn then resumes another guest thread than the one that was interrupted.
 *
 * All of the stub's work on arm64 is done in here. So, unlike on x86-64, a signal never finds its thread in stub code.
 */

#include "frame.h"
#include "offsets.h"
#include "resume.h"

SIZE(struct arch_state, ARCH_STATE_SIZE);

struct mcontext {
    u64 fault_address;
    struct ptregs regs; /* in the order of ptregs */
    __attribute__((aligned(16))) u8 records[FRAME_RECORDS_SIZE];
};

struct ucontext {
    u64 flags;
    u64 link;
    u64 stack[3];
    u64 sigmask;
    u8 unused[120];
    __attribute__((aligned(16))) struct mcontext mcontext;
};

LAYOUT(struct ucontext, sigmask, 0x28);
LAYOUT(struct ucontext, mcontext, 0xb0);
LAYOUT(struct ucontext, mcontext.regs, 0xb0 + 8);
LAYOUT(struct ucontext, mcontext.regs.sp, 0xb0 + 0x100);
LAYOUT(struct ucontext, mcontext.regs.pc, 0xb0 + 0x108);
LAYOUT(struct ucontext, mcontext.regs.pstate, 0xb0 + 0x110);
LAYOUT(struct ucontext, mcontext.records, 0x1d0);
_Static_assert(FPSIMD_STATE_SIZE <= FPSTATE_SIZE, "the registers fit the context");

#define AUDIT_ARCH_AARCH64 0xc00000b7u
/* Added to the number of a system call of another architecture: no table of system calls reaches that far. */
#define FOREIGN_ARCH_OFFSET 0x86000000ull
#define X_SYSCALL 8

/* The thread's sysmsg, from the stack: it lies in the thread area, sysmsg in the last page of it. */
static struct sysmsg *locate_sysmsg(u64 stack_address)
{
    u64 area = stack_address / THREAD_AREA_SIZE * THREAD_AREA_SIZE;
    return (struct sysmsg *)(area + THREAD_AREA_SIZE - PAGE_SIZE);
}

/* Copy 64-bit words. The barrier keeps the compiler from seeing a memcpy, which nobody would define. */
static void copy_words(void *to, const void *from, u32 bytes)
{
    for (u32 i = 0; i < bytes / sizeof(u64); i++) {
        ((u64 *)to)[i] = ((const u64 *)from)[i];
        __asm__ volatile("" : : : "memory");
    }
}

/* The frame's floating point registers. The kernel always writes them first; another frame is none of the kernel's. */
static struct fpsimd_record *fpsimd_or_panic(struct sysmsg *sysmsg, struct ucontext *uc)
{
    struct fpsimd_record *fpsimd = fpsimd_of_frame(uc->mcontext.records);

    if (fpsimd == NULL || config_arch_state.fp_len < FPSIMD_STATE_SIZE)
        PANIC(sysmsg, ERROR_FPSTATE_BAD_HEADER, *(u32 *)uc->mcontext.records);
    return fpsimd;
}

static void save_guest(struct sysmsg *sysmsg, struct thread_context *ctx, const struct siginfo *info, struct ucontext *uc)
{
    copy_words(&ctx->ptregs, &uc->mcontext.regs, sizeof(ctx->ptregs));
    copy_fpsimd_state((u64 *)ctx->fpstate, fpsimd_or_panic(sysmsg, uc)->state);
    ctx->fpstate_changed = 0;
    ctx->tls = read_tls();
    ctx->err = 0;
    copy_words(&ctx->siginfo, info, sizeof(*info));
}

/* The frame is all the kernel looks at when it resumes; the thread pointer is in no frame. */
static void restore_guest(struct sysmsg *sysmsg, struct ucontext *uc, struct thread_context *ctx)
{
    if ((u32)ctx->fpstate_changed != 0)
        replace_fpsimd_state(fpsimd_or_panic(sysmsg, uc), (const u64 *)ctx->fpstate);
    copy_words(&uc->mcontext.regs, &ctx->ptregs, sizeof(ctx->ptregs));
    write_tls(ctx->tls);
    /* A SIGCHLD that is blocked until the guest runs finds it running. */
    store_release(&sysmsg->state, THREAD_NONE);
}

/*
 * A system call. On the way here the kernel looks whether x0, into which it has put the first argument back, is one of the
 * codes by which a call asks to be restarted; if so it has moved pc back to the svc. siginfo has the address behind it.
 */
static void complete_syscall(struct thread_context *ctx)
{
    ctx->ptregs.pc = ctx->siginfo.addr;
    if (ctx->siginfo.arch != AUDIT_ARCH_AARCH64)
        ctx->ptregs.x[X_SYSCALL] += FOREIGN_ARCH_OFFSET;
}

/* What a signal means for the context: its new state, or CONTEXT_NONE for a signal that is not the stub's. */
static u32 classify(s32 signo)
{
    switch (signo) {
    case SIGSYS:
        return CONTEXT_SYSCALL;
    case SIGBUS:
    case SIGCHLD:
    case SIGFPE:
    case SIGILL:
    case SIGSEGV:
    case SIGTRAP:
        return CONTEXT_FAULT;
    default:
        return CONTEXT_NONE;
    }
}

/* The first signal of a thread: it has no context yet. Its birth may have left signals blocked; its guests' are not. */
static void begin_work(struct sysmsg *sysmsg, struct ucontext *uc)
{
    join_active_threads();
    uc->sigmask = 0;
    restore_guest(sysmsg, uc, switch_context(sysmsg, NULL, CONTEXT_NONE));
}

void sighandler(s32 signo, const struct siginfo *info, struct ucontext *uc) __asm__("__export_sighandler");
void sighandler(s32 signo, const struct siginfo *info, struct ucontext *uc)
{
    struct sysmsg *sysmsg = locate_sysmsg((u64)__builtin_frame_address(0));
    struct thread_context *ctx;
    u32 new_state;

    /* A panic is on its way out (see die). */
    if (sysmsg->err != 0)
        die(sysmsg->err_line);
    if (sysmsg->self != (u64)sysmsg)
        PANIC(sysmsg, ERROR_BAD_SYSMSG, 0);

    if (load_acquire(&sysmsg->state) == THREAD_INITIALIZING) {
        begin_work(sysmsg, uc);
        return;
    }
    new_state = classify(signo);
    if (new_state == CONTEXT_NONE)
        return;

    ctx = current_context(sysmsg);
    ctx->signo = (u64)signo;
    save_guest(sysmsg, ctx, info, uc);
    if (signo == SIGSEGV)
        ctx->err = syndrome_of_frame(uc->mcontext.records);
    else if (signo == SIGSYS)
        complete_syscall(ctx);

    restore_guest(sysmsg, uc, switch_context(sysmsg, ctx, new_state));
}
