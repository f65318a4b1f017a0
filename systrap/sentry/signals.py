"""Signals: what is pending for whom, who takes it, and what it does."""

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap import arch
from systrap.sentry import exit as exits
from systrap.sentry import frames
from systrap.sentry.errors import RestartKind
from systrap.sentry.task import State

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task, ThreadGroup

SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE = range(1, 9)
SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT = range(9, 17)
SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGXCPU = range(17, 25)
SIGXFSZ, SIGVTALRM, SIGPROF, SIGWINCH, SIGIO, SIGPWR, SIGSYS = range(25, 32)
SIGRTMIN: Final = 32
SIGRTMAX: Final = 64

SIG_DFL: Final = 0
SIG_IGN: Final = 1
SA_NOCLDSTOP: Final = 1
SA_NOCLDWAIT: Final = 2
SA_SIGINFO: Final = 4
SA_RESTORER: Final = 0x04000000
SA_ONSTACK: Final = 0x08000000
SA_RESTART: Final = 0x10000000
SA_NODEFER: Final = 0x40000000
SA_RESETHAND: Final = 0x80000000

SA_KNOWN: Final = 0xDC000807
"""The flags a kernel of our release knows; it forgets the others (sigaction(2), SA_UNSUPPORTED)."""

SI_USER: Final = 0
SI_KERNEL: Final = 0x80
SI_QUEUE: Final = -1
SI_TIMER: Final = -2
SI_TKILL: Final = -6


def bit(signo: int) -> int:
    """Return a signal's bit in a mask."""
    return 1 << (signo - 1)


UNBLOCKABLE: Final = bit(SIGKILL) | bit(SIGSTOP)
STOPS: Final = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU)
IGNORED_BY_DEFAULT: Final = bit(SIGCHLD) | bit(SIGCONT) | bit(SIGURG) | bit(SIGWINCH)
SYNCHRONOUS: Final = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS)
DUMPS_CORE: Final = (
    bit(SIGQUIT) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGABRT) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGSEGV) | bit(SIGXCPU)
    | bit(SIGXFSZ) | bit(SIGSYS)
)  # fmt: skip
_MAX_QUEUED: Final = 4096
_ARCH: Final = arch.current()

NAMES: Final = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
    16: "SIGSTKFLT", 17: "SIGCHLD", 18: "SIGCONT", 19: "SIGSTOP", 20: "SIGTSTP", 21: "SIGTTIN", 22: "SIGTTOU",
    23: "SIGURG", 24: "SIGXCPU", 25: "SIGXFSZ", 26: "SIGVTALRM", 27: "SIGPROF", 28: "SIGWINCH", 29: "SIGIO",
    30: "SIGPWR", 31: "SIGSYS",
}  # fmt: skip


class Info(NamedTuple):
    """A siginfo: which fields count depends on ``signo`` and ``code``. ``raw`` is what a guest handed to rt_sigqueueinfo."""

    signo: int
    code: int = SI_KERNEL
    pid: int = 0
    uid: int = 0
    status: int = 0
    value: int = 0
    addr: int = 0
    utime: int = 0
    stime: int = 0
    trapno: int = 0
    err: int = 0
    timerid: int = 0
    overrun: int = 0
    raw: bytes | None = None

    def pack(self) -> bytes:
        """Return the 128 bytes a handler sees."""
        if self.raw is not None:
            return self.raw
        head = struct.pack("<iiii", self.signo, 0, self.code, 0)
        if self.code > 0 and self.code != SI_KERNEL and bit(self.signo) & SYNCHRONOUS:
            body = struct.pack("<Q", self.addr)
        elif self.signo == SIGCHLD and self.code > 0:
            body = struct.pack("<iIi4xqq", self.pid, self.uid, self.status, self.utime, self.stime)
        elif self.code == SI_TIMER:
            body = struct.pack("<iiQ", self.timerid, self.overrun, self.value)
        elif self.code == SI_KERNEL and bit(self.signo) & SYNCHRONOUS:
            body = struct.pack("<Q", self.addr)
        else:
            body = struct.pack("<iIQ", self.pid, self.uid, self.value)
        return (head + body).ljust(128, b"\0")

    @staticmethod
    def parse(signo: int, data: bytes) -> "Info":
        """Take what a guest queues itself (rt_sigqueueinfo): its own bytes, with the number that counts."""
        _, _, code = struct.unpack_from("<iii", data)
        pid, uid, value = struct.unpack_from("<iIQ", data, 16)
        return Info(signo, code, pid=pid, uid=uid, value=value, raw=struct.pack("<i", signo) + data[4:128])


class Action(NamedTuple):
    """What a process wants done about a signal."""

    handler: int = SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0


class Handlers:
    """The actions of a process, by signal number. Shared by what was cloned with CLONE_SIGHAND."""

    __slots__ = ("_actions",)

    def __init__(self) -> None:
        self._actions: dict[int, Action] = {}

    def get(self, signo: int) -> Action:
        """Return the action for a signal."""
        return self._actions.get(signo, _DEFAULT)

    def set(self, signo: int, action: Action) -> None:
        """Set the action for a signal."""
        self._actions[signo] = action

    def copy(self) -> "Handlers":
        """Return a table of its own (fork)."""
        copied = Handlers()
        copied._actions = dict(self._actions)
        return copied

    def reset_for_exec(self) -> None:
        """Forget handlers; what is ignored stays so."""
        self._actions = {s: Action(SIG_IGN) for s, a in self._actions.items() if a.handler == SIG_IGN}


_DEFAULT: Final = Action()


class Pending:
    """Signals that are pending: one of each standard signal, any number of each real-time one. ``bits`` is their mask."""

    __slots__ = ("_queues", "bits")

    def __init__(self) -> None:
        self._queues: dict[int, deque[Info]] = {}
        self.bits = 0

    def add(self, info: Info) -> bool:
        """Add a signal. Returns False when it is lost: a standard one that is pending already, or too many."""
        signo = info.signo
        queue = self._queues.setdefault(signo, deque())
        if queue and (signo < SIGRTMIN or len(queue) >= _MAX_QUEUED):
            return False
        queue.append(info)
        self.bits |= bit(signo)
        return True

    def take(self, allowed: int) -> Info | None:
        """Take the next signal out of mask ``allowed``: synchronous ones first, then by number."""
        found = self.bits & allowed
        if not found:
            return None
        found = found & SYNCHRONOUS or found
        signo = (found & -found).bit_length()
        queue = self._queues[signo]
        info = queue.popleft()
        if not queue:
            self.bits &= ~bit(signo)
        return info

    def holds_timer(self, signo: int, timer_id: int) -> bool:
        """Tell whether a signal of a POSIX timer is pending."""
        return any(info.code == SI_TIMER and info.timerid == timer_id for info in self._queues.get(signo, ()))

    def discard(self, mask: int) -> None:
        """Forget every pending signal in a mask."""
        for signo in list(self._queues):
            if bit(signo) & mask:
                self._queues[signo].clear()
        self.bits &= ~mask


class Signals:
    """Sending and delivery. One per kernel."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel

    # Sending.

    def send_task(self, task: "Task", signo: int, info: Info | None = None) -> None:
        """Send a signal to one thread."""
        self._send(task.group, task, signo, info)

    def send_group(self, group: "ThreadGroup", signo: int, info: Info | None = None) -> None:
        """Send a signal to a process: any thread that does not block it takes it."""
        self._send(group, None, signo, info)

    def send_pgrp(self, pgid: int, signo: int, info: Info | None = None) -> bool:
        """Send a signal to every process of a process group. Returns False when there is none."""
        members = [group for group in self._kernel.groups.values() if group.pgid == pgid and not group.zombie]
        for group in members:
            self.send_group(group, signo, info)
        return bool(members)

    def _send(self, group: "ThreadGroup", task: "Task | None", signo: int, info: Info | None) -> None:
        if group.exiting or group.zombie or not group.tasks:
            return
        if signo == SIGKILL:
            exits.kill_group(group, SIGKILL)
            return
        mask = bit(signo)
        if mask & STOPS:
            self._forget(group, bit(SIGCONT))
        elif signo == SIGCONT:
            self._forget(group, STOPS)
        pending = group.pending if task is None else task.pending
        added = not self.ignores(group, task, signo) and pending.add(info or Info(signo))
        if signo == SIGCONT:
            # Pending first: a call that was stopped must see whether a handler runs.
            exits.continue_group(group)
        if added:
            group.signal_queue.notify()
            target = task or self.taker(group, mask)
            if target is not None:
                self._kernel.signal_task(target)

    @staticmethod
    def _forget(group: "ThreadGroup", mask: int) -> None:
        group.pending.discard(mask)
        for member in group.tasks:
            member.pending.discard(mask)

    @staticmethod
    def ignores(group: "ThreadGroup", task: "Task | None", signo: int) -> bool:
        """Tell whether nobody would notice the signal: it is ignored and not blocked (a blocked one may be waited for)."""
        mask = bit(signo)
        handler = group.handlers.get(signo).handler
        if handler != SIG_IGN and not (handler == SIG_DFL and mask & IGNORED_BY_DEFAULT):
            return False
        members = [task] if task is not None else group.tasks
        return not any((m.saved_mask if m.saved_mask is not None else m.signal_mask) & mask for m in members)

    @staticmethod
    def taker(group: "ThreadGroup", mask: int) -> "Task | None":
        """Choose who takes a process's signal: the leader if it can, else anybody who does not block it."""
        candidates = [t for t in group.tasks if not t.signal_mask & mask and t.state is not State.DEAD]
        if not candidates:
            return None
        if group.leader in candidates:
            return group.leader
        parked = [t for t in candidates if t.state is State.PARKED]
        return parked[0] if parked else candidates[0]

    def force(self, task: "Task", info: Info) -> None:
        """Make a task take a fault's signal now. Blocked or ignored, it kills."""
        group = task.group
        action = group.handlers.get(info.signo)
        if task.signal_mask & bit(info.signo) or action.handler == SIG_IGN:
            group.handlers.set(info.signo, _DEFAULT)
            task.signal_mask &= ~bit(info.signo)
        task.pending.add(info)
        task.attention = True

    # Taking.

    def dequeue(self, task: "Task", mask: int) -> Info | None:
        """Take a pending signal out of ``mask``: the thread's own first (sigtimedwait, signalfd)."""
        info = task.pending.take(mask) or task.group.pending.take(mask)
        if info is not None and info.code == SI_TIMER and info.raw is None:
            timer = task.group.posix_timers.get(info.timerid)
            if timer is not None:
                return info._replace(overrun=timer.taken())
        return info

    @staticmethod
    def has_deliverable(task: "Task") -> bool:
        """Tell whether a pending signal is not blocked."""
        return bool((task.pending.bits | task.group.pending.bits) & ~task.signal_mask)

    @staticmethod
    def restore_mask(task: "Task") -> None:
        """End a temporary signal mask."""
        if task.saved_mask is not None:
            task.signal_mask = task.saved_mask
            task.saved_mask = None

    def take(self, task: "Task") -> Info | None:
        """Take the next signal that a task is to act on."""
        return self.dequeue(task, ~task.signal_mask & (1 << 64) - 1)

    def deliver(self, task: "Task") -> bool:
        """Do what pending signals ask for before a task runs guest code. Returns False when it must not run."""
        group = task.group
        while True:
            if group.exiting:
                return False
            if group.stopped:
                task.state = State.STOPPED
                return False
            info = self.take(task)
            if info is None:
                self._settle(task, None)
                return True
            action = group.handlers.get(info.signo)
            if action.handler == SIG_IGN:
                continue
            if action.handler == SIG_DFL:
                self._default(task, info)
                continue
            self._handle(task, info, action)

    def _default(self, task: "Task", info: Info) -> None:
        mask, group = bit(info.signo), task.group
        if mask & IGNORED_BY_DEFAULT:
            return
        if mask & STOPS:
            if info.signo == SIGSTOP or not exits.is_orphaned(self._kernel, group.pgid):
                exits.stop_group(group, info.signo)
            return
        if group is self._kernel.first:
            self._kernel.crash_report = self._report(task, info)
        exits.kill_group(group, info.signo, bool(mask & DUMPS_CORE and group.limits.soft(4)))

    def _report(self, task: "Task", info: Info) -> str:
        """Say in words what killed the first process, for its user."""
        name = NAMES.get(info.signo, f"signal {info.signo}")
        if not bit(info.signo) & SYNCHRONOUS or info.code <= 0:
            return f"killed by {name}"
        ip = task.context.regs[_ARCH.IP]
        where = task.mm.describe(ip)
        at = (
            ""
            if info.signo in (SIGILL, SIGTRAP, SIGFPE)
            else f" at address {info.addr:#x} ({task.mm.describe(info.addr)})"
        )
        return f"killed by {name}{at}, executing {ip:#x}: {where}"

    def _handle(self, task: "Task", info: Info, action: Action) -> None:
        """Set a handler up to run."""
        self._settle(task, action)
        if action.flags & SA_RESETHAND:
            task.group.handlers.set(info.signo, action._replace(handler=SIG_DFL))
        old_mask = task.saved_mask if task.saved_mask is not None else task.signal_mask
        if not frames.push(task, info, action, old_mask):
            # There is no stack to put the frame on.
            if info.signo == SIGSEGV:
                task.group.handlers.set(SIGSEGV, _DEFAULT)
            self.force(task, Info(SIGSEGV, SI_KERNEL))
            return
        task.saved_mask = None
        mask = action.mask | (0 if action.flags & SA_NODEFER else bit(info.signo))
        task.signal_mask = (task.signal_mask | mask) & ~UNBLOCKABLE

    @staticmethod
    def _settle(task: "Task", action: Action | None) -> None:
        """Decide what becomes of an interrupted system call: ``action`` is the handler that runs, None when none does."""
        kind = task.restart
        if action is not None:
            task.restart_deadline = None
        if kind is None:
            return
        task.restart = None
        again = action is None or kind is RestartKind.NOINTR or (kind is RestartKind.SYS and action.flags & SA_RESTART)
        regs = task.context.regs
        if again:
            # Nothing was written to the result's register yet, so that the first argument is still there on either CPU.
            _ARCH.restart_syscall(regs, task.syscall_nr, regs[_ARCH.ARGS[0]])
        else:
            regs[_ARCH.RESULT] = (1 << 64) - errno.EINTR
