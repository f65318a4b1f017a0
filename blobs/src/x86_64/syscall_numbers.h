/* System call numbers and kernel constants of x86-64 Linux; read by C and by the assembler. */
#pragma once

#define NR_rt_sigaction 13
#define NR_rt_sigprocmask 14
#define NR_rt_sigreturn 15
#define NR_restart_syscall 219
#define NR_getpid 39
#define NR_clone 56
#define NR_exit 60
#define NR_getppid 110
#define NR_setsid 112
#define NR_sigaltstack 131
#define NR_prctl 157
#define NR_arch_prctl 158
#define NR_futex 202
#define NR_clock_gettime 228
#define NR_exit_group 231
#define NR_seccomp 317
#define NR_rseq 334
#define NR_futex_waitv 449

#define ARCH_SET_GS 0x1001
#define ARCH_SET_FS 0x1002
#define ARCH_GET_FS 0x1003
#define ARCH_SET_CPUID 0x1012
