"""What signals to the sentry mean for its guests: the keys of the terminal, hang-up, the end."""

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from systrap.sentry import exit as exits

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import ThreadGroup

INSISTENT: Final = 3
"""So many Ctrl-C …"""
WITHIN: Final = 2.0
"""… in so many seconds end everything, whatever guests do about SIGINT."""

PATIENCE: Final = 0.5
"""So long guests have to stop on Ctrl-Z before it is clear that they will not."""

_history: list[float] = []


def react(kernel: "Kernel", signo: int) -> None:
    """React to one host signal. In the kernel's loop."""
    if signo == signal.SIGTERM:
        kernel.write_log("systrap: SIGTERM: ending the guests")
        kernel.ended_by = signo
        kernel.stop()
    elif signo == signal.SIGTSTP:
        _stop_with_guests(kernel)
    elif signo == signal.SIGCONT:
        _continue_guests(kernel)
    elif signo in (signal.SIGTTIN, signal.SIGTTOU):
        _stop_with_guests(kernel)
    else:
        if signo == signal.SIGINT and _insists():
            kernel.write_log(f"systrap: {INSISTENT} interrupts in {WITHIN:.0f} seconds: ending the guests")
            kernel.ended_by = signo
            kernel.stop()
            return
        _to_foreground(kernel, signo)


def _insists() -> bool:
    now = time.monotonic()
    _history.append(now)
    while _history and now - _history[0] > WITHIN:
        _history.pop(0)
    return len(_history) >= INSISTENT


def _foreground(kernel: "Kernel") -> int:
    """Return the guest's foreground process group: the terminal's, else the first process's."""
    first = kernel.first
    if first is None:
        return 0
    tty = first.session.tty
    if tty is not None and tty.foreground:
        return tty.foreground
    return first.pgid


def _to_foreground(kernel: "Kernel", signo: int) -> None:
    pgid = _foreground(kernel)
    if not kernel.signals.send_pgrp(pgid, signo) and kernel.first is not None:
        kernel.signals.send_group(kernel.first, signo)


def _stop_with_guests(kernel: "Kernel") -> None:
    """Ctrl-Z: the guests stop first, then we do, so that nothing runs behind the user's back; SIGCONT undoes both.

    Guests that handle SIGTSTP and do not stop keep the sentry going, too. A group that nobody inside could continue is
    stopped all the same (SIGTSTP would be ignored there): the shell that started us can continue it.
    """
    for group in _members(kernel):
        if group.handlers.get(signal.SIGTSTP).handler == 0:
            exits.stop_group(group, signal.SIGTSTP)
        else:
            kernel.signals.send_group(group, signal.SIGTSTP)
    _stop_when_stopped(kernel, time.monotonic() + PATIENCE)


def _members(kernel: "Kernel") -> "list[ThreadGroup]":
    """Return the processes of the foreground group."""
    pgid = _foreground(kernel)
    return [group for group in kernel.groups.values() if group.pgid == pgid and not group.zombie]


def _stop_when_stopped(kernel: "Kernel", deadline: float) -> None:
    members = _members(kernel)
    if any(exits.is_orphaned(kernel, group.pgid) for group in members) and all(group.stopped for group in members):
        tty = sys.modules.get("systrap.sentry.tty")
        if tty is not None:
            tty.restore_all()
        os.kill(os.getpid(), signal.SIGSTOP)
        _continue_guests(kernel)
    elif time.monotonic() < deadline:
        kernel.timers.add(time.monotonic() + 0.01, lambda: _stop_when_stopped(kernel, deadline))


def _continue_guests(kernel: "Kernel") -> None:
    for group in list(kernel.groups.values()):
        if group.stopped and group.stop_signal == signal.SIGTSTP:
            kernel.signals.send_group(group, signal.SIGCONT)
