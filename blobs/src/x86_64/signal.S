/*
 * The way into the signal handler, and the short way out of it.
 *
 * Guests can be resumed in two ways. Upstream's is rt_sigreturn: the kernel loads the guest from the signal's frame, and opens
 * the signals that were blocked while the handler ran. With `user_resume` nothing is blocked in the handler, and after a system
 * call the guest is loaded by resume_guest, without the kernel: half a microsecond less. Its price is that SIGCHLD, by which the
 * sentry interrupts a guest, can come at every instruction of the stub. What handle_signal() makes of it depends on the place:
 *
 *   here, before the thread's state is PREP  the guest is still whole in the frame of the signal that came first: dropped. The
 *                                            context is on its way to the sentry, which is all an interrupt asks for
 *   state PREP                               dropped; the context is given back, or ctx.interrupt is still to be looked at
 *   state NONE                               the context lies in memory, complete, and nobody writes it: taken from there. This
 *                                            way out is not taken up again
 */

#include "kernel.h"
#include "load_registers.h"
#include "offsets.h"

#ifndef THREAD_AREA_SIZE
#error "the size of a thread area comes from the build"
#endif

/*
 * Entered by the kernel: rdi = signal, rsi = siginfo, rdx = ucontext, rsp on the thread's alternate stack. The state was NONE if
 * a guest ran; from the store on the thread is in stub code. handle_signal() is told what it was (ecx).
 */
        .section .text.sighandler, "ax", @progbits
        .globl  __export_sighandler
        .type   __export_sighandler, @function
        .balign 16
__export_sighandler:
        mov     %rsp, %rax
        and     $-THREAD_AREA_SIZE, %rax
        add     $THREAD_AREA_SIZE - PAGE_SIZE, %rax
        mov     SYSMSG_STATE(%rax), %ecx
        cmp     $SYSMSG_THREAD_NONE, %ecx
        jne     sighandler_marked
        movl    $SYSMSG_THREAD_PREP, SYSMSG_STATE(%rax)
        .globl  sighandler_marked
        .hidden sighandler_marked
sighandler_marked:
        jmp     handle_signal

/*
 * Load the guest from its context (rdi) and go on there. The thread's state is NONE; the context is only read. The kernel emptied
 * the floating point registers when it delivered the signal, so they are always loaded. iretq takes the rest in one step.
 */
        .globl  resume_guest
        .hidden resume_guest
        .type   resume_guest, @function
        .balign 16
resume_guest:
        mov     %rdi, %rcx
        mov     $XSAVE_MASK_LOW, %eax
        xor     %edx, %edx
        cmpl    $0, __export_arch_state+ARCH_STATE_XSAVE_MODE(%rip)
        je      1f
        xrstor64 CTX_FPSTATE(%rcx)
2:
        push    CTX_SS(%rcx)
        push    CTX_RSP(%rcx)
        push    CTX_EFLAGS(%rcx)
        push    CTX_CS(%rcx)
        push    CTX_RIP(%rcx)
        LOAD_REGISTERS
        iretq
1:
        fxrstor64 CTX_FPSTATE(%rcx)
        jmp     2b
