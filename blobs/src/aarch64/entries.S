/*
 * What the sysmsg image exports besides the signal handler.
 *
 * There are no patched call sites on arm64: no register is free to find a thread's sysmsg by, and the four bytes of an svc
 * have no room for a jump that reaches anywhere. So syshandler is never entered; and threads start through a signal, so
 * start is not either. Both names are there because upstream's sentry looks them up.
 */

#include "kernel.h"

/* sa_restorer of the signal handler, which returns here; the frame of the signal lies at sp. */
        .section .text.first, "ax", @progbits
        .globl  __export_restore_rt
        .type   __export_restore_rt, @function
__export_restore_rt:
        mov     x8, #NR_rt_sigreturn
        svc     #0
        brk     #1

        .section .text.unused, "ax", @progbits
        .globl  __export_syshandler
        .type   __export_syshandler, @function
__export_syshandler:
        brk     #0xdead

        .globl  __export_start
        .type   __export_start, @function
__export_start:
        brk     #0xdead
