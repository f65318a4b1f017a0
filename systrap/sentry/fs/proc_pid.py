"""/proc/PID: one process, or one of its threads under task/."""

import errno
import os
import stat as stats
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_ACCMODE, O_CLOEXEC, O_RDONLY, O_WRONLY, OpenFile
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import Inode, Location, Stat
from systrap.sentry.fs.synthetic import DirectoryInode, LinkInode, SyntheticInode, TextInode
from systrap.sentry.task import State, Task, ThreadGroup

_TICKS: Final = 100
_LIMIT_NAMES: Final = (
    ("Max cpu time", "seconds"), ("Max file size", "bytes"), ("Max data size", "bytes"), ("Max stack size", "bytes"),
    ("Max core file size", "bytes"), ("Max resident set", "bytes"), ("Max processes", "processes"),
    ("Max open files", "files"), ("Max locked memory", "bytes"), ("Max address space", "bytes"),
    ("Max file locks", "locks"), ("Max pending signals", "signals"), ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""), ("Max realtime priority", ""), ("Max realtime timeout", "us"),
)  # fmt: skip


def _leader(group: ThreadGroup) -> Task:
    """Return a living task of a process. ESRCH for a zombie."""
    if not group.tasks:
        raise SyscallError(errno.ESRCH)
    return group.tasks[0]


def _letter(group: ThreadGroup) -> str:
    if group.zombie or not group.tasks:
        return "Z"
    if group.stopped:
        return "T"
    return "R" if any(task.state in (State.GUEST, State.KERNEL) for task in group.tasks) else "S"


def _comm(group: ThreadGroup) -> bytes:
    task = group.tasks[0] if group.tasks else group.leader
    return task.comm if task is not None else b""


def _stat(group: ThreadGroup) -> bytes:
    """Return the one line of stat. Times are in ticks of 1/100 s."""
    tty = group.session.tty
    size = resident = 0
    start_code = end_code = start_stack = 0
    if group.tasks:
        mm = _leader(group).mm
        numbers = mm.statistics()
        size, resident = numbers.size, numbers.resident // 4096
        start_code, end_code, start_stack = mm.code_start, mm.code_end, mm.stack_start
    start = int((group.start_time - group.kernel.boot_clock) * _TICKS)
    parent = group.parent.pid if group.parent is not None else 0
    fields = [
        _letter(group), parent, group.pgid, group.session.sid, 0x8801 if tty is not None else 0,
        tty.foreground if tty is not None else -1, 0, 0, 0, 0, 0, int(group.user_time * _TICKS),
        int(group.system_time * _TICKS), int(group.children_times[0] * _TICKS), int(group.children_times[1] * _TICKS),
        20, 0, len(group.tasks), 0, start, size, resident, (1 << 64) - 1, start_code, end_code, start_stack, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]  # fmt: skip
    return b"%d (%s) " % (group.pid, _comm(group)) + " ".join(map(str, fields)).encode() + b"\n"


def _status(group: ThreadGroup) -> bytes:
    words = {"R": "R (running)", "S": "S (sleeping)", "T": "T (stopped)", "Z": "Z (zombie)"}
    task = group.tasks[0] if group.tasks else group.leader
    parent = group.parent.pid if group.parent is not None else 0
    lines = [
        f"Name:\t{_comm(group).decode('utf-8', 'replace')}", f"State:\t{words[_letter(group)]}", f"Tgid:\t{group.pid}",
        "Ngid:\t0", f"Pid:\t{group.pid}", f"PPid:\t{parent}", "TracerPid:\t0",
    ]  # fmt: skip
    if task is not None:
        c = task.creds
        lines += [
            f"Umask:\t{task.fs.umask:04o}", f"Uid:\t{c.ruid}\t{c.euid}\t{c.suid}\t{c.fsuid}",
            f"Gid:\t{c.rgid}\t{c.egid}\t{c.sgid}\t{c.fsgid}", f"FDSize:\t{max(64, len(task.fds.numbers()))}",
            f"Groups:\t{' '.join(map(str, c.groups))} ",
        ]  # fmt: skip
    if group.tasks:
        numbers = _leader(group).mm.statistics()
        lines += [
            f"VmPeak:\t{numbers.size // 1024:8d} kB", f"VmSize:\t{numbers.size // 1024:8d} kB",
            f"VmLck:\t{numbers.locked // 1024:8d} kB", f"VmHWM:\t{numbers.resident // 1024:8d} kB",
            f"VmRSS:\t{numbers.resident // 1024:8d} kB", f"VmData:\t{numbers.data // 1024:8d} kB",
            f"VmStk:\t{numbers.stack // 1024:8d} kB", f"VmExe:\t{numbers.text // 1024:8d} kB",
        ]  # fmt: skip
    full = (1 << 41) - 1 if task is not None and task.creds.euid == 0 else 0
    ignored = caught = 0
    for signo in range(1, 65):
        handler = group.handlers.get(signo).handler
        ignored |= (handler == 1) << (signo - 1)
        caught |= (handler > 1) << (signo - 1)
    mask = task.signal_mask if task is not None else 0
    pending = task.pending.bits if task is not None else 0
    cpus = os.sched_getaffinity(0)
    bits = sum(1 << cpu for cpu in cpus)
    lines += [
        f"Threads:\t{len(group.tasks)}", "SigQ:\t0/30000", f"SigPnd:\t{pending:016x}", f"ShdPnd:\t{group.pending.bits:016x}",
        f"SigBlk:\t{mask:016x}", f"SigIgn:\t{ignored:016x}", f"SigCgt:\t{caught:016x}", "CapInh:\t0000000000000000",
        f"CapPrm:\t{full:016x}", f"CapEff:\t{full:016x}", f"CapBnd:\t{(1 << 41) - 1:016x}", "CapAmb:\t0000000000000000",
        f"NoNewPrivs:\t{int(group.no_new_privs)}", "Seccomp:\t0", "Seccomp_filters:\t0", f"Cpus_allowed:\t{bits:x}",
        f"Cpus_allowed_list:\t{','.join(map(str, sorted(cpus)))}", "Mems_allowed:\t1", "Mems_allowed_list:\t0",
        "voluntary_ctxt_switches:\t0", "nonvoluntary_ctxt_switches:\t0",
    ]  # fmt: skip
    return "\n".join(lines).encode() + b"\n"


def _statm(group: ThreadGroup) -> bytes:
    numbers = _leader(group).mm.statistics()
    pages = [numbers.size, numbers.resident, numbers.shared, numbers.text, 0, numbers.data, 0]
    return " ".join(str(number // 4096) for number in pages).encode() + b"\n"


def _limits(group: ThreadGroup) -> bytes:
    lines = [f"{'Limit':<26}{'Soft Limit':<21}{'Hard Limit':<21}{'Units':<10}"]
    for number, (name, unit) in enumerate(_LIMIT_NAMES):
        shown = ["unlimited" if value == (1 << 64) - 1 else str(value) for value in group.limits.get(number)]
        lines.append(f"{name:<26}{shown[0]:<21}{shown[1]:<21}{unit:<10}")
    return "\n".join(lines).encode() + b"\n"


def _mountinfo(group: ThreadGroup) -> bytes:
    lines = []
    for number, (path, kind) in enumerate(group.kernel.vfs.mount_points):
        parent = 1 if number == 0 else 20
        name = kind if kind != "host" else "overlay"
        lines.append(f"{20 + number} {parent} 0:{20 + number} / {os.fsdecode(path)} rw,relatime - {name} {name} rw")
    return "\n".join(lines).encode() + b"\n"


def _smaps(group: ThreadGroup) -> bytes:
    """Return smaps with sizes only."""
    found = []
    for line in _leader(group).mm.maps_text().splitlines():
        start, end = (int(part, 16) for part in line.split(b" ", 1)[0].split(b"-"))
        size = (end - start) // 1024
        found.append(line + b"\nSize:           %8d kB\nRss:            %8d kB\nPss:            %8d kB\n" % (size, size, size))
    return b"".join(found)


def _set_comm(group: ThreadGroup, data: bytes) -> None:
    _leader(group).comm = data.rstrip(b"\n")[:15]


def _set_oom(group: ThreadGroup, data: bytes) -> None:
    try:
        value = int(data)
    except ValueError:
        raise SyscallError(errno.EINVAL) from None
    if not -1000 <= value <= 1000:
        raise SyscallError(errno.EINVAL)
    group.oom_score_adj = value


Function = Callable[[ThreadGroup], bytes]

TEXTS: Final[dict[bytes, Function]] = {
    b"stat": _stat,
    b"status": _status,
    b"statm": _statm,
    b"cmdline": lambda group: group.cmdline,
    b"environ": lambda group: group.environ,
    b"maps": lambda group: _leader(group).mm.maps_text(),
    b"smaps": _smaps,
    b"limits": _limits,
    b"mountinfo": _mountinfo,
    b"auxv": lambda group: _leader(group).mm.auxv,
    b"cgroup": lambda group: b"0::/\n",
    b"oom_score": lambda group: b"0\n",
    b"loginuid": lambda group: b"4294967295",
    b"sessionid": lambda group: b"4294967295",
    b"wchan": lambda group: b"0",
    b"io": lambda group: b"rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
    b"uid_map": lambda group: b"         0          0 4294967295\n",
    b"gid_map": lambda group: b"         0          0 4294967295\n",
    b"setgroups": lambda group: b"allow\n",
    b"personality": lambda group: b"00000000\n",
    b"schedstat": lambda group: b"0 0 0\n",
}
"""The files of a process that are texts."""


class FileLink(SyntheticInode):
    """/proc/PID/fd/N: leads to the open file itself, also when it has no name."""

    __slots__ = ("_fd", "_task")

    def __init__(self, task: Task, fd: int) -> None:
        mode = task.fds.get(fd).flags & O_ACCMODE
        bits = 0o500 if mode == O_RDONLY else 0o300 if mode == O_WRONLY else 0o700
        super().__init__(stats.S_IFLNK | bits, (task.creds.euid, task.creds.egid))
        self._task = task
        self._fd = fd

    def readlink(self) -> bytes:
        """See Inode."""
        return os.fsencode(self._task.fds.get(self._fd).describe())

    def follow(self, task: Task) -> Location:
        """See Inode."""
        file = self._task.fds.get(self._fd)
        if isinstance(file, PathFile):
            return file.location
        return Location(OpenFileInode(file))


class OpenFileInode(Inode):
    """What /proc/PID/fd/N leads to when the file has no place in the file system: opening it opens the description again."""

    __slots__ = ("file",)

    def __init__(self, file: OpenFile) -> None:
        self.file = file

    def stat(self) -> Stat:
        """See Inode."""
        return self.file.stat()

    def truncate(self, length: int) -> None:
        """See Inode: O_TRUNC means nothing to a pipe or a terminal."""

    def check(self, creds: object, mask: int, real: bool = False) -> None:
        """See Inode: who has the descriptor may use it."""

    def open(self, task: Task, location: Location, flags: int) -> OpenFile:
        """See Inode: pipes get a description of their own, everything else is shared."""
        from systrap.sentry.pipe import PipeEnd

        if isinstance(self.file, PipeEnd):
            return PipeEnd(self.file.pipe, flags & ~O_CLOEXEC, self.file.inode)
        return self.file


def _fd_directory(group: ThreadGroup) -> Inode:
    def names() -> list[bytes]:
        return [b"%d" % fd for fd in _leader(group).fds.numbers()]

    def find(name: bytes) -> Inode | None:
        task = _leader(group)
        if not name.isdigit() or int(name) not in task.fds.numbers():
            return None
        return FileLink(task, int(name))

    return DirectoryInode({}, names, find, 0o500, _owner(group))


def _fdinfo_directory(group: ThreadGroup) -> Inode:
    def names() -> list[bytes]:
        return [b"%d" % fd for fd in _leader(group).fds.numbers()]

    def find(name: bytes) -> Inode | None:
        task = _leader(group)
        if not name.isdigit() or int(name) not in task.fds.numbers():
            return None
        file = task.fds.get(int(name))
        flags = file.flags | (O_CLOEXEC if int(name) in task.fds.cloexec else 0)
        return TextInode(lambda task: b"pos:\t%d\nflags:\t0%o\nmnt_id:\t20\nino:\t%d\n" % (file.offset, flags, file.stat().ino))

    return DirectoryInode({}, names, find, 0o500, _owner(group))


def _owner(group: ThreadGroup) -> tuple[int, int]:
    return (group.leader.creds.euid, group.leader.creds.egid) if group.leader is not None else (0, 0)


def _location_link(group: ThreadGroup, where: Callable[[Task], Location]) -> Inode:
    """Return cwd or root: a link that leads there, whatever its name has become."""

    def text() -> bytes:
        return group.kernel.vfs.path_of(where(_leader(group)), group.kernel.vfs.root)

    return LinkInode(text, lambda task: where(_leader(group)), _owner(group))


def _exe_link(group: ThreadGroup) -> Inode:
    def file() -> OpenFile:
        found = _leader(group).mm.executable
        if found is None:
            raise SyscallError(errno.ENOENT)
        return found

    def target(task: Task) -> Location | None:
        found = file()
        return found.location if isinstance(found, PathFile) else None

    return LinkInode(lambda: os.fsencode(file().describe()), target, _owner(group))


def _text_inode(group: ThreadGroup, function: Function) -> Callable[[], Inode]:
    return lambda: TextInode(lambda task: function(group), owner=_owner(group))


def process_directory(group: ThreadGroup, with_tasks: bool = True) -> Inode:
    """Return /proc/PID of a process."""
    from systrap.sentry.fs.procfs import mounts_text

    table: dict[bytes, Callable[[], Inode]] = {name: _text_inode(group, function) for name, function in TEXTS.items()}
    table[b"comm"] = lambda: TextInode(
        lambda task: _comm(group) + b"\n", lambda task, data: _set_comm(group, data), 0o644, _owner(group)
    )
    table[b"oom_score_adj"] = lambda: TextInode(
        lambda task: b"%d\n" % group.oom_score_adj, lambda task, data: _set_oom(group, data), 0o644, _owner(group)
    )
    table[b"mounts"] = lambda: TextInode(mounts_text)
    table[b"fd"] = lambda: _fd_directory(group)
    table[b"fdinfo"] = lambda: _fdinfo_directory(group)
    table[b"cwd"] = lambda: _location_link(group, lambda task: task.fs.cwd)
    table[b"root"] = lambda: _location_link(group, lambda task: task.fs.root)
    table[b"exe"] = lambda: _exe_link(group)
    if with_tasks:
        table[b"task"] = lambda: DirectoryInode(
            {},
            lambda: [b"%d" % task.tid for task in group.tasks],
            lambda name: process_directory(group, with_tasks=False) if name in [b"%d" % t.tid for t in group.tasks] else None,
        )
    return DirectoryInode(table, owner=_owner(group))
