"""Tasks (guest threads), thread groups (processes), process groups and sessions: what they are, not what happens to them."""

import enum
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from systrap.sentry.errors import RestartKind
from systrap.sentry.scheduling import DEFAULT, Scheduling
from systrap.sentry.syscalls.table import Result
from systrap.sentry.wait import Wait, WaitQueue

if TYPE_CHECKING:
    from systrap.platform import Context
    from systrap.sentry.clocks import PosixTimer, Repeating
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.file import FDTable
    from systrap.sentry.fs.path import FSContext
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.limits import Limits
    from systrap.sentry.mm import MemoryManager
    from systrap.sentry.signals import Handlers
    from systrap.sentry.timers import Timer
    from systrap.sentry.tty import Terminal


class State(enum.Enum):
    """Where a task is. The letters are those of /proc/PID/stat."""

    GUEST = "R"
    """Submitted to the platform: it runs, or will as soon as there is a CPU."""
    KERNEL = "r"
    """Being served by the kernel right now."""
    PARKED = "S"
    """Its system call waits for something."""
    STOPPED = "T"
    """Stopped by a signal; SIGCONT lets it go on."""
    DEAD = "X"
    """Gone; the object lives until its last reference."""


class Session:
    """A session: its id is its leader's pid; ``tty`` is its controlling terminal."""

    __slots__ = ("sid", "tty")

    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.tty: Terminal | None = None


class ThreadGroup:
    """A process. ``exit_code`` is in the form of wait4's status; ``zombie`` until its parent collected it."""

    __slots__ = (
        "child_queue",
        "child_subreaper",
        "children",
        "children_times",
        "cmdline",
        "continued",
        "dumpable",
        "environ",
        "exe",
        "executed",
        "exit_code",
        "exit_queue",
        "exit_signal",
        "exiting",
        "handlers",
        "kernel",
        "leader",
        "limits",
        "no_new_privs",
        "oom_score_adj",
        "parent",
        "pdeath_signal",
        "pending",
        "pgid",
        "pid",
        "posix_timers",
        "reported_stop",
        "session",
        "signal_queue",
        "start_time",
        "stop_signal",
        "stopped",
        "system_time",
        "tasks",
        "timers",
        "user_time",
        "zombie",
    )  # fmt: skip

    def __init__(self, kernel: "Kernel", pid: int, parent: "ThreadGroup | None", session: Session, pgid: int) -> None:
        from systrap.sentry.signals import Pending

        self.kernel = kernel
        self.pid = pid
        self.parent = parent
        self.session = session
        self.pgid = pgid
        self.leader: Task | None = None
        self.tasks: list[Task] = []
        self.children: list[ThreadGroup] = []
        self.handlers: Handlers
        self.pending: Pending = Pending()
        self.signal_queue = WaitQueue()
        self.child_queue = WaitQueue()
        self.exit_queue = WaitQueue()
        self.exit_signal = 17
        self.exit_code = 0
        self.exiting = False
        self.zombie = False
        self.executed = False
        self.stopped = False
        self.stop_signal = 0
        self.reported_stop = False
        self.continued = False
        self.limits: Limits
        self.exe = b""
        self.cmdline = b""
        self.environ = b""
        self.start_time = time.monotonic()
        self.user_time = 0.0
        self.system_time = 0.0
        self.children_times = (0.0, 0.0)
        self.pdeath_signal = 0
        self.child_subreaper = False
        self.no_new_privs = False
        self.dumpable = 1
        self.oom_score_adj = 0
        self.posix_timers: dict[int, PosixTimer] = {}
        self.timers: dict[int, Repeating] = {}


class Task:
    """A guest thread. The group's first task has the group's pid as its tid.

    ``attention``: something is to be looked at before guest code runs again (signals, stops, death).
    """

    __slots__ = (
        "altstack", "attention", "clear_child_tid", "comm", "context", "coro", "creds", "doomed", "fds", "fs", "group", "kernel",
        "mm", "pending", "personality", "restart", "restart_deadline", "restart_nr", "robust_list", "saved_mask", "sched",
        "signal_mask", "started", "state", "syscall_nr", "tid", "timer", "timer_slack", "uninterruptible", "vfork_queue", "wait",
    )  # fmt: skip

    def __init__(self, kernel: "Kernel", tid: int, group: ThreadGroup, context: "Context") -> None:
        from systrap.sentry.signals import Pending

        self.kernel = kernel
        self.tid = tid
        self.group = group
        self.context = context
        context.owner = self
        self.mm: MemoryManager = None  # type: ignore[assignment] # until its maker gives it one, before it can run
        self.fds: FDTable
        self.fs: FSContext
        self.creds: Credentials
        self.signal_mask = 0
        self.saved_mask: int | None = None
        self.pending: Pending = Pending()
        self.altstack: tuple[int, int, int] = (0, 2, 0)
        self.comm = b""
        self.sched: Scheduling = DEFAULT
        self.personality = 0
        self.clear_child_tid = 0
        self.robust_list = 0
        self.state = State.KERNEL
        self.coro: Coroutine[Wait, bool | None, Result] | None = None
        self.wait: Wait | None = None
        self.timer: Timer | None = None
        self.attention = False
        self.doomed = False
        self.syscall_nr = -1
        self.restart: RestartKind | None = None
        self.restart_deadline: float | None = None
        self.restart_nr = -1
        self.vfork_queue: WaitQueue | None = None
        self.timer_slack = 50_000
        self.started = 0.0

    def notified(self, events: int) -> None:
        """Wake up: something this task waits for happened (wait.Waiter)."""
        self.kernel.unpark(self, True)

    def set_temporary_mask(self, mask: int) -> None:
        """Block ``mask`` until the running system call ends (ppoll, sigsuspend…). SIGKILL and SIGSTOP cannot be blocked."""
        from systrap.sentry.signals import UNBLOCKABLE

        if self.saved_mask is None:
            self.saved_mask = self.signal_mask
        self.signal_mask = mask & ~UNBLOCKABLE
        self.kernel.recheck(self)
