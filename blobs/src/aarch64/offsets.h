/* What the assembler needs to know of the structures in arch_abi.h; sighandler.c checks it. */
#pragma once

#define ARCH_STATE_SIZE 4
