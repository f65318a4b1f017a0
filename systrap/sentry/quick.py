"""System calls that the platform may have answered within its wait for events (platform.QuickCalls).

The kernel's loop (kernel.py) is the algorithm: an event is told, the task's state changes, the call is served, the task goes
back. This is its twin for the common case, in which nothing has to be looked at but the call itself, and it ends in the loop
whenever that turns out to be wrong: the task must wait, has a signal to take, or woke another task. Then the registers and the
task are as the loop wants them, and the context is handed over (``None`` to the platform).

Two kinds of handlers are offered: the adapters of calls that cannot fail and only tell something, as they are; and all other
calls, wrapped. Not offered is what makes, ends or replaces tasks and their contexts: the platform's books must not change
while it is in the middle of serving one.
"""

import time
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from systrap import arch
from systrap.platform import QuickCall, QuickCalls
from systrap.sentry.errors import Interrupted, SyscallError
from systrap.sentry.syscalls.table import TABLE, Adapter, Result
from systrap.sentry.task import State

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_RESULT: Final = arch.current().RESULT
_U64: Final = (1 << 64) - 1

PLAIN: Final = ("getpid", "gettid", "getppid", "getpgrp", "getuid", "geteuid", "getgid", "getegid")
"""Calls that cannot fail, wait or change anything. Their time counts as their task's own (docs/limits.md)."""

NOT_OFFERED: Final = frozenset((
    "clone", "clone3", "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid",
    "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal", "rt_sigreturn", "restart_syscall",
))  # fmt: skip
"""Calls in which tasks, contexts or address spaces begin or end, or which change all registers."""


def calls(kernel: "Kernel") -> QuickCalls:
    """Return what this kernel offers to its platform. The handlers run on the kernel's thread."""
    handlers: dict[int, QuickCall] = {}
    for nr, entry in TABLE.items():
        if entry.name in PLAIN:
            handlers[nr] = cast(QuickCall, entry.adapter)
        elif entry.name not in NOT_OFFERED:
            handlers[nr] = _wrapped(kernel, nr, entry.adapter)
    return QuickCalls(handlers, kernel.counts)


def _wrapped(kernel: "Kernel", nr: int, adapter: Adapter) -> QuickCall:
    """Return the handler for any call: what Kernel._handle, syscall and _answer do, without what is not needed here."""
    monotonic = time.monotonic
    next_deadline = kernel.timers.next_deadline
    guest, serving = State.GUEST, State.KERNEL

    def answer(task: "Task", regs: "memoryview[int]") -> int | None:
        began = monotonic()
        group = task.group
        group.user_time += began - task.started
        task.state = serving
        kernel.current = task
        task.syscall_nr = nr
        result: Result = None
        try:
            called = adapter(task, regs)
            if called is None or isinstance(called, int):
                result = called
            else:
                kernel.later = partial(kernel.wait_for, task, called, called.send(None))
        except StopIteration as stop:
            result = stop.value
        except SyscallError as error:
            result = -error.errno
        except Interrupted as interrupted:
            kernel.later = partial(kernel.interrupted, task, interrupted)
        except Exception as error:
            kernel.later = partial(kernel.bug, task, error)
        ended = monotonic()
        group.system_time += ended - began
        task.started = ended
        if result is None:
            return None
        deadline = next_deadline()
        if (
            task.attention
            or kernel.woken
            or task.saved_mask is not None
            or (deadline is not None and (deadline <= ended or deadline != kernel.waits_until))
        ):
            regs[_RESULT] = result & _U64
            return None
        task.state = guest
        return result

    return cast(QuickCall, answer)
