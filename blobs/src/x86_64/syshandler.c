/*
 * The C part of syshandler (syshandler.S calls it when the guest's state is in the context), and the check that the
 * assembler's offsets are those of the structures.
 */

#include "offsets.h"
#include "resume.h"

LAYOUT(struct sysmsg, self, SYSMSG_SELF);
LAYOUT(struct sysmsg, ret_addr, SYSMSG_RET_ADDR);
LAYOUT(struct sysmsg, app_stack, SYSMSG_APP_STACK);
LAYOUT(struct sysmsg, context, SYSMSG_CONTEXT);
LAYOUT(struct sysmsg, state, SYSMSG_STATE);
LAYOUT(struct thread_context, fpstate, CTX_FPSTATE);
LAYOUT(struct thread_context, fpstate_changed, CTX_FPSTATE_CHANGED);
LAYOUT(struct thread_context, ptregs.r15, CTX_R15);
LAYOUT(struct thread_context, ptregs.r14, CTX_R14);
LAYOUT(struct thread_context, ptregs.r13, CTX_R13);
LAYOUT(struct thread_context, ptregs.r12, CTX_R12);
LAYOUT(struct thread_context, ptregs.rbp, CTX_RBP);
LAYOUT(struct thread_context, ptregs.rbx, CTX_RBX);
LAYOUT(struct thread_context, ptregs.r11, CTX_R11);
LAYOUT(struct thread_context, ptregs.r10, CTX_R10);
LAYOUT(struct thread_context, ptregs.r9, CTX_R9);
LAYOUT(struct thread_context, ptregs.r8, CTX_R8);
LAYOUT(struct thread_context, ptregs.rax, CTX_RAX);
LAYOUT(struct thread_context, ptregs.rcx, CTX_RCX);
LAYOUT(struct thread_context, ptregs.rdx, CTX_RDX);
LAYOUT(struct thread_context, ptregs.rsi, CTX_RSI);
LAYOUT(struct thread_context, ptregs.rdi, CTX_RDI);
LAYOUT(struct thread_context, ptregs.orig_rax, CTX_ORIG_RAX);
LAYOUT(struct thread_context, ptregs.rip, CTX_RIP);
LAYOUT(struct thread_context, ptregs.cs, CTX_CS);
LAYOUT(struct thread_context, ptregs.eflags, CTX_EFLAGS);
LAYOUT(struct thread_context, ptregs.rsp, CTX_RSP);
LAYOUT(struct thread_context, ptregs.ss, CTX_SS);
LAYOUT(struct thread_context, ptregs.fs, CTX_FS);
LAYOUT(struct thread_context, ptregs.gs, CTX_GS);
LAYOUT(struct arch_state, xsave_mode, ARCH_STATE_XSAVE_MODE);
_Static_assert(THREAD_NONE == SYSMSG_THREAD_NONE && THREAD_PREP == SYSMSG_THREAD_PREP, "the same states");
_Static_assert(EFLAGS_AC == 1ul << EFLAGS_AC_BIT, "the same bit");

#define READ_SELECTOR(name)                                    \
    ({                                                         \
        u32 selector;                                          \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(selector)); \
        (u16)selector;                                         \
    })
#define LOAD_SELECTOR(name, value) __asm__ volatile("mov %0, %%" #name : : "r"((u32)(value)) : "memory")

/*
 * Bring the selectors of fs and gs to the context's; seldom needed, for the sentry resets them each time. Answers
 * whether fs was loaded, which changes its base. The base of gs, which a load changes too, must go on leading to sysmsg:
 * where it could not be written back the selector stays as it is.
 */
static bool load_selectors(struct sysmsg *sysmsg, const struct thread_context *ctx)
{
    u16 fs = (u16)ctx->ptregs.fs, gs = (u16)ctx->ptregs.gs;

    if (READ_SELECTOR(gs) != gs && config_arch_state.fsgsbase != 0) {
        LOAD_SELECTOR(gs, gs);
        __asm__ volatile("wrgsbase %0" : : "r"(sysmsg) : "memory");
    }
    if (READ_SELECTOR(fs) == fs)
        return false;
    LOAD_SELECTOR(fs, fs);
    return true;
}

/* Give `ctx` back as a system call and answer the context to resume. When it returns, a SIGCHLD may end this way out. */
struct thread_context *syshandler_switch(struct sysmsg *sysmsg, struct thread_context *ctx)
{
    u64 fs_base;

    if (load_acquire(&sysmsg->state) != THREAD_PREP)
        PANIC(sysmsg, ERROR_BAD_THREAD_STATE, 0);

    fs_base = read_fs_base(sysmsg);
    ctx->ptregs.fs_base = fs_base;
    ctx->signo = SIGSYS;
    ctx->siginfo.addr = 0;
    ctx->siginfo.syscall = (s32)ctx->ptregs.rax;
    ctx->ptregs.rax = (u64)-ENOSYS;
    ctx->fpstate_changed = 0;

    ctx = switch_context(sysmsg, ctx, CONTEXT_SYSCALL_TRAP);
    if (load_selectors(sysmsg, ctx) || ctx->ptregs.fs_base != fs_base)
        write_fs_base(sysmsg, ctx->ptregs.fs_base);
    return ctx;
}

SIZE(struct arch_state, ARCH_STATE_SIZE);
