"""What this host is, asked from the host itself: files of /proc, limits, and experiments with system calls.

:class:`Host` only gathers; what a fact means for systrap is judged in ``requirements.py``. Experiments change the process
that makes them (filters, tracing), so each runs in a forked child, which hands its result back as its exit status.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Final

from systrap.host import mem
from systrap.host.sys import NR, PAGE_SIZE, libc, syscall

AT_PAGESZ: Final = 6
AT_HWCAP: Final = 16
AT_HWCAP2: Final = 26
AT_MINSIGSTKSZ: Final = 51

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SYSCALL_USER_DISPATCH: Final = 59
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
_ARCH_SET_CPUID: Final = 0x1012
_PTRACE_SEIZE: Final = 0x4206
_ENOSYS: Final = 38
_TIMEOUT: Final = 5.0

TIMED_OUT: Final = 254
"""Result of an experiment that did not end within five seconds."""
DIED: Final = 255
"""Result of an experiment that was killed by a signal: what it tried is answered with death here (a container's filter)."""


class Host:
    """Facts of the running host. Tests put a fake with the same methods in its place."""

    def uname(self) -> tuple[str, str]:
        """Return kernel release and machine."""
        name = os.uname()
        return name.release, name.machine

    def python(self) -> tuple[int, int, int]:
        """Return the version of the interpreter."""
        return sys.version_info[:3]

    def read(self, path: str) -> str | None:
        """Return a small text file without surrounding space, or None when it cannot be read."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None

    def auxiliary(self, key: int) -> int | None:
        """Return an entry (AT_…) of this process's auxiliary vector, or None."""
        try:
            with open("/proc/self/auxv", "rb") as file:
                data = file.read()
        except OSError:
            return None
        return dict(struct.iter_unpack("NN", data[: len(data) // 16 * 16])).get(key)

    def stack_top(self) -> int | None:
        """Return the last address of this process's first stack, which is near the end of the address space, or None."""
        for line in (self.read("/proc/self/maps") or "").splitlines():
            if line.endswith("[stack]"):
                return int(line.partition("-")[2].split()[0], 16) - 1
        return None

    def limit(self, name: str) -> int:
        """Return a soft resource limit by name ("NOFILE"); −1 is none. Raises KeyError for unknown names."""
        number = {"NOFILE": resource.RLIMIT_NOFILE, "NPROC": resource.RLIMIT_NPROC, "AS": resource.RLIMIT_AS}[name]
        return resource.getrlimit(number)[0]

    def cpus(self) -> int:
        """Return how many CPUs this process may run on."""
        return len(os.sched_getaffinity(0))

    def has_terminal(self) -> bool:
        """Tell whether there is a controlling terminal."""
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
        except OSError:
            return False
        return True

    def rseq_size(self) -> int | None:
        """Return the size of the rseq area glibc registered for its threads; 0 = none, None = this libc does not tell."""
        try:
            return ctypes.c_uint.in_dll(libc, "__rseq_size").value
        except ValueError:
            return None

    def experiment(self, name: str) -> int:
        """Try something in a child process: 0 = it works, an errno, TIMED_OUT or DIED. Names: EXPERIMENTS."""
        return in_child(EXPERIMENTS[name])


def in_child(attempt: Callable[[], int]) -> int:
    """Run ``attempt`` in a forked child and return its result (0…253), TIMED_OUT or DIED."""
    pid = os.fork()
    if pid == 0:
        code = DIED
        try:
            code = attempt() & 0xFF
        finally:
            os._exit(code)
    deadline = time.monotonic() + _TIMEOUT
    pause = 0.0002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else DIED
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return TIMED_OUT
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _errno_of(result: int) -> int:
    return -result if result < 0 else 0


def _no_new_privs() -> int:
    return _errno_of(syscall(NR["prctl"], _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _install_filter(flags: int) -> int:
    """Install a filter that allows everything. Returns the result of seccomp(2)."""
    instruction = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000), 8)
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 1, ctypes.addressof(instruction)), 16)
    failure = _no_new_privs()
    if failure:
        return -failure
    return syscall(NR["seccomp"], _SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(program))


def _seccomp_filter() -> int:
    return _errno_of(_install_filter(0))


def _user_notify() -> int:
    # A real listener, not the cheaper EFAULT trick: a supervisor around us that has one already makes this EBUSY.
    return _errno_of(_install_filter(_SECCOMP_FILTER_FLAG_NEW_LISTENER))


def _user_dispatch() -> int:
    # Switched on with all user code in the range that is let through, so that this child can go on.
    return _errno_of(syscall(NR["prctl"], _PR_SET_SYSCALL_USER_DISPATCH, 1, PAGE_SIZE, (1 << 47) - 2 * PAGE_SIZE, 0))


def _cpuid_fault() -> int:
    return _errno_of(syscall(NR["arch_prctl"], _ARCH_SET_CPUID, 0))


def _ptrace() -> int:
    victim = os.fork()
    if victim == 0:
        time.sleep(_TIMEOUT)
        os._exit(0)
    result = syscall(NR["ptrace"], _PTRACE_SEIZE, victim, 0, 0)
    os.kill(victim, signal.SIGKILL)
    return _errno_of(result)


def _memfd(length: int, protection: int) -> int:
    name = ctypes.create_string_buffer(b"systrap-probe")
    descriptor = syscall(NR["memfd_create"], ctypes.addressof(name), 0)
    if descriptor < 0:
        return -descriptor
    os.ftruncate(descriptor, length)
    return _errno_of(mem.mmap_result(0, length, protection, mem.MAP_SHARED | mem.MAP_NORESERVE, descriptor, 0))


def _memfd_execute() -> int:
    return _memfd(PAGE_SIZE, mem.PROT_READ | mem.PROT_EXEC)


def _memfd_large() -> int:
    return _memfd(1 << 38, mem.PROT_READ | mem.PROT_WRITE)


def _mseal() -> int:
    page = mem.mmap(0, PAGE_SIZE, mem.PROT_READ, mem.MAP_PRIVATE | mem.MAP_ANONYMOUS)
    return 0 if mem.mseal(page, PAGE_SIZE) else _ENOSYS


def _futex_waitv() -> int:
    # Zero futexes is EINVAL where the call exists.
    result = _errno_of(syscall(NR["futex_waitv"], 0, 0, 0, 0, 0))
    return 0 if result == 22 else result


def _membarrier() -> int:
    return _errno_of(syscall(NR["membarrier"], 0, 0, 0))


EXPERIMENTS: Final[dict[str, Callable[[], int]]] = {
    "no_new_privs": _no_new_privs,
    "seccomp_filter": _seccomp_filter,
    "user_notify": _user_notify,
    "user_dispatch": _user_dispatch,
    "cpuid_fault": _cpuid_fault,
    "ptrace": _ptrace,
    "memfd_execute": _memfd_execute,
    "memfd_large": _memfd_large,
    "mseal": _mseal,
    "futex_waitv": _futex_waitv,
    "membarrier": _membarrier,
}
"""What can be tried: each runs in a child of its own and returns 0 or an errno."""
