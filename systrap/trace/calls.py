"""The table of all calls, and the sets of them that ``-e trace=%set`` knows."""

from typing import Final

from systrap.trace import decode
from systrap.trace.call import Argument, Shape, shape
from systrap.trace.calls_files import FILES
from systrap.trace.calls_process import PROCESSES
from systrap.trace.calls_rest import MEMORY, SOCKETS, TIME, WAITING

CALLS: Final[dict[str, Shape]] = {**FILES, **PROCESSES, **MEMORY, **TIME, **WAITING, **SOCKETS}
"""Every call by name."""

UNKNOWN: Final = shape(*(decode.hexadecimal,) * 6)
"""What a call looks like whose number nobody knows."""


def _taking(*decoders: Argument) -> frozenset[str]:
    """Return the calls with an argument of one of these kinds."""
    return frozenset(name for name, form in CALLS.items() if any(a in decoders for a in form.arguments))


def _named(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLOCKS: Final = "clock_adjtime clock_getres clock_gettime clock_settime adjtimex gettimeofday settimeofday time"
_IPC: Final = "msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget"
_MAPPING: Final = (
    "brk get_mempolicy io_destroy io_setup io_uring_register madvise map_shadow_stack mbind migrate_pages mincore "
    "mlock mlock2 mlockall mmap move_pages mprotect mremap mseal "
    "msync munlock munlockall munmap pkey_mprotect remap_file_pages set_mempolicy "
    "set_mempolicy_home_node shmat shmdt"
)  # fmt: skip
_SIGNALLING: Final = (
    "io_uring_enter kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo "
    "rt_sigreturn rt_sigsuspend "
    "rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4 tgkill tkill"
)
_IDS: Final = (
    "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid prctl setfsgid setfsuid setgid setgroups setregid "
    "setresgid setresuid setreuid setuid"
)  # fmt: skip
_DESCRIPTORS: Final = (
    "bpf creat epoll_create epoll_create1 eventfd eventfd2 fanotify_init fsopen inotify_init inotify_init1 io_uring_setup "
    "landlock_create_ruleset memfd_create memfd_secret mq_open open perf_event_open pidfd_open pipe pipe2 poll ppoll "
    "pselect6 select "
    "timerfd_create userfaultfd"
)  # fmt: skip
"""Calls that make or wait for descriptors; those that take one are found by their arguments. As with strace, the calls of
sockets are %network only."""
_PURE: Final = "getegid geteuid getgid getpgrp getpid getppid gettid getuid"

SETS: Final[dict[str, frozenset[str]]] = {
    "file": _taking(decode.path) | {"getcwd", "fsconfig"},
    "process": _named("clone clone3 execve execveat exit exit_group fork vfork wait4 waitid kill tkill tgkill pidfd_send_signal "
                      "rt_sigqueueinfo rt_tgsigqueueinfo"),
    "network": frozenset(SOCKETS) | {"sendfile", "getpmsg", "putpmsg"},
    "net": frozenset(SOCKETS) | {"sendfile", "getpmsg", "putpmsg"},
    "signal": _named(_SIGNALLING),
    "ipc": _named(_IPC),
    "desc": (_taking(decode.fd, decode.directory) - frozenset(SOCKETS)) | _named(_DESCRIPTORS),
    "memory": _named(_MAPPING),
    "creds": _named(_IDS),
    "clock": _named(_CLOCKS),
    "pure": _named(_PURE),
    "stat": _named("stat"),
    "lstat": _named("lstat"),
    "fstat": _named("fstat newfstatat statx"),
    "%stat": _named("stat lstat fstat newfstatat statx"),
    "statfs": _named("statfs"),
    "fstatfs": _named("fstatfs"),
    "%statfs": _named("statfs fstatfs ustat"),
}  # fmt: skip
"""Sets by name, without the leading "%". "%%stat" is in here as "%stat"."""
