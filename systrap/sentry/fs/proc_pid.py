"""/proc/PID and /proc/PID/task/TID: what a process can be asked about."""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_LARGEFILE, OpenFile
from systrap.sentry.fs import proc_memory, proc_status
from systrap.sentry.fs.contents import DirectoryFile
from systrap.sentry.fs.inode import Inode, Location, Stat
from systrap.sentry.fs.places import is_deleted
from systrap.sentry.fs.reopen import link_text, location_of
from systrap.sentry.fs.synthetic import Directory, Link, SyntheticInode, TextInode, ino_of
from systrap.sentry.limits import INFINITY
from systrap.sentry.task import State

if TYPE_CHECKING:
    from systrap.sentry.task import Task, ThreadGroup

_COMM_LEN: Final = 15


def process_directory(group: "ThreadGroup") -> Inode:
    """Return /proc/PID."""
    if group.leader is None:
        return _init_directory(group)
    return ProcessDirectory(group.leader)


def _init_directory(group: "ThreadGroup") -> Inode:
    """Return the directory of init, which has no task: it is the kernel that adopts and collects."""
    pid = group.pid
    uptime = f"0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0 {INFINITY} " + "0 " * 26 + "0"
    status = f"Name:\tinit\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t0\nTracerPid:\t0\n"
    ids = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nFDSize:\t64\nGroups:\t\nThreads:\t1\n"
    texts = {
        "cgroup": "0::/\n", "cmdline": "/sbin/init\0", "comm": "init\n", "environ": "", "limits": "", "maps": "",
        "oom_score_adj": "0\n",
        "stat": f"{pid} (init) S 0 {pid} {pid} {uptime}\n", "statm": "0 0 0 0 0 0 0\n", "status": status + ids, "wchan": "0",
    }  # fmt: skip
    children: dict[bytes, Inode] = {
        os.fsencode(name): TextInode(_constant(text.encode()), ino_of("pid", pid, name), _FILES[os.fsencode(name)][0])
        for name, text in texts.items()
    }
    children[b"fd"] = Directory({}, ino_of("pid", pid, "fd"), 0o500)
    return Directory(children, ino_of("pid", pid))


def _constant(text: bytes) -> Callable[[], bytes]:
    return lambda: text


class ThreadDirectory(Directory):
    """What is the same for a process and a thread. Children are made when asked for."""

    __slots__ = ("task",)

    def __init__(self, task: "Task") -> None:
        super().__init__({}, ino_of("tid", task.tid))
        self.task = task
        self.owner = self._owner

    def _owner(self) -> tuple[int, int]:
        creds = self.task.creds
        return (creds.euid, creds.egid) if self.task.group.dumpable == 1 else (0, 0)

    def names(self) -> "dict[bytes, int]":
        """Return names and modes of the children."""
        found = {name: 0o100000 | mode for name, (mode, _, _) in _FILES.items()}
        found |= dict.fromkeys(_LINKS, 0o120777)
        found |= {b"fd": 0o040500, b"fdinfo": 0o040555, b"ns": 0o040511, b"net": 0o040555, b"attr": 0o040555}
        return found

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        return [(name, ino_of(self.ino, name), mode >> 12) for name, mode in self.names().items()]

    def lookup(self, name: bytes) -> Inode:
        """See Inode. ESRCH becomes ENOENT: a process that is gone has no directory."""
        mode = self.names().get(name)
        if mode is None:
            raise SyscallError(errno.ENOENT)
        ino, task = ino_of(self.ino, name), self.task
        if name in _FILES:
            bits, read, write = _FILES[name]
            if read is _memory:
                return MemoryInode(task, ino, self._owner)
            writer = None if write is None else _bind(write, task)
            return TextInode(_bind_read(read, task), ino, bits, writer, self._owner)
        if name in _LINKS:
            text, lead = _LINKS[name]
            return Link(lambda: text(task), ino, lambda asking: lead(task, asking), owner=self._owner)
        return self.directory(name, ino)

    def directory(self, name: bytes, ino: int) -> Inode:
        """Return a directory below."""
        task = self.task
        if name == b"fd":
            return DescriptorDirectory(task, ino, self._owner)
        if name == b"fdinfo":
            return InfoDirectory(task, ino, self._owner)
        if name == b"ns":
            kinds = {kind: number for number, kind in enumerate(_NAMESPACES, 4026531834)}
            links: dict[bytes, Inode] = {
                os.fsencode(kind): _namespace(kind, number, ino) for kind, number in kinds.items()
            }
            return Directory(links, ino, 0o511)
        if name == b"attr":
            return Directory({b"current": TextInode(lambda: b"unconfined\n", ino_of(ino, "current"))}, ino)
        from systrap.sentry.fs.proc_net import net_directory

        return net_directory(task.kernel)


def _namespace(kind: str, number: int, ino: int) -> Link:
    text = os.fsencode(f"{kind}:[{number}]")
    return Link(lambda: text, ino_of(ino, kind))


_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts")


class ProcessDirectory(ThreadDirectory):
    """/proc/PID."""

    __slots__ = ()

    def __init__(self, task: "Task") -> None:
        super().__init__(task)
        self.ino = ino_of("pid", task.group.pid)

    def names(self) -> "dict[bytes, int]":
        """See ThreadDirectory."""
        return super().names() | {b"task": 0o040555}

    def directory(self, name: bytes, ino: int) -> Inode:
        """See ThreadDirectory."""
        if name == b"task":
            return TaskDirectory(self.task.group, ino)
        return super().directory(name, ino)


def group_of_directory(file: OpenFile) -> "ThreadGroup | None":
    """Return the process whose /proc/PID a descriptor has open; None for other descriptors."""
    if isinstance(file, DirectoryFile) and isinstance(file.location.inode, ProcessDirectory):
        return file.location.inode.task.group
    return None


class TaskDirectory(Directory):
    """/proc/PID/task."""

    __slots__ = ("group",)

    def __init__(self, group: "ThreadGroup", ino: int) -> None:
        super().__init__({}, ino)
        self.group = group

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        for task in self.group.tasks:
            if b"%d" % task.tid == name:
                return ThreadDirectory(task)
        raise SyscallError(errno.ENOENT)

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        return [(b"%d" % task.tid, ino_of("tid", task.tid), 4) for task in self.group.tasks]


class DescriptorDirectory(Directory):
    """/proc/PID/fd: magic links to open files."""

    __slots__ = ("task",)

    def __init__(self, task: "Task", ino: int, owner: Callable[[], tuple[int, int]], mode: int = 0o500) -> None:
        super().__init__({}, ino, mode)
        self.task = task
        self.owner = owner

    def find(self, name: bytes) -> int:
        """Return the open descriptor of a name. ENOENT."""
        if not name.isdigit() or self.task.state is State.DEAD:
            raise SyscallError(errno.ENOENT)
        fd = int(name)
        try:
            self.task.fds.get(fd)
        except SyscallError:
            raise SyscallError(errno.ENOENT) from None
        return fd

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        fd = self.find(name)
        file = self.task.fds.get(fd)
        mode = (0o500 if file.readable else 0) | (0o300 if file.writable else 0)
        ino = ino_of(self.ino, fd)
        return Link(
            lambda: link_text(self._file(fd)), ino, lambda _: location_of(self._file(fd)), mode, owner=self.owner
        )

    def _file(self, fd: int) -> OpenFile:
        try:
            return self.task.fds.get(fd)
        except SyscallError:
            raise SyscallError(errno.ENOENT) from None

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        if self.task.state is State.DEAD:
            return []
        return [(b"%d" % fd, ino_of(self.ino, fd), 10) for fd in self.task.fds.numbers()]

    def stat(self) -> Stat:
        """See Inode: the size of fd/ is the number of open descriptors."""
        found = super().stat()
        if self.mode & 0o077 or self.task.state is State.DEAD:
            return found
        return found._replace(size=len(self.task.fds.numbers()))


class InfoDirectory(DescriptorDirectory):
    """/proc/PID/fdinfo."""

    __slots__ = ()

    def __init__(self, task: "Task", ino: int, owner: Callable[[], tuple[int, int]]) -> None:
        super().__init__(task, ino, owner, 0o555)

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        fd = self.find(name)
        return TextInode(lambda: self._text(fd), ino_of(self.ino, fd), 0o444, owner=self.owner)

    def _text(self, fd: int) -> bytes:
        file = self._file(fd)
        flags = file.flags | (0o2000000 if fd in self.task.fds.cloexec else 0) | (0 if file.pollable else O_LARGEFILE)
        try:
            ino = file.stat().ino
        except NotImplementedError:
            ino = 0
        return f"pos:\t{file.offset}\nflags:\t0{flags:o}\nmnt_id:\t24\nino:\t{ino}\n".encode()

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        return [(name, ino, 8) for name, ino, _ in super().entries()]


class MemoryInode(SyntheticInode):
    """/proc/PID/mem."""

    __slots__ = ("task",)

    def __init__(self, task: "Task", ino: int, owner: Callable[[], tuple[int, int]]) -> None:
        super().__init__(0o100600, ino, owner=owner)
        self.task = task

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        if task.creds.fsuid not in (0, self.task.creds.uid):
            raise SyscallError(errno.EACCES)
        return proc_memory.MemoryFile(location, flags, self.task)


# Links.


def _executable(task: "Task", asking: "Task") -> Location:
    file = task.mm.executable if task.state is not State.DEAD else None
    location = getattr(file, "location", None)
    if not isinstance(location, Location):
        raise SyscallError(errno.ENOENT)
    return location


def _executable_text(task: "Task") -> bytes:
    file = task.mm.executable if task.state is not State.DEAD else None
    if file is None:
        raise SyscallError(errno.ENOENT)
    return link_text(file)


def _place_text(place: Location, task: "Task") -> bytes:
    current = task.kernel.current or task
    text: bytes = task.kernel.vfs.path_of(place, current.fs.root)
    return text + b" (deleted)" if is_deleted(place) else text


_LINKS: "Final[dict[bytes, tuple[Callable[[Task], bytes], Callable[[Task, Task], Location]]]]" = {
    b"exe": (_executable_text, _executable),
    b"cwd": (lambda task: _place_text(task.fs.cwd, task), lambda task, _: task.fs.cwd),
    b"root": (lambda task: _place_text(task.fs.root, task), lambda task, _: task.fs.root),
}


# Files.


def _bind(write: "Callable[[Task, Task, bytes], None]", task: "Task") -> "Callable[[Task, bytes], None]":
    return lambda asking, data: write(task, asking, data)


def _bind_read(read: "Callable[[Task], bytes]", task: "Task") -> Callable[[], bytes]:
    return lambda: read(task)


def _memory(task: "Task") -> bytes:
    raise SyscallError(errno.EIO)


def _write_comm(task: "Task", asking: "Task", data: bytes) -> None:
    if task.group is not asking.group:
        raise SyscallError(errno.EINVAL)
    task.comm = data.split(b"\0")[0].rstrip(b"\n")[:_COMM_LEN]


def _number(data: bytes) -> int:
    try:
        return int(data.strip(b"\0 \n\t"))
    except ValueError:
        raise SyscallError(errno.EINVAL) from None


def _write_adjustment(task: "Task", asking: "Task", data: bytes) -> None:
    value = _number(data)
    if not -1000 <= value <= 1000:
        raise SyscallError(errno.EINVAL)
    if value < task.group.oom_score_adj and not asking.creds.capable(24):
        raise SyscallError(errno.EACCES)
    task.group.oom_score_adj = value


def _ignore_number(task: "Task", asking: "Task", data: bytes) -> None:
    _number(data.replace(b"0x", b""))


def _refuse(task: "Task", asking: "Task", data: bytes) -> None:
    raise SyscallError(errno.EPERM)


def _text(value: bytes) -> "Callable[[Task], bytes]":
    return lambda task: value


_FILES: "Final[dict[bytes, tuple[int, Callable[[Task], bytes], Callable[[Task, Task, bytes], None] | None]]]" = {
    b"auxv": (0o400, lambda task: proc_status.memory_of(task).auxv, None),
    b"cgroup": (0o444, _text(b"0::/\n"), None),
    b"cmdline": (0o444, proc_status.cmdline, None),
    b"comm": (0o644, lambda task: task.comm + b"\n", _write_comm),
    b"coredump_filter": (0o644, _text(b"00000033\n"), _ignore_number),
    b"cpuset": (0o444, _text(b"/\n"), None),
    b"environ": (0o400, proc_status.environ, None),
    b"gid_map": (0o644, _text(b"         0          0 4294967295\n"), _refuse),
    b"io": (0o400, proc_status.io, None),
    b"limits": (0o444, proc_status.limits, None),
    b"loginuid": (0o644, _text(b"4294967295"), _refuse),
    b"maps": (0o444, proc_memory.maps, None),
    b"mem": (0o600, _memory, None),
    b"mountinfo": (0o444, proc_status.mountinfo, None),
    b"mounts": (0o444, proc_status.mounts, None),
    b"oom_adj": (0o644, _text(b"0\n"), _ignore_number),
    b"oom_score": (0o444, _text(b"666\n"), None),
    b"oom_score_adj": (0o644, lambda task: b"%d\n" % task.group.oom_score_adj, _write_adjustment),
    b"personality": (0o400, lambda task: b"%08x\n" % task.personality, None),
    b"schedstat": (0o444, proc_status.schedstat, None),
    b"sessionid": (0o444, _text(b"4294967295"), None),
    b"setgroups": (0o644, _text(b"allow\n"), _refuse),
    b"smaps": (0o444, proc_memory.smaps, None),
    b"smaps_rollup": (0o444, proc_memory.smaps_rollup, None),
    b"stat": (0o444, proc_status.stat, None),
    b"statm": (0o444, proc_status.statm, None),
    b"status": (0o444, proc_status.status, None),
    b"timerslack_ns": (0o666, lambda task: b"%d\n" % task.timer_slack, _ignore_number),
    b"uid_map": (0o644, _text(b"         0          0 4294967295\n"), _refuse),
    b"wchan": (0o444, _text(b"0"), None),
}
