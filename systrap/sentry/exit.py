"""The end of tasks and processes, stops and continues, and what parents learn of it."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.task import State, Task, ThreadGroup

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel

SIGHUP: Final = 1
SIGCHLD: Final = 17
SIGCONT: Final = 18
CLD_EXITED: Final = 1
CLD_KILLED: Final = 2
CLD_DUMPED: Final = 3
CLD_STOPPED: Final = 5
CLD_CONTINUED: Final = 6
SA_NOCLDSTOP: Final = 1
SA_NOCLDWAIT: Final = 2
SIG_IGN: Final = 1
_CORE_FLAG: Final = 0x80


def kill_group(group: ThreadGroup, signo: int, core: bool = False) -> None:
    """Begin the end of a process by a signal; each of its tasks dies as soon as it is in the kernel's hands."""
    end_group(group, signo | (_CORE_FLAG if core else 0))


def end_group(group: ThreadGroup, exit_code: int) -> None:
    """Begin the end of a process with an exit code in wait4's form (exit_group, or a fatal signal). The first code counts."""
    if group.exiting or group.zombie:
        return
    group.exiting = True
    group.exit_code = exit_code
    group.stopped = False
    for task in list(group.tasks):
        group.kernel.signal_task(task)


def exit_task(task: Task) -> None:
    """End one task, which is in the kernel's hands and not waiting. The last one of a process ends the process."""
    if task.state is State.DEAD:
        return
    kernel, group = task.kernel, task.group
    task.state = State.DEAD
    kernel.task_ended(task)
    leave_memory(task)
    task.fds.refs -= 1
    if task.fds.refs == 0:
        task.fds.close_all()
    task.context.release()
    kernel.tasks.pop(task.tid, None)
    group.tasks.remove(task)
    group.exit_queue.notify()
    if not group.tasks:
        _exit_group(kernel, group)


def leave_memory(task: Task) -> None:
    """Let go of a task's memory, at its end or at execve: wake who waits for that, and drop the address space."""
    kernel, mm = task.kernel, task.mm
    kernel.futexes.exit_robust_list(task)
    if (task.clear_child_tid and mm.users > 1) or (task.clear_child_tid and len(task.group.tasks) > 1):
        try:
            mm.write_u32(task.clear_child_tid, 0)
            kernel.futexes.wake_address(mm, task.clear_child_tid, 1)
        except SyscallError as error:
            # The program's own affair: nothing is mapped there any more.
            if error.errno != errno.EFAULT:
                raise
    task.clear_child_tid = 0
    if task.vfork_queue is not None:
        task.vfork_queue.notify()
        task.vfork_queue = None
    mm.release()


def _exit_group(kernel: "Kernel", group: ThreadGroup) -> None:
    """Turn a process without tasks into a zombie: children go to a new parent, the own parent is told."""
    group.zombie = True
    group.exiting = True
    for timer in (*group.timers.values(), *group.posix_timers.values()):
        timer.cancel()
    orphaned = _held_by(kernel, group)
    _reparent(kernel, group)
    if group.session.sid == group.pid:
        _hang_up(kernel, group)
    for pgid in orphaned:
        _signal_if_orphaned(kernel, pgid)
    parent = group.parent
    if parent is kernel.init or parent is None:
        if group is not kernel.first:
            collect(group)
        else:
            kernel.groups.pop(group.pid, None)
        return
    if _ignores_children(parent):
        _notify_parent(group, parent, CLD_EXITED)
        collect(group)
        parent.child_queue.notify()
    else:
        _notify_parent(group, parent, CLD_EXITED)


def _ignores_children(parent: ThreadGroup) -> bool:
    action = parent.handlers.get(SIGCHLD)
    return action.handler == SIG_IGN or bool(action.flags & SA_NOCLDWAIT)


def _reparent(kernel: "Kernel", group: ThreadGroup) -> None:
    """Give the children of a dying process to the next subreaper, or to init, which collects them at once."""
    heir = group.parent
    while heir is not None and heir is not kernel.init and not heir.child_subreaper:
        heir = heir.parent
    new_parent = heir or kernel.init
    for child in group.children:
        child.parent = new_parent
        if child.pdeath_signal:
            kernel.signals.send_group(child, child.pdeath_signal)
        if new_parent is kernel.init:
            if child.zombie:
                kernel.groups.pop(child.pid, None)
        else:
            new_parent.children.append(child)
            if child.zombie:
                _notify_parent(child, new_parent, CLD_EXITED)
    group.children = []


def _hang_up(kernel: "Kernel", leader: ThreadGroup) -> None:
    """End a session with its leader: the terminal's foreground processes get SIGHUP and SIGCONT."""
    tty = leader.session.tty
    if tty is None:
        return
    leader.session.tty = None
    foreground = tty.foreground
    tty.release_session()
    if foreground:
        kernel.signals.send_pgrp(foreground, SIGHUP)
        kernel.signals.send_pgrp(foreground, SIGCONT)


def is_orphaned(kernel: "Kernel", pgid: int) -> bool:
    """Tell whether nobody outside the process group but in its session could continue its stopped members."""
    for member in kernel.groups.values():
        if member.pgid == pgid and not member.zombie:
            parent = member.parent
            if parent is None or parent is kernel.init:
                continue
            if parent.session is member.session and parent.pgid != pgid:
                return False
    return True


def _held_by(kernel: "Kernel", group: ThreadGroup) -> set[int]:
    """Return the process groups that a process keeps from being orphaned: they may become so by its end."""
    held = {child.pgid for child in group.children if child.session is group.session and child.pgid != group.pgid}
    parent = group.parent
    if (
        parent is not None
        and parent is not kernel.init
        and parent.session is group.session
        and parent.pgid != group.pgid
    ):
        held.add(group.pgid)
    return held


def _signal_if_orphaned(kernel: "Kernel", pgid: int) -> None:
    """Send SIGHUP and SIGCONT to a newly orphaned process group with stopped members."""
    members = [member for member in kernel.groups.values() if member.pgid == pgid and not member.zombie]
    if any(member.stopped for member in members) and is_orphaned(kernel, pgid):
        kernel.signals.send_pgrp(pgid, SIGHUP)
        kernel.signals.send_pgrp(pgid, SIGCONT)


def collect(group: ThreadGroup) -> None:
    """Remove a zombie for good: its parent has its status, or wants none."""
    group.kernel.groups.pop(group.pid, None)
    parent = group.parent
    if parent is not None and group in parent.children:
        parent.children.remove(group)
        own, below = parent.children_times
        user, system = group.children_times
        parent.children_times = (own + group.user_time + user, below + group.system_time + system)


def _notify_parent(group: ThreadGroup, parent: ThreadGroup, what: int) -> None:
    """Tell the parent of an end, a stop or a continuation: SIGCHLD with the facts, and whoever waits for children."""
    from systrap.sentry.signals import Info

    code, status = what, group.exit_code >> 8 & 0xFF
    signo = group.exit_signal if what == CLD_EXITED else SIGCHLD
    if what == CLD_EXITED and group.exit_code & 0x7F:
        code = CLD_DUMPED if group.exit_code & _CORE_FLAG else CLD_KILLED
        status = group.exit_code & 0x7F
    elif what == CLD_STOPPED:
        status = group.stop_signal
    elif what == CLD_CONTINUED:
        status = SIGCONT
    stops = what in (CLD_STOPPED, CLD_CONTINUED)
    if signo and not (stops and parent.handlers.get(SIGCHLD).flags & SA_NOCLDSTOP):
        times = int(group.user_time * 100), int(group.system_time * 100)
        uid = group.leader.creds.ruid if group.leader is not None else 0
        info = Info(signo, code, pid=group.pid, uid=uid, status=status, utime=times[0], stime=times[1])
        group.kernel.signals.send_group(parent, signo, info)
    parent.child_queue.notify()


def stop_group(group: ThreadGroup, signo: int) -> None:
    """Stop a process: its tasks stop as soon as they are in the kernel's hands, and the parent is told."""
    if group.stopped or group.exiting:
        return
    group.stopped = True
    group.stop_signal = signo
    group.reported_stop = False
    group.continued = False
    for task in list(group.tasks):
        group.kernel.signal_task(task)
    if group.parent is not None and group.parent is not group.kernel.init:
        _notify_parent(group, group.parent, CLD_STOPPED)


def continue_group(group: ThreadGroup) -> None:
    """Let a stopped process go on, and tell the parent."""
    if not group.stopped:
        return
    group.stopped = False
    group.continued = True
    for task in list(group.tasks):
        group.kernel.signal_task(task)
    if group.parent is not None and group.parent is not group.kernel.init:
        _notify_parent(group, group.parent, CLD_CONTINUED)
