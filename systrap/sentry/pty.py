"""Pseudo-terminals: /dev/ptmx, /dev/pts/N, and the line discipline between them.

Input from the master goes through the discipline (signals, editing, echo) to the slave's reader; output of the slave goes
through output processing to the master's reader.
"""

import errno
import os
import stat as stats
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.sentry import exit as exits
from systrap.sentry import tty
from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_ACCMODE, O_NOCTTY, O_NONBLOCK, O_RDWR, OpenFile
from systrap.sentry.fs.inode import Inode, Location, Stat, anonymous_stat
from systrap.sentry.fs.synthetic import Directory, SyntheticInode, ino_of
from systrap.sentry.tty import Terminal
from systrap.sentry.wait import POLLHUP, POLLIN, POLLOUT, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

ICRNL, INLCR, IGNCR = 0o400, 0o100, 0o200
OPOST, ONLCR = 0o1, 0o4
ISIG, ICANON, ECHO, ECHOE, ECHOK, ECHONL, NOFLSH, TOSTOP, ECHOCTL, IEXTEN = (
    0o1, 0o2, 0o10, 0o20, 0o40, 0o100, 0o200, 0o400, 0o1000, 0o100000,
)  # fmt: skip
VINTR, VQUIT, VERASE, VKILL, VEOF, VTIME, VMIN, _, _, _, VSUSP, VEOL, _, _, VWERASE, _, VEOL2 = range(17)

TIOCGPTN: Final = 0x80045430
TIOCSPTLCK: Final = 0x40045431
TIOCGPTLCK: Final = 0x80045439
TIOCGPTPEER: Final = 0x5441
TIOCPKT: Final = 0x5420
_SIGNALS: Final = {VINTR: 2, VQUIT: 3, VSUSP: 20}
_CAPACITY: Final = 65536
_CANONICAL_MAX: Final = 4095
_DEFAULT: Final = struct.pack(
    "<4IB19s", 0o2400, 0o5, 0o277, 0o105073, 0,
    bytes((3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0)),
)  # fmt: skip


class Pty(Terminal):
    """A pseudo-terminal: both queues and the settings."""

    __slots__ = (
        "eof",
        "line",
        "locked",
        "master_open",
        "number",
        "output",
        "queue",
        "ready",
        "slaves",
        "termios",
        "winsize",
    )

    def __init__(self, kernel: "Kernel", number: int) -> None:
        super().__init__(kernel)
        self.number = number
        self.termios = bytearray(_DEFAULT)
        self.winsize = bytes(8)
        self.line = bytearray()
        self.ready: deque[bytes] = deque()
        self.eof = 0
        self.output = bytearray()
        self.queue = WaitQueue()
        self.locked = True
        self.master_open = True
        self.slaves = 0

    # Settings.

    def flag(self, word: int, bits: int) -> bool:
        """Tell whether a flag is set; ``word``: 0 input, 1 output, 3 local."""
        return bool(int.from_bytes(self.termios[4 * word : 4 * word + 4], "little") & bits)

    def char(self, index: int) -> int:
        """Return a control character (VINTR…)."""
        return self.termios[17 + index]

    def tostop(self) -> bool:
        """See Terminal."""
        return self.flag(3, TOSTOP)

    # From the master to the slave.

    def input(self, data: bytes) -> int:
        """Take what the master wrote."""
        for byte in data:
            self._input_byte(byte)
        self.queue.notify()
        return len(data)

    def _input_byte(self, byte: int) -> None:
        if byte == 13 and self.flag(0, IGNCR):
            return
        if byte == 13 and self.flag(0, ICRNL):
            byte = 10
        elif byte == 10 and self.flag(0, INLCR):
            byte = 13
        if self.flag(3, ISIG):
            for index, signo in _SIGNALS.items():
                if byte and byte == self.char(index):
                    self._signal(byte, signo)
                    return
        if self.flag(3, ICANON):
            self._canonical(byte)
        else:
            self._echo(byte)
            self.ready.append(bytes((byte,)))

    def _signal(self, byte: int, signo: int) -> None:
        if not self.flag(3, NOFLSH):
            self.line.clear()
            self.ready.clear()
        self._echo(byte)
        if self.foreground:
            self.kernel.signals.send_pgrp(self.foreground, signo)

    def _canonical(self, byte: int) -> None:
        """Edit the line; complete lines become readable."""
        if byte and byte == self.char(VERASE):
            if self.line:
                self.line.pop()
                self._echo_raw(b"\b \b")
        elif byte and byte == self.char(VKILL):
            self._echo_raw(b"\b \b" * len(self.line))
            self.line.clear()
        elif byte and byte == self.char(VWERASE) and self.flag(3, IEXTEN):
            while self.line and self.line[-1] == 32:
                self.line.pop()
                self._echo_raw(b"\b \b")
            while self.line and self.line[-1] != 32:
                self.line.pop()
                self._echo_raw(b"\b \b")
        elif byte and byte == self.char(VEOF):
            self._finish_line()
        else:
            if len(self.line) < _CANONICAL_MAX or byte == 10:
                self.line.append(byte)
            self._echo(byte)
            if byte == 10 or (byte and byte in (self.char(VEOL), self.char(VEOL2))):
                self._finish_line()

    def _finish_line(self) -> None:
        if self.line:
            self.ready.append(bytes(self.line))
            self.line.clear()
        else:
            self.ready.append(b"")

    def _echo(self, byte: int) -> None:
        if byte == 10 and (self.flag(3, ECHO) or (self.flag(3, ECHONL) and self.flag(3, ICANON))):
            self._echo_raw(b"\n")
        elif self.flag(3, ECHO):
            if byte < 32 and byte not in (9, 10) and self.flag(3, ECHOCTL):
                self._echo_raw(bytes((94, byte + 64)))
            else:
                self._echo_raw(bytes((byte,)))

    def _echo_raw(self, data: bytes) -> None:
        if self.flag(3, ECHO | ECHONL):
            self.output += self._processed(data)

    # From the slave to the master.

    def _processed(self, data: bytes) -> bytes:
        if self.flag(1, OPOST) and self.flag(1, ONLCR):
            return data.replace(b"\n", b"\r\n")
        return data

    def write_output(self, data: bytes) -> int:
        """Take what the slave wrote."""
        room = _CAPACITY - len(self.output)
        if room <= 1:
            raise WouldBlockError
        piece = data[: room // 2 + 1]
        self.output += self._processed(piece)
        self.queue.notify()
        return len(piece)

    def read_input(self, count: int) -> bytes:
        """Give the slave's reader a line, or in raw mode what is there."""
        if not self.ready:
            if not self.master_open:
                return b""
            if not self.flag(3, ICANON) and not self.char(VMIN):
                return b""
            raise WouldBlockError
        if self.flag(3, ICANON):
            line = self.ready.popleft()
            if len(line) > count:
                self.ready.appendleft(line[count:])
            return line[:count]
        found = bytearray()
        while self.ready and len(found) < count:
            piece = self.ready.popleft()
            take = count - len(found)
            found += piece[:take]
            if len(piece) > take:
                self.ready.appendleft(piece[take:])
        return bytes(found)

    def hang_up(self) -> None:
        """Note that the master is gone: the session's foreground gets SIGHUP, readers the end of file."""
        self.master_open = False
        _ptys.pop((id(self.kernel), self.number), None)
        session = self.session
        if session is not None:
            leader = self.kernel.groups.get(session.sid)
            if leader is not None:
                self.kernel.signals.send_group(leader, exits.SIGHUP)
                self.kernel.signals.send_group(leader, exits.SIGCONT)
            if self.foreground:
                self.kernel.signals.send_pgrp(self.foreground, exits.SIGHUP)
        self.queue.notify()

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """Carry out what both ends understand."""
        done = self.session_ioctl(task, request, argument)
        if done is not None:
            return done
        mm = task.mm
        if request == tty.TCGETS:
            mm.write(argument, bytes(self.termios))
        elif request in (tty.TCSETS, tty.TCSETSW, tty.TCSETSF):
            self.check_job(task, tty.SIGTTOU)
            self.termios[:] = mm.read(argument, tty.TERMIOS_SIZE)
            if request == tty.TCSETSF:
                self.line.clear()
                self.ready.clear()
            elif not self.flag(3, ICANON) and self.line:
                self._finish_line()
            self.queue.notify()
        elif request == tty.TIOCGWINSZ:
            mm.write(argument, self.winsize)
        elif request == tty.TIOCSWINSZ:
            size = mm.read(argument, 8)
            if size != self.winsize:
                self.winsize = size
                if self.foreground:
                    self.kernel.signals.send_pgrp(self.foreground, tty.SIGWINCH)
        elif request == tty.TCFLSH:
            if argument in (0, 2):
                self.line.clear()
                self.ready.clear()
            if argument in (1, 2):
                self.output.clear()
        elif request in (tty.TCSBRK, tty.TCXONC, tty.TCSBRKP):
            return 0
        else:
            raise SyscallError(errno.ENOTTY)
        return 0


class Master(OpenFile):
    """The end a terminal emulator has."""

    __slots__ = ("pty",)

    def __init__(self, pty: Pty, flags: int) -> None:
        super().__init__(flags & (O_ACCMODE | O_NONBLOCK) | O_RDWR)
        self.pty = pty
        self.queue = pty.queue

    def read(self, count: int) -> bytes:
        """See OpenFile: EIO when the last slave was closed and everything was read."""
        output = self.pty.output
        if not output:
            if not self.pty.slaves and not self.pty.locked:
                raise SyscallError(errno.EIO)
            raise WouldBlockError
        data = bytes(output[:count])
        del output[:count]
        self.queue.notify(POLLOUT)
        return data

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        if sum(map(len, self.pty.ready)) > _CAPACITY:
            raise WouldBlockError
        return self.pty.input(bytes(data))

    def poll(self) -> int:
        """See OpenFile."""
        hung = not self.pty.slaves and self.pty.locked is False and self.pty.eof
        return (POLLIN if self.pty.output else 0) | POLLOUT | (POLLHUP if hung else 0)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile."""
        if request == TIOCGPTN:
            task.mm.write_u32(argument, self.pty.number)
        elif request == TIOCSPTLCK:
            self.pty.locked = bool(task.mm.read_u32(argument))
        elif request == TIOCGPTLCK:
            task.mm.write_u32(argument, int(self.pty.locked))
        elif request == TIOCGPTPEER:
            return task.fds.add(Slave(self.pty, argument & 0xFFFFFFFF))
        elif request == tty.FIONREAD:
            task.mm.write_u32(argument, len(self.pty.output))
        elif request == TIOCPKT:
            raise SyscallError(errno.EINVAL)
        else:
            return self.pty.ioctl(task, request, argument)
        return 0

    def stat(self) -> Stat:
        """See OpenFile."""
        return anonymous_stat(stats.S_IFCHR | 0o666)._replace(rdev=os.makedev(5, 2))

    def describe(self) -> str:
        """See OpenFile."""
        return "/dev/ptmx"

    def release(self) -> None:
        """See OpenFile."""
        self.pty.hang_up()


class Slave(OpenFile):
    """The end programs have: a terminal."""

    __slots__ = ("pty",)

    def __init__(self, pty: Pty, flags: int) -> None:
        super().__init__(flags)
        self.pty = pty
        self.queue = pty.queue
        pty.slaves += 1
        pty.eof = 0

    def _check(self, signo: int) -> None:
        task = self.pty.kernel.current
        if task is not None:
            self.pty.check_job(task, signo)

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        self._check(tty.SIGTTIN)
        return self.pty.read_input(count)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        if not self.pty.master_open:
            raise SyscallError(errno.EIO)
        if self.pty.tostop():
            self._check(tty.SIGTTOU)
        return self.pty.write_output(bytes(data))

    def poll(self) -> int:
        """See OpenFile."""
        if not self.pty.master_open:
            return POLLIN | POLLOUT | POLLHUP
        return (POLLIN if self.pty.ready else 0) | (POLLOUT if len(self.pty.output) < _CAPACITY - 1 else 0)

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile."""
        if request == tty.FIONREAD:
            task.mm.write_u32(argument, sum(map(len, self.pty.ready)))
            return 0
        return self.pty.ioctl(task, request, argument)

    def stat(self) -> Stat:
        """See OpenFile."""
        return _node(self.pty).stat()

    def describe(self) -> str:
        """See OpenFile."""
        return f"/dev/pts/{self.pty.number}"

    def release(self) -> None:
        """See OpenFile: the last one's leaving is the master's end of file."""
        self.pty.slaves -= 1
        if not self.pty.slaves:
            self.pty.eof = 1
        self.queue.notify()


_ptys: dict[tuple[int, int], Pty] = {}


def open_master(task: "Task", flags: int) -> OpenFile:
    """Make a pseudo-terminal and return its master."""
    kernel = task.kernel
    number = 0
    while (id(kernel), number) in _ptys:
        number += 1
    pty = _ptys[id(kernel), number] = Pty(kernel, number)
    return Master(pty, flags)


def open_slave(terminal: Terminal, flags: int) -> OpenFile:
    """Open a terminal that is a pseudo-terminal once more (/dev/tty)."""
    if not isinstance(terminal, Pty):
        raise SyscallError(errno.ENXIO)
    return Slave(terminal, flags)


class SlaveInode(SyntheticInode):
    """/dev/pts/N."""

    __slots__ = ("pty",)

    def __init__(self, pty: Pty) -> None:
        super().__init__(stats.S_IFCHR | 0o620, pty.number + 3, 0x18)
        self.pty = pty

    def stat(self) -> Stat:
        """See Inode."""
        config = self.pty.kernel.config
        return super().stat()._replace(rdev=os.makedev(136, self.pty.number), uid=config.uid, gid=config.gid)

    def truncate(self, length: int) -> None:
        """See Inode: O_TRUNC means nothing to a terminal."""

    def chmod(self, mode: int) -> None:
        """See Inode: accepted (grantpt)."""

    def chown(self, uid: int, gid: int) -> None:
        """See Inode: accepted (grantpt)."""

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode. A session leader without a terminal gets this one."""
        if self.pty.locked:
            raise SyscallError(errno.EIO)
        session = task.group.session
        if not flags & O_NOCTTY and session.sid == task.group.pid and session.tty is None and self.pty.session is None:
            self.pty.adopt(task)
        return Slave(self.pty, flags)


def _node(pty: Pty) -> SlaveInode:
    return SlaveInode(pty)


class PtsDirectory(Directory):
    """/dev/pts."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__({}, ino_of("dev", "pts"), 0o755, 0x18)
        self._kernel = kernel

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        pty = _ptys.get((id(self._kernel), int(name))) if name.isdigit() else None
        if pty is None:
            raise SyscallError(errno.ENOENT)
        return _node(pty)

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        return [(b"%d" % number, number + 3, 2) for kernel, number in _ptys if kernel == id(self._kernel)]


def directory(kernel: "Kernel") -> Inode:
    """Return the root of /dev/pts."""
    return PtsDirectory(kernel)
