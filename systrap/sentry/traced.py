"""The kernel that tells what it does: system calls for the log (trace/log.py), hand-overs as events (trace/events.py).

It takes the place of Kernel when a run is traced, and overrides what is worth telling. The plain kernel knows nothing of it.
"""

import errno
import time
from collections.abc import Callable
from typing import Final

from systrap import arch
from systrap.platform import Context, Platform
from systrap.sentry.errors import Interrupted, RestartKind, SyscallError
from systrap.sentry.kernel import Config, Kernel
from systrap.sentry.signals import SIGKILL, Info, Signals, bit
from systrap.sentry.syscalls import numbers
from systrap.sentry.syscalls.table import TABLE, Result
from systrap.sentry.task import State, Task, ThreadGroup
from systrap.sentry.task_view import FirstCall, TaskView
from systrap.sentry.wait import Wait
from systrap.trace import events
from systrap.trace.events import Tracer
from systrap.trace.inject import Injection, Injector
from systrap.trace.log import CallLog

ARCH: Final = arch.current()
_ARGS: Final = ARCH.ARGS
_NR: Final = ARCH.SYSCALL_NR
_EXECVE: Final = frozenset(numbers.NUMBERS[name] for name in ("execve", "execveat"))
_SIGRETURN: Final = numbers.NUMBERS["rt_sigreturn"]
_EXIT: Final = numbers.NUMBERS["exit"]
_RESTARTS: Final = {RestartKind.SYS: -512, RestartKind.NOINTR: -513, RestartKind.NOHAND: -514}
_RESTART_BLOCK: Final = -516
_now: Final = time.monotonic_ns


class TracedSignals(Signals):
    """Tells of signals that are taken, and of those that nobody would notice but a tracer."""

    __slots__ = ("_traced",)

    def __init__(self, kernel: "TracedKernel") -> None:
        super().__init__(kernel)
        self._traced = kernel

    def take(self, task: Task) -> Info | None:
        """See Signals."""
        info = super().take(task)
        if info is not None:
            self._traced.tell_signal(task, info)
        return info

    def _send(self, group: ThreadGroup, task: Task | None, signo: int, info: Info | None) -> None:
        if signo != SIGKILL and not group.exiting and group.tasks and self.ignores(group, task, signo):
            target = task or self.taker(group, bit(signo)) or group.tasks[0]
            self._traced.tell_ignored(target, info or Info(signo))
        super()._send(group, task, signo, info)


class TracedKernel(Kernel):
    """See the module. ``log`` gets calls, ``tracer`` events, ``injector`` says which calls go wrong; each may be missing."""

    def __init__(
        self,
        platform: Platform,
        config: Config,
        log: CallLog | None = None,
        tracer: Tracer | None = None,
        injector: Injector | None = None,
        number_of: Callable[[Context], int] | None = None,
    ) -> None:
        """``number_of`` gives the number that events call a context by (trace/watched.py). Raises as Kernel does."""
        super().__init__(platform, config)
        self.signals = TracedSignals(self)
        self._calls = log
        # None where nobody wants events: then none is made.
        self._tracer = None if tracer is events.DISCARD else tracer
        self._injector = injector
        self._number_of = number_of
        self._views: dict[Task, TaskView] = {}
        self._late: dict[Task, list[Info]] = {}
        self._begun: dict[Task, int] = {}
        self.serve = self._traced_syscall
        self._finish = self._traced_answer

    def offer_quick_calls(self) -> None:
        """See Kernel. None: a call that the platform answers by itself is not seen here."""

    # Tasks.

    def task_began(self, task: Task) -> None:
        """See Kernel."""
        view = self._views[task] = TaskView(task)
        context = self._number_of(task.context) if self._number_of is not None else 0
        if self._tracer is not None:
            name = task.comm.decode("utf-8", "replace")
            self._tracer.event(events.TaskBegan(_now(), task.tid, task.group.pid, context, name))
        if self._calls is None:
            return
        self._calls.attached(task.tid)
        if len(self._views) == 1 and self.first is None:
            call = FirstCall(self.config, task.context.regs[ARCH.SP])
            self._calls.began(task.tid, call, view, numbers.NUMBERS["execve"], call.args, 0)
            self._calls.ended(task.tid, 0)

    def task_ended(self, task: Task) -> None:
        """See Kernel."""
        group = task.group
        status = group.exit_code
        if self._tracer is not None and len(group.tasks) == 1:
            self._tracer.event(events.AddressMap(_now(), task.tid, task.mm.maps_text().decode("utf-8", "replace")))
        if not group.exiting and task.syscall_nr == _EXIT:
            status = (task.context.regs[_ARGS[0]] & 0xFF) << 8
        if self._calls is not None:
            self._calls.exited(self._view(task).tid, status)
        if self._tracer is not None:
            self._tracer.event(events.TaskEnded(_now(), task.tid, status))
        for books in (self._views, self._late, self._begun):
            books.pop(task, None)

    def _view(self, task: Task) -> TaskView:
        found = self._views.get(task)
        if found is None:
            found = self._views[task] = TaskView(task)
        return found

    # System calls.

    def _traced_syscall(self, task: Task) -> None:
        """Tell of a call that begins, and make it: takes the place of ``syscall``."""
        regs = task.context.regs
        nr = regs[_NR]
        self._begun[task] = _now()
        if self._calls is not None:
            a, b, c, d, e, f = _ARGS
            args = (regs[a], regs[b], regs[c], regs[d], regs[e], regs[f])
            if nr == _SIGRETURN:
                args = (regs[ARCH.SP], 0, 0, 0, 0, 0)
            view = self._view(task)
            self._calls.began(view.tid, view, view, nr, args, regs[ARCH.IP])
        if self._injector is not None:
            injection = self._injector.find(task.tid, numbers.NAMES.get(nr, ""))
            if injection is not None:
                self._inject(task, nr, injection)
                return
        self.syscall(task)

    def _traced_answer(self, task: Task, result: Result) -> None:
        """Tell the result, then answer: takes the place of ``_answer``. Once answered, the registers are the platform's."""
        shown = result
        if result is None and not (task.state is State.DEAD or task.doomed or task.group.exiting):
            value = task.context.regs[ARCH.RESULT]
            shown = value - (1 << 64) if value >> 63 else value
        self._tell_end(task, shown)
        self._answer(task, result)

    def interrupted(self, task: Task, interrupted: Interrupted) -> None:
        """See Kernel."""
        code = _RESTARTS[interrupted.kind]
        if interrupted.kind is not RestartKind.NOINTR and task.restart_deadline is not None:
            code = _RESTART_BLOCK
        self._tell_end(task, code)
        super().interrupted(task, interrupted)

    def _tell_end(self, task: Task, result: int | None) -> None:
        nr = task.syscall_nr
        if self._calls is not None and task.state is not State.DEAD:
            view = self._view(task)
            self._calls.ended(view.tid, result)
            # execve by another thread than the first one: the task goes on under the process's id.
            view.tid = task.tid
        began = self._begun.pop(task, 0)
        if self._tracer is not None:
            now = _now()
            self._tracer.event(events.Handled(now, task.tid, nr, _name(nr), result, began or now))
            if nr in _EXECVE and result == 0:
                self._tracer.event(events.Executed(now, task.tid, task.comm.decode("utf-8", "replace")))
        if self._late:
            for info in self._late.pop(task, ()):
                self._tell_taken(task, info)

    # Waiting.

    def _park(self, task: Task, wait: Wait) -> None:
        if self._calls is not None:
            self._calls.parked(self._view(task).tid)
        if self._tracer is not None:
            nr = task.syscall_nr
            self._tracer.event(events.Parked(_now(), task.tid, nr, _name(nr)))
        super()._park(task, wait)

    def _advance(self, task: Task, value: bool | BaseException | None) -> None:
        if value is not None and task.coro is not None:
            if self._calls is not None:
                self._calls.goes_on(self._view(task).tid)
            if self._tracer is not None:
                nr = task.syscall_nr
                self._tracer.event(events.Woken(_now(), task.tid, nr, _name(nr)))
        super()._advance(task, value)

    def resume(self, task: Task) -> None:
        """See Kernel."""
        if self._tracer is not None and not task.attention:
            self._tracer.event(events.Resumed(_now(), task.tid))
        super().resume(task)

    # Signals.

    def signal_task(self, task: Task) -> None:
        """See Kernel."""
        if self._tracer is not None and task.state is State.GUEST:
            self._tracer.event(events.Kicked(_now(), task.tid))
        super().signal_task(task)

    def tell_signal(self, task: Task, info: Info) -> None:
        """Tell of a signal that a task takes."""
        self._tell_taken(task, info)

    def tell_ignored(self, task: Task, info: Info) -> None:
        """Tell of a signal that is ignored: behind the running call, if there is one."""
        if task in self._begun:
            self._late.setdefault(task, []).append(info)
        else:
            self._tell_taken(task, info)

    def _tell_taken(self, task: Task, info: Info) -> None:
        if self._tracer is not None:
            self._tracer.event(events.Signalled(_now(), task.tid, info.signo))
        if self._calls is not None:
            self._calls.signal(self._view(task).tid, info.signo, info.pack())

    # Calls that go wrong because somebody wants to see what happens.

    def _inject(self, task: Task, nr: int, injection: Injection) -> None:
        """Do to a call what an expression behind -e inject= says."""
        tid = self._view(task).tid
        if injection.signal:
            self.signals.send_task(task, injection.signal)
        if self._calls is not None:
            delayed = injection.delay_enter or injection.delay_exit
            note = " (INJECTED)" if injection.result is not None else ""
            self._calls.note(tid, note + (" (DELAYED)" if delayed else ""))
        if injection.delay_enter or injection.delay_exit:
            task.syscall_nr = nr
            self.counts[nr] = self.counts.get(nr, 0) + 1
            task.coro = self._slowly(task, nr, injection)
            self._advance(task, None)
        elif injection.result is not None:
            task.syscall_nr = nr
            self.counts[nr] = self.counts.get(nr, 0) + 1
            self._finish(task, injection.result)
        else:
            self.syscall(task)

    @staticmethod
    async def _slowly(task: Task, nr: int, injection: Injection) -> Result:
        """Make a call, or not, with pauses before and behind. Only death ends a pause early."""
        if injection.delay_enter:
            await _pause(injection.delay_enter)
        result: Result = injection.result
        failed: SyscallError | None = None
        if result is None:
            entry = TABLE.get(nr)
            if entry is None:
                failed = SyscallError(errno.ENOSYS)
            else:
                try:
                    made = entry.adapter(task, task.context.regs)
                    result = made if made is None or isinstance(made, int) else await made
                except SyscallError as error:
                    failed = error
        if injection.delay_exit and task.state is not State.DEAD:
            await _pause(injection.delay_exit)
        if failed is not None:
            raise failed
        return result


def _name(nr: int) -> str:
    return numbers.NAMES.get(nr) or f"syscall_{nr:#x}"


async def _pause(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await Wait((), deadline, uninterruptible=True)
