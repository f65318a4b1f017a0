"""Terminals: what sessions and job control need of any terminal, and the host's terminal as the guest's.

Guest sessions are the sentry's own; the host knows nothing of them. Which guest process group is in the foreground is
kept here; the host terminal's keys raise signals in the sentry, which host_signals.py passes to that group.
"""

import atexit
import errno
import os
import struct
import sys
import time
from typing import TYPE_CHECKING, Final

from systrap.sentry import exit as exits
from systrap.sentry.errors import Interrupted, SyscallError, WouldBlockError
from systrap.sentry.file import O_ACCMODE, OpenFile
from systrap.sentry.hoststream import HostStream, host_call
from systrap.sentry.wait import WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Inode, Stat
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Session, Task
    from systrap.sentry.timers import Timer

SIGTTIN: Final = 21
SIGTTOU: Final = 22
SIGWINCH: Final = 28

TCGETS: Final = 0x5401
TCSETS: Final = 0x5402
TCSETSW: Final = 0x5403
TCSETSF: Final = 0x5404
TCGETA: Final = 0x5405
TCSETA: Final = 0x5406
TCSETAW: Final = 0x5407
TCSETAF: Final = 0x5408
TCSBRK: Final = 0x5409
TCXONC: Final = 0x540A
TCFLSH: Final = 0x540B
TIOCSCTTY: Final = 0x540E
TIOCGPGRP: Final = 0x540F
TIOCSPGRP: Final = 0x5410
TIOCOUTQ: Final = 0x5411
TIOCGWINSZ: Final = 0x5413
TIOCSWINSZ: Final = 0x5414
FIONREAD: Final = 0x541B
TIOCNOTTY: Final = 0x5422
TCSBRKP: Final = 0x5425
TIOCGSID: Final = 0x5429
TOSTOP: Final = 0o400

TERMIOS_SIZE: Final = 36
_TERMIO_SIZE: Final = 18
_WINSIZE_SIZE: Final = 8
CONSOLE: Final = b"/dev/console"
_LFLAG_AT: Final = 12
_CC_AT: Final = 17
_VTIME: Final = 5
_VMIN: Final = 6
_ICANON: Final = 0o2


class Terminal:
    """A terminal as sessions see it: whose controlling terminal it is, and which process group is in the foreground."""

    __slots__ = ("foreground", "kernel", "session")

    def __init__(self, kernel: "Kernel") -> None:
        """Make a terminal that belongs to no session yet."""
        self.kernel = kernel
        self.session: Session | None = None
        self.foreground = 0

    def adopt(self, task: "Task") -> None:
        """Make this the controlling terminal of the task's session, its process group the foreground."""
        session = task.group.session
        session.tty = self
        self.session = session
        self.foreground = task.group.pgid

    def release_session(self) -> None:
        """Let go of the session (its leader ended, or gave the terminal up)."""
        self.session = None
        self.foreground = 0

    def tostop(self) -> bool:
        """Tell whether background output stops its process group."""
        return False

    def check_job(self, task: "Task", signo: int) -> None:
        """Stop a background process group that reads, writes or changes settings (SIGTTIN, SIGTTOU).

        Returns when the task may go on. Raises Interrupted after the signal was sent; EIO where nobody could continue it.
        """
        group = task.group
        if group.session.tty is not self or not self.foreground or group.pgid == self.foreground:
            return
        blocked = task.signal_mask >> (signo - 1) & 1 or group.handlers.get(signo).handler == exits.SIG_IGN
        if blocked:
            if signo == SIGTTIN:
                raise SyscallError(errno.EIO)
            return
        if exits.is_orphaned(self.kernel, group.pgid):
            raise SyscallError(errno.EIO)
        self.kernel.signals.send_pgrp(group.pgid, signo)
        raise Interrupted

    def session_ioctl(self, task: "Task", request: int, argument: int) -> int | None:
        """Carry out the ioctls of sessions and job control; None when it is none of them."""
        if request == TIOCSCTTY:
            return self._set_controlling(task, argument)
        if request == TIOCNOTTY:
            return self._give_up(task)
        if request not in (TIOCGPGRP, TIOCSPGRP, TIOCGSID):
            return None
        if task.group.session.tty is not self or self.session is None:
            raise SyscallError(errno.ENOTTY)
        if request == TIOCGPGRP:
            task.mm.write(argument, struct.pack("<i", self.foreground))
        elif request == TIOCGSID:
            task.mm.write(argument, struct.pack("<i", self.session.sid))
        else:
            self._set_foreground(task, struct.unpack("<i", task.mm.read(argument, 4))[0])
        return 0

    def _set_controlling(self, task: "Task", steal: int) -> int:
        session = task.group.session
        if session.tty is self:
            return 0
        if session.sid != task.group.pid or session.tty is not None:
            raise SyscallError(errno.EPERM)
        if self.session is not None:
            if steal != 1 or task.creds.euid != 0:
                raise SyscallError(errno.EPERM)
            self.session.tty = None
        self.adopt(task)
        return 0

    def _give_up(self, task: "Task") -> int:
        session = task.group.session
        if session.tty is not self:
            raise SyscallError(errno.ENOTTY)
        if session.sid == task.group.pid:
            foreground = self.foreground
            session.tty = None
            self.release_session()
            if foreground:
                self.kernel.signals.send_pgrp(foreground, exits.SIGHUP)
                self.kernel.signals.send_pgrp(foreground, exits.SIGCONT)
        return 0

    def _set_foreground(self, task: "Task", pgid: int) -> None:
        self.check_job(task, SIGTTOU)
        if pgid < 0:
            raise SyscallError(errno.EINVAL)
        members = [group for group in self.kernel.groups.values() if group.pgid == pgid]
        if not members:
            raise SyscallError(errno.ESRCH)
        if members[0].session is not task.group.session:
            raise SyscallError(errno.EPERM)
        self.foreground = pgid


class ReadTimer:
    """VTIME without VMIN: a read ends with nothing after so many tenths of a second."""

    __slots__ = ("_deadline", "_kernel", "_queue", "_timer")

    def __init__(self, kernel: "Kernel", queue: WaitQueue) -> None:
        """``queue`` is told when the time is over."""
        self._kernel = kernel
        self._queue = queue
        self._timer: Timer | None = None
        self._deadline = 0.0

    def over(self, tenths: int) -> bool:
        """Tell whether the time is over; it starts with the first look that finds nothing."""
        now = time.monotonic()
        if self._timer is None:
            self._deadline = now + tenths / 10
            self._timer = self._kernel.timers.add(self._deadline, self._queue.notify)
        return now >= self._deadline

    def stop(self) -> None:
        """End the wait: something was read."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HostTerminal(HostStream):
    """A descriptor of the host's terminal. All of them share one Terminal.

    The terminal is opened once more where that is possible: such a description is ours alone, and may be non-blocking.
    """

    __slots__ = ("_alone", "_timer", "terminal")

    def __init__(self, kernel: "Kernel", fd: int, flags: int, terminal: "HostTerminalState") -> None:
        """Take a descriptor of our own."""
        try:
            again = os.open(f"/proc/self/fd/{fd}", flags & O_ACCMODE | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            self._alone = False
        else:
            os.close(fd)
            fd = again
            self._alone = True
        super().__init__(kernel, fd, flags)
        self._timer = ReadTimer(kernel, self.queue)
        self.terminal = terminal

    def _task(self) -> "Task | None":
        return self.terminal.kernel.current

    def stat(self) -> "Stat":
        """See OpenFile: the console's, whatever the host calls the terminal: guests find it under that name."""
        try:
            return self._kernel.vfs.find(CONSOLE).stat()
        except SyscallError:
            return super().stat()

    def describe(self) -> str:
        """See OpenFile."""
        return os.fsdecode(CONSOLE)

    def read(self, count: int) -> bytes:
        """See OpenFile. Background processes are stopped instead."""
        task = self._task()
        if task is not None:
            self.terminal.check_job(task, SIGTTIN)
        try:
            data = super().read(count)
        except WouldBlockError:
            if self.nonblocking or not self._timed_out():
                raise
            data = b""
        self._timer.stop()
        return data

    def _timed_out(self) -> bool:
        """Tell whether a read ends now though nothing was typed."""
        settings = self.terminal.settings()
        lflag = int.from_bytes(settings[_LFLAG_AT : _LFLAG_AT + 4], "little")
        minimum, tenths = settings[_CC_AT + _VMIN], settings[_CC_AT + _VTIME]
        if lflag & _ICANON or minimum:
            return False
        return not tenths or self._timer.over(tenths)

    def _read_now(self, count: int) -> bytes:
        if self._alone:
            return host_call(lambda: os.read(self.fd, count))
        return super()._read_now(count)

    def _write_now(self, data: "bytes | memoryview[int]") -> int:
        if self._alone:
            return host_call(lambda: os.write(self.fd, data))
        return super()._write_now(data)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile. Background processes are stopped instead where the terminal says so (TOSTOP)."""
        task = self._task()
        if task is not None and self.terminal.tostop():
            self.terminal.check_job(task, SIGTTOU)
        return super().write(data)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile: sessions are ours, settings are the host terminal's."""
        done = self.terminal.session_ioctl(task, request, argument)
        if done is not None:
            return done
        sizes = {TCGETS: TERMIOS_SIZE, TCGETA: _TERMIO_SIZE, TIOCGWINSZ: _WINSIZE_SIZE, FIONREAD: 4, TIOCOUTQ: 4}
        if request in sizes:
            task.mm.write(argument, _host_ioctl(self.fd, request, bytes(sizes[request])))
            return 0
        writes = {
            TCSETS: TERMIOS_SIZE, TCSETSW: TERMIOS_SIZE, TCSETSF: TERMIOS_SIZE, TCSETA: _TERMIO_SIZE,
            TCSETAW: _TERMIO_SIZE, TCSETAF: _TERMIO_SIZE, TIOCSWINSZ: _WINSIZE_SIZE,
        }  # fmt: skip
        if request in writes:
            self.terminal.check_job(task, SIGTTOU)
            _host_ioctl(self.fd, request, task.mm.read(argument, writes[request]))
            return 0
        if request in (TCSBRK, TCXONC, TCFLSH, TCSBRKP):
            self.terminal.check_job(task, SIGTTOU)
            return _host_ioctl_number(self.fd, request, argument)
        raise SyscallError(errno.ENOTTY)


class HostTerminalState(Terminal):
    """The host's terminal: its settings as they were, to be restored on every way out."""

    __slots__ = ("_settings", "fd")

    def __init__(self, kernel: "Kernel", fd: int) -> None:
        """Save the settings of the terminal at ``fd``, through a descriptor of its own."""
        super().__init__(kernel)
        self.fd = os.dup(fd)
        self._settings = _host_ioctl(self.fd, TCGETS, bytes(TERMIOS_SIZE))

    def settings(self) -> bytes:
        """Return the settings as they are now, a struct termios."""
        return _host_ioctl(self.fd, TCGETS, bytes(TERMIOS_SIZE))

    def tostop(self) -> bool:
        """See Terminal."""
        settings = self.settings()
        return bool(int.from_bytes(settings[_LFLAG_AT : _LFLAG_AT + 4], "little") & TOSTOP)

    def restore(self) -> None:
        """Give the terminal its settings back. SIGTTOU is blocked or ignored by whoever calls."""
        if self._settings != self.settings():
            _host_ioctl(self.fd, TCSETSW, self._settings)


_states: dict[tuple[int, int], HostTerminalState] = {}


def host_terminal(kernel: "Kernel", fd: int, flags: int) -> OpenFile:
    """Return the description of a host terminal; the first one becomes the controlling terminal of the first session."""
    stat = os.fstat(fd)
    key = (id(kernel), stat.st_rdev)
    state = _states.get(key)
    if state is None:
        if not _states:
            atexit.register(restore_all)
        state = _states[key] = HostTerminalState(kernel, fd)
    return HostTerminal(kernel, fd, flags, state)


def adopt_first(task: "Task") -> None:
    """Make the run's terminal, if it has one, the first process's controlling terminal."""
    for number in task.fds.numbers():
        file = task.fds.get(number)
        if isinstance(file, HostTerminal):
            file.terminal.adopt(task)
            return


def restore_all() -> None:
    """Restore the settings of every host terminal. Safe at any time."""
    for state in _states.values():
        try:
            state.restore()
        except SyscallError as error:
            sys.stderr.write(f"systrap: the terminal's settings could not be restored: {error}\n")


def _host_ioctl(fd: int, request: int, data: bytes) -> bytes:
    import fcntl

    try:
        return fcntl.ioctl(fd, request, data)
    except OSError as error:
        raise SyscallError(error.errno or errno.EIO) from error


def _host_ioctl_number(fd: int, request: int, argument: int) -> int:
    import fcntl

    try:
        return fcntl.ioctl(fd, request, argument & 0x7FFFFFFF)
    except OSError as error:
        raise SyscallError(error.errno or errno.EIO) from error


def open_controlling(task: "Task", flags: int) -> OpenFile:
    """Open /dev/tty: the controlling terminal of the task's session. ENXIO when there is none."""
    terminal = task.group.session.tty
    if terminal is None:
        raise SyscallError(errno.ENXIO)
    if isinstance(terminal, HostTerminalState):
        return HostTerminal(task.kernel, os.dup(terminal.fd), flags, terminal)
    from systrap.sentry import pty

    return pty.open_slave(terminal, flags)


def open_console(task: "Task", flags: int) -> OpenFile:
    """Open /dev/console: the host's terminal. EIO when the run has none."""
    for (owner, _), state in _states.items():
        if owner == id(task.kernel):
            return HostTerminal(task.kernel, os.dup(state.fd), flags, state)
    raise SyscallError(errno.EIO)


def open_ptmx(task: "Task", flags: int) -> OpenFile:
    """Open /dev/ptmx: a new pseudo-terminal's master."""
    from systrap.sentry import pty

    return pty.open_master(task, flags)


def pts_directory(kernel: "Kernel") -> "Inode":
    """Return the root of /dev/pts."""
    from systrap.sentry import pty

    return pty.directory(kernel)
