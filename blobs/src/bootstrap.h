/*
 * The request page, the reply page, the thread record and the ways to die: what the bootstrap image shares with the
 * sentry (docs/images.md). Read by the assembler only.
 */
#pragma once

/* request page: a batch of system calls */
#define REQUEST_SEQ 0x00
#define REQUEST_COUNT 0x04
#define REQUEST_CALLS 0x40
#define CALL_SHIFT 6 /* a call has 64 bytes */
#define CALL_NR 0
#define CALL_ARGS 8
#define CALL_FLAGS 56
#define MAX_CALLS 63

#define CALL_MAY_FAIL 1
#define CALL_ENTER_NOTIFY 2
#define CALL_MOVE_REQUEST 4

/* reply page, the page behind the request page */
#define REPLY_RET (PAGE_SIZE + 0)
#define REPLY_DONE (PAGE_SIZE + 8)
#define REPLY_SEQ (PAGE_SIZE + 12)

/* thread record; stack_t comes first, so that the record's address is sigaltstack's argument */
#define RECORD_GS_BASE 24
#define RECORD_MASK 32
#define RECORD_FILTER 40
#define RECORD_DISPATCH_START 48
#define RECORD_DISPATCH_LEN 56 /* right behind the start: arm64 loads the two as a pair */

/* modes of the syscall thread; the flag is set while the birth batch runs */
#define MODE_FUTEX 5
#define MODE_NOTIFY 6
#define MODE_BIRTH 0x100
#define MODE_BIRTH_BIT 8

/* exit codes */
#define EXIT_BIRTH_CALL 1 /* + index of the call of the birth batch that failed */
#define EXIT_PDEATHSIG 120
#define EXIT_PARENT 121
#define EXIT_BAD_COUNT 122
#define EXIT_NO_LISTENER 123
#define EXIT_THREAD 130 /* + step */
