/* System call numbers of arm64 Linux (the generic table); read by C and by the assembler. */
#pragma once

#define NR_exit 93
#define NR_exit_group 94
#define NR_futex 98
#define NR_clock_gettime 113
#define NR_sigaltstack 132
#define NR_rt_sigaction 134
#define NR_rt_sigprocmask 135
#define NR_rt_sigreturn 139
#define NR_setsid 157
#define NR_prctl 167
#define NR_getpid 172
#define NR_getppid 173
#define NR_clone 220
#define NR_seccomp 277
#define NR_rseq 293
#define NR_futex_waitv 449
