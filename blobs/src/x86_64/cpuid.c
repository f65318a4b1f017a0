/* CPUID for the sentry, which asks it for the size and the features of the FP state. */

#include "types.h"

/* regs: eax, ebx, ecx, edx; leaf and subleaf go in through eax and ecx. */
int cpuid(u32 *regs) __asm__("__export_cpuid");
int cpuid(u32 *regs)
{
    __asm__ volatile("cpuid" : "+a"(regs[0]), "=b"(regs[1]), "+c"(regs[2]), "=d"(regs[3]));
    return 0;
}
