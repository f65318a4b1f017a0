"""/proc/PID/stat, status, limits, mounts… : the texts about one task."""

import errno
import os
import time
from typing import TYPE_CHECKING, Final

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.limits import INFINITY
from systrap.sentry.mm import MemoryStatistics
from systrap.sentry.signals import SIG_DFL, SIG_IGN
from systrap.sentry.task import State

if TYPE_CHECKING:
    from systrap.sentry.mm import MemoryManager
    from systrap.sentry.task import Task

HZ: Final = 100
_NO_MEMORY: Final = MemoryStatistics(0, 0, 0, 0, 0, 0, 0)
_STATE_NAMES: Final = {"R": "running", "S": "sleeping", "T": "stopped", "Z": "zombie", "X": "dead"}
_LIMITS: Final = (
    ("Max cpu time", 0, "seconds"), ("Max file size", 1, "bytes"), ("Max data size", 2, "bytes"), ("Max stack size", 3, "bytes"),
    ("Max core file size", 4, "bytes"), ("Max resident set", 5, "bytes"), ("Max processes", 6, "processes"),
    ("Max open files", 7, "files"), ("Max locked memory", 8, "bytes"), ("Max address space", 9, "bytes"),
    ("Max file locks", 10, "locks"), ("Max pending signals", 11, "signals"), ("Max msgqueue size", 12, "bytes"),
    ("Max nice priority", 13, ""), ("Max realtime priority", 14, ""), ("Max realtime timeout", 15, "us"),
)  # fmt: skip


def memory_of(task: "Task") -> "MemoryManager":
    """Return a task's memory. ESRCH when it has none any more."""
    if task.state is State.DEAD:
        raise SyscallError(errno.ESRCH)
    return task.mm


def _statistics(task: "Task") -> MemoryStatistics:
    return _NO_MEMORY if task.state is State.DEAD else task.mm.statistics()


def state_letter(task: "Task") -> str:
    """Return the state as ps shows it."""
    if task.state is State.DEAD:
        return "Z" if task.group.zombie else "X"
    if task.group.stopped or task.state is State.STOPPED:
        return "T"
    return "S" if task.state is State.PARKED else "R"


def _parent_pid(task: "Task") -> int:
    parent = task.group.parent
    return parent.pid if parent is not None else 0


def _signal_sets(task: "Task") -> tuple[int, int]:
    """Return masks of ignored and of caught signals."""
    ignored = caught = 0
    for signo in range(1, 65):
        handler = task.group.handlers.get(signo).handler
        if handler == SIG_IGN:
            ignored |= 1 << signo - 1
        elif handler != SIG_DFL:
            caught |= 1 << signo - 1
    return ignored, caught


def _stored(task: "Task", start: str, end: str, fallback: bytes) -> bytes:
    """Return what lies between two addresses that the memory manager knows: the program may have rewritten it (setproctitle)."""
    if task.state is State.DEAD:
        return b""
    mm = task.mm
    low, high = getattr(mm, start), getattr(mm, end)
    return mm.read_partial(low, high - low) if low < high else fallback


def cmdline(task: "Task") -> bytes:
    """Return /proc/PID/cmdline."""
    return _stored(task, "arg_start", "arg_end", task.group.cmdline)


def environ(task: "Task") -> bytes:
    """Return /proc/PID/environ."""
    return _stored(task, "env_start", "env_end", task.group.environ)


def stat(task: "Task") -> bytes:
    """Return /proc/PID/stat."""
    group = task.group
    sizes = _statistics(task)
    tty = group.session.tty
    ignored, caught = _signal_sets(task)
    dead = task.state is State.DEAD
    memory = (0, 0, 0, 0, 0, 0, 0) if dead else _addresses(task)
    children = group.children_times
    ticks = [int(value * HZ) for value in (group.user_time, group.system_time, *children)]
    start = int((group.start_time - group.kernel.boot_clock + 1) * HZ)
    head = f"{task.tid} ({task.comm.decode('utf-8', 'replace')}) {state_letter(task)}"
    fields = [
        _parent_pid(task), group.pgid, group.session.sid, 34816 if tty is not None else 0,
        tty.foreground if tty is not None else -1, 4194304, 0, 0, 0, 0, *ticks, *_priority(task),
        max(len(group.tasks), 1), 0, max(start, 0),
        sizes.size, sizes.resident // PAGE_SIZE, group.limits.soft(5) if not dead else 0, 0, 0, memory[4], 0, 0,
        task.pending.bits & 0x7FFFFFFF, task.signal_mask & 0x7FFFFFFF, ignored & 0x7FFFFFFF, caught & 0x7FFFFFFF, 0, 0, 0,
        group.exit_signal, 0, 0, 0, 0, 0, 0, 0, 0, memory[5], *memory[:4], group.exit_code,
    ]  # fmt: skip
    return (head + " " + " ".join(map(str, fields)) + "\n").encode()


def _priority(task: "Task") -> tuple[int, int]:
    """Return priority and nice value as stat has them: 20 + nice, below −1 for the real-time policies."""
    sched = task.sched
    return (-1 - sched.priority if sched.priority else 20 + sched.nice, sched.nice)


def _addresses(task: "Task") -> tuple[int, ...]:
    mm = task.mm
    return mm.arg_start, mm.arg_end, mm.env_start, mm.env_end, mm.arg_start, mm.brk_start


def statm(task: "Task") -> bytes:
    """Return /proc/PID/statm."""
    sizes = _statistics(task)
    pages = (sizes.size, sizes.resident, sizes.shared, sizes.text, 0, sizes.data + sizes.stack, 0)
    return (" ".join(str(size // PAGE_SIZE) for size in pages) + "\n").encode()


def status(task: "Task") -> bytes:
    """Return /proc/PID/status."""
    group, creds = task.group, task.creds
    letter = state_letter(task)
    ignored, caught = _signal_sets(task)
    groups = "".join(f"{gid} " for gid in creds.groups)
    lines = [
        f"Name:\t{task.comm.decode('utf-8', 'replace')}",
        f"Umask:\t{task.fs.umask:04o}",
        f"State:\t{letter} ({_STATE_NAMES[letter]})",
        f"Tgid:\t{group.pid}",
        "Ngid:\t0",
        f"Pid:\t{task.tid}",
        f"PPid:\t{_parent_pid(task)}",
        "TracerPid:\t0",
        f"Uid:\t{creds.ruid}\t{creds.euid}\t{creds.suid}\t{creds.fsuid}",
        f"Gid:\t{creds.rgid}\t{creds.egid}\t{creds.sgid}\t{creds.fsgid}",
        f"FDSize:\t{_table_size(task)}",
        f"Groups:\t{groups}",
        f"NStgid:\t{group.pid}",
        f"NSpid:\t{task.tid}",
        f"NSpgid:\t{group.pgid}",
        f"NSsid:\t{group.session.sid}",
        "Kthread:\t0",
        *_memory_lines(task),
        f"Threads:\t{max(len(group.tasks), 1)}",
        f"SigQ:\t0/{group.limits.soft(11)}",
        f"SigPnd:\t{task.pending.bits:016x}",
        f"ShdPnd:\t{group.pending.bits:016x}",
        f"SigBlk:\t{task.signal_mask:016x}",
        f"SigIgn:\t{ignored:016x}",
        f"SigCgt:\t{caught:016x}",
        *_capability_lines(task),
        f"NoNewPrivs:\t{int(group.no_new_privs)}",
        "Seccomp:\t0",
        "Seccomp_filters:\t0",
        *cpu_lines(task.sched.affinity),
        "Mems_allowed:\t00000000,00000001",
        "Mems_allowed_list:\t0",
        "voluntary_ctxt_switches:\t0",
        "nonvoluntary_ctxt_switches:\t0",
    ]
    return ("\n".join(lines) + "\n").encode()


def _table_size(task: "Task") -> int:
    if task.state is State.DEAD:
        return 0
    size = 64
    numbers = task.fds.numbers()
    while numbers and size <= numbers[-1]:
        size *= 2
    return size


def _memory_lines(task: "Task") -> list[str]:
    if task.state is State.DEAD:
        return []
    sizes = task.mm.statistics()
    own = max(sizes.resident - sizes.shared, 0)
    values = (
        ("VmPeak", sizes.size), ("VmSize", sizes.size), ("VmLck", sizes.locked), ("VmPin", 0), ("VmHWM", sizes.resident),
        ("VmRSS", sizes.resident), ("RssAnon", own), ("RssFile", sizes.resident - own), ("RssShmem", 0), ("VmData", sizes.data),
        ("VmStk", sizes.stack), ("VmExe", sizes.text), ("VmLib", 0), ("VmPTE", sizes.resident // 512), ("VmSwap", 0),
        ("HugetlbPages", 0),
    )  # fmt: skip
    return [f"{name}:\t{value // 1024:8d} kB" for name, value in values] + ["CoreDumping:\t0", "THP_enabled:\t0"]


def _capability_lines(task: "Task") -> list[str]:
    creds = task.creds
    values = (
        ("CapInh", creds.inheritable), ("CapPrm", creds.permitted), ("CapEff", creds.effective),
        ("CapBnd", creds.bounding), ("CapAmb", creds.ambient),
    )  # fmt: skip
    return [f"{name}:\t{value:016x}" for name, value in values]


def cpu_lines(affinity: int = 0) -> list[str]:
    """Return the lines of status about CPUs; ``affinity`` 0: all that this process may use."""
    cpus = sorted(cpu for cpu in os.sched_getaffinity(0) if not affinity or affinity >> cpu & 1)
    mask = sum(1 << cpu for cpu in cpus)
    ranges: list[str] = []
    start = previous = cpus[0]
    for cpu in [*cpus[1:], -1]:
        if cpu != previous + 1:
            ranges.append(str(start) if start == previous else f"{start}-{previous}")
            start = cpu
        previous = cpu
    return [f"Cpus_allowed:\t{mask:x}", f"Cpus_allowed_list:\t{','.join(ranges)}"]


def limits(task: "Task") -> bytes:
    """Return /proc/PID/limits."""
    lines = [f"{'Limit':<25} {'Soft Limit':<20} {'Hard Limit':<20} {'Units':<10}\n"]
    for name, number, unit in _LIMITS:
        soft, hard = ("unlimited" if value >= INFINITY else str(value) for value in task.group.limits.get(number))
        lines.append(f"{name:<25} {soft:<20} {hard:<20} {unit:<10}\n")
    return "".join(lines).encode()


def io(task: "Task") -> bytes:
    """Return /proc/PID/io: nothing is counted."""
    names = ("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes")
    return "".join(f"{name}: 0\n" for name in names).encode()


def schedstat(task: "Task") -> bytes:
    """Return /proc/PID/schedstat."""
    group = task.group
    return f"{int((group.user_time + group.system_time) * 1e9)} 0 1\n".encode()


def _escaped(path: bytes) -> str:
    text = os.fsdecode(path)
    for char in "\\ \t\n":
        text = text.replace(char, f"\\{ord(char):03o}")
    return text


_SOURCES: Final = {"tmpfs": "tmpfs", "devtmpfs": "devtmpfs", "proc": "proc", "sysfs": "sysfs"}


def mounts(task: "Task") -> bytes:
    """Return /proc/PID/mounts."""
    lines: list[str] = []
    for path, kind in task.kernel.vfs.mount_points:
        lines.append(f"{_SOURCES.get(kind, kind)} {_escaped(path)} {kind} rw,relatime 0 0\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def mountinfo(task: "Task") -> bytes:
    """Return /proc/PID/mountinfo."""
    lines: list[str] = []
    for number, (path, kind) in enumerate(task.kernel.vfs.mount_points, 21):
        source = _SOURCES.get(kind, kind)
        parent = 1 if number == 21 else 21
        lines.append(
            f"{number} {parent} 0:{number + 11} / {_escaped(path)} rw,relatime shared:{number - 20} - {kind} {source} rw\n"
        )
    return "".join(lines).encode("utf-8", "surrogateescape")


def uptime(boot_clock: float) -> float:
    """Return seconds since the guest system started, as sysinfo tells them."""
    return time.monotonic() - boot_clock + 1
