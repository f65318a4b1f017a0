/*
 * The words of the sysmsg image that the sentry patches before it makes the image read-only: upstream's seven, and
 * ours: the address of the ready ring, whether the CPU has the instruction rdpid, and whether guests are resumed without
 * rt_sigreturn where that can be (x86-64). All zero in the image.
 */

#include "offsets.h" /* ARCH_STATE_SIZE */

        .section .config, "a", @progbits

.macro CONFIG name, size
        .globl  __export_\name
        .type   __export_\name, @object
        .size   __export_\name, \size
        .balign 8
__export_\name:
        .zero   \size
.endm

        CONFIG  deep_sleep_timeout, 8
        CONFIG  context_region, 8
        CONFIG  stub_start, 8
        CONFIG  arch_state, ARCH_STATE_SIZE
        CONFIG  context_queue_addr, 8
        CONFIG  spinning_queue_addr, 8
        CONFIG  disable_syscall_patching, 8
        CONFIG  ready_ring, 8
        CONFIG  rdpid, 8
        CONFIG  user_resume, 8
