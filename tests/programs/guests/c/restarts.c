/* Interrupted calls at patched sites: with SA_RESTART they go on, without they are EINTR (S-085). */

#include "site.h"

#include <errno.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

SITE(site_read, 0);
SITE(site_nanosleep, 35);
SITE(site_getpid, 39);
SITE(site_wait4, 61);

static volatile sig_atomic_t alarms;
static int feed = -1;

/* Uses patched calls itself, and feeds the reader at the third alarm. */
static void on_alarm(int signo)
{
    (void)signo;
    alarms++;
    CHECK(site_getpid(0, 0, 0, 0) == getpid());
    if (alarms == 3 && feed >= 0)
        CHECK(write(feed, "x", 1) == 1);
}

static void set_alarms(int flags, long microseconds)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = flags};
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};

    alarms = 0;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void stop_alarms(void)
{
    struct itimerval off = {{0, 0}, {0, 0}};

    CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
}

int main(void)
{
    int pipes[2];
    char byte;
    struct timespec moment = {0, 1000}, long_time = {30, 0}, half = {0, 50000000}, rest;

    CHECK(pipe(pipes) == 0);
    for (int i = 0; i < 20; i++) {
        CHECK(write(pipes[1], "w", 1) == 1);
        CHECK(site_read(pipes[0], ADDRESS(&byte), 1, 0) == 1);
        CHECK(site_nanosleep(ADDRESS(&moment), 0, 0, 0) == 0);
        CHECK(site_wait4(-1, 0, WNOHANG, 0) == -ECHILD);
        CHECK(site_getpid(0, 0, 0, 0) == getpid());
    }
    printf("patched: %d %d %d %d\n", is_patched(site_read_site), is_patched(site_nanosleep_site),
           is_patched(site_wait4_site), is_patched(site_getpid_site));

    for (int i = 0; i < 5; i++) {
        feed = pipes[1];
        set_alarms(SA_RESTART, 5000);
        CHECK(site_read(pipes[0], ADDRESS(&byte), 1, 0) == 1);
        stop_alarms();
        CHECK(byte == 'x' && alarms >= 3);
    }
    puts("read goes on");

    feed = -1;
    for (int i = 0; i < 5; i++) {
        set_alarms(0, 5000);
        CHECK(site_read(pipes[0], ADDRESS(&byte), 1, 0) == -EINTR);
        stop_alarms();
        CHECK(alarms >= 1);
    }
    puts("read is interrupted");

    set_alarms(SA_RESTART, 5000);
    CHECK(site_nanosleep(ADDRESS(&long_time), ADDRESS(&rest), 0, 0) == -EINTR);
    stop_alarms();
    CHECK(rest.tv_sec == 29);
    puts("nanosleep is interrupted, and says what is left");

    /* Stopped and continued, without a handler: the sleep goes on by itself (natively by restart_syscall). */
    pid_t sleeper = getpid();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        usleep(10000);
        CHECK(kill(sleeper, SIGSTOP) == 0);
        usleep(5000);
        CHECK(kill(sleeper, SIGCONT) == 0);
        _exit(0);
    }
    CHECK(site_nanosleep(ADDRESS(&half), 0, 0, 0) == 0);
    CHECK(waitpid(child, NULL, 0) == child);
    puts("nanosleep survives a stop");

    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        usleep(60000);
        _exit(7);
    }
    int status = 0;
    set_alarms(SA_RESTART, 5000);
    CHECK(site_wait4(child, ADDRESS(&status), 0, 0) == child);
    stop_alarms();
    CHECK(WEXITSTATUS(status) == 7 && alarms >= 1);
    puts("wait4 goes on");
    return 0;
}
