"""``run --trace``: one line for each system call, in strace's manner, arguments as numbers."""

from collections.abc import Callable
from typing import Final

from systrap import arch
from systrap.host.sys import errno_name
from systrap.sentry.errors import RestartKind
from systrap.sentry.syscalls import numbers
from systrap.sentry.syscalls.table import TABLE, Result
from systrap.sentry.task import State, Task

_ARCH: Final = arch.current()
_SMALL: Final = 4096


class Tracer:
    """Writes a line when a call ends. A call that waits while others are traced is shown as unfinished, then resumed."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Take what writes a line."""
        self._write = write
        self._open: dict[int, str] = {}
        self._last = 0

    def began(self, task: Task) -> None:
        """Note a call that begins."""
        self._interleave(task.tid)
        regs = task.context.regs
        nr = regs[_ARCH.SYSCALL_NR] & _ARCH.NUMBER_MASK
        entry = TABLE.get(nr)
        name = numbers.NAMES.get(nr, f"syscall_{nr:#x}")
        count = len(entry.takes) if entry is not None else 0
        arguments = [_number(regs[register]) for register in _ARCH.ARGS[:count]]
        self._open[task.tid] = f"{name}({', '.join(arguments)})"
        self._last = task.tid

    def ended(self, task: Task, result: Result) -> None:
        """Write the line of a call that ended; None: its result is in the registers, or the task ends and there is none."""
        call = self._open.pop(task.tid, None)
        if call is None:
            return
        if result is None and (task.state is State.DEAD or task.doomed or task.group.exiting):
            text = "?"
        else:
            text = _result(_signed(task.context.regs[_ARCH.RESULT]) if result is None else result)
        self._write(f"[{task.tid}] {call} = {text}")
        self._last = 0

    def interrupted(self, task: Task, kind: RestartKind) -> None:
        """Write the line of a call that a signal broke off."""
        call = self._open.pop(task.tid, None)
        if call is not None:
            self._write(f"[{task.tid}] {call} = ? (interrupted: restarts {kind.value})")
        self._last = 0

    def _interleave(self, tid: int) -> None:
        if self._last and self._last != tid and self._last in self._open:
            call = self._open[self._last]
            if not call.startswith("<"):
                self._write(f"[{self._last}] {call[:-1]} <unfinished ...>")
                self._open[self._last] = f"<... {call.partition('(')[0]} resumed>)"


def _number(value: int) -> str:
    if value < _SMALL:
        return str(value)
    signed = _signed(value)
    return str(signed) if -_SMALL < signed < 0 else hex(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _result(value: int) -> str:
    if -4096 < value < 0:
        return f"-1 {errno_name(-value)}"
    return str(value) if value < 1 << 32 else hex(value)
