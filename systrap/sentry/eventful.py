"""The kernel that tells, besides calls, what it does as events (trace/events.py). Used when somebody wants a timeline."""

import time
from collections.abc import Callable
from typing import Final

from systrap.platform import Context, Platform
from systrap.sentry.kernel import Config
from systrap.sentry.signals import Info
from systrap.sentry.syscalls import numbers
from systrap.sentry.task import State, Task
from systrap.sentry.traced import TracedKernel, status_of
from systrap.sentry.wait import Wait
from systrap.trace import events
from systrap.trace.events import Tracer
from systrap.trace.inject import Injector
from systrap.trace.log import CallLog

_EXECVE: Final = frozenset(numbers.NUMBERS[name] for name in ("execve", "execveat"))
_now: Final = time.monotonic_ns


class EventfulKernel(TracedKernel):
    """See the module. ``number_of`` gives the number that events call a context by (trace/watched.py)."""

    def __init__(
        self,
        platform: Platform,
        config: Config,
        tracer: Tracer,
        number_of: Callable[[Context], int],
        log: CallLog | None = None,
        injector: Injector | None = None,
    ) -> None:
        """Make the kernel. Raises as Kernel does."""
        super().__init__(platform, config, log, injector)
        self._tell = tracer.event
        self._number_of = number_of

    def task_began(self, task: Task) -> None:
        """See Kernel."""
        name = task.comm.decode("utf-8", "replace")
        self._tell(events.TaskBegan(_now(), task.tid, task.group.pid, self._number_of(task.context), name))
        super().task_began(task)

    def task_ended(self, task: Task) -> None:
        """See Kernel."""
        if len(task.group.tasks) == 1:
            text = task.mm.maps_text().decode("utf-8", "replace")
            self._tell(events.AddressMap(_now(), task.tid, text))
        super().task_ended(task)
        self._tell(events.TaskEnded(_now(), task.tid, status_of(task)))

    def _tell_end(self, task: Task, result: int | None) -> None:
        nr = task.syscall_nr
        self._tell(events.Handled(_now(), task.tid, nr, _name(nr), result))
        if nr in _EXECVE and result == 0:
            self._tell(events.Executed(_now(), task.tid, task.comm.decode("utf-8", "replace")))
        super()._tell_end(task, result)

    def _park(self, task: Task, wait: Wait) -> None:
        self._tell(events.Parked(_now(), task.tid, task.syscall_nr, _name(task.syscall_nr)))
        super()._park(task, wait)

    def _advance(self, task: Task, value: bool | BaseException | None) -> None:
        if value is not None and task.coro is not None:
            self._tell(events.Woken(_now(), task.tid, task.syscall_nr, _name(task.syscall_nr)))
        super()._advance(task, value)

    def resume(self, task: Task) -> None:
        """See Kernel."""
        if not task.attention:
            self._tell(events.Resumed(_now(), task.tid))
        super().resume(task)

    def signal_task(self, task: Task) -> None:
        """See Kernel."""
        if task.state is State.GUEST:
            self._tell(events.Kicked(_now(), task.tid))
        super().signal_task(task)

    def tell_signal(self, task: Task, info: Info) -> None:
        """See TracedKernel."""
        self._tell(events.Signalled(_now(), task.tid, info.signo))
        super().tell_signal(task, info)


def _name(nr: int) -> str:
    return numbers.NAMES.get(nr) or f"syscall_{nr:#x}"
