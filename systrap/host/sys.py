"""Raw system calls of the host: numbers per architecture, and one function that makes them.

``syscall`` returns the kernel's result, or minus errno; it never raises for an error of the kernel's, and libc's errno
is not involved. The GIL is released during the call, so it may block.
"""

import ctypes
import errno as _errno
import mmap
import os
from typing import Final

PAGE_SIZE: Final = mmap.PAGESIZE

_X86_64 = {
    "read": 0, "ppoll": 271, "mmap": 9, "mprotect": 10, "munmap": 11, "rt_sigaction": 13, "rt_sigprocmask": 14,
    "rt_sigreturn": 15, "sched_yield": 24, "getpid": 39, "clone": 56, "exit": 60, "wait4": 61, "kill": 62, "getppid": 110,
    "sigaltstack": 131, "prctl": 157, "arch_prctl": 158, "gettid": 186, "tkill": 200, "time": 201, "futex": 202,
    "exit_group": 231, "tgkill": 234, "waitid": 247, "gettimeofday": 96, "ptrace": 101, "getcpu": 309, "seccomp": 317,
    "membarrier": 324, "rseq": 334, "pidfd_send_signal": 424, "pidfd_open": 434, "futex_waitv": 449, "mseal": 462,
    "setsid": 112, "renameat2": 316, "memfd_create": 319, "set_tid_address": 218, "rt_tgsigqueueinfo": 297, "setpriority": 141,
}  # fmt: skip
_AARCH64 = {
    "read": 63, "ppoll": 73, "mmap": 222, "mprotect": 226, "munmap": 215, "rt_sigaction": 134, "rt_sigprocmask": 135,
    "rt_sigreturn": 139, "sched_yield": 124, "getpid": 172, "clone": 220, "exit": 93, "wait4": 260, "kill": 129, "getppid": 173,
    "sigaltstack": 132, "prctl": 167, "gettid": 178, "tkill": 130, "futex": 98, "exit_group": 94, "tgkill": 131,
    "waitid": 95, "gettimeofday": 169, "ptrace": 117, "getcpu": 168, "seccomp": 277, "membarrier": 283, "rseq": 293,
    "pidfd_send_signal": 424, "pidfd_open": 434, "futex_waitv": 449, "mseal": 462, "setsid": 157, "renameat2": 276,
    "memfd_create": 279, "set_tid_address": 96, "rt_tgsigqueueinfo": 240, "setpriority": 140,
}  # fmt: skip
NR: Final = _AARCH64 if os.uname().machine == "aarch64" else _X86_64
"""System call numbers of this host, by name."""

AUDIT_ARCH: Final = 0xC00000B7 if os.uname().machine == "aarch64" else 0xC000003E
"""What seccomp_data.arch is for native calls."""

RSEQ_SIGNATURE: Final = 0xD428BC00 if os.uname().machine == "aarch64" else 0x53053053
"""What glibc registers restartable sequences with: an instruction that does not occur otherwise."""

libc: Final = ctypes.CDLL(None, use_errno=True)
_raw = libc.syscall
_raw.restype = ctypes.c_long


def syscall(nr: int, *args: int) -> int:
    """Make system call ``nr`` with up to six integer arguments. Returns its result, or −errno."""
    result: int = _raw(ctypes.c_long(nr), *[ctypes.c_ulong(a & 0xFFFFFFFFFFFFFFFF) for a in args])
    if result == -1:
        return -ctypes.get_errno()
    return result


def check(result: int, what: str) -> int:
    """Return ``result``, or raise OSError naming ``what`` when it is −errno."""
    if -4096 < result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def errno_name(number: int) -> str:
    """Return the symbol of an errno ("ENOENT"), or the number as text."""
    return _errno.errorcode.get(number, str(number))
