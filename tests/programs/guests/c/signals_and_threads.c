/* Threads that run fresh code all at once, while timers interrupt them: every call gives its result, once (S-084, S-040). */

#include "site.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define THREADS 4
#define SITES 24
#define ROUNDS 40
#define STRIDE 16

typedef long (*call_type)(void);

static unsigned char *code;
static volatile sig_atomic_t ticks;

SITE(site_getpid, 39);

static void on_tick(int signo)
{
    (void)signo;
    ticks++;
    CHECK(site_getpid(0, 0, 0, 0) == getpid());
}

/* gettid, so that a result that went to another thread is seen. */
static void *run(void *argument)
{
    long self = syscall(SYS_gettid);

    (void)argument;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SITES; i++)
            CHECK(((call_type)(code + 16 + i * STRIDE))() == self);
    return NULL;
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    struct itimerval timer = {{0, 2000}, {0, 2000}};
    static const unsigned char body[] = {0x90, 0x90, 0x90, 0x90, 0xb8, 0xba, 0, 0, 0, 0x0f, 0x05, 0xc3};
    pthread_t threads[THREADS];
    int patched = 0;

    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(code != MAP_FAILED);
    for (int i = 0; i < SITES; i++)
        memcpy(code + 16 + i * STRIDE, body, sizeof(body));
    CHECK(mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, run, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < SITES; i++)
        patched += is_patched(code + 16 + i * STRIDE + 4);
    printf("patched: %d\n", patched);
    printf("interrupted: %d\n", ticks > 0);
    return 0;
}
