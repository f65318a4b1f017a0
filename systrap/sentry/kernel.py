"""The kernel's loop: events come in from the platform, system calls are answered, tasks go back to guest code.

One thread runs all of this. A task is in one of the states of task.State; this file holds every transition between them::

    submit ─→ GUEST ── event ─→ KERNEL ── result ─→ resume ─→ GUEST
                                  │  └── awaits ─→ PARKED ── notified, time-out, signal ─→ KERNEL
                                  └── signal ─→ STOPPED ── SIGCONT ─→ KERNEL          any ─→ DEAD
"""

import errno
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, NamedTuple, TextIO

from systrap import arch
from systrap.memory import MemoryFile
from systrap.platform import SYSCALL_EVENT, Access, Event, EventKind, Platform, PlatformError
from systrap.sentry import exit as exits
from systrap.sentry import quick
from systrap.sentry.errors import Interrupted, SyscallError
from systrap.sentry.futex import Futexes
from systrap.sentry.host_events import HostEvents
from systrap.sentry.mm import SegvError
from systrap.sentry.pages import PageStore
from systrap.sentry.pma import Frames
from systrap.sentry.signals import SIGKILL, SIGSEGV, Info, Signals
from systrap.sentry.syscalls import load_all, numbers
from systrap.sentry.syscalls.table import TABLE, Result, Running
from systrap.sentry.task import Session, State, Task, ThreadGroup
from systrap.sentry.timers import Timers
from systrap.sentry.wait import Wait

ARCH: Final = arch.current()
_RESULT: Final = ARCH.RESULT
_SYSCALL_NR: Final = ARCH.SYSCALL_NR
_NUMBER_MASK: Final = ARCH.NUMBER_MASK
_U64: Final = (1 << 64) - 1


class Config(NamedTuple):
    """What to run, and how. Paths and strings of the guest are bytes; ``path`` is the program file, already looked up."""

    path: bytes
    argv: list[bytes]
    env: list[bytes]
    cwd: bytes
    rw_paths: tuple[bytes, ...] = ()
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    stdio: tuple[int, int, int] = (0, 1, 2)
    log: TextIO | None = None
    verbose: bool = False


class ExecError(Exception):
    """The first program cannot be run: ``status`` is a shell's (127 not there, 126 not executable), the text says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Kernel:
    """A guest kernel with one tree of processes. Everything but ``host_events``' thread happens on the caller's thread."""

    def __init__(self, platform: Platform, config: Config) -> None:
        """Make an empty kernel: no process yet. Raises OSError when the host gives no memory or descriptors."""
        from systrap.sentry.fs.vfs import VFS

        load_all()
        self.platform = platform
        self.config = config
        self.log: TextIO = config.log or sys.stderr
        self.memory = MemoryFile("guest-memory")
        self.frames = Frames(self.memory)
        self.sigreturn_page = PageStore(self.memory)
        self.sigreturn_page.write(0, ARCH.LINUX.sigreturn)
        self.boot_time = time.time()
        self.boot_clock = time.monotonic()
        self.hostname = b"systrap"
        self.timers = Timers()
        self.host_events = HostEvents(platform)
        self.signals = Signals(self)
        self.futexes = Futexes(self)
        self.tasks: dict[int, Task] = {}
        self.groups: dict[int, ThreadGroup] = {}
        self.init = ThreadGroup(self, 1, None, Session(1), 1)
        self.init.exe = b"/sbin/init"
        self.last_pid = 1
        self.woken: deque[tuple[Task, bool | BaseException]] = deque()
        self.first: ThreadGroup | None = None
        self.crash_report = ""
        self.counts: defaultdict[int, int] = defaultdict(int)
        self.missing: dict[int, int] = {}
        self.current: Task | None = None
        self.stopping = False
        self.ended_by = 0
        self.later: Callable[[], None] | None = None
        self.waits_until: float | None = None
        self.vfs = VFS(self)
        # Attributes, so that tracing (traced.py) can put its own in their place and costs nothing when it is off.
        self.serve: Callable[[Task], None] = self.syscall
        self._finish: Callable[[Task, Result], None] = self._answer
        self.offer_quick_calls()

    def offer_quick_calls(self) -> None:
        """Let the platform answer simple calls by itself. Not where every call is to be seen (traced.py)."""
        self.platform.answer_quickly(quick.calls(self))

    # The loop.

    def run(self) -> int:
        """Run the configured program and all it starts; return its exit status, 128+n for a signal. Raises ExecError."""
        from systrap.sentry.exec import start_first

        self.host_events.start(self.host_signal)
        self.first = start_first(self)
        first = self.first
        while not self._over():
            self._turn()
        code = self.ended_by or first.exit_code
        return 128 + (code & 0x7F) if code & 0x7F else code >> 8 & 0xFF

    def _over(self) -> bool:
        """Tell whether the run has ended: the first process is dead, and nobody else holds the run's standard streams.

        So a pipe that reads our output sees what it would see natively; a daemon that let go of them is killed at the end.
        """
        if self.first is None or not self.first.zombie:
            return False
        if self.stopping or not self.groups:
            return True
        from systrap.sentry.hoststream import holds_output

        return not any(holds_output(task.fds) for task in self.tasks.values() if task.state is not State.DEAD)

    def _turn(self) -> None:
        """Do what is to be done, then take one event from the platform."""
        while self.woken:
            task, value = self.woken.popleft()
            self._advance(task, value)
        deadline = self.timers.next_deadline()
        if deadline is not None and deadline <= time.monotonic():
            self.timers.expire(time.monotonic())
        if self.host_events.ready:
            self.host_events.drain()
        if self.woken or self._over():
            return
        self.waits_until = self.timers.next_deadline()
        context = self.platform.next_ready(self.waits_until)
        if context is not None:
            owner = context.owner
            if not isinstance(owner, Task):
                raise PlatformError("a context without a task came back")
            self._handle(owner, context.event)

    def _handle(self, task: Task, event: Event) -> None:
        """Serve one event of one task."""
        now = time.monotonic()
        task.group.user_time += now - task.started
        task.state = State.KERNEL
        self.current = task
        if self.later is not None:
            # The rest of a call that was begun within next_ready() (quick.py).
            later, self.later = self.later, None
            later()
        elif task.group.exiting or task.group.stopped or task.doomed:
            # What it wanted is not done; a stopped task does it again when it goes on.
            if event is SYSCALL_EVENT:
                regs = task.context.regs
                ARCH.restart_syscall(regs, regs[_SYSCALL_NR], regs[ARCH.ARGS[0]])
            self.return_to_guest(task)
        elif event is SYSCALL_EVENT:
            self.serve(task)
        elif event.kind is EventKind.SIGNAL:
            self._fault(task, event)
        elif event.kind is EventKind.INTERRUPTED:
            self.return_to_guest(task)
        else:
            self.write_log(f"systrap: process {task.group.pid} ({_text(task.comm)}) was killed: {event.error}")
            exits.kill_group(task.group, SIGKILL)
            self.return_to_guest(task)
        task.group.system_time += time.monotonic() - now

    # System calls.

    def syscall(self, task: Task) -> None:
        """Answer the system call in a task's registers."""
        regs = task.context.regs
        nr = regs[_SYSCALL_NR] & _NUMBER_MASK
        task.syscall_nr = nr
        self.counts[nr] += 1
        entry = TABLE.get(nr)
        if entry is None:
            self.missing[nr] = self.missing.get(nr, 0) + 1
            self._finish(task, -errno.ENOSYS)
            return
        try:
            result = entry.adapter(task, regs)
        except SyscallError as error:
            result = -error.errno
        except Interrupted as interrupted:
            self.interrupted(task, interrupted)
            return
        except Exception as error:
            self.bug(task, error)
            return
        if result is None or isinstance(result, int):
            self._finish(task, result)
        else:
            task.coro = result
            self._advance(task, None)

    def _advance(self, task: Task, value: bool | BaseException | None) -> None:
        """Run a task's system call on until it waits again or ends. ``value``: what its wait gave; None at the first time."""
        coro = task.coro
        if coro is None:
            return
        task.state = State.KERNEL
        self.current = task
        result: Result
        try:
            wait = coro.throw(value) if isinstance(value, BaseException) else coro.send(value)
        except StopIteration as stop:
            result = stop.value
        except SyscallError as error:
            result = -error.errno
        except Interrupted as interrupted:
            task.coro = task.wait = None
            self.interrupted(task, interrupted)
            return
        except Exception as error:
            task.coro = task.wait = None
            self.bug(task, error)
            return
        else:
            self._park(task, wait)
            return
        task.coro = task.wait = None
        self._finish(task, result)

    def _answer(self, task: Task, result: Result) -> None:
        """End a system call: its result into the registers, unless the handler set them itself (None), then guest code."""
        if result is not None:
            task.context.regs[_RESULT] = result & _U64
            if task.saved_mask is None:
                self.resume(task)
                return
        self.return_to_guest(task)

    def interrupted(self, task: Task, interrupted: Interrupted) -> None:
        """Note that a signal broke the call off: what becomes of it depends on what the signal does (signals.deliver)."""
        task.restart = interrupted.kind
        task.attention = True
        self.return_to_guest(task)

    def bug(self, task: Task, error: Exception) -> None:
        """Tell of a handler that failed as no guest may cause, and end that guest; the others live."""
        import traceback

        name = numbers.NAMES.get(task.syscall_nr, str(task.syscall_nr))
        self.write_log(f"systrap: internal error in {name} of process {task.group.pid} ({_text(task.comm)}):")
        self.write_log("".join(traceback.format_exception(error)).rstrip())
        exits.kill_group(task.group, SIGKILL)
        self.return_to_guest(task)

    # Waiting.

    def wait_for(self, task: Task, coro: Running, wait: Wait) -> None:
        """Let a task wait in a system call that ran up to its first wait elsewhere (quick.py)."""
        task.coro = coro
        self._park(task, wait)

    def _park(self, task: Task, wait: Wait) -> None:
        """Let a task wait. A signal that came meanwhile ends the wait at once."""
        task.wait = wait
        task.state = State.PARKED
        for queue in wait.queues:
            queue.add(task)
        if wait.deadline is not None:
            task.timer = self.timers.add(wait.deadline, lambda: self.unpark(task, False))
        task.context.prepare_sleep()
        if task.attention:
            self.signal_task(task)

    def unpark(self, task: Task, value: bool | BaseException) -> None:
        """End a wait: the task's system call goes on in this turn of the loop, with ``value``."""
        wait = task.wait
        if wait is None or task.state is not State.PARKED:
            return
        for queue in wait.queues:
            queue.discard(task)
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None
        task.state = State.KERNEL
        self.woken.append((task, value))

    # Back to guest code.

    def resume(self, task: Task) -> None:
        """Let a task run guest code, if nothing has to be looked at first."""
        if task.attention:
            self.return_to_guest(task)
            return
        task.state = State.GUEST
        task.started = time.monotonic()
        self.platform.submit(task.context, task.mm.space)

    def return_to_guest(self, task: Task) -> None:
        """Look at signals, stops and death, then let the task run guest code."""
        if task.state is State.DEAD:
            return
        task.attention = False
        if self._is_ending(task):
            exits.exit_task(task)
            return
        if task.saved_mask is not None and task.restart is None and not self.signals.has_deliverable(task):
            self.signals.restore_mask(task)
        if not self.signals.deliver(task):
            if self._is_ending(task):
                exits.exit_task(task)
            return
        if task.saved_mask is not None:
            self.signals.restore_mask(task)
            if self.signals.has_deliverable(task):
                self.return_to_guest(task)
                return
        self.resume(task)

    @staticmethod
    def _is_ending(task: Task) -> bool:
        """Tell whether a task, or its whole process, is to end."""
        return task.group.exiting or task.doomed

    def signal_task(self, task: Task) -> None:
        """Make a task look at its signals (or its death) soon. Called whenever there may be something to see."""
        task.attention = True
        if task.state is State.GUEST:
            task.context.interrupt()
        elif task.state is State.PARKED:
            if task.group.exiting:
                self._break_off(task)
            elif (
                task.wait is not None
                and not task.wait.uninterruptible
                and (self.signals.has_deliverable(task) or task.group.stopped)
            ):
                self.unpark(task, Interrupted())
        elif task.state is State.STOPPED and (task.group.exiting or not task.group.stopped):
            task.state = State.KERNEL
            self.return_to_guest(task)

    def _break_off(self, task: Task) -> None:
        """End a waiting system call for good: its task dies."""
        self.unpark(task, False)
        self.woken = deque(pair for pair in self.woken if pair[0] is not task)
        coro = task.coro
        task.coro = task.wait = None
        if coro is not None:
            coro.close()
        self.return_to_guest(task)

    def end_task(self, task: Task) -> None:
        """End one task of a process that lives on (execve by another one). It may be gone at once, or soon."""
        task.doomed = True
        task.attention = True
        if task.state is State.GUEST:
            task.context.interrupt()
        elif task.state is State.PARKED:
            self._break_off(task)
        elif task.state is State.STOPPED:
            exits.exit_task(task)

    def recheck(self, task: Task) -> None:
        """See whether a signal became deliverable: the task's mask changed."""
        if self.signals.has_deliverable(task):
            task.attention = True

    # Faults.

    def _fault(self, task: Task, event: Event) -> None:
        """Serve a page fault, or force the signal on the task."""
        info = event.info
        if info is None:
            raise PlatformError("a signal event without a signal")
        if event.access is Access.EXECUTE and self._vsyscall(task, info.addr):
            return
        if event.access is not Access.NONE:
            try:
                task.mm.handle_fault(info.addr, event.access)
            except SegvError as error:
                self.signals.force(
                    task, Info(error.signo, error.code, addr=info.addr, trapno=info.trapno, err=info.err)
                )
            except PlatformError as error:
                self.write_log(f"systrap: process {task.group.pid}: {error}")
                exits.kill_group(task.group, SIGKILL)
            except Exception as error:
                self.bug(task, error)
                return
            else:
                self.resume(task)
                return
        else:
            code = info.code if info.signo != SIGSEGV or info.code > 0 else 0x80
            self.signals.force(task, Info(info.signo, code, addr=info.addr, trapno=info.trapno, err=info.err))
        self.return_to_guest(task)

    def _vsyscall(self, task: Task, address: int) -> bool:
        """Answer a call into the vsyscall page, which is not there: as the system call it stands for, and return."""
        nr = ARCH.VSYSCALLS.get(address)
        if nr is None:
            return False
        regs = task.context.regs
        try:
            regs[ARCH.IP] = task.mm.read_u64(regs[ARCH.SP])
        except SyscallError:
            return False
        regs[ARCH.SP] = (regs[ARCH.SP] + 8) & _U64
        regs[_SYSCALL_NR] = nr
        self.serve(task)
        return True

    # Pids, host signals, the end.

    def task_began(self, task: Task) -> None:
        """Do nothing: a tracing kernel takes note of a new task, before it runs for the first time."""

    def task_ended(self, task: Task) -> None:
        """Do nothing: a tracing kernel takes note of the end of a task."""

    def new_pid(self) -> int:
        """Return an unused process or thread id."""
        while True:
            self.last_pid = self.last_pid + 1 if self.last_pid < 4_194_303 else 300
            pid = self.last_pid
            if (
                pid not in self.tasks
                and pid not in self.groups
                and not any(group.pgid == pid or group.session.sid == pid for group in self.groups.values())
            ):
                return pid

    def host_signal(self, signo: int) -> None:
        """React to a signal this process got from the host (runs in the loop; see host_events.py)."""
        from systrap.sentry.host_signals import react

        react(self, signo)

    def stop(self) -> None:
        """End everything: every process is killed, and run() returns."""
        self.stopping = True
        for group in list(self.groups.values()):
            exits.kill_group(group, SIGKILL)

    def write_log(self, text: str) -> None:
        """Write one line to the log. A log that cannot be written is no reason to end guests."""
        try:
            self.log.write(text + "\n")
            self.log.flush()
        except OSError:
            self.log = sys.__stderr__ or self.log

    def report(self) -> str:
        """Return what --verbose tells at the end: system calls made, and those that are not there."""
        lines = [f"systrap: {sum(self.counts.values())} system calls, {len(self.counts)} different"]
        for nr, count in sorted(self.missing.items()):
            lines.append(f"systrap: not there: {numbers.NAMES.get(nr, hex(nr))} (asked for {count} times)")
        return "\n".join(lines)

    def close(self) -> None:
        """Free everything: host descriptors, terminal settings, stubs. Idempotent."""
        tty = sys.modules.get("systrap.sentry.tty")
        if tty is not None:
            tty.restore_all()
        self.host_events.close()
        self.platform.close()


def _text(comm: bytes) -> str:
    return comm.decode("utf-8", "replace")
