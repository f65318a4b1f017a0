/* Offsets of abi.h for the assembler; syshandler.c checks them against the structures. */
#pragma once

#define SYSMSG_SELF 0x00
#define SYSMSG_RET_ADDR 0x08
#define SYSMSG_APP_STACK 0x20
#define SYSMSG_STATE 0x2c
#define SYSMSG_CONTEXT 0x30
#define SYSMSG_THREAD_NONE 0
#define SYSMSG_THREAD_PREP 2

#define CTX_FPSTATE 0x000
#define CTX_FPSTATE_CHANGED 0xe00
#define CTX_PTREGS 0xe08
#define CTX_R15 (CTX_PTREGS + 0x00)
#define CTX_R14 (CTX_PTREGS + 0x08)
#define CTX_R13 (CTX_PTREGS + 0x10)
#define CTX_R12 (CTX_PTREGS + 0x18)
#define CTX_RBP (CTX_PTREGS + 0x20)
#define CTX_RBX (CTX_PTREGS + 0x28)
#define CTX_R11 (CTX_PTREGS + 0x30)
#define CTX_R10 (CTX_PTREGS + 0x38)
#define CTX_R9 (CTX_PTREGS + 0x40)
#define CTX_R8 (CTX_PTREGS + 0x48)
#define CTX_RAX (CTX_PTREGS + 0x50)
#define CTX_RCX (CTX_PTREGS + 0x58)
#define CTX_RDX (CTX_PTREGS + 0x60)
#define CTX_RSI (CTX_PTREGS + 0x68)
#define CTX_RDI (CTX_PTREGS + 0x70)
#define CTX_ORIG_RAX (CTX_PTREGS + 0x78)
#define CTX_RIP (CTX_PTREGS + 0x80)
#define CTX_CS (CTX_PTREGS + 0x88)
#define CTX_EFLAGS (CTX_PTREGS + 0x90)
#define CTX_RSP (CTX_PTREGS + 0x98)
#define CTX_SS (CTX_PTREGS + 0xa0)
#define CTX_FS (CTX_PTREGS + 0xc8)
#define CTX_GS (CTX_PTREGS + 0xd0)

#define ARCH_STATE_SIZE 12
#define ARCH_STATE_XSAVE_MODE 0
#define XSAVE_MASK_LOW 0xe7 /* x87, SSE, AVX, AVX-512 */
#define EFLAGS_AC_BIT 18
