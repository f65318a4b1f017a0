"""wait4 and waitid: which child has something to tell, and the telling."""

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.sentry import exit as exits
from systrap.sentry.errors import Interrupted, SyscallError
from systrap.sentry.task import Task, ThreadGroup
from systrap.sentry.wait import Wait

if TYPE_CHECKING:
    from collections.abc import Iterable

WNOHANG: Final = 1
WUNTRACED: Final = 2
WSTOPPED: Final = 2
WEXITED: Final = 4
WCONTINUED: Final = 8
WNOWAIT: Final = 0x1000000
WNOTHREAD: Final = 0x20000000
WALL: Final = 0x40000000
WCLONE: Final = 0x80000000
SIGCHLD: Final = 17

P_ALL: Final = 0
P_PID: Final = 1
P_PGID: Final = 2
P_PIDFD: Final = 3


class News(NamedTuple):
    """What a child has to tell: ``code`` is a CLD_…, ``status`` in wait4's form."""

    group: ThreadGroup
    code: int
    status: int


Matches = Callable[[ThreadGroup], bool]


def _kind_matches(child: ThreadGroup, options: int) -> bool:
    """Apply __WCLONE and __WALL: "clone children" report their end by another signal than SIGCHLD."""
    if options & WALL:
        return True
    return (child.exit_signal != SIGCHLD) == bool(options & WCLONE)


def _news(children: "Iterable[ThreadGroup]", options: int) -> News | None:
    """Return the first news of the kinds asked for, and mark it as told, unless WNOWAIT."""
    keep = options & WNOWAIT
    for child in children:
        if child.zombie and options & WEXITED:
            if not keep:
                exits.collect(child)
            if child.exit_code & 0x7F:
                code = exits.CLD_DUMPED if child.exit_code & 0x80 else exits.CLD_KILLED
            else:
                code = exits.CLD_EXITED
            return News(child, code, child.exit_code)
        if child.stopped and not child.reported_stop and options & WSTOPPED:
            child.reported_stop = not keep
            return News(child, exits.CLD_STOPPED, child.stop_signal << 8 | 0x7F)
        if child.continued and options & WCONTINUED:
            child.continued = bool(keep)
            return News(child, exits.CLD_CONTINUED, 0xFFFF)
    return None


async def wait_for(task: Task, matches: Matches, options: int) -> News | None:
    """Wait until a child that matches has news; None with WNOHANG when none has. ECHILD when there is no such child."""
    group = task.group
    broken_off: Interrupted | None = None
    while True:
        candidates = [child for child in group.children if matches(child) and _kind_matches(child, options)]
        if not candidates:
            raise SyscallError(errno.ECHILD)
        found = _news(candidates, options)
        if found is not None or options & WNOHANG:
            return found
        if broken_off is not None:
            raise broken_off
        try:
            await Wait((group.child_queue,))
        except Interrupted as interrupted:
            # The signal may be the SIGCHLD of the very child: as Linux does, look once more before it counts.
            broken_off = interrupted


def by_pid(task: Task, pid: int) -> Matches:
    """Return what wait4's ``pid`` selects."""
    if pid < -1:
        return lambda child: child.pgid == -pid
    if pid == -1:
        return lambda child: True
    if pid == 0:
        own = task.group.pgid
        return lambda child: child.pgid == own
    return lambda child: child.pid == pid
