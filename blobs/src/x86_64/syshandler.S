/*
 * System calls of patched sites: a function call into the stub instead of a signal.
 *
 * A trampoline of the sentry enters syshandler with
 *   gs base  this thread's sysmsg, whose state is PREP, app_stack = the guest's rsp, ret_addr = where the guest goes on
 *   rsp      sysmsg.syshandler_stack (a multiple of 16)
 *   rax      number of the system call
 * and everything else, flags included, as the guest left it. The way back restores every register but rax, which is
 * the result: rcx and r11 survive here, unlike in a real system call. The guest's stack is not touched.
 */

#include "kernel.h"
#include "load_registers.h"
#include "offsets.h"

/* sa_restorer of the signal handler: the frame of the signal lies at rsp. */
        .section .text.first, "ax", @progbits
        .globl  __export_restore_rt
        .type   __export_restore_rt, @function
__export_restore_rt:
        mov     $NR_rt_sigreturn, %eax
        syscall
        hlt

        .section .text.syshandler, "ax", @progbits
        .globl  __export_syshandler
        .type   __export_syshandler, @function
        .balign 16
__export_syshandler:
        /* Keep the guest's flags; then make them such as compiled code expects: DF clear, AC clear. */
        pushfq
        cld
        push    %rcx
        btl     $EFLAGS_AC_BIT, 8(%rsp)
        jc      clear_ac
ac_is_clear:

        /* rcx = the context; it is the one register that was saved first. */
        mov     %gs:SYSMSG_CONTEXT, %rcx
        mov     %r15, CTX_R15(%rcx)
        mov     %r14, CTX_R14(%rcx)
        mov     %r13, CTX_R13(%rcx)
        mov     %r12, CTX_R12(%rcx)
        mov     %rbp, CTX_RBP(%rcx)
        mov     %rbx, CTX_RBX(%rcx)
        mov     %r11, CTX_R11(%rcx)
        mov     %r10, CTX_R10(%rcx)
        mov     %r9, CTX_R9(%rcx)
        mov     %r8, CTX_R8(%rcx)
        mov     %rax, CTX_RAX(%rcx)
        mov     %rax, CTX_ORIG_RAX(%rcx)
        mov     %rdx, CTX_RDX(%rcx)
        mov     %rsi, CTX_RSI(%rcx)
        mov     %rdi, CTX_RDI(%rcx)
        mov     %cs, CTX_CS(%rcx)
        mov     %ss, CTX_SS(%rcx)
        mov     %fs, CTX_FS(%rcx)
        mov     %gs, CTX_GS(%rcx)

        /* What lies on the stack and in sysmsg: rcx, flags, rsp, rip. The stack is empty again, and a multiple of 16. */
        pop     %rax
        mov     %rax, CTX_RCX(%rcx)
        pop     %rax
        mov     %rax, CTX_EFLAGS(%rcx)
        mov     %gs:SYSMSG_APP_STACK, %rax
        mov     %rax, CTX_RSP(%rcx)
        mov     %gs:SYSMSG_RET_ADDR, %rax
        mov     %rax, CTX_RIP(%rcx)

        /* The floating point state, in the way this CPU has (enum xsave_mode); edx:eax = what to save. */
        mov     %rcx, %rsi
        mov     $XSAVE_MASK_LOW, %eax
        xor     %edx, %edx
        mov     __export_arch_state+ARCH_STATE_XSAVE_MODE(%rip), %ecx
        cmp     $1, %ecx
        jb      save_fxsave
        je      save_xsave
        xsaveopt64 CTX_FPSTATE(%rsi)
fp_saved:

        /* The C part: rdi = sysmsg, rsi = this context; answers the context to resume, which may be another. */
        mov     %gs:SYSMSG_SELF, %rdi
        call    syshandler_switch

        /* From here until the jump a SIGCHLD counts (the state is NONE). The handler then takes the context as it lies
           in memory and never comes back here; so nothing may be written into the context any more. */
        mov     %rax, %rcx

        /* Load the floating point state, if the registers do not hold it. */
        cmpl    $0, CTX_FPSTATE_CHANGED(%rcx)
        jne     load_fp
fp_loaded:

        /* What is needed when the registers are the guest's again, in reverse order: flags, rsp; and rip. */
        mov     CTX_RIP(%rcx), %rax
        mov     %rax, %gs:SYSMSG_RET_ADDR
        push    CTX_RSP(%rcx)
        push    CTX_EFLAGS(%rcx)

        LOAD_REGISTERS

        /* Nothing behind popfq may change the flags. */
        popfq
        mov     (%rsp), %rsp
        jmp     *%gs:SYSMSG_RET_ADDR

/* ---- what is seldom needed ---- */

clear_ac:
        pushfq
        andl    $~(1 << EFLAGS_AC_BIT), (%rsp)
        popfq
        jmp     ac_is_clear

save_xsave:
        xsave64 CTX_FPSTATE(%rsi)
        jmp     fp_saved
save_fxsave:
        fxsave64 CTX_FPSTATE(%rsi)
        jmp     fp_saved

load_fp:
        mov     $XSAVE_MASK_LOW, %eax
        xor     %edx, %edx
        cmpl    $0, __export_arch_state+ARCH_STATE_XSAVE_MODE(%rip)
        je      load_fxrstor
        xrstor64 CTX_FPSTATE(%rcx)
        jmp     fp_loaded
load_fxrstor:
        fxrstor64 CTX_FPSTATE(%rcx)
        jmp     fp_loaded
