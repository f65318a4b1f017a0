"""Signals: actions, masks, sending, waiting."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry import frames
from systrap.sentry.errors import Interrupted, RestartKind, SyscallError
from systrap.sentry.pidfd import group_of
from systrap.sentry.signals import (
    IGNORED_BY_DEFAULT,
    SA_KNOWN,
    SI_KERNEL,
    SI_TKILL,
    SI_USER,
    SIG_DFL,
    SIG_IGN,
    SIGCONT,
    SIGKILL,
    SIGSEGV,
    SIGSTOP,
    UNBLOCKABLE,
    Action,
    Info,
    bit,
)
from systrap.sentry.syscalls.poll import read_timespec
from systrap.sentry.syscalls.table import Result, addr, i32, syscall, u32, u64
from systrap.sentry.wait import Wait, WaitQueue, deadline_of

if TYPE_CHECKING:
    from systrap.sentry.task import Task, ThreadGroup

_ACTION: Final = struct.Struct("<4Q")
_HOW_BLOCK, _HOW_UNBLOCK, _HOW_SET = 0, 1, 2


def _check_size(size: int) -> None:
    if size != 8:
        raise SyscallError(errno.EINVAL)


@syscall("rt_sigaction")
def sys_rt_sigaction(task: Task, signo: i32, new: addr, old: addr, size: u64) -> Result:
    """rt_sigaction(2)."""
    _check_size(size)
    if not 1 <= signo <= 64 or (new and signo in (SIGKILL, SIGSTOP)):
        raise SyscallError(errno.EINVAL)
    handlers = task.group.handlers
    before = handlers.get(signo)
    if new:
        action = Action(*_ACTION.unpack(task.mm.read(new, 32)))
        handlers.set(signo, action._replace(flags=action.flags & SA_KNOWN, mask=action.mask & ~UNBLOCKABLE))
        if action.handler == SIG_IGN or (action.handler == SIG_DFL and bit(signo) & IGNORED_BY_DEFAULT):
            task.group.pending.discard(bit(signo))
            for member in task.group.tasks:
                member.pending.discard(bit(signo))
    if old:
        task.mm.write(old, _ACTION.pack(*before))
    return 0


@syscall("rt_sigprocmask")
def sys_rt_sigprocmask(task: Task, how: i32, new: addr, old: addr, size: u64) -> Result:
    """rt_sigprocmask(2)."""
    _check_size(size)
    before = task.signal_mask
    if new:
        mask = task.mm.read_u64(new)
        if how == _HOW_BLOCK:
            mask |= before
        elif how == _HOW_UNBLOCK:
            mask = before & ~mask
        elif how != _HOW_SET:
            raise SyscallError(errno.EINVAL)
        task.signal_mask = mask & ~UNBLOCKABLE
        task.kernel.recheck(task)
    if old:
        task.mm.write_u64(old, before)
    return 0


@syscall("rt_sigpending")
def sys_rt_sigpending(task: Task, mask: addr, size: u64) -> Result:
    """rt_sigpending(2)."""
    if size > 8:
        raise SyscallError(errno.EINVAL)
    pending = (task.pending.bits | task.group.pending.bits) & task.signal_mask
    task.mm.write(mask, struct.pack("<Q", pending)[:size])
    return 0


@syscall("rt_sigsuspend")
async def sys_rt_sigsuspend(task: Task, mask: addr, size: u64) -> Result:
    """rt_sigsuspend(2)."""
    _check_size(size)
    task.set_temporary_mask(task.mm.read_u64(mask))
    return await _pause()


@syscall("pause")
async def sys_pause(task: Task) -> Result:
    """pause(2)."""
    return await _pause()


async def _pause() -> int:
    nothing = WaitQueue()
    try:
        while True:
            await Wait((nothing,))
    except Interrupted:
        raise Interrupted(RestartKind.NOHAND) from None


@syscall("rt_sigtimedwait")
async def sys_rt_sigtimedwait(task: Task, mask: addr, info: addr, timeout: addr, size: u64) -> Result:
    """rt_sigtimedwait(2): the signals waited for interrupt nothing; they are taken here."""
    _check_size(size)
    wanted = task.mm.read_u64(mask) & ~UNBLOCKABLE
    seconds = read_timespec(task, timeout)
    deadline = deadline_of(seconds)
    old_mask = task.signal_mask
    while True:
        found = task.kernel.signals.dequeue(task, wanted)
        if found is not None:
            break
        if seconds == 0:
            raise SyscallError(errno.EAGAIN)
        # While it waits these signals must reach it, even those that are ignored: block them, as blocked ones are kept.
        task.signal_mask |= wanted
        try:
            woken = await Wait((task.group.signal_queue,), deadline)
        except Interrupted:
            raise SyscallError(errno.EINTR) from None
        finally:
            task.signal_mask = old_mask
        if not woken:
            raise SyscallError(errno.EAGAIN)
    if info:
        task.mm.write(info, found.pack())
    return found.signo


@syscall("rt_sigreturn")
def sys_rt_sigreturn(task: Task) -> Result:
    """rt_sigreturn(2)."""
    if not frames.sigreturn(task):
        task.kernel.signals.force(task, Info(SIGSEGV, SI_KERNEL))
    task.kernel.recheck(task)
    return None


@syscall("sigaltstack")
def sys_sigaltstack(task: Task, new: addr, old: addr) -> Result:
    """sigaltstack(2)."""
    start, flags, size = task.altstack
    in_use = frames.on_altstack(task)
    if new:
        failure = frames.set_altstack(task, *struct.unpack("<QI4xQ", task.mm.read(new, 24)))
        if failure:
            raise SyscallError(failure)
    if old:
        state = (frames.SS_ONSTACK if in_use else 0) if size else frames.SS_DISABLE
        task.mm.write(old, struct.pack("<QI4xQ", start, state | flags & frames.SS_AUTODISARM, size))
    return 0


# Sending.


def _user_info(task: Task, signo: int, code: int) -> Info:
    return Info(signo, code, pid=task.group.pid, uid=task.creds.ruid)


def _check_number(signo: int) -> None:
    """Raise EINVAL for what is no signal; 0 is none, and asks only whether one could be sent."""
    if not 0 <= signo <= 64:
        raise SyscallError(errno.EINVAL)


def may_signal(task: Task, group: ThreadGroup, signo: int) -> bool:
    """Apply kill(2)'s permission rule."""
    target = group.leader
    if target is None or group is task.group:
        return True
    own, other = task.creds, target.creds
    if own.capable(5) or {own.euid, own.ruid} & {other.ruid, other.suid}:
        return True
    return signo == SIGCONT and group.session is task.group.session


@syscall("kill")
def sys_kill(task: Task, pid: i32, signo: i32) -> Result:
    """kill(2)."""
    kernel = task.kernel
    if pid > 0:
        group = kernel.groups.get(pid)
        if group is None:
            by_tid = kernel.tasks.get(pid)
            group = by_tid.group if by_tid is not None else None
        if pid == 1:
            _check_number(signo)
            if not task.creds.capable(5):
                raise SyscallError(errno.EPERM)
            return 0
        if group is None:
            raise SyscallError(errno.ESRCH)
        targets = [group]
    elif pid == -1:
        targets = [group for group in kernel.groups.values() if group is not task.group]
    else:
        pgid = task.group.pgid if pid == 0 else -pid
        targets = [group for group in kernel.groups.values() if group.pgid == pgid]
    if not targets:
        raise SyscallError(errno.ESRCH)
    _check_number(signo)
    allowed = [group for group in targets if may_signal(task, group, signo)]
    if not allowed:
        raise SyscallError(errno.EPERM)
    if signo:
        for group in allowed:
            kernel.signals.send_group(group, signo, _user_info(task, signo, SI_USER))
    return 0


def _send_to_thread(task: Task, tgid: int, tid: int, signo: int, info: Info) -> int:
    """Send a signal to a thread; ``tgid`` 0: of any process. One that has ended but is not collected takes it silently."""
    kernel = task.kernel
    target = kernel.tasks.get(tid)
    group = target.group if target is not None else kernel.groups.get(tid)
    if group is None or (tgid and group.pid != tgid):
        raise SyscallError(errno.ESRCH)
    _check_number(signo)
    if not may_signal(task, group, signo):
        raise SyscallError(errno.EPERM)
    if signo and target is not None:
        kernel.signals.send_task(target, signo, info)
    return 0


@syscall("tkill")
def sys_tkill(task: Task, tid: i32, signo: i32) -> Result:
    """tkill(2)."""
    if tid <= 0:
        raise SyscallError(errno.EINVAL)
    return _send_to_thread(task, 0, tid, signo, _user_info(task, signo, SI_TKILL))


@syscall("tgkill")
def sys_tgkill(task: Task, tgid: i32, tid: i32, signo: i32) -> Result:
    """tgkill(2)."""
    if tgid <= 0 or tid <= 0:
        raise SyscallError(errno.EINVAL)
    return _send_to_thread(task, tgid, tid, signo, _user_info(task, signo, SI_TKILL))


def _queued_info(task: Task, pid: int, signo: int, address: int) -> Info:
    """Take a siginfo from the guest. Only to itself may a thread send what looks like the kernel's or kill's."""
    info = Info.parse(signo, task.mm.read(address, 128))
    if (info.code >= 0 or info.code == SI_TKILL) and pid != task.tid:
        raise SyscallError(errno.EPERM)
    return info


@syscall("rt_sigqueueinfo")
def sys_rt_sigqueueinfo(task: Task, pid: i32, signo: i32, info: addr) -> Result:
    """rt_sigqueueinfo(2)."""
    queued = _queued_info(task, pid, signo, info)
    target = task.kernel.tasks.get(pid)
    group = target.group if target is not None else task.kernel.groups.get(pid)
    if group is None:
        raise SyscallError(errno.ESRCH)
    _check_number(signo)
    if not may_signal(task, group, signo):
        raise SyscallError(errno.EPERM)
    if signo:
        task.kernel.signals.send_group(group, signo, queued)
    return 0


@syscall("rt_tgsigqueueinfo")
def sys_rt_tgsigqueueinfo(task: Task, tgid: i32, tid: i32, signo: i32, info: addr) -> Result:
    """rt_tgsigqueueinfo(2)."""
    if tgid <= 0 or tid <= 0:
        raise SyscallError(errno.EINVAL)
    return _send_to_thread(task, tgid, tid, signo, _queued_info(task, tid, signo, info))


@syscall("pidfd_send_signal")
def sys_pidfd_send_signal(task: Task, pidfd: i32, signo: i32, info: addr, flags: u32) -> Result:
    """pidfd_send_signal(2). An open /proc/PID serves as well."""
    if flags:
        raise SyscallError(errno.EINVAL)
    from systrap.sentry.fs.proc_pid import group_of_directory

    file = task.fds.get(pidfd)
    group = group_of_directory(file) or group_of(file)
    if not 0 <= signo <= 64:
        raise SyscallError(errno.EINVAL)
    if group.zombie or group.exiting or not group.tasks:
        raise SyscallError(errno.ESRCH)
    if not may_signal(task, group, signo):
        raise SyscallError(errno.EPERM)
    queued = _user_info(task, signo, SI_USER)
    if info:
        if task.mm.read_u32(info) != signo:
            raise SyscallError(errno.EINVAL)
        queued = _queued_info(task, group.pid, signo, info)
    if signo:
        task.kernel.signals.send_group(group, signo, queued)
    return 0


@syscall("restart_syscall")
def sys_restart_syscall(task: Task) -> Result:
    """restart_syscall(2): calls are restarted as themselves here, so there is never anything to restart this way."""
    raise SyscallError(errno.EINTR)
