/*
 * The guest of `systrap bench`: a static program without a C library that does one thing many times and prints how long it
 * took. The same file is run natively, under strace, under runsc and under systrap: `ladder WHAT COUNT [THREADS]`.
 *
 * It prints `WHAT COUNT NANOSECONDS`. The clock is asked twice, by system call, however large the count is.
 */

#include "ladder_arch.h"

#define PAGE 4096ull
#define STACK_SIZE (16 * PAGE)
#define MAX_THREADS 64u

#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS 0x22
#define MAP_FAILED_ABOVE (~0ull - MAX_ERRNO)
#define MADV_DONTNEED 4

#define CLONE_FS 0x200
#define CLONE_SIGHAND 0x800
#define CLONE_THREAD 0x10000
#define CLONE_SYSVSEM 0x40000
#define CLONE_PARENT_SETTID 0x100000
#define CLONE_CHILD_CLEARTID 0x200000
#define THREAD_FLAGS \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID | \
     CLONE_CHILD_CLEARTID)

#define SA_SIGINFO 4u
#define SIGUSR1 10

struct timespec {
    s64 sec;
    s64 nsec;
};

struct bpf_instruction {
    u16 code;
    u8 jump_true, jump_false;
    u32 k;
};

struct bpf_program {
    u16 length;
    const struct bpf_instruction *instructions;
};

static u32 threads;
static u32 thread_ids[MAX_THREADS];
static volatile u32 turn;
static volatile u8 selector;
static volatile u32 handled;

/* ---- a little of what a C library has ---- */

static u64 string_length(const char *text)
{
    u64 length = 0;

    while (text[length] != 0)
        length++;
    return length;
}

static bool same(const char *a, const char *b)
{
    while (*a != 0 && *a == *b)
        a++, b++;
    return *a == *b;
}

static void say(s32 fd, const char *text)
{
    syscall6(NR_write, (u64)(s64)fd, (u64)text, string_length(text), 0, 0, 0);
}

static __attribute__((noreturn)) void leave(u32 status)
{
    for (;;)
        syscall6(NR_exit_group, status, 0, 0, 0, 0, 0);
}

static __attribute__((noreturn)) void fail(const char *what)
{
    say(2, "ladder: ");
    say(2, what);
    say(2, "\n");
    leave(1);
}

static s64 must(s64 result, const char *what)
{
    if (result < 0 && result >= -MAX_ERRNO)
        fail(what);
    return result;
}

static u64 number(const char *text)
{
    u64 value = 0;

    for (; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (u64)(*text - '0');
    if (*text != 0)
        fail("a count must be a decimal number");
    return value;
}

static void print_number(u64 value)
{
    char digits[24];
    u32 at = sizeof(digits) - 1;

    digits[at] = 0;
    do
        digits[--at] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    say(1, digits + at);
}

static u64 now(void)
{
    struct timespec time = {0, 0};

    must(syscall6(NR_clock_gettime, CLOCK_MONOTONIC, (u64)&time, 0, 0, 0, 0), "clock_gettime");
    return (u64)time.sec * 1000000000ull + (u64)time.nsec;
}

static u8 *map(u64 bytes)
{
    return (u8 *)must(
        syscall6(NR_mmap, 0, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, ~0ull, 0), "mmap: no memory");
}

/* ---- threads ---- */

static void begin_thread(u32 index, void (*body)(u64), u64 argument)
{
    u8 *stack = map(STACK_SIZE);

    must(raw_clone(THREAD_FLAGS, stack + STACK_SIZE, &thread_ids[index], body, argument), "clone: no thread");
}

static void end_thread(u32 index)
{
    u32 id;

    while ((id = __atomic_load_n(&thread_ids[index], __ATOMIC_ACQUIRE)) != 0)
        syscall6(NR_futex, (u64)&thread_ids[index], FUTEX_WAIT, id, 0, 0, 0);
}

/* ---- what is measured ---- */

/* A site that cannot be patched: the number comes from a register. */
static void getpid_trapped(u64 count)
{
    for (u64 i = 0; i < count; i++)
        syscall6(hidden(NR_getpid), 0, 0, 0, 0, 0, 0);
}

/* A site as C libraries have them: the number is an immediate. */
static void getpid_patchable(u64 count)
{
    for (u64 i = 0; i < count; i++)
        getpid_at_a_site();
}

static void by_threads(void (*body)(u64), u64 count)
{
    for (u32 i = 1; i < threads; i++)
        begin_thread(i, body, count / threads);
    body(count / threads);
    for (u32 i = 1; i < threads; i++)
        end_thread(i);
}

static void in_threads(u64 count)
{
    by_threads(getpid_trapped, count);
}

static void in_threads_patchable(u64 count)
{
    by_threads(getpid_patchable, count);
}

static void install_filter(const struct bpf_instruction *code, u16 length)
{
    struct bpf_program program = {length, code};

    must(syscall6(NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0), "prctl: no_new_privs");
    must(syscall6(NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, (u64)&program, 0, 0, 0), "seccomp");
}

/* Only looked at by a filter, that lets it pass. */
static void filtered(u64 count)
{
    static const struct bpf_instruction pass[] = {{0x20, 0, 0, 0}, {0x06, 0, 0, 0x7fff0000}};

    install_filter(pass, 2);
    getpid_trapped(count);
}

static void count_handled(s32 signo, void *info, void *context)
{
    (void)signo, (void)info, (void)context;
    selector = 0;
    handled += 1;
}

static void on_signal(s32 signo)
{
    struct kernel_sigaction action = {(u64)count_handled, SA_SIGINFO, 0, 0};

    prepare_action(&action);
    must(syscall6(NR_rt_sigaction, (u64)signo, (u64)&action, 0, SIGSET_BYTES, 0, 0), "rt_sigaction");
}

/* RET_TRAP, and a handler in the same process. */
static void trapped_at_home(u64 count)
{
    static const struct bpf_instruction trap[] = {
        {0x20, 0, 0, 0}, {0x15, 0, 1, NR_getpid}, {0x06, 0, 0, 0x00030000}, {0x06, 0, 0, 0x7fff0000}};

    on_signal(SIGSYS);
    install_filter(trap, 4);
    getpid_trapped(count);
    if (handled != (u32)count)
        fail("a call was not trapped");
}

/* The same by syscall user dispatch. */
static void dispatched_at_home(u64 count)
{
    on_signal(SIGSYS);
    must(syscall6(NR_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, (u64)&selector, 0),
         "prctl: this kernel has no syscall user dispatch");
    for (u64 i = 0; i < count; i++) {
        selector = 1;
        syscall6(hidden(NR_getpid), 0, 0, 0, 0, 0, 0);
    }
    selector = 0;
    if (handled != (u32)count)
        fail("a call was not dispatched");
}

/* A signal to this thread, its handler, and sigreturn. */
static void signalled(u64 count)
{
    u64 pid = (u64)syscall6(NR_getpid, 0, 0, 0, 0, 0, 0);

    on_signal(SIGUSR1);
    for (u64 i = 0; i < count; i++)
        syscall6(NR_kill, pid, SIGUSR1, 0, 0, 0, 0);
    if (handled != (u32)count)
        fail("a signal was lost");
}

/* Throw one page away again and again; `refaulted` touches it besides: the difference is a page fault. */
static void discarded(u64 count)
{
    u8 *page = map(PAGE);

    for (u64 i = 0; i < count; i++)
        must(syscall6(NR_madvise, (u64)page, PAGE, MADV_DONTNEED, 0, 0, 0), "madvise");
}

static void refaulted(u64 count)
{
    volatile u8 *page = map(PAGE);

    for (u64 i = 0; i < count; i++) {
        must(syscall6(NR_madvise, (u64)page, PAGE, MADV_DONTNEED, 0, 0, 0), "madvise");
        *page = 1;
    }
}

/* Fresh memory, touched page by page from its beginning. */
static void touched(u64 count)
{
    volatile u8 *memory = map(count * PAGE);

    for (u64 i = 0; i < count; i++)
        memory[i * PAGE] = 1;
}

static void mapped(u64 count)
{
    for (u64 i = 0; i < count; i++) {
        u8 *memory = map(16 * PAGE);
        must(syscall6(NR_munmap, (u64)memory, 16 * PAGE, 0, 0, 0, 0), "munmap");
    }
}

static void forked(u64 count)
{
    for (u64 i = 0; i < count; i++) {
        s64 child = must(syscall6(NR_clone, SIGCHLD, 0, 0, 0, 0, 0), "fork");
        if (child == 0)
            leave(0);
        must(syscall6(NR_wait4, (u64)child, 0, 0, 0, 0, 0), "wait4");
    }
}

static void nothing(u64 argument)
{
    (void)argument;
}

static void threaded(u64 count)
{
    for (u64 i = 0; i < count; i++) {
        u8 *stack = map(STACK_SIZE);
        must(raw_clone(THREAD_FLAGS, stack + STACK_SIZE, &thread_ids[0], nothing, 0), "clone: no thread");
        end_thread(0);
        must(syscall6(NR_munmap, (u64)stack, STACK_SIZE, 0, 0, 0, 0), "munmap");
    }
}

/* Take turns: side `me` waits until turn is its own, and gives it to the other. */
static void take_turns(u64 count, u32 me)
{
    for (u64 i = 0; i < count; i++) {
        while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != me)
            syscall6(NR_futex, (u64)&turn, FUTEX_WAIT, 1 - me, 0, 0, 0);
        __atomic_store_n(&turn, 1 - me, __ATOMIC_RELEASE);
        syscall6(NR_futex, (u64)&turn, FUTEX_WAKE, 1, 0, 0, 0);
    }
}

static void other_side(u64 count)
{
    take_turns(count, 1);
}

/* Two threads wake each other: one switch there and one back. */
static void switched(u64 count)
{
    begin_thread(0, other_side, count);
    take_turns(count, 0);
    end_thread(0);
}

/* Nothing but computing: what a sandbox must not slow down. */
static void computed(u64 count)
{
    u64 value = 1;

    for (u64 i = 0; i < count; i++)
        value = value * 6364136223846793005ull + 1442695040888963407ull;
    if (value == 0)
        fail("never");
}

static void slept(u64 count)
{
    struct timespec time = {(s64)(count / 1000), (s64)(count % 1000) * 1000000};

    syscall6(NR_nanosleep, (u64)&time, 0, 0, 0, 0, 0);
}

static const struct step {
    const char *name;
    u64 first_repeats;
    void (*body)(u64);
} steps[] = {
    {"getpid", 100, getpid_trapped}, {"patched", 100, getpid_patchable},
    {"threads", 0, in_threads},      {"threads-patched", 0, in_threads_patchable},
    {"filter", 0, filtered},         {"trap", 0, trapped_at_home},
    {"dispatch", 0, dispatched_at_home},
    {"signal", 0, signalled},        {"discard", 100, discarded},
    {"refault", 100, refaulted},     {"touch", 0, touched},
    {"mmap", 10, mapped},            {"fork", 3, forked},
    {"thread", 3, threaded},         {"switch", 0, switched},
    {"compute", 0, computed},        {"sleep", 0, slept},
};

/* Called by the entry code with the initial stack: argc, then the arguments. */
void ladder_main(u64 *stack)
{
    const char **argv = (const char **)(stack + 1);
    u64 count, begin, end;

    if (stack[0] < 3)
        fail("usage: ladder WHAT COUNT [THREADS]");
    count = number(argv[2]);
    threads = stack[0] > 3 ? (u32)number(argv[3]) : 1;
    if (threads == 0 || threads > MAX_THREADS)
        fail("from 1 to 64 threads");
    for (u32 i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (!same(steps[i].name, argv[1]))
            continue;
        if (steps[i].first_repeats != 0)
            steps[i].body(steps[i].first_repeats);
        begin = now();
        steps[i].body(count);
        end = now();
        say(1, argv[1]);
        say(1, " ");
        print_number(count);
        say(1, " ");
        print_number(end - begin);
        say(1, "\n");
        leave(0);
    }
    fail("there is no such step");
}
