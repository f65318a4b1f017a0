"""The three seccomp programs of a stub, as tables (10-stub §7; S-100…S-105).

* **F0**, on every stub thread from its first process on: what the bootstrap needs. Default: trap.
* **F1**, added on sysmsg threads before they can run guest code: what the signal handler needs. Default: trap.
* **FN**, on the syscall thread of stubs in notify mode: turns exit_group into the doorbell. Default: allow.

All filters of a thread must agree; of their answers the strictest counts, and TRAP is stricter than USER_NOTIF.
There is no KILL: a call that is denied inside the handler kills anyway, since SIGSYS is blocked there.

Compared with upstream, F1 is bounded from above too ([H] of 10-stub §7.3): its calls must come from the sysmsg image, and
its futexes lie in the stub. F0 differs in what our bootstrap does without ptrace (docs/images.md).
"""

from typing import Final

from systrap.host.bpf import ANY, IP, RET_ALLOW, RET_TRAP, RET_USER_NOTIF, Alternative, Condition, arg, program
from systrap.host.sys import AUDIT_ARCH, NR
from systrap.platforms.systrap.layout import Layout

CLONE_PROCESS: Final = 0x8411
"""CLONE_FILES | CLONE_PARENT, exit signal SIGCHLD: a new stub process."""
CLONE_THREAD: Final = 0x2709
"""CLONE_FILES | CLONE_FS | CLONE_VM | CLONE_PTRACE, exit signal SIGKILL: a new sysmsg thread (S-120)."""

FUTEX_WAIT: Final = 0
FUTEX_WAKE: Final = 1
PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_SYSCALL_USER_DISPATCH: Final = 59
ARCH_SET_GS: Final = 0x1001
ARCH_SET_FS: Final = 0x1002
ARCH_GET_FS: Final = 0x1003
ARCH_SET_CPUID: Final = 0x1012
SIG_SETMASK: Final = 2
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
SIGKILL: Final = 9

_VSYSCALL_CALLS: Final = ("gettimeofday", "time", "getcpu")


def _when(*conditions: tuple[int, int]) -> Alternative:
    """Allow when each (argument index, value) is equal."""
    return Alternative(tuple(Condition(arg(index), value) for index, value in conditions))


def base_filter(layout: Layout) -> bytes:
    """Return F0 (S-100). Its calls may come from anywhere in a stub: guests meet F1 as well, which is stricter."""
    dispatch_len = layout.ro_end - layout.stub_start
    rules: dict[str, list[Alternative]] = {
        "clone": [_when((0, CLONE_PROCESS)), _when((0, CLONE_THREAD))],
        "exit": [ANY],
        "exit_group": [ANY],
        "getppid": [ANY],
        "getpid": [ANY],
        "mmap": [ANY],
        "munmap": [ANY],
        "rt_sigreturn": [ANY],
        "sched_yield": [ANY],
        "sigaltstack": [ANY],
        "rt_sigprocmask": [_when((0, SIG_SETMASK))],
        "prctl": [
            _when((0, PR_SET_PDEATHSIG), (1, SIGKILL)),
            _when((0, PR_SET_NO_NEW_PRIVS), (1, 1)),
            _when((0, PR_SET_SYSCALL_USER_DISPATCH), (1, 1), (2, layout.stub_start), (3, dispatch_len)),
        ],
        "futex": [_when((1, FUTEX_WAIT)), _when((1, FUTEX_WAKE))],
        "seccomp": [
            _when((0, SECCOMP_SET_MODE_FILTER), (1, 0)),
            _when((0, SECCOMP_SET_MODE_FILTER), (1, SECCOMP_FILTER_FLAG_NEW_LISTENER)),
        ],
        "arch_prctl": [
            _when((0, ARCH_SET_CPUID), (1, 0)),
            _when((0, ARCH_SET_GS)),
            _when((0, ARCH_SET_FS)),
            _when((0, ARCH_GET_FS)),
        ],
    }
    return program({NR[name]: found for name, found in rules.items() if name in NR}, AUDIT_ARCH)


def thread_filter(layout: Layout) -> bytes:
    """Return F1 (S-101…S-104): only the sysmsg image, only what its handler does."""
    from_image = Condition(IP, layout.sysmsg + 1, layout.sysmsg_rules)
    in_stub = Condition(arg(0), layout.sysmsg + 1, layout.end - 1)
    no_timeout = (Condition(arg(3), 0), Condition(arg(4), 0), Condition(arg(5), 0))
    rules: dict[str, list[Alternative]] = {
        "futex": [
            Alternative((in_stub, Condition(arg(1), FUTEX_WAKE), Condition(arg(2), 1), *no_timeout, from_image)),
            Alternative((in_stub, Condition(arg(1), FUTEX_WAIT), *no_timeout, from_image)),
        ],
        "rt_sigreturn": [Alternative((from_image,))],
        "sched_yield": [Alternative((from_image,))],
        "arch_prctl": [
            Alternative((Condition(arg(0), ARCH_SET_FS), from_image)),
            Alternative((Condition(arg(0), ARCH_GET_FS), from_image)),
        ],
        # These can come from the vsyscall page; the default traps them as well, the rule says that it is meant.
        **{name: [Alternative((Condition(IP, 1 << 63, (1 << 64) - 1),), RET_TRAP)] for name in _VSYSCALL_CALLS},
    }
    return program({NR[name]: found for name, found in rules.items() if name in NR}, AUDIT_ARCH)


def notify_filter() -> bytes:
    """Return FN: exit_group rings the sentry's doorbell, everything else is F0's business."""
    return program(
        {NR["exit_group"]: [Alternative((), RET_USER_NOTIF)]}, AUDIT_ARCH, default=RET_ALLOW, bad_arch=RET_ALLOW
    )
