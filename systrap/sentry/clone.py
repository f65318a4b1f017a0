"""clone, clone3, fork and vfork: new tasks and processes."""

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap import arch
from systrap.platform import PlatformError
from systrap.sentry.clocks import watch_cpu_limit
from systrap.sentry.errors import SyscallError
from systrap.sentry.limits import RLIMIT_NPROC
from systrap.sentry.signals import Pending
from systrap.sentry.task import Task, ThreadGroup
from systrap.sentry.wait import Wait, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel

CSIGNAL: Final = 0xFF
CLONE_VM: Final = 0x100
CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_SIGHAND: Final = 0x800
CLONE_PIDFD: Final = 0x1000
CLONE_PTRACE: Final = 0x2000
CLONE_VFORK: Final = 0x4000
CLONE_PARENT: Final = 0x8000
CLONE_THREAD: Final = 0x10000
CLONE_SYSVSEM: Final = 0x40000
CLONE_SETTLS: Final = 0x80000
CLONE_PARENT_SETTID: Final = 0x100000
CLONE_CHILD_CLEARTID: Final = 0x200000
CLONE_CHILD_SETTID: Final = 0x1000000
CLONE_CLEAR_SIGHAND: Final = 0x100000000
CLONE_INTO_CGROUP: Final = 0x200000000
_NAMESPACES: Final = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000

ARCH: Final = arch.current()
_MAX_TASKS: Final = 30_000


class CloneArgs(NamedTuple):
    """The arguments of any member of the family. Addresses are the guest's; ``stack`` is the new stack pointer, 0 = keep."""

    flags: int
    exit_signal: int
    stack: int = 0
    parent_tid: int = 0
    child_tid: int = 0
    tls: int = 0
    pidfd: int = 0


def _check(args: CloneArgs) -> None:
    """EINVAL for combinations that make no sense, EPERM for namespaces: there are none here."""
    flags = args.flags
    if flags & CLONE_SIGHAND and not flags & CLONE_VM:
        raise SyscallError(errno.EINVAL)
    if flags & CLONE_THREAD and not flags & CLONE_SIGHAND:
        raise SyscallError(errno.EINVAL)
    if flags & CLONE_CLEAR_SIGHAND and flags & CLONE_SIGHAND:
        raise SyscallError(errno.EINVAL)
    if flags & CLONE_PIDFD and flags & CLONE_THREAD:
        raise SyscallError(errno.EINVAL)
    if args.exit_signal > 64:
        raise SyscallError(errno.EINVAL)
    if flags & (_NAMESPACES | CLONE_INTO_CGROUP):
        raise SyscallError(errno.EPERM)


def _new_group(kernel: "Kernel", task: Task, args: CloneArgs, pid: int) -> ThreadGroup:
    """Make the process of a new first task."""
    old = task.group
    parent = old.parent if args.flags & CLONE_PARENT else old
    group = ThreadGroup(kernel, pid, parent, old.session, old.pgid)
    shares = args.flags & CLONE_SIGHAND
    group.handlers = old.handlers if shares else old.handlers.copy()
    if args.flags & CLONE_CLEAR_SIGHAND:
        group.handlers.reset_for_exec()
    group.limits = old.limits.copy()
    group.exit_signal = old.exit_signal if args.flags & CLONE_PARENT else args.exit_signal
    group.exe, group.cmdline, group.environ = old.exe, old.cmdline, old.environ
    group.no_new_privs = old.no_new_privs
    group.dumpable = old.dumpable
    group.oom_score_adj = old.oom_score_adj
    return group


def _copy_resources(kernel: "Kernel", task: Task, child: Task, flags: int) -> None:
    """Share or copy memory, files and directories."""
    if flags & CLONE_VM:
        child.mm = task.mm.retain()
    else:
        try:
            child.mm = task.mm.fork()
        except PlatformError as error:
            # The guest sees what fork says when the machine is full (20-platform §8.1 [H]).
            kernel.write_log(f"systrap: fork failed: {error}")
            raise SyscallError(errno.EAGAIN) from error
        child.mm.limits = child.group.limits
    if flags & CLONE_FILES:
        child.fds = task.fds
        child.fds.refs += 1
    else:
        child.fds = task.fds.copy()
    child.fs = task.fs if flags & CLONE_FS else task.fs.copy()
    child.creds = task.creds


def _copy_registers(task: Task, child: Task, args: CloneArgs) -> None:
    """Give the child the parent's registers, with 0 as the call's result, and its FP state."""
    child.context.regs[:] = task.context.regs
    task.context.pull_full_state()
    child.context.fp[:] = task.context.fp
    child.context.full_state_changed()
    regs = child.context.regs
    regs[ARCH.RESULT] = 0
    if args.stack:
        regs[ARCH.SP] = args.stack
    if args.flags & CLONE_SETTLS:
        regs[ARCH.TLS] = args.tls


def clone(task: Task, args: CloneArgs) -> Task:
    """Make a new task as ``args`` say and let it run. Raises SyscallError, leaving nothing behind."""
    kernel, flags = task.kernel, args.flags
    _check(args)
    if len(kernel.tasks) >= min(_MAX_TASKS, task.group.limits.soft(RLIMIT_NPROC)):
        raise SyscallError(errno.EAGAIN)
    tid = kernel.new_pid()
    group = task.group if flags & CLONE_THREAD else _new_group(kernel, task, args, tid)
    child = Task(kernel, tid, group, kernel.platform.new_context())
    _copy_resources(kernel, task, child, flags)
    child.signal_mask = task.signal_mask if task.saved_mask is None else task.saved_mask
    child.comm, child.personality, child.timer_slack = task.comm, task.personality, task.timer_slack
    child.sched = task.sched.inherited()
    if not flags & CLONE_VM or flags & CLONE_VFORK:
        child.altstack = task.altstack
    child.pending = Pending()
    _copy_registers(task, child, args)
    if flags & CLONE_CHILD_CLEARTID:
        child.clear_child_tid = args.child_tid
    if flags & CLONE_VFORK:
        child.vfork_queue = WaitQueue()
    _enter_books(kernel, task, child)
    _write_ids(task, child, args)
    kernel.task_began(child)
    kernel.return_to_guest(child)
    return child


def _enter_books(kernel: "Kernel", task: Task, child: Task) -> None:
    group = child.group
    group.tasks.append(child)
    kernel.tasks[child.tid] = child
    if group is not task.group:
        group.leader = child
        watch_cpu_limit(group)
        kernel.groups[group.pid] = group
        if group.parent is not None and group.parent is not kernel.init:
            group.parent.children.append(group)


def _write_ids(task: Task, child: Task, args: CloneArgs) -> None:
    """Write the new id where the caller wants it. What cannot be written there is ignored, as Linux does for the child's."""
    if args.flags & CLONE_PARENT_SETTID:
        _try_write(task, args.parent_tid, child.tid)
    if args.flags & CLONE_CHILD_SETTID:
        _try_write(child, args.child_tid, child.tid)
    if args.flags & CLONE_PIDFD:
        from systrap.sentry.pidfd import PidFile

        fd = task.fds.add(PidFile(child.group), cloexec=True)
        _try_write(task, args.pidfd or args.parent_tid, fd)


def _try_write(task: Task, addr: int, value: int) -> bool:
    try:
        task.mm.write_u32(addr, value)
    except SyscallError:
        return False
    return True


async def wait_for_vfork(child: Task) -> None:
    """Wait until a vforked child runs another program or ends. Only death ends the wait early."""
    if child.vfork_queue is not None:
        queue = child.vfork_queue
        while child.vfork_queue is queue:
            await Wait((queue,), uninterruptible=True)
