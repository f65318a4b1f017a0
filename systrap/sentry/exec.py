"""execve: another program in an existing process; and the start of the first one."""

import errno
import os
from typing import TYPE_CHECKING, Final

from systrap import arch
from systrap.platform import PlatformError
from systrap.sentry import exit as exits
from systrap.sentry.clocks import watch_cpu_limit
from systrap.sentry.credentials import Credentials
from systrap.sentry.elf import ImageError
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import FDTable, OpenFile
from systrap.sentry.limits import Limits
from systrap.sentry.loader import Loaded, load
from systrap.sentry.signals import Handlers
from systrap.sentry.task import Session, Task, ThreadGroup
from systrap.sentry.wait import Wait

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel

ARCH: Final = arch.current()
_COMM_LEN: Final = 15


def start_first(kernel: "Kernel") -> ThreadGroup:
    """Make the first process and let it run the configured program. Raises kernel.ExecError."""
    from systrap.sentry.fs.path import FSContext
    from systrap.sentry.hoststream import open_standard
    from systrap.sentry.kernel import ExecError

    config = kernel.config
    pid = kernel.new_pid()
    group = ThreadGroup(kernel, pid, kernel.init, Session(pid), pid)
    group.handlers = Handlers()
    group.limits = Limits()
    task = Task(kernel, pid, group, kernel.platform.new_context())
    group.leader = task
    uid, gid = config.uid, config.gid
    task.creds = Credentials.of(uid, gid, config.groups)
    root = kernel.vfs.root
    task.fs = FSContext(root, root, _host_umask())
    task.fds = FDTable(group.limits.nofile)
    try:
        task.fs.cwd = kernel.vfs.lookup(task, root, config.cwd)
    except SyscallError:
        kernel.write_log(f"systrap: the guest cannot enter {os.fsdecode(config.cwd)}; it starts in /")
    for number, host_fd in enumerate(config.stdio):
        file = open_standard(kernel, host_fd)
        if file is not None:
            task.fds.set(number, file)
    try:
        loaded = load(kernel, task, config.path, config.argv, config.env)
    except SyscallError as error:
        raise ExecError(*_explain(config.path, error)) from error
    except PlatformError as error:
        raise ExecError(125, f"systrap: {error}") from error
    group.tasks.append(task)
    watch_cpu_limit(group)
    kernel.tasks[pid] = task
    kernel.groups[pid] = group
    if any(os.isatty(fd) for fd in config.stdio):
        from systrap.sentry.tty import adopt_first

        adopt_first(task)
    _become(task, loaded, config.argv, config.env)
    kernel.task_began(task)
    kernel.return_to_guest(task)
    return group


def _host_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _explain(path: bytes, error: SyscallError) -> tuple[int, str]:
    """Return exit status and message, as a shell has them, for a first program that cannot be run."""
    name = os.fsdecode(path)
    if isinstance(error, ImageError):
        return 126, f"systrap: {name}: cannot be executed: {error.reason}"
    status = 127 if error.errno in (errno.ENOENT, errno.ENOTDIR) else 126
    return status, f"systrap: {name}: {os.strerror(error.errno)}"


async def execute(
    task: Task, path: bytes, argv: "list[bytes]", env: "list[bytes]", file: OpenFile | None = None
) -> None:
    """Replace the program of a process (execve). Raises SyscallError while nothing is lost yet."""
    try:
        loaded = load(task.kernel, task, path, argv, env, file)
    except PlatformError as error:
        task.kernel.write_log(f"systrap: execve of {os.fsdecode(path)}: {error}")
        raise SyscallError(errno.ENOMEM) from error
    try:
        await _end_other_tasks(task)
    except BaseException:
        loaded.mm.release()
        raise
    _take_leaders_place(task)
    exits.leave_memory(task)
    _become(task, loaded, argv, env)


async def _end_other_tasks(task: Task) -> None:
    """Kill the other tasks of the process, and wait until they are gone."""
    group = task.group
    while len(group.tasks) > 1:
        for other in list(group.tasks):
            if other is not task:
                task.kernel.end_task(other)
        if len(group.tasks) > 1:
            await Wait((group.exit_queue,), uninterruptible=True)


def _take_leaders_place(task: Task) -> None:
    """Give the only task left the process's id as its own."""
    group, kernel = task.group, task.kernel
    if task.tid != group.pid:
        kernel.tasks.pop(task.tid, None)
        task.tid = group.pid
        kernel.tasks[task.tid] = task
    group.leader = task


def _become(task: Task, loaded: Loaded, argv: "list[bytes]", env: "list[bytes]") -> None:
    """Go over to the new image: memory, registers, and what execve resets."""
    group = task.group
    task.mm = loaded.mm
    task.mm.limits = group.limits
    task.comm = os.fsencode(loaded.name)[:_COMM_LEN]
    group.exe = os.fsencode(loaded.path)
    group.cmdline = b"".join(word + b"\0" for word in argv)
    group.environ = b"".join(word + b"\0" for word in env)
    group.executed = True
    group.handlers = group.handlers.copy()
    group.handlers.reset_for_exec()
    for timer in group.posix_timers.values():
        timer.cancel()
    group.posix_timers.clear()
    task.altstack = (0, 2, 0)
    task.robust_list = 0
    task.clear_child_tid = 0
    if task.fds.refs > 1:
        task.fds.refs -= 1
        task.fds = task.fds.copy()
    task.fds.close_on_exec()
    task.creds = task.creds.after_exec()
    context = task.context
    ARCH.start_regs(context.regs, loaded.ip, loaded.sp)
    context.fp[:] = ARCH.initial_fp(len(context.fp))
    context.full_state_changed()
