/*
 * The birth of the source, the first stub process.
 *
 * The sentry calls this from Python. The child has a copy of the sentry's memory and of one thread; not one instruction of
 * the interpreter may run there, so everything up to the jump into the bootstrap image is here, without locks, allocation
 * or libc. The child goes on on its copy of the caller's stack.
 */

#include "kernel.h"
#include "source.h"
#include "arch_source.h" /* thread_pointer, enter_bootstrap, ask_for_cpuid_faults of the CPU */

/* exit code of a failure: + step */
#define EXIT_SOURCE 110
enum step { STEP_SETSID, STEP_DEFAULTS, STEP_HANDLERS, STEP_RSEQ, STEP_NO_NEW_PRIVS, STEP_FILTER };

static void check(enum step step, s64 result)
{
    if (result == 0)
        return;
    for (;;)
        syscall6(NR_exit, EXIT_SOURCE + (u64)step, 0, 0, 0, 0, 0);
}

static s64 set_action(u32 signal, const struct sigaction *action)
{
    return syscall6(NR_rt_sigaction, signal, (u64)action, 0, SIGSET_BYTES, 0, 0);
}

/*
 * Every signal to its default; then the seven of the stub's handler. They stay blocked, and so do the two that the C
 * library does not let its callers block.
 *
 * SIGCHLD is blocked in its own handler, whatever the flags say of the others: the sentry can send one after the other, and each
 * would take its part of the signal stack.
 */
static void set_signal_actions(const struct sigaction *handler)
{
    static const u8 handled[] = {SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGCHLD, SIGSYS};
    const struct sigaction by_default = {0, 0, 0, 0};
    const struct sigaction interrupt = {handler->handler, handler->flags & ~SA_NODEFER, handler->restorer, handler->mask};
    const u64 all = ~0ull;

    check(STEP_DEFAULTS, syscall6(NR_rt_sigprocmask, SIG_SETMASK, (u64)&all, 0, SIGSET_BYTES, 0, 0));
    for (u32 signal = 1; signal <= LAST_SIGNAL; signal++)
        if (signal != SIGKILL && signal != SIGSTOP)
            check(STEP_DEFAULTS, set_action(signal, &by_default));
    for (u32 i = 0; i < sizeof(handled); i++)
        check(STEP_HANDLERS, set_action(handled[i], handled[i] == SIGCHLD ? &interrupt : handler));
}

/* The child inherits the C library's registration; the first preemption after its memory is unmapped would kill it. */
static void unregister_rseq(const struct source_params *params)
{
    if (params->rseq_len == 0)
        return;
    check(STEP_RSEQ, syscall6(NR_rseq, thread_pointer() + params->rseq_offset, params->rseq_len, RSEQ_FLAG_UNREGISTER,
                              params->rseq_sig, 0, 0));
}

static __attribute__((noreturn)) void become_source(const struct source_params *params)
{
    /* setsid answers the new session's number, which is a process id. */
    check(STEP_SETSID, syscall6(NR_setsid, 0, 0, 0, 0, 0, 0) > 0 ? 0 : -1);
    set_signal_actions(params->sigaction);
    unregister_rseq(params);
    if (params->cpuid_fault != 0)
        ask_for_cpuid_faults(); /* a CPU that cannot do it is no failure */
    check(STEP_NO_NEW_PRIVS, syscall6(NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0));
    check(STEP_FILTER, syscall6(NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, params->filter, 0, 0, 0));
    enter_bootstrap(params);
}

/* Answers the source's pid, or -errno. The caller has blocked all signals, and its thread lives as long as the sentry. */
int clone_source(const struct source_params *params) __asm__("__export_clone_source");
int clone_source(const struct source_params *params)
{
    s64 pid = syscall6(NR_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0, 0);

    if (pid == 0)
        become_source(params);
    return (int)pid;
}
