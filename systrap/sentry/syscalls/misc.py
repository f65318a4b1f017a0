"""The rest: who the system is, limits, randomness, and what there is not."""

from __future__ import annotations

import errno
import os
import struct
import time
from typing import TYPE_CHECKING, Final

from systrap import arch
from systrap.platform import PlatformError
from systrap.sentry.clocks import watch_cpu_limit
from systrap.sentry.errors import SyscallError
from systrap.sentry.limits import COUNT, RLIMIT_CPU, RLIMIT_NOFILE
from systrap.sentry.syscalls.process import pack_rusage
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task, ThreadGroup

RELEASE: Final = b"6.1.0-systrap"
"""The Linux release guests see: programs look for features by it."""
VERSION: Final = b"#1 SMP systrap"

_PERSONALITY_QUERY: Final = 0xFFFFFFFF
_MEMBARRIER_GLOBAL: Final = 1
_MEMBARRIER_PRIVATE: Final = (8, 16)


@syscall("uname")
def sys_uname(task: Task, buffer: addr) -> Result:
    """uname(2)."""
    fields = (b"Linux", task.kernel.hostname, RELEASE, VERSION, arch.current().NAME.encode(), b"(none)")
    task.mm.write(buffer, b"".join(field[:64].ljust(65, b"\0") for field in fields))
    return 0


@syscall("sethostname")
def sys_sethostname(task: Task, name: addr, length: i32) -> Result:
    """sethostname(2)."""
    if not task.creds.capable(21):
        raise SyscallError(errno.EPERM)
    if not 0 <= length <= 64:
        raise SyscallError(errno.EINVAL)
    task.kernel.hostname = task.mm.read(name, length) if length else b""
    return 0


@syscall("setdomainname")
def sys_setdomainname(task: Task, name: addr, length: i32) -> Result:
    """setdomainname(2): there is no NIS domain."""
    if not 0 <= length <= 64 and task.creds.capable(21):
        raise SyscallError(errno.EINVAL)
    raise SyscallError(errno.EPERM)


@syscall("sysinfo")
def sys_sysinfo(task: Task, buffer: addr) -> Result:
    """sysinfo(2)."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES")
    uptime = int(time.monotonic() - task.kernel.boot_clock) + 1
    data = struct.pack("<q3Q6QHxx4x2QI", uptime, 0, 0, 0, pages * page, free * page, 0, 0, 0, 0,
                       min(len(task.kernel.tasks), 65535), 0, 0, 1)  # fmt: skip
    task.mm.write(buffer, data.ljust(112, b"\0"))
    return 0


@syscall("getrandom")
def sys_getrandom(task: Task, buffer: addr, count: u64, flags: u32) -> Result:
    """getrandom(2)."""
    if flags & ~7 or flags & 6 == 6:
        raise SyscallError(errno.EINVAL)
    count = min(count, 1 << 20)
    written = task.mm.write_partial(buffer, os.urandom(count)) if count else 0
    if count and not written:
        raise SyscallError(errno.EFAULT)
    return written


@syscall("personality")
def sys_personality(task: Task, persona: u32) -> Result:
    """personality(2): remembered."""
    old = task.personality
    if persona != _PERSONALITY_QUERY:
        task.personality = persona
    return old


# Limits and usage.


def _limits_target(task: Task, pid: int) -> ThreadGroup:
    if pid == 0:
        return task.group
    found = task.kernel.tasks.get(pid)
    if found is None:
        raise SyscallError(errno.ESRCH)
    return found.group


def _set_limit(task: Task, group: ThreadGroup, resource: int, soft: int, hard: int) -> None:
    if soft > hard:
        raise SyscallError(errno.EINVAL)
    _, old_hard = group.limits.get(resource)
    if hard > old_hard and not task.creds.capable(24):
        raise SyscallError(errno.EPERM)
    if resource == RLIMIT_NOFILE and hard > 1 << 20:
        raise SyscallError(errno.EPERM)
    group.limits.set(resource, soft, hard)
    if resource == RLIMIT_NOFILE:
        for member in group.tasks:
            member.fds.limit = group.limits.nofile
    elif resource == RLIMIT_CPU:
        watch_cpu_limit(group)


@syscall("prlimit64")
def sys_prlimit64(task: Task, pid: i32, resource: u32, new: addr, old: addr) -> Result:
    """prlimit(2)."""
    if resource >= COUNT:
        raise SyscallError(errno.EINVAL)
    group = _limits_target(task, pid)
    before = group.limits.get(resource)
    if new:
        _set_limit(task, group, resource, *struct.unpack("<2Q", task.mm.read(new, 16)))
    if old:
        task.mm.write(old, struct.pack("<2Q", *before))
    return 0


@syscall("getrlimit")
def sys_getrlimit(task: Task, resource: u32, result: addr) -> Result:
    """getrlimit(2)."""
    if resource >= COUNT:
        raise SyscallError(errno.EINVAL)
    task.mm.write(result, struct.pack("<2Q", *task.group.limits.get(resource)))
    return 0


@syscall("setrlimit")
def sys_setrlimit(task: Task, resource: u32, new: addr) -> Result:
    """setrlimit(2)."""
    if resource >= COUNT:
        raise SyscallError(errno.EINVAL)
    _set_limit(task, task.group, resource, *struct.unpack("<2Q", task.mm.read(new, 16)))
    return 0


@syscall("getrusage")
def sys_getrusage(task: Task, who: i32, result: addr) -> Result:
    """getrusage(2): times, and the peak of memory."""
    group = task.group
    if who not in (0, -1, 1):
        raise SyscallError(errno.EINVAL)
    data = bytearray(pack_rusage(group))
    own = (group.user_time, group.system_time) if who != -1 else group.children_times
    for index, seconds in enumerate(own):
        struct.pack_into("<2q", data, 16 * index, *divmod(int(seconds * 1e6), 1_000_000))
    if who != -1:
        struct.pack_into("<q", data, 32, task.mm.statistics().resident // 1024)
    task.mm.write(result, bytes(data))
    return 0


@syscall("membarrier")
def sys_membarrier(task: Task, command: i32, flags: u32, cpu: i32) -> Result:
    """membarrier(2): the private kinds are served by the global one, which is stronger."""
    platform = task.kernel.platform
    available = platform.have_global_memory_barrier()
    if command == 0 and not flags:
        return _MEMBARRIER_GLOBAL | 8 | 16 if available else 0
    if flags or not available or command not in (_MEMBARRIER_GLOBAL, *_MEMBARRIER_PRIVATE):
        raise SyscallError(errno.EINVAL)
    if command != _MEMBARRIER_PRIVATE[1]:
        try:
            platform.global_memory_barrier()
        except PlatformError:
            raise SyscallError(errno.EINVAL) from None
    return 0


# What is not there answers as on a Linux built without it, or to somebody who may not (docs/limits.md).


@syscall(
    "ptrace", "reboot", "acct", "swapon", "swapoff", "kexec_load", "kexec_file_load", "init_module", "finit_module",
    "delete_module", "syslog", "iopl", "ioperm", "vhangup", "quotactl", "quotactl_fd", "perf_event_open", "bpf",
    "userfaultfd", "process_madvise", "kcmp", "pidfd_getfd", "lookup_dcookie", "fanotify_init",
)  # fmt: skip
def sys_forbidden(task: Task) -> Result:
    """Answer EPERM: guests may not, or there is nothing to do it with."""
    raise SyscallError(errno.EPERM)


@syscall("seccomp")
def sys_seccomp(task: Task, operation: u32, flags: u32, arguments: addr) -> Result:
    """seccomp(2): guests have no filters of their own, as on a kernel without them."""
    raise SyscallError(errno.EINVAL)


@syscall(
    "rseq", "keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup",
    "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents",
    "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    "mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr", "semget", "semop", "semctl",
    "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl", "uselib", "ustat", "sysfs", "_sysctl", "modify_ldt",
    "set_thread_area", "get_thread_area", "memfd_secret", "cachestat", "map_shadow_stack", "futex_wake", "futex_wait",
    "futex_requeue", "statmount", "listmount", "lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules",
)  # fmt: skip
def sys_absent(task: Task) -> Result:
    """Answer ENOSYS, as a kernel built without the feature does; counted for --verbose."""
    nr = task.syscall_nr
    task.kernel.missing[nr] = task.kernel.missing.get(nr, 0) + 1
    raise SyscallError(errno.ENOSYS)
