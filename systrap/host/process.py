"""Other processes: descriptors for them, signals, waiting, and what they died of."""

import os
import select
import signal
from typing import Final, NamedTuple

from systrap.host.sys import NR, check, syscall

PR_SET_CHILD_SUBREAPER: Final = 36
_WALL: Final = 0x40000000


class Death(NamedTuple):
    """How a process ended: by ``signal`` (else 0) or with ``status``."""

    signal: int
    status: int

    def __str__(self) -> str:
        """Say it in words."""
        if not self.signal:
            return f"exited with status {self.status}"
        try:
            return f"was killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"was killed by signal {self.signal}"


def pidfd_open(pid: int) -> int:
    """Return a descriptor for a process: readable when it is dead. Raises OSError."""
    return check(syscall(NR["pidfd_open"], pid, 0), f"pidfd_open({pid})")


def pidfd_kill(pidfd: int) -> None:
    """Kill a process; it may be dead already."""
    result = syscall(NR["pidfd_send_signal"], pidfd, signal.SIGKILL, 0, 0)
    if result != -3:
        check(result, "pidfd_send_signal")


def pidfd_is_dead(pidfd: int) -> bool:
    """Tell whether a process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def tgkill(tgid: int, tid: int, signo: int) -> bool:
    """Send a signal to one thread. Returns False when it does not exist any more. Raises OSError."""
    result = syscall(NR["tgkill"], tgid, tid, signo)
    if result == -3:
        return False
    check(result, f"tgkill({tgid}, {tid}, {signo})")
    return True


def reap_of_group(group: int) -> tuple[int, Death] | None:
    """Collect one dead child out of process group ``group``: its pid and its death; None when there is none now."""
    try:
        pid, status = os.waitpid(-group, os.WNOHANG | _WALL)
    except ChildProcessError:
        return None
    if pid == 0:
        return None
    if os.WIFSIGNALED(status):
        return pid, Death(os.WTERMSIG(status), 0)
    return pid, Death(0, os.WEXITSTATUS(status))


def parent_of(pid: int) -> int:
    """Return the parent's pid of a process, 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return int(stat.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def make_nicer(tid: int) -> None:
    """Let a thread give way to this process where both want the same CPU: nice + 1. It may be dead already."""
    try:
        os.setpriority(os.PRIO_PROCESS, tid, min(os.getpriority(os.PRIO_PROCESS, 0) + 1, 19))
    except ProcessLookupError:
        return


def become_subreaper() -> None:
    """Make orphaned descendants our children, so that we can collect them. Raises OSError."""
    check(syscall(NR["prctl"], PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def exists(pid: int) -> bool:
    """Tell whether a process (or a zombie) of this number exists and is ours to signal."""
    return syscall(NR["kill"], pid, 0) == 0
