/* Call sites that can be patched, each a function of its own, and looks at what became of them. */

#ifndef SITE_H
#define SITE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Define `name(a, b, c, d)`, which makes system call `nr` at name_site and returns what the kernel returned. */
#define SITE(name, nr)                                                                    \
    long name(long a, long b, long c, long d);                                            \
    extern unsigned char name##_site[];                                                   \
    __asm__(".pushsection .text\n"                                                        \
            ".globl " #name ", " #name "_site\n" #name ": nop\n mov %rcx, %r10\n" #name   \
            "_site: mov $" #nr ", %eax\n syscall\n ret\n .popsection")

#define ADDRESS(pointer) ((long)(pointer))

static inline int is_patched(const unsigned char *site)
{
    return site[0] == 0xff && site[1] == 0x24 && site[2] == 0x25 && site[5] == 0x06;
}

static inline void check_at(int good, const char *what, int line)
{
    if (!good) {
        printf("line %d: not so: %s\n", line, what);
        fflush(stdout);
        _Exit(1);
    }
}

#define CHECK(condition) check_at((condition) != 0, #condition, __LINE__)

/* The line of /proc/self/maps about the table, "" where there is none. */
static inline void read_table_line(char line[256])
{
    FILE *maps = fopen("/proc/self/maps", "r");

    CHECK(maps != NULL);
    while (fgets(line, 256, maps) != NULL)
        if (strstr(line, "[usertrap]") != NULL)
            break;
    if (feof(maps))
        line[0] = 0;
    fclose(maps);
}

#endif
