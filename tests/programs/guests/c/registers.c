/* What a patched call leaves alone: flags with DF and AC, rcx, r11, the red zone; and single steps through it (S-092, S-093). */

#define _GNU_SOURCE
#include "site.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

SITE(site_write, 1);

struct seen {
    long result, flags, rcx, r11;
    int red_zone;
};

/* getpid with these flags and patterns, from this very function: its site is the one at probe_site. */
extern unsigned char probe_site[];
void probe(long flags, struct seen *seen);
__asm__(".globl probe, probe_site\n"
        "probe:\n"
        "  push %rbx\n"
        "  mov %rsi, %rbx\n"
        "  movq $0x7e57, -16(%rsp)\n"
        "  movq $0x7e58, -128(%rsp)\n"
        "  lea -128(%rsp), %rsp\n" /* the red zone's words are above rsp now: pushes go below */
        "  push %rdi\n"
        "  mov $0x1111, %ecx\n"
        "  mov $0x2222, %r11d\n"
        "  popf\n"
        "  lea 128(%rsp), %rsp\n"
        "  nop\n"
        "probe_site:\n"
        "  mov $39, %eax\n"
        "  syscall\n"
        "  mov %rax, 0(%rbx)\n"
        "  mov %rcx, 16(%rbx)\n"
        "  mov %r11, 24(%rbx)\n"
        "  mov -16(%rsp), %rax\n"
        "  mov -128(%rsp), %rcx\n"
        "  lea -128(%rsp), %rsp\n"
        "  pushf\n"
        "  pop 8(%rbx)\n"
        "  push $0x202\n"
        "  popf\n"
        "  lea 128(%rsp), %rsp\n"
        "  movl $0, 32(%rbx)\n"
        "  cmp $0x7e57, %rax\n"
        "  jne 1f\n"
        "  cmp $0x7e58, %rcx\n"
        "  jne 1f\n"
        "  movl $1, 32(%rbx)\n"
        "1:pop %rbx\n"
        "  ret\n");

static volatile int steps, steps_in_site;

static void on_trap(int signo, siginfo_t *info, void *context)
{
    unsigned char *ip = (unsigned char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

    (void)signo, (void)info;
    steps++;
    steps_in_site += ip > probe_site && ip < probe_site + 7;
    /* Nothing but this program's own code is ever seen. */
    CHECK((unsigned long)ip > 0x100000);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    static const long flag_sets[] = {0x202, 0x202 | 0xcd5, 0x202 | 1 << 18, 0x202 | 1 << 10, 0x202 | 1 << 18 | 0xcd5};
    struct seen seen;
    int pipes[2], patched = 0;
    char bytes[2000];

    /* The write that leads to the patch happens once, as all others (S-094). */
    CHECK(pipe(pipes) == 0);
    for (int i = 0; i < 1000; i++)
        CHECK(site_write(pipes[1], ADDRESS("."), 1, 0) == 1);
    CHECK(read(pipes[0], bytes, sizeof(bytes)) == 1000);
    printf("written once: %d\n", is_patched(site_write_site));

    for (int round = 0; round < 20; round++) {
        patched = is_patched(probe_site);
        for (unsigned i = 0; i < sizeof(flag_sets) / sizeof(flag_sets[0]); i++) {
            patched = is_patched(probe_site);
            probe(flag_sets[i], &seen);
            CHECK(seen.result == getpid());
            CHECK(seen.flags == flag_sets[i]);
            CHECK(seen.red_zone);
            CHECK(!patched || (seen.rcx == 0x1111 && seen.r11 == 0x2222));
        }
    }
    printf("kept: %d\n", patched);

    CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        steps = steps_in_site = 0;
        probe(0x302, &seen);
        CHECK(seen.result == getpid());
        CHECK(steps > 5);
        CHECK(!patched || steps_in_site == 0);
    }
    printf("stepped: %d\n", patched);
    return 0;
}
