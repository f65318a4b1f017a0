/* Patching changes this process's copy of the code, and no file: not as others map it, not as it is read (S-091). */

#include "site.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

SITE(site_getpid, 39);

static const unsigned char original[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05};
extern const char __executable_start[];

int main(int argc, char **argv)
{
    size_t at = (const char *)site_getpid_site - __executable_start;
    int file = open("/proc/self/exe", O_RDONLY);
    struct stat info;
    unsigned char read_back[7];

    if (argc > 1) {
        CHECK(memcmp(site_getpid_site, original, 7) == 0);
        puts("a new program finds it as it was");
        return 0;
    }
    CHECK(file >= 0 && fstat(file, &info) == 0);
    unsigned char *shared = mmap(NULL, info.st_size, PROT_READ, MAP_SHARED, file, 0);
    unsigned char *private = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    unsigned char *late;
    CHECK(shared != MAP_FAILED && private != MAP_FAILED);
    CHECK(memcmp(private + at, original, 7) == 0);
    for (int i = 0; i < 20; i++)
        CHECK(site_getpid(0, 0, 0, 0) == getpid());
    printf("patched: %d\n", is_patched(site_getpid_site));

    late = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    CHECK(late != MAP_FAILED);
    CHECK(pread(file, read_back, 7, at) == 7);
    CHECK(memcmp(shared + at, original, 7) == 0);
    CHECK(memcmp(private + at, original, 7) == 0);
    CHECK(memcmp(late + at, original, 7) == 0);
    CHECK(memcmp(read_back, original, 7) == 0);
    puts("mapped and read as it was");
    fflush(stdout);

    /* An executable shared mapping runs, and is never patched. */
    unsigned char *run = mmap(NULL, info.st_size, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    CHECK(run != MAP_FAILED);
    for (int i = 0; i < 20; i++)
        CHECK(((long (*)(void))(run + at))() == getpid());
    CHECK(memcmp(run + at, original, 7) == 0);
    puts("a shared mapping is left alone");
    fflush(stdout);

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        execl("/proc/self/exe", argv[0], "again", NULL);
    CHECK(waitpid(child, NULL, 0) == child);
    return 0;
}
