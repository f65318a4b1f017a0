/* A restorer that is a patchable call itself, as musl's is: rt_sigreturn through a patched site restores everything. */

#define _GNU_SOURCE
#include "site.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SA_RESTORER 0x04000000

struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};

extern unsigned char restorer_site[];
void restorer(void);
__asm__(".globl restorer, restorer_site\n"
        "nop\n"
        "restorer:\n"
        "restorer_site: mov $15, %eax\n"
        "  syscall\n");

/* kill(pid, signo), with xmm7, r12, flags set before and read after; answers how many of them changed. */
extern unsigned char raise_site[];
long raise_and_compare(long pid, long signo, long pattern);
__asm__(".globl raise_and_compare, raise_site\n"
        "raise_and_compare:\n"
        "  push %r12\n"
        "  mov %rdx, %r12\n"
        "  movq %rdx, %xmm7\n"
        "  mov %rdx, %r8\n"
        "  std\n"
        "  stc\n"
        "raise_site:\n"
        "  mov $62, %eax\n"
        "  syscall\n"
        "  setnc %al\n" /* movzbl and mov keep the flags */
        "  cld\n"
        "  movzbl %al, %eax\n"
        "  movq %xmm7, %rcx\n"
        "  cmp %r8, %rcx\n"
        "  je 1f\n"
        "  inc %eax\n"
        "1:cmp %r8, %r12\n"
        "  je 2f\n"
        "  inc %eax\n"
        "2:cmp %rdx, %r8\n"
        "  je 3f\n"
        "  inc %eax\n"
        "3:pop %r12\n"
        "  ret\n");

static volatile int handled;

static void on_signal(int signo)
{
    (void)signo;
    handled++;
    __asm__ volatile("movq %0, %%xmm7\n mov %0, %%r12\n mov %0, %%r8\n mov %0, %%rdx\n clc\n"
                     : : "r"(-1L) : "xmm7", "r12", "r8", "rdx", "cc");
}

int main(void)
{
    struct kernel_sigaction action = {on_signal, SA_RESTORER | SA_RESTART, restorer, 0};

    CHECK(syscall(SYS_rt_sigaction, SIGUSR1, &action, NULL, 8) == 0);
    for (int i = 1; i <= 40; i++) {
        CHECK(raise_and_compare(getpid(), SIGUSR1, 0x1234567800000000 + i) == 0);
        CHECK(handled == i);
    }
    printf("patched: %d %d\n", is_patched(raise_site), is_patched(restorer_site));
    return 0;
}
