/* A table of trampolines and patched sites over fork: inherited as they are, and each one's own from then on (S-088). */

#include "site.h"

#include <sys/wait.h>
#include <unistd.h>

SITE(site_getpid, 39);
SITE(site_getppid, 110);
SITE(site_gettid, 186);

static void use(long (*call)(long, long, long, long), long expected)
{
    for (int i = 0; i < 20; i++)
        CHECK(call(0, 0, 0, 0) == expected);
}

static unsigned table_header(const char *line)
{
    return *(volatile unsigned *)strtoul(line, NULL, 16);
}

int main(void)
{
    char before[256], after[256];
    pid_t self = getpid(), child;
    int status;

    use(site_getpid, self);
    int patched = is_patched(site_getpid_site);
    printf("patched: %d\n", patched);
    read_table_line(before);
    CHECK(patched == (before[0] != 0));
    unsigned header = patched ? table_header(before) : 0;
    fflush(stdout);

    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* The same table at the same place; the call works at once; new sites go into it. */
        CHECK(is_patched(site_getpid_site) == patched);
        use(site_getpid, getpid());
        read_table_line(after);
        CHECK(strcmp(before, after) == 0);
        use(site_getppid, self);
        CHECK(is_patched(site_getppid_site) == patched);
        CHECK(!patched || table_header(after) == header + 1);
        pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild == 0) {
            use(site_getppid, getppid());
            use(site_getpid, getpid());
            use(site_gettid, getpid());
            read_table_line(after);
            CHECK(strcmp(before, after) == 0);
            _exit(3);
        }
        CHECK(waitpid(grandchild, &status, 0) == grandchild);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
        /* What the grandchild patched is its own. */
        CHECK(!is_patched(site_gettid_site));
        _exit(5);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);

    /* Nothing of the child's came here; this table goes on from where it was. */
    CHECK(!is_patched(site_getppid_site));
    CHECK(!patched || table_header(before) == header);
    use(site_getpid, self);
    use(site_gettid, self);
    CHECK(is_patched(site_gettid_site) == patched);
    CHECK(!patched || table_header(before) == header + 1);
    puts("each its own");
    return 0;
}
