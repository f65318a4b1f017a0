/*
 * The signal handler of the sysmsg threads, x86-64.
 *
 * Entered by the kernel on the thread's alternate stack for SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGCHLD and SIGSYS
 * by way of signal.S, with the thread's state at that time. It copies the guest's state from the signal frame into the context,
 * gives the context back, waits for the next one, and writes that one's state into the same frame: rt_sigreturn then resumes
 * another guest thread than the one that was interrupted. (Or resume_guest does, without the frame: signal.S tells of both ways.)
 */

#include "resume.h"

/* ucontext.gregs, in the kernel's order */
struct gregs {
    u64 r8, r9, r10, r11, r12, r13, r14, r15;
    u64 rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
    u64 selectors; /* cs | gs << 16 | fs << 32 | ss << 48 */
    u64 err, trapno, oldmask, cr2;
};

struct ucontext {
    u64 flags;
    u64 link;
    u64 stack[3];
    struct gregs gregs;
    u64 fpregs; /* address of the floating point image that rt_sigreturn loads */
    u64 reserved[8];
    u64 sigmask;
};

LAYOUT(struct ucontext, gregs, 40);
LAYOUT(struct gregs, rsp, 15 * 8);
LAYOUT(struct gregs, selectors, 18 * 8);
LAYOUT(struct gregs, cr2, 22 * 8);
LAYOUT(struct ucontext, fpregs, 224);
LAYOUT(struct ucontext, sigmask, 296);

/* The software area of a floating point image: how the kernel knows that there is more than the legacy 512 bytes. */
struct fp_software {
    u32 magic1;
    u32 extended_size;
    u64 xfeatures;
    u32 xstate_size;
};

#define FP_SOFTWARE_OFFSET 464
#define FP_MAGIC1 0x46505853u
#define FP_MAGIC2 0x46505845u
/* x87, SSE, AVX and the three parts of AVX-512. Not PKRU, not AMX. */
#define FP_FEATURES 0xe7ull

#define AUDIT_ARCH_X86_64 0xc000003eu
/* Added to the number of a system call of another architecture: no table of system calls reaches that far. */
#define FOREIGN_ARCH_OFFSET 0x86000000ull

#define TRAP_PAGE_FAULT 14

/* The site that can be patched: b8 <number> 0f 05, mov $number, %eax; syscall. */
#define SITE_LENGTH 7
#define OPCODE_MOV_EAX 0xb8
#define OPCODE_SYSCALL 0x050f /* as a little-endian u16 */
#define OPCODE_PATCHING 0x06  /* in place of 0f, while a site is patched and afterwards */

/* What classify() found out. */
enum verdict { RESUME_SAME, GIVE_BACK };

/* The thread's sysmsg, from the stack: both its stacks lie in its thread area, sysmsg in the last page of it. */
static struct sysmsg *locate_sysmsg(u64 stack_address)
{
    u64 area = stack_address / THREAD_AREA_SIZE * THREAD_AREA_SIZE;
    return (struct sysmsg *)(area + THREAD_AREA_SIZE - PAGE_SIZE);
}

/* ---- from the frame into the context ---- */

static void copy_siginfo(struct thread_context *ctx, const struct siginfo *info)
{
    u64 *to = (u64 *)&ctx->siginfo;
    const u64 *from = (const u64 *)info;

    for (u32 i = 0; i < sizeof(*info) / sizeof(u64); i++)
        to[i] = from[i];
}

static void save_registers(struct ptregs *regs, const struct gregs *gregs)
{
    regs->r8 = gregs->r8;
    regs->r9 = gregs->r9;
    regs->r10 = gregs->r10;
    regs->r11 = gregs->r11;
    regs->r12 = gregs->r12;
    regs->r13 = gregs->r13;
    regs->r14 = gregs->r14;
    regs->r15 = gregs->r15;
    regs->rdi = gregs->rdi;
    regs->rsi = gregs->rsi;
    regs->rbp = gregs->rbp;
    regs->rbx = gregs->rbx;
    regs->rdx = gregs->rdx;
    regs->rax = gregs->rax;
    regs->rcx = gregs->rcx;
    regs->rsp = gregs->rsp;
    regs->rip = gregs->rip;
    regs->eflags = gregs->eflags;
    regs->cs = (u16)gregs->selectors;
    regs->gs = (u16)(gregs->selectors >> 16);
    regs->fs = (u16)(gregs->selectors >> 32);
    regs->ss = (u16)(gregs->selectors >> 48);
}

static void save_guest(struct thread_context *ctx, const struct ucontext *uc, u64 fs_base)
{
    save_registers(&ctx->ptregs, &uc->gregs);
    ctx->ptregs.fs_base = fs_base;
    ctx->err = 0;
    copy_bytes(ctx->fpstate, (const void *)uc->fpregs, config_arch_state.fp_len);
}

/* ---- from the context into the frame ---- */

static void restore_registers(struct gregs *gregs, const struct ptregs *regs)
{
    gregs->r8 = regs->r8;
    gregs->r9 = regs->r9;
    gregs->r10 = regs->r10;
    gregs->r11 = regs->r11;
    gregs->r12 = regs->r12;
    gregs->r13 = regs->r13;
    gregs->r14 = regs->r14;
    gregs->r15 = regs->r15;
    gregs->rdi = regs->rdi;
    gregs->rsi = regs->rsi;
    gregs->rbp = regs->rbp;
    gregs->rbx = regs->rbx;
    gregs->rdx = regs->rdx;
    gregs->rax = regs->rax;
    gregs->rcx = regs->rcx;
    gregs->rsp = regs->rsp;
    gregs->rip = regs->rip;
    gregs->eflags = regs->eflags;
    gregs->selectors = (u64)(u16)regs->cs | (u64)(u16)regs->gs << 16 | (u64)(u16)regs->fs << 32 |
                       (u64)(u16)regs->ss << 48;
}

/* Let rt_sigreturn load the context's floating point image instead of the frame's own. */
static void redirect_fpstate(struct ucontext *uc, struct thread_context *ctx)
{
    struct fp_software *software = (struct fp_software *)(ctx->fpstate + FP_SOFTWARE_OFFSET);
    u32 fp_len = config_arch_state.fp_len;

    software->magic1 = FP_MAGIC1;
    software->extended_size = fp_len + sizeof(u32);
    software->xfeatures = FP_FEATURES;
    software->xstate_size = fp_len;
    *(u32 *)(ctx->fpstate + fp_len) = config_arch_state.xsave_mode != XSAVE_MODE_FXSAVE ? FP_MAGIC2 : 0;
    uc->fpregs = (u64)ctx->fpstate;
}

static void restore_guest(struct sysmsg *sysmsg, struct ucontext *uc, struct thread_context *ctx, u64 fs_base)
{
    if (ctx->ptregs.fs_base != fs_base)
        write_fs_base(sysmsg, ctx->ptregs.fs_base);
    if ((u32)ctx->fpstate_changed != 0)
        redirect_fpstate(uc, ctx);
    restore_registers(&uc->gregs, &ctx->ptregs);
}

/* ---- what happened ---- */

/*
 * The 8 bytes at `address`, or 0 if they cannot be read: the fault comes back into the handler, which steps over as many
 * bytes of instructions as fault_jump says. The load below is three bytes long: 48 8b 03.
 */
static u64 probe(struct sysmsg *sysmsg, u64 address)
{
    u64 value = 0;

    store_release(&sysmsg->fault_jump, 3);
    __asm__ volatile(".byte 0x48, 0x8b, 0x03 # mov (%%rbx), %%rax" : "+a"(value) : "b"(address) : "memory");
    store_release(&sysmsg->fault_jump, 0);
    return value;
}

/* Whether the 8 bytes that end behind a syscall instruction are <any byte>, mov $number, %eax, syscall. */
static bool is_patchable(u64 code, u64 number, s32 trapped_number)
{
    u32 immediate = (u32)(code >> 16);

    return (u8)(code >> 8) == OPCODE_MOV_EAX && (u16)(code >> 48) == OPCODE_SYSCALL &&
           (s32)immediate == trapped_number && immediate == number;
}

/*
 * A system call. Its site is read twice: whoever patches a site writes the byte 06 first, so that a second read without
 * 06 vouches for the first. With 06 the site was patched after this thread had trapped: run it again from its first byte.
 */
static enum verdict classify_syscall(struct sysmsg *sysmsg, struct thread_context *ctx, struct ucontext *uc, u32 *new_state)
{
    u64 number = ctx->ptregs.rax;
    u64 first, second;

    ctx->ptregs.orig_rax = number;
    ctx->ptregs.rax = (u64)-ENOSYS;
    *new_state = CONTEXT_SYSCALL;

    if (ctx->siginfo.arch != AUDIT_ARCH_X86_64) {
        ctx->ptregs.orig_rax += FOREIGN_ARCH_OFFSET;
        return GIVE_BACK;
    }
    if (config_disable_syscall_patching != 0)
        return GIVE_BACK;

    first = probe(sysmsg, uc->gregs.rip - 8);
    second = probe(sysmsg, uc->gregs.rip - 8);
    /* Not for a restarted call: the sentry knows what it was, and the site would make the first call anew. */
    if ((u8)(second >> 48) == OPCODE_PATCHING && number != NR_restart_syscall) {
        uc->gregs.rip -= SITE_LENGTH;
        return RESUME_SAME;
    }
    if (is_patchable(first, number, ctx->siginfo.syscall))
        *new_state = CONTEXT_SYSCALL_NEED_TRAP;
    return GIVE_BACK;
}

static enum verdict classify(struct sysmsg *sysmsg, s32 signo, struct thread_context *ctx, struct ucontext *uc,
                             u32 *new_state)
{
    switch (signo) {
    case SIGSYS:
        return classify_syscall(sysmsg, ctx, uc, new_state);
    case SIGSEGV:
        if (uc->gregs.trapno == TRAP_PAGE_FAULT)
            ctx->err = uc->gregs.err;
        break;
    case SIGBUS:
    case SIGCHLD:
    case SIGFPE:
    case SIGILL:
    case SIGTRAP:
        break;
    default:
        return RESUME_SAME;
    }
    ctx->ptregs.orig_rax = (u64)-1;
    *new_state = CONTEXT_FAULT;
    return GIVE_BACK;
}

/* ---- the handler ---- */

/*
 * Whether a context can be resumed without the kernel. What only the kernel can load, or tell in the right words that it cannot,
 * is left to it. So is the way out of the handler of SIGCHLD, in which SIGCHLD is blocked: only the kernel can open it again.
 */
static bool may_resume_here(s32 signo, const struct thread_context *ctx)
{
    return config_user_resume != 0 && signo != SIGCHLD && ctx->ptregs.rip < config_stub_start && ctx->ptregs.cs == USER_CS &&
           ctx->ptregs.ss == USER_SS;
}

/*
 * Go on with this very context, as it lies in the frame: it is the guest's again. The same lies in memory, before the state says
 * NONE: that is where a SIGCHLD takes it from. An interrupt that was dropped meanwhile counts now: answers false, and the context
 * has to be given back, interrupted before anything happened.
 */
static bool leave_to_guest(struct sysmsg *sysmsg, struct thread_context *ctx, const struct ucontext *uc, u32 thread_state)
{
    if (thread_state != THREAD_NONE)
        return true;
    save_registers(&ctx->ptregs, &uc->gregs);
    ctx->ptregs.orig_rax = (u64)-1;
    store_release(&sysmsg->state, THREAD_NONE);
    if (config_user_resume == 0 || load_acquire(&ctx->interrupt) == 0)
        return true;
    store_release(&sysmsg->state, THREAD_PREP);
    ctx->signo = SIGCHLD;
    ctx->siginfo.signo = SIGCHLD;
    return false;
}

/* The first signal of a thread: it has no context yet. Its birth may have left signals blocked; its guests' are not. */
static void begin_work(struct sysmsg *sysmsg, struct ucontext *uc)
{
    u64 fs_base = read_fs_base(sysmsg);

    join_active_threads();
    uc->sigmask = 0;
    restore_guest(sysmsg, uc, switch_context(sysmsg, NULL, CONTEXT_NONE), fs_base);
}

/* A signal that is not the guest's: dropped, or stepped over. */
static bool is_internal(struct sysmsg *sysmsg, s32 signo, struct ucontext *uc, u32 thread_state)
{
    /* In stub code a thread is on its way to give_back or to the check of ctx.interrupt: the interrupt is seen there. */
    if (signo == SIGCHLD && thread_state != THREAD_NONE)
        return true;
    if ((signo == SIGSEGV || signo == SIGBUS) && sysmsg->fault_jump != 0) {
        uc->gregs.rip += (u64)(s64)sysmsg->fault_jump;
        sysmsg->fault_jump = 0;
        return true;
    }
    return false;
}

/*
 * Let rt_sigreturn enter die() with all signals blocked: then the kernel kills instead of entering the handler. (In a handler that
 * blocks nothing one SIGSYS would follow another. The kernel begins at the signal stack's top again when it is full to the last
 * hundred bytes, so that not even this would end it.)
 */
static void end_with_signals_blocked(const struct sysmsg *sysmsg, struct ucontext *uc)
{
    uc->sigmask = ~0ull;
    uc->gregs.rip = (u64)die;
    uc->gregs.rdi = (u64)(s64)sysmsg->err_line;
    /* As behind a call, below the frame. */
    uc->gregs.rsp = ((u64)uc & ~63ull) - 2 * sizeof(u64) - sizeof(u64);
}

void handle_signal(s32 signo, const struct siginfo *info, struct ucontext *uc, u32 thread_state);
void handle_signal(s32 signo, const struct siginfo *info, struct ucontext *uc, u32 thread_state)
{
    struct sysmsg *sysmsg = locate_sysmsg((u64)__builtin_frame_address(0));
    struct thread_context *ctx;
    u32 new_state = CONTEXT_FAULT;
    u64 fs_base;
    bool live;

    /* The kernel clears DF on the way here, but neither AC nor NT. (Read whole: a part of it could lie across a boundary.) */
    if (load_relaxed(&uc->gregs.eflags) & (EFLAGS_AC | EFLAGS_NT))
        __asm__ volatile("pushfq; andq %0, (%%rsp); popfq" : : "i"(~(EFLAGS_AC | EFLAGS_NT)) : "memory", "cc");

    /* A panic is on its way out (see die). */
    if (sysmsg->err != 0) {
        end_with_signals_blocked(sysmsg, uc);
        return;
    }
    if (sysmsg->self != (u64)sysmsg)
        PANIC(sysmsg, ERROR_BAD_SYSMSG, 0);

    if (thread_state == THREAD_INITIALIZING) {
        begin_work(sysmsg, uc);
        return;
    }
    if (is_internal(sysmsg, signo, uc, thread_state))
        return;
    if (uc->gregs.rip >= (u64)sighandler_begin && uc->gregs.rip < (u64)sighandler_marked) {
        /* Another signal was here first, and did not come to say so: it finds the state as it was. */
        store_release(&sysmsg->state, THREAD_NONE);
        return;
    }

    ctx = current_context(sysmsg);
    fs_base = read_fs_base(sysmsg);
    /* syshandler loads the flags of a context before it is gone. With TF that step is not the guest's: the context has not
       begun to run, and begins here. */
    if (signo == SIGTRAP && uc->gregs.rip >= config_stub_start) {
        ctx->fpstate_changed = 1;
        restore_guest(sysmsg, uc, ctx, fs_base);
        if (leave_to_guest(sysmsg, ctx, uc, thread_state))
            return;
        ctx = switch_context(sysmsg, ctx, CONTEXT_FAULT);
        restore_guest(sysmsg, uc, ctx, fs_base);
        return;
    }
    ctx->signo = (u64)signo;
    copy_siginfo(ctx, info);

    /* A SIGCHLD in stub code with state NONE: syshandler was on its way out. The context holds the truth already, and
       the frame holds registers of which some are the guest's and some are not. That way is not taken up again. */
    live = signo != SIGCHLD || uc->gregs.rip < config_stub_start;
    if (live)
        save_guest(ctx, uc, fs_base);

    if (classify(sysmsg, signo, ctx, uc, &new_state) == RESUME_SAME) {
        if (leave_to_guest(sysmsg, ctx, uc, thread_state))
            return;
        new_state = CONTEXT_FAULT;
    }

    /* If the floating point registers were not captured, they may be those of another context. */
    ctx->fpstate_changed = live ? 0 : 1;
    ctx = switch_context(sysmsg, ctx, new_state);
    if (may_resume_here(signo, ctx)) {
        if (ctx->ptregs.fs_base != fs_base)
            write_fs_base(sysmsg, ctx->ptregs.fs_base);
        resume_guest(ctx);
    }
    restore_guest(sysmsg, uc, ctx, fs_base);
}
