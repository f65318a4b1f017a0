"""Pseudo-terminals as open files: masters, slaves, and how they are opened."""

import errno
import os
from typing import TYPE_CHECKING, Final

from systrap.sentry import tty
from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_CLOEXEC, O_NOCTTY, OpenFile
from systrap.sentry.fs.inode import Inode, Stat
from systrap.sentry.ldisc import VMIN, VTIME
from systrap.sentry.pts import SLAVE_MAJOR, PtsDirectory, SlaveInode
from systrap.sentry.pty_pair import BUFFER, READABLE, SETTERS, WRITABLE, PseudoTerminal, terminals
from systrap.sentry.tty import Terminal
from systrap.sentry.wait import POLLERR, POLLHUP, POLLPRI

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

_MAX_TERMINALS: Final = 4096
TIOCPKT: Final = 0x5420
TIOCGPTN: Final = 0x80045430
TIOCSPTLCK: Final = 0x40045431
TIOCGDEV: Final = 0x80045432
TIOCSIG: Final = 0x40045436
TIOCGPKT: Final = 0x80045438
TIOCGPTLCK: Final = 0x80045439
TIOCGPTPEER: Final = 0x5441


class Master(OpenFile):
    """The side of whoever plays the terminal: a terminal emulator, script(1), a shell's test."""

    __slots__ = ("terminal",)

    def __init__(self, terminal: PseudoTerminal, flags: int) -> None:
        super().__init__(flags)
        self.terminal = terminal
        self.queue = terminal.master_queue

    def read(self, count: int) -> bytes:
        """See OpenFile. EIO when every slave is closed again and all they wrote was read."""
        terminal = self.terminal
        if terminal.packet and terminal.packet_status:
            status, terminal.packet_status = terminal.packet_status, 0
            return bytes([status])
        if not terminal.output_size:
            if terminal.opened and not terminal.slaves:
                raise SyscallError(errno.EIO)
            raise WouldBlockError
        if terminal.packet:
            return b"\0" + terminal.take_output(count - 1)
        return terminal.take_output(count)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile: this is typing."""
        terminal = self.terminal
        room = self._room()
        if room <= 0:
            raise WouldBlockError
        piece = bytes(data[:room])
        was_stopped = terminal.ldisc.stopped
        terminal.ldisc.input(piece)
        events = READABLE if terminal.ldisc.readable() else 0
        if was_stopped and not terminal.ldisc.stopped:
            events |= WRITABLE
        if events:
            terminal.slave_queue.notify(events)
        return len(piece)

    def _room(self) -> int:
        return BUFFER - self.terminal.ldisc.available()

    def poll(self) -> int:
        """See OpenFile."""
        terminal = self.terminal
        events = READABLE if terminal.output_size else 0
        if terminal.packet and terminal.packet_status:
            events |= READABLE | POLLPRI
        if terminal.opened and not terminal.slaves:
            events |= POLLHUP
        if self._room() > 0:
            events |= WRITABLE
        return events

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile."""
        terminal, mm = self.terminal, task.mm
        if request == TIOCGPTN:
            mm.write_u32(argument, terminal.number)
        elif request == TIOCSPTLCK:
            terminal.locked = bool(mm.read_u32(argument))
        elif request == TIOCGPTLCK:
            mm.write_u32(argument, int(terminal.locked))
        elif request == TIOCGPTPEER:
            return task.fds.add(open_slave(terminal, argument, task), bool(argument & O_CLOEXEC))
        elif request == TIOCPKT:
            terminal.packet = bool(mm.read_u32(argument))
            terminal.packet_status = 0
        elif request == TIOCGPKT:
            mm.write_u32(argument, int(terminal.packet))
        elif request == TIOCSIG:
            if not 1 <= argument <= 64:
                raise SyscallError(errno.EINVAL)
            if terminal.foreground:
                terminal.kernel.signals.send_pgrp(terminal.foreground, argument)
        elif request == tty.FIONREAD:
            mm.write_u32(argument, terminal.output_size)
        elif request == tty.TIOCOUTQ:
            mm.write_u32(argument, 0)
        elif request == TIOCGDEV:
            mm.write_u32(argument, os.makedev(5, 2))
        else:
            return self._session_ioctl(task, request, argument)
        return 0

    def _session_ioctl(self, task: "Task", request: int, argument: int) -> int:
        """Tell of the slave's session, whose terminal need not be this one; all else is the same at both ends."""
        terminal = self.terminal
        if request in (tty.TIOCGPGRP, tty.TIOCGSID):
            if terminal.session is None:
                raise SyscallError(errno.ENOTTY)
            task.mm.write_u32(argument, terminal.foreground if request == tty.TIOCGPGRP else terminal.session.sid)
            return 0
        done = terminal.session_ioctl(task, request, argument) if request == tty.TIOCSPGRP else None
        return done if done is not None else terminal.common_ioctl(task, request, argument)

    def stat(self) -> Stat:
        """See OpenFile: that of /dev/ptmx."""
        return Stat(5, 0x20002, 0o020666, rdev=os.makedev(5, 2))

    def describe(self) -> str:
        """See OpenFile."""
        return "/dev/ptmx"

    def release(self) -> None:
        """See OpenFile."""
        self.terminal.hang_up()


class Slave(OpenFile):
    """The side of programs: a terminal."""

    __slots__ = ("_timer", "terminal")

    def __init__(self, terminal: PseudoTerminal, flags: int) -> None:
        super().__init__(flags)
        self.terminal = terminal
        self.queue = terminal.slave_queue
        self._timer = tty.ReadTimer(terminal.kernel, self.queue)
        terminal.slaves += 1
        terminal.opened = True

    def read(self, count: int) -> bytes:
        """See OpenFile: a line in canonical mode, what VMIN and VTIME say outside. Background processes are stopped instead."""
        terminal = self.terminal
        if terminal.hung_up:
            return b""
        task = terminal.kernel.current
        if task is not None:
            terminal.check_job(task, tty.SIGTTIN)
        full = terminal.ldisc.available() >= BUFFER
        found = terminal.ldisc.read(count)
        if found is None:
            if not self._timed_out():
                raise WouldBlockError
            found = b""
        self._timer.stop()
        if full:
            terminal.master_queue.notify(WRITABLE)
        return found

    def _timed_out(self) -> bool:
        """Tell whether a read ends now though nothing was typed (VTIME without VMIN)."""
        ldisc = self.terminal.ldisc
        cc = ldisc.termios.cc
        if ldisc.canonical or cc[VMIN] or not cc[VTIME] or self.nonblocking:
            return False
        return self._timer.over(cc[VTIME])

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile. Background processes are stopped instead where the terminal says so (TOSTOP)."""
        terminal = self.terminal
        if terminal.hung_up:
            raise SyscallError(errno.EIO)
        task = terminal.kernel.current
        if task is not None and terminal.tostop():
            terminal.check_job(task, tty.SIGTTOU)
        room = terminal.output_room()
        if room <= 0:
            raise WouldBlockError
        piece = bytes(data[:room])
        terminal.show(terminal.ldisc.output(piece))
        return len(piece)

    def poll(self) -> int:
        """See OpenFile."""
        terminal = self.terminal
        if terminal.hung_up:
            return READABLE | WRITABLE | POLLERR | POLLHUP
        return (READABLE if terminal.ldisc.readable() else 0) | (WRITABLE if terminal.output_room() > 0 else 0)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile."""
        terminal = self.terminal
        if terminal.hung_up:
            raise SyscallError(errno.ENOTTY if request == tty.TIOCSPGRP else errno.EIO)
        done = terminal.session_ioctl(task, request, argument)
        if done is not None:
            return done
        if request == tty.FIONREAD:
            task.mm.write_u32(argument, terminal.ldisc.available())
        elif request == tty.TIOCOUTQ:
            task.mm.write_u32(argument, 0)
        elif request == TIOCGDEV:
            task.mm.write_u32(argument, os.makedev(SLAVE_MAJOR, terminal.number))
        else:
            if request in SETTERS or request in (tty.TCSBRK, tty.TCXONC, tty.TCFLSH, tty.TCSBRKP):
                terminal.check_job(task, tty.SIGTTOU)
            return terminal.common_ioctl(task, request, argument)
        return 0

    def stat(self) -> Stat:
        """See OpenFile."""
        return self.terminal.inode.stat()

    def describe(self) -> str:
        """See OpenFile."""
        return f"/dev/pts/{self.terminal.number}"

    def release(self) -> None:
        """See OpenFile: the last slave's end is the master's EIO."""
        self._timer.stop()
        self.terminal.slaves -= 1
        if not self.terminal.slaves:
            self.terminal.master_queue.notify(READABLE | POLLHUP)


def open_master(task: "Task", flags: int) -> OpenFile:
    """Open /dev/ptmx: make a pseudo-terminal and return its master. ENOSPC."""
    there = terminals(task.kernel)
    number = next((n for n in range(_MAX_TERMINALS) if n not in there), -1)
    if number < 0:
        raise SyscallError(errno.ENOSPC)
    terminal = there[number] = PseudoTerminal(task.kernel, number, task.creds.fsuid)
    terminal.inode = SlaveInode(terminal)
    return Master(terminal, flags)


def open_slave(terminal: Terminal, flags: int, task: "Task | None" = None) -> OpenFile:
    """Open a slave. A session leader without a terminal gets it as its controlling one, unless ``flags`` have O_NOCTTY."""
    if not isinstance(terminal, PseudoTerminal):
        raise SyscallError(errno.EIO)
    slave = Slave(terminal, flags)
    if task is not None and not flags & O_NOCTTY and terminal.session is None:
        group = task.group
        if group.session.sid == group.pid and group.session.tty is None:
            terminal.adopt(task)
    return slave


def directory(kernel: "Kernel") -> Inode:
    """Return the root of /dev/pts."""
    return PtsDirectory(kernel)
