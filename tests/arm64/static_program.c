/* A static program for arm64 that tells what it sees of the kernel's interface: whatever a C library would hide.
   It prints nothing that differs from run to run, so that a native run and a guest's can be compared. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define RECORDS 288 /* in struct sigcontext */
#define FPSIMD 0x46508001u
#define ESR 0x45535201u

struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

static __thread int mine = 42;
static sigjmp_buf back;
static volatile int handled;
static char *readonly;

static void fault(int number, siginfo_t *info, void *context)
{
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
    const unsigned char *record = (unsigned char *)machine + RECORDS;
    uint64_t syndrome = 0, address = (uint64_t)info->si_addr, saved = machine->fault_address;
    uint32_t magic, size, fp = 0;
    for (;; record += size) {
        memcpy(&magic, record, 4);
        memcpy(&size, record + 4, 4);
        if (!magic)
            break;
        if (magic == ESR)
            memcpy(&syndrome, record + 8, 8);
        if (magic == FPSIMD)
            fp = size;
    }
    if (address - (uint64_t)readonly < 65536) {
        address -= (uint64_t)readonly;
        saved -= (uint64_t)readonly;
    }
    printf("signal %d code %d address %lx saved %lx class %lx write %d fp %u link %d\n", number, info->si_code, address,
           saved, syndrome >> 26, (int)(syndrome >> 6 & 1), fp, ((ucontext_t *)context)->uc_link != 0);
    siglongjmp(back, 1);
}

static void count(int number)
{
    (void)number;
    handled++;
    __asm__ volatile("fmov d8, #1.5\n fmov d9, #2.0" ::: "d8", "d9");
}

static void *thread(void *argument)
{
    mine += (int)(long)argument;
    return (void *)(long)mine;
}

static void threads(void)
{
    pthread_t running[4];
    void *result;
    for (long i = 0; i < 4; i++)
        pthread_create(&running[i], 0, thread, (void *)i);
    for (int i = 0; i < 4; i++) {
        pthread_join(running[i], &result);
        printf("thread-local %ld\n", (long)result);
    }
    printf("and here %d\n", mine);
}

static void faults(void)
{
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    readonly = mmap(0, 65536, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&stack, 0);
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    sigaction(SIGILL, &action, 0);
    sigaction(SIGTRAP, &action, 0);
    if (!sigsetjmp(back, 1))
        *(volatile int *)0x1238 = 1;
    if (!sigsetjmp(back, 1))
        printf("%d", *(volatile int *)0x1238);
    if (!sigsetjmp(back, 1))
        ((void (*)(void))0x10000)();
    if (!sigsetjmp(back, 1))
        *(volatile char *)(readonly + 8) = 1;
    if (!sigsetjmp(back, 1))
        __asm__ volatile("udf #0");
    if (!sigsetjmp(back, 1))
        __asm__ volatile("brk #0");
    if (!sigsetjmp(back, 1))
        __asm__ volatile("mrs x0, ttbr0_el1" ::: "x0");
}

/* As glibc does: no SA_RESTORER. What the handler does to d8, the frame undoes. */
static void without_restorer(void)
{
    struct kernel_action action = {count, 0, 0, 0};
    uint64_t kept = 0x4045000000000000, found;
    syscall(SYS_rt_sigaction, SIGUSR1, &action, 0, 8);
    __asm__ volatile("fmov d8, %1\n mov x8, #129\n mov x0, %2\n mov x1, #10\n svc #0\n fmov %0, d8"
                     : "=r"(found)
                     : "r"(kept), "r"((long)getpid())
                     : "x0", "x1", "x8", "d8", "memory");
    printf("handled %d, d8 %lx\n", handled, found);
}

static void restarts(void)
{
    int ends[2], status;
    char byte;
    if (pipe(ends))
        exit(1);
    for (int restart = 0; restart < 2; restart++) {
        struct sigaction action = {.sa_handler = count, .sa_flags = restart ? SA_RESTART : 0};
        struct itimerval soon = {.it_value = {1, 0}};
        sigaction(SIGALRM, &action, 0);
        pid_t child = fork();
        if (!child) {
            sleep(5);
            _exit(write(ends[1], "x", 1) == 1 ? 7 : 8);
        }
        setitimer(ITIMER_REAL, &soon, 0);
        ssize_t got = read(ends[0], &byte, 1);
        printf("read %zd %s\n", got, got < 0 ? strerror(errno) : "");
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        printf("child %d, handled %d\n", WEXITSTATUS(status), handled);
        if (got < 0 && read(ends[0], &byte, 1) != 1)
            exit(1);
    }
}

static void files(void)
{
    struct stat attributes;
    struct epoll_event event = {EPOLLIN, {.u64 = 0x1122334455667788}}, found[2];
    int ends[2], set = epoll_create1(0);
    stat("/etc/passwd", &attributes);
    printf("mode %o links %d size %ld owner %d\n", attributes.st_mode, (int)attributes.st_nlink,
           (long)attributes.st_size, attributes.st_uid);
    if (pipe(ends))
        exit(1);
    epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event);
    event.data.u64 = 0x99AABBCCDDEEFF00;
    epoll_ctl(set, EPOLL_CTL_ADD, ends[1], &event);
    event.events = EPOLLOUT;
    epoll_ctl(set, EPOLL_CTL_MOD, ends[1], &event);
    if (write(ends[1], "y", 1) != 1)
        exit(1);
    int count_found = epoll_wait(set, found, 2, 1000);
    uint64_t sum = 0;
    for (int i = 0; i < count_found; i++)
        sum += found[i].data.u64 + found[i].events;
    printf("epoll %d %lx\n", count_found, sum);
    printf("flags %o\n", fcntl(open("/etc", O_DIRECTORY | O_RDONLY), F_GETFL));
    printf("no directory: %d %s\n", open("/etc/passwd", O_DIRECTORY | O_RDONLY), strerror(errno));
    printf("a link: %d %s\n", open("/proc/self/exe", O_NOFOLLOW), strerror(errno));
    printf("no such call: %ld %s\n", syscall(9999), strerror(errno));
}

int main(void)
{
    struct utsname name;
    uname(&name);
    printf("%s %s %s page %lu\n", name.sysname, name.machine, (char *)getauxval(AT_PLATFORM), getauxval(AT_PAGESZ));
    threads();
    faults();
    without_restorer();
    restarts();
    files();
    return 0;
}
