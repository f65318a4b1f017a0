/* A guest that interferes with its table: header, operands, the table itself (S-147); and more sites than it holds (S-089). */

#define _GNU_SOURCE
#include "site.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define SITES 320
#define STRIDE 16
#define TABLE_SIZE 0x5000

SITE(site_getpid, 39);
SITE(site_getppid, 110);
SITE(site_getuid, 102);
SITE(site_getgid, 104);
SITE(site_geteuid, 107);

static sigjmp_buf back;

static void on_fault(int signo)
{
    siglongjmp(back, signo);
}

static int patched_after_use(long (*call)(long, long, long, long), const unsigned char *site, long expected)
{
    for (int i = 0; i < 20; i++)
        CHECK(call(0, 0, 0, 0) == expected);
    return is_patched(site);
}

int main(void)
{
    static const unsigned char body[] = {0x90, 0x90, 0x90, 0x90, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};
    struct sigaction action = {.sa_handler = on_fault};
    char line[256];
    int patched = 0;

    CHECK(patched_after_use(site_getpid, site_getpid_site, getpid()) == 1);
    read_table_line(line);
    printf("%s", strchr(line, ' ') + 1);
    volatile unsigned *table = (volatile unsigned *)strtoul(line, NULL, 16);
    CHECK(ADDRESS(table) >= 0x60000 && ADDRESS(table) <= 0x6a000);
    unsigned header = table[0];
    CHECK(header >= 2 && header < 50); /* ld.so may have used some */

    /* The header, as the guest wants it. */
    CHECK(mprotect((void *)table, TABLE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    table[0] = 0;
    CHECK(!patched_after_use(site_getppid, site_getppid_site, getppid()));
    table[0] = 255;
    CHECK(!patched_after_use(site_getuid, site_getuid_site, getuid()));
    table[0] = 0xffffffff;
    CHECK(!patched_after_use(site_getgid, site_getgid_site, getgid()));
    CHECK(table[0] == 0xffffffff);
    table[0] = header;
    CHECK(mprotect((void *)table, TABLE_SIZE, PROT_READ | PROT_EXEC) == 0);
    CHECK(patched_after_use(site_geteuid, site_geteuid_site, geteuid()));
    puts("headers that make no sense");

    /* More sites than entries, and a page behind the table that is not the table's. */
    unsigned char *canary = mmap((char *)table + TABLE_SIZE, 4096, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(canary == (unsigned char *)table + TABLE_SIZE);
    memset(canary, 0x5a, 4096);
    unsigned char *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(code != MAP_FAILED);
    for (int i = 0; i < SITES; i++)
        memcpy(code + 16 + i * STRIDE, body, sizeof(body));
    CHECK(mprotect(code, 8192, PROT_READ | PROT_EXEC) == 0);
    for (int round = 0; round < 12; round++)
        for (int i = 0; i < SITES; i++)
            CHECK(((long (*)(void))(code + 16 + i * STRIDE))() == getpid());
    for (int i = 0; i < SITES; i++)
        patched += is_patched(code + 16 + i * STRIDE + 4);
    printf("patched: many, not all: %d\n", patched > 200 && patched < 250);
    for (int i = 0; i < 4096; i++)
        CHECK(canary[i] == 0x5a);
    puts("nothing behind the table");

    /* Without the table a patched site faults, as any jump to nowhere; others go on. */
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    if (sigsetjmp(back, 1) == 0) {
        CHECK(munmap((void *)table, TABLE_SIZE) == 0);
        site_getpid(0, 0, 0, 0);
        CHECK(!"reached");
    }
    puts("faulted");
    return 0;
}
