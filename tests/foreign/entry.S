/* The start of the test's stub image: what the sentry patches, the restorer, and entries that call C. */

    .section .image.first, "ax"

    .globl __export_arch_state, __export_context_region, __export_stub_start, __export_context_queue_addr
    .globl __export_spinning_queue_addr, __export_deep_sleep_timeout, __export_disable_syscall_patching
    .globl __export_restore_rt, __export_sighandler, __export_syshandler
    .globl arch_state, context_region, context_queue_addr
    .hidden arch_state, context_region, context_queue_addr

    .balign 8
__export_context_region:
context_region:
    .quad 0
__export_stub_start:
    .quad 0
__export_context_queue_addr:
context_queue_addr:
    .quad 0
__export_spinning_queue_addr:
    .quad 0
__export_deep_sleep_timeout:
    .quad 0
__export_disable_syscall_patching:
    .quad 0
__export_arch_state:
arch_state:
    .long 0, 0, 0

/* rdi, rsi, rdx: signal, siginfo, ucontext. The kernel has put the restorer's address on the stack. */
__export_sighandler:
    cld
    jmp handle_signal

__export_restore_rt:
    mov $15, %eax
    syscall
    ud2

/* Never entered: this stub never asks for a call site to be patched (§3.4 is optional). */
__export_syshandler:
    ud2

    .section .note.GNU-stack, "", @progbits
