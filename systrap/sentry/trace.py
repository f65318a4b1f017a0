"""``run --trace``: one line for each system call, in strace's manner, arguments as numbers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from systrap.host.sys import errno_name
from systrap.sentry.errors import RestartKind
from systrap.sentry.syscalls import numbers
from systrap.sentry.syscalls.table import TABLE, Result

if TYPE_CHECKING:
    from systrap.sentry.task import Task

_SMALL: Final = 4096


class Tracer:
    """Writes a line when a call ends. A call that waits while others are traced is shown as unfinished, then resumed."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Take what writes a line."""
        self._write = write
        self._open: dict[int, str] = {}
        self._last = 0

    def began(self, task: "Task") -> None:
        """Note a call that begins."""
        self._interleave(task.tid)
        regs = task.context.regs
        from systrap import arch

        entry = TABLE.get(regs[arch.current().SYSCALL_NR])
        nr = regs[arch.current().SYSCALL_NR]
        name = numbers.NAMES.get(nr, f"syscall_{nr:#x}")
        count = len(entry.takes) if entry is not None else 0
        arguments = [_number(regs[register]) for register in arch.current().ARGS[:count]]
        self._open[task.tid] = f"{name}({', '.join(arguments)})"
        self._last = task.tid

    def ended(self, task: "Task", result: Result) -> None:
        """Write the line of a call that ended; None: its result is in the registers, or there is none."""
        call = self._open.pop(task.tid, None)
        if call is None:
            return
        if result is None:
            from systrap import arch

            result = task.context.regs[arch.current().RESULT]
            result -= (1 << 64) if result >> 63 else 0
        self._write(f"[{task.tid}] {self._resumed(task, call)} = {_result(result)}")
        self._last = 0

    def interrupted(self, task: "Task", kind: RestartKind) -> None:
        """Write the line of a call that a signal broke off."""
        call = self._open.pop(task.tid, None)
        if call is not None:
            self._write(f"[{task.tid}] {self._resumed(task, call)} = ? (interrupted: restarts {kind.value})")
        self._last = 0

    def _interleave(self, tid: int) -> None:
        if self._last and self._last != tid and self._last in self._open:
            call = self._open[self._last]
            if not call.startswith("<"):
                self._write(f"[{self._last}] {call[:-1]} <unfinished ...>")
                self._open[self._last] = f"<... {call.partition('(')[0]} resumed>)"

    def _resumed(self, task: "Task", call: str) -> str:
        return call


def _number(value: int) -> str:
    if value < _SMALL:
        return str(value)
    signed = value - (1 << 64) if value >> 63 else value
    return str(signed) if -_SMALL < signed < 0 else hex(value)


def _result(value: int) -> str:
    if -4096 < value < 0:
        return f"-1 {errno_name(-value)}"
    return str(value) if value < 1 << 32 else hex(value)
