"""Processes: clone and its relatives, execve, exit, wait, ids of processes, process groups and sessions, prctl."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry import clone as clones
from systrap.sentry import exit as exits
from systrap.sentry import wait_children as waits
from systrap.sentry.clone import CloneArgs
from systrap.sentry.errors import SyscallError
from systrap.sentry.exec import execute
from systrap.sentry.file import O_NONBLOCK
from systrap.sentry.loader import MAX_ARG_STRLEN
from systrap.sentry.pidfd import PidFile, group_of
from systrap.sentry.signals import Info
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64

if TYPE_CHECKING:
    from systrap.sentry.task import Task, ThreadGroup

_CLONE_ARGS_MIN: Final = 64
_CLONE_ARGS_MAX: Final = 4096
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_MAX_ARG_STRINGS: Final = 0x7FFFFFFF


async def clone(task: Task, args: CloneArgs) -> int:
    """Make a new task, and wait for it as far as vfork(2) does; return its id."""
    child = clones.clone(task, args)
    tid = child.tid
    if args.flags & clones.CLONE_VFORK:
        await clones.wait_for_vfork(child)
    return tid


@syscall("clone3")
async def sys_clone3(task: Task, args_addr: addr, size: u64) -> Result:
    """clone3(2)."""
    if size > _CLONE_ARGS_MAX:
        raise SyscallError(errno.E2BIG)
    if size < _CLONE_ARGS_MIN:
        raise SyscallError(errno.EINVAL)
    data = task.mm.read(args_addr, size)
    known, rest = data[:88].ljust(88, b"\0"), data[88:]
    if any(rest):
        raise SyscallError(errno.E2BIG)
    flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup = (
        struct.unpack("<11Q", known)
    )
    if set_tid or set_tid_size:
        raise SyscallError(errno.EPERM if set_tid and set_tid_size else errno.EINVAL)
    if bool(stack) != bool(stack_size) or flags & clones.CSIGNAL or exit_signal > 64:
        raise SyscallError(errno.EINVAL)
    if flags & (clones.CLONE_THREAD | clones.CLONE_PARENT) and exit_signal:
        raise SyscallError(errno.EINVAL)
    sp = (stack + stack_size) & (1 << 64) - 1
    return await clone(task, CloneArgs(flags, exit_signal, sp, parent_tid, child_tid, tls, pidfd))


@syscall("fork")
async def sys_fork(task: Task) -> Result:
    """fork(2)."""
    return await clone(task, CloneArgs(0, exits.SIGCHLD))


@syscall("vfork")
async def sys_vfork(task: Task) -> Result:
    """vfork(2)."""
    return await clone(task, CloneArgs(clones.CLONE_VFORK | clones.CLONE_VM, exits.SIGCHLD))


def _strings(task: Task, array: int) -> list[bytes]:
    """Read a NULL-terminated array of strings; a NULL array is empty, as on Linux."""
    found: list[bytes] = []
    if not array:
        return found
    mm = task.mm
    while len(found) < _MAX_ARG_STRINGS:
        pointer = mm.read_u64(array)
        if not pointer:
            return found
        try:
            found.append(mm.read_string(pointer, MAX_ARG_STRLEN))
        except SyscallError as error:
            raise SyscallError(errno.E2BIG if error.errno == errno.ENAMETOOLONG else error.errno) from None
        array += 8
    raise SyscallError(errno.E2BIG)


@syscall("execve")
async def sys_execve(task: Task, path: addr, argv: addr, envp: addr) -> Result:
    """execve(2)."""
    name = task.mm.read_string(path)
    if not name:
        raise SyscallError(errno.ENOENT)
    await execute(task, name, _strings(task, argv), _strings(task, envp))
    return None


@syscall("execveat")
async def sys_execveat(task: Task, dirfd: i32, path: addr, argv: addr, envp: addr, flags: i32) -> Result:
    """execveat(2): the file is opened here, the loader takes it open."""
    if flags & ~(_AT_EMPTY_PATH | _AT_SYMLINK_NOFOLLOW):
        raise SyscallError(errno.EINVAL)
    name = task.mm.read_string(path)
    arguments, environment = _strings(task, argv), _strings(task, envp)
    if not name:
        if not flags & _AT_EMPTY_PATH:
            raise SyscallError(errno.ENOENT)
        file = task.fds.get(dirfd)
        name = b"/dev/fd/%d" % dirfd
        if not file.readable:
            file = task.kernel.vfs.open(task, None, b"/proc/self/fd/%d" % dirfd, 0, 0)
        file.refs += 1
        try:
            await execute(task, name, arguments, environment, file)
        finally:
            from systrap.sentry.file import drop

            drop(file)
        return None
    if dirfd != _AT_FDCWD and not name.startswith(b"/"):
        base = task.kernel.vfs.path_of(task.kernel.vfs.directory(task, dirfd), task.fs.root)
        name = os.path.join(base, name)
    await execute(task, name, arguments, environment)
    return None


@syscall("exit")
def sys_exit(task: Task, code: i32) -> Result:
    """Carry out _exit(2) of one thread."""
    group = task.group
    if len(group.tasks) == 1 and not group.exiting:
        group.exit_code = (code & 0xFF) << 8
    exits.exit_task(task)
    return None


@syscall("exit_group")
def sys_exit_group(task: Task, code: i32) -> Result:
    """exit_group(2)."""
    exits.end_group(task.group, (code & 0xFF) << 8)
    return None


@syscall("wait4")
async def sys_wait4(task: Task, pid: i32, status: addr, options: u32, rusage: addr) -> Result:
    """wait4(2)."""
    known = waits.WNOHANG | waits.WUNTRACED | waits.WCONTINUED | waits.WNOTHREAD | waits.WALL | waits.WCLONE
    if options & ~known:
        raise SyscallError(errno.EINVAL)
    if pid == -(1 << 31):
        raise SyscallError(errno.ESRCH)
    news = await waits.wait_for(task, waits.by_pid(task, pid), options | waits.WEXITED)
    if news is None:
        return 0
    if status:
        task.mm.write_u32(status, news.status)
    if rusage:
        task.mm.write(rusage, pack_rusage(news.group))
    return news.group.pid


def pack_rusage(group: ThreadGroup) -> bytes:
    """Return a struct rusage of a process and the children it collected."""
    user, system = group.user_time + group.children_times[0], group.system_time + group.children_times[1]
    return struct.pack("<4q14q", *_timeval(user), *_timeval(system), *([0] * 14))


def _timeval(seconds: float) -> tuple[int, int]:
    micros = int(seconds * 1e6)
    return micros // 1_000_000, micros % 1_000_000


@syscall("waitid")
async def sys_waitid(task: Task, kind: i32, which: i32, info: addr, options: u32, rusage: addr) -> Result:
    """waitid(2)."""
    known = waits.WNOHANG | waits.WNOWAIT | waits.WEXITED | waits.WSTOPPED | waits.WCONTINUED
    known |= waits.WNOTHREAD | waits.WALL | waits.WCLONE
    if options & ~known or not options & (waits.WEXITED | waits.WSTOPPED | waits.WCONTINUED):
        raise SyscallError(errno.EINVAL)
    matches = _waitid_target(task, kind, which)
    if kind == waits.P_PIDFD and task.fds.get(which).nonblocking:
        options |= waits.WNOHANG
    news = await waits.wait_for(task, matches, options)
    if info:
        task.mm.write(info, _waitid_info(news))
    if rusage and news is not None:
        task.mm.write(rusage, pack_rusage(news.group))
    return 0


def _waitid_target(task: Task, kind: int, which: int) -> waits.Matches:
    if kind == waits.P_ALL:
        return lambda child: True
    if kind == waits.P_PID:
        if which <= 0:
            raise SyscallError(errno.EINVAL)
        return waits.by_pid(task, which)
    if kind == waits.P_PGID:
        if which < 0:
            raise SyscallError(errno.EINVAL)
        return waits.by_pid(task, -which if which > 1 else 0)
    if kind == waits.P_PIDFD:
        group = group_of(task.fds.get(which))
        return lambda child: child is group
    raise SyscallError(errno.EINVAL)


def _waitid_info(news: waits.News | None) -> bytes:
    if news is None:
        return bytes(128)
    if news.code == exits.CLD_EXITED:
        status = news.status >> 8
    elif news.code == exits.CLD_STOPPED:
        status = news.group.stop_signal
    elif news.code == exits.CLD_CONTINUED:
        status = exits.SIGCONT
    else:
        status = news.status & 0x7F
    uid = news.group.leader.creds.ruid if news.group.leader is not None else 0
    return Info(exits.SIGCHLD, news.code, pid=news.group.pid, uid=uid, status=status).pack()


# Ids.


@syscall("getpid")
def sys_getpid(task: Task) -> Result:
    """getpid(2)."""
    return task.group.pid


@syscall("gettid")
def sys_gettid(task: Task) -> Result:
    """gettid(2)."""
    return task.tid


@syscall("getppid")
def sys_getppid(task: Task) -> Result:
    """getppid(2)."""
    return task.group.parent.pid if task.group.parent is not None else 0


@syscall("set_tid_address")
def sys_set_tid_address(task: Task, address: addr) -> Result:
    """set_tid_address(2)."""
    task.clear_child_tid = address
    return task.tid


def _group(task: Task, pid: int) -> ThreadGroup:
    """Return a process by its id, 0 the caller's. ESRCH."""
    if pid == 0:
        return task.group
    found = task.kernel.groups.get(pid)
    if found is None:
        by_tid = task.kernel.tasks.get(pid)
        if by_tid is None:
            raise SyscallError(errno.ESRCH)
        found = by_tid.group
    return found


@syscall("getpgid")
def sys_getpgid(task: Task, pid: i32) -> Result:
    """getpgid(2)."""
    return _group(task, pid).pgid


@syscall("getpgrp")
def sys_getpgrp(task: Task) -> Result:
    """getpgrp(2)."""
    return task.group.pgid


@syscall("getsid")
def sys_getsid(task: Task, pid: i32) -> Result:
    """getsid(2)."""
    return _group(task, pid).session.sid


@syscall("setsid")
def sys_setsid(task: Task) -> Result:
    """setsid(2)."""
    from systrap.sentry.task import Session

    group = task.group
    if any(other.pgid == group.pid for other in task.kernel.groups.values()):
        raise SyscallError(errno.EPERM)
    group.session = Session(group.pid)
    group.pgid = group.pid
    return group.pid


@syscall("setpgid")
def sys_setpgid(task: Task, pid: i32, pgid: i32) -> Result:
    """setpgid(2)."""
    if pgid < 0:
        raise SyscallError(errno.EINVAL)
    caller = task.group
    target = caller if pid in (0, caller.pid) else task.kernel.groups.get(pid)
    if target is None or (target is not caller and target.parent is not caller):
        raise SyscallError(errno.ESRCH)
    if target is not caller:
        if target.session is not caller.session:
            raise SyscallError(errno.EPERM)
        if target.executed:
            raise SyscallError(errno.EACCES)
    if target.session.sid == target.pid:
        raise SyscallError(errno.EPERM)
    pgid = pgid or target.pid
    if pgid != target.pid and not any(
        other.pgid == pgid and other.session is caller.session for other in task.kernel.groups.values()
    ):
        raise SyscallError(errno.EPERM)
    target.pgid = pgid
    return 0


# pidfds.


@syscall("pidfd_open")
def sys_pidfd_open(task: Task, pid: i32, flags: u32) -> Result:
    """pidfd_open(2)."""
    if flags & ~O_NONBLOCK or pid <= 0:
        raise SyscallError(errno.EINVAL)
    group = task.kernel.groups.get(pid)
    if group is None:
        raise SyscallError(errno.EINVAL if pid in task.kernel.tasks else errno.ESRCH)
    return task.fds.add(PidFile(group, flags), cloexec=True)


# Namespaces: there are none.


@syscall("unshare")
def sys_unshare(task: Task, flags: u32) -> Result:
    """unshare(2): files and directories can be unshared, namespaces cannot."""
    if flags & ~(clones.CLONE_FS | clones.CLONE_FILES | clones.CLONE_SYSVSEM):
        raise SyscallError(errno.EPERM)
    if flags & clones.CLONE_FILES and task.fds.refs > 1:
        task.fds.refs -= 1
        task.fds = task.fds.copy()
    if flags & clones.CLONE_FS:
        task.fs = task.fs.copy()
    return 0


@syscall("setns")
def sys_setns(task: Task, fd: i32, kind: i32) -> Result:
    """setns(2): there is nothing to enter."""
    task.fds.get(fd)
    raise SyscallError(errno.EINVAL)
