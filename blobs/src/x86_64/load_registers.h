/*
 * For the assembler: load every general register but rsp from the context in rcx; rcx is the last one. What comes behind must bring
 * flags, rsp and rip, and nothing else is free for that.
 */
#pragma once

#include "offsets.h"

.macro LOAD_REGISTERS
        mov     CTX_R15(%rcx), %r15
        mov     CTX_R14(%rcx), %r14
        mov     CTX_R13(%rcx), %r13
        mov     CTX_R12(%rcx), %r12
        mov     CTX_RBP(%rcx), %rbp
        mov     CTX_RBX(%rcx), %rbx
        mov     CTX_R11(%rcx), %r11
        mov     CTX_R10(%rcx), %r10
        mov     CTX_R9(%rcx), %r9
        mov     CTX_R8(%rcx), %r8
        mov     CTX_RAX(%rcx), %rax
        mov     CTX_RDX(%rcx), %rdx
        mov     CTX_RSI(%rcx), %rsi
        mov     CTX_RDI(%rcx), %rdi
        mov     CTX_RCX(%rcx), %rcx
.endm
