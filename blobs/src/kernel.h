/* Kernel constants that are the same on every CPU; read by C and by the assembler. */
#pragma once

#include "syscall_numbers.h" /* NR_... of the CPU */

#define EPERM 1
#define EINTR 4
#define EAGAIN 11
#define ENOSYS 38
#define ETIMEDOUT 110

/* A result in [-MAX_ERRNO, -1] is an error. */
#define MAX_ERRNO 4095

#define SIGILL 4
#define SIGTRAP 5
#define SIGBUS 7
#define SIGFPE 8
#define SIGKILL 9
#define SIGSEGV 11
#define SIGCHLD 17
#define SIGSTOP 19
#define SIGSYS 31
#define LAST_SIGNAL 64
#define SIGSET_BYTES 8
#define SIG_SETMASK 2

/* futex operations; without the PRIVATE flag, as these words are shared between processes */
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX2_SIZE_U32 2
#define CLOCK_MONOTONIC 1

#define CLONE_VM 0x100
#define CLONE_FILES 0x400

#define PR_SET_PDEATHSIG 1
#define PR_SET_NO_NEW_PRIVS 38
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1

#define SA_NODEFER 0x40000000ul

#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_TSYNC 1
#define RSEQ_FLAG_UNREGISTER 1
