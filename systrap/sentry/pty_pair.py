"""A pseudo-terminal: the pair of a master and its slaves, what is under way between them, and its settings."""

import errno
import struct
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.sentry import exit as exits
from systrap.sentry import tty
from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.inode import Inode
from systrap.sentry.ldisc import LineDiscipline, Termios
from systrap.sentry.tty import Terminal
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

BUFFER: Final = 65536

READABLE: Final = POLLIN | POLLRDNORM
WRITABLE: Final = POLLOUT | POLLWRNORM

_TERMIOS: Final = struct.Struct("<4IB19s")
_TERMIOS2: Final = struct.Struct("<4IB19s2I")
_TERMIO: Final = struct.Struct("<4HB8sx")
_BAUD: Final = 38400

TIOCEXCL: Final = 0x540C
TIOCNXCL: Final = 0x540D
TIOCSETD: Final = 0x5423
TIOCGETD: Final = 0x5424
TCGETS2: Final = 0x802C542A
TCSETS2: Final = 0x402C542B
TCSETSW2: Final = 0x402C542C
TCSETSF2: Final = 0x402C542D
TIOCGEXCL: Final = 0x80045440

_FLUSHING: Final = (tty.TCSETSF, tty.TCSETAF, TCSETSF2)
_PACKET_FLUSH_READ: Final = 1
_PACKET_FLUSH_WRITE: Final = 2


_all: "weakref.WeakKeyDictionary[Kernel, dict[int, PseudoTerminal]]" = weakref.WeakKeyDictionary()


def terminals(kernel: "Kernel") -> "dict[int, PseudoTerminal]":
    """Return the pseudo-terminals of a run by number."""
    found = _all.get(kernel)
    if found is None:
        found = _all[kernel] = {}
    return found


class PseudoTerminal(Terminal):
    """A pair of master and slave. ``hung_up``: the master is gone. ``opened``: a slave was open once.

    ``inode`` is the slave's, set by whoever makes the pair.
    """

    __slots__ = (
        "_output", "_size", "exclusive", "hung_up", "inode", "ldisc", "locked", "master_queue", "number", "opened", "packet",
        "packet_status", "slave_queue", "slaves", "uid", "winsize",
    )  # fmt: skip

    def __init__(self, kernel: "Kernel", number: int, uid: int) -> None:
        super().__init__(kernel)
        self.number = number
        self.uid = uid
        self.inode: Inode = Inode()
        self.ldisc = LineDiscipline(self.show, self._raise_signal)
        self.locked = True
        self.exclusive = False
        self.hung_up = False
        self.opened = False
        self.packet = False
        self.packet_status = 0
        self.slaves = 0
        self.winsize = bytes(8)
        self.master_queue = WaitQueue()
        self.slave_queue = WaitQueue()
        self._output: deque[bytes] = deque()
        self._size = 0

    def tostop(self) -> bool:
        """See Terminal."""
        return bool(self.ldisc.termios.lflag & tty.TOSTOP)

    def _raise_signal(self, signo: int) -> None:
        if not self.ldisc.termios.lflag & 0o200:
            self.flush_output()
        if self.foreground:
            self.kernel.signals.send_pgrp(self.foreground, signo)

    # Towards the master.

    def show(self, data: bytes) -> None:
        """Put translated output where the master reads it."""
        if data:
            self._output.append(data)
            self._size += len(data)
            self.master_queue.notify(READABLE)

    def output_room(self) -> int:
        """Return how much a slave may write now."""
        return 0 if self.ldisc.stopped else BUFFER - self._size

    @property
    def output_size(self) -> int:
        """How much the master could read."""
        return self._size

    def take_output(self, count: int) -> bytes:
        """Take up to ``count`` bytes of output."""
        pieces: list[bytes] = []
        left = count
        full = self._size > BUFFER // 2
        while left and self._output:
            piece = self._output.popleft()
            if len(piece) > left:
                self._output.appendleft(piece[left:])
                piece = piece[:left]
            pieces.append(piece)
            left -= len(piece)
        self._size -= count - left
        if full and self._size <= BUFFER // 2:
            self.slave_queue.notify(WRITABLE)
        return b"".join(pieces)

    def flush_output(self) -> None:
        """Forget output the master has not read."""
        self._output.clear()
        self._size = 0
        self.tell_packet(_PACKET_FLUSH_WRITE)
        self.slave_queue.notify(WRITABLE)

    def tell_packet(self, status: int) -> None:
        """Have a master in packet mode told of a change of state."""
        if self.packet:
            self.packet_status |= status
            self.master_queue.notify(READABLE | POLLPRI)

    # Settings.

    def common_ioctl(self, task: "Task", request: int, argument: int) -> int:
        """Carry out what both ends answer alike. ENOTTY."""
        ldisc, mm = self.ldisc, task.mm
        settings = _pack_settings(ldisc.termios, request)
        if settings is not None:
            mm.write(argument, settings)
        elif request in SETTERS:
            self._set_settings(request, mm.read(argument, SETTERS[request].size))
        elif request == tty.TIOCGWINSZ:
            mm.write(argument, self.winsize)
        elif request == tty.TIOCSWINSZ:
            self._set_size(mm.read(argument, 8))
        elif request == tty.TCFLSH:
            self._flush(argument)
        elif request == tty.TCXONC:
            self._flow(argument)
        elif request in (tty.TCSBRK, tty.TCSBRKP, 0x5427, 0x5428):
            return 0
        elif request in (TIOCEXCL, TIOCNXCL):
            self.exclusive = request == TIOCEXCL
        elif request == TIOCGEXCL:
            mm.write_u32(argument, int(self.exclusive))
        elif request == TIOCGETD:
            mm.write_u32(argument, 0)
        elif request == TIOCSETD:
            if mm.read_u32(argument):
                raise SyscallError(errno.EINVAL)
        else:
            raise SyscallError(errno.ENOTTY)
        return 0

    def _set_settings(self, request: int, data: bytes) -> None:
        old, termios = self.ldisc.termios, Termios()
        if SETTERS[request] is _TERMIO:
            low = _TERMIO.unpack(data)
            flags = (old.iflag, old.oflag, old.cflag, old.lflag)
            termios.iflag, termios.oflag, termios.cflag, termios.lflag = (
                (was & ~0xFFFF) | new for was, new in zip(flags, low[:4], strict=True)
            )
            termios.line = low[4]
            termios.cc = low[5] + old.cc[8:]
        else:
            fields = SETTERS[request].unpack(data)
            termios.iflag, termios.oflag, termios.cflag, termios.lflag, termios.line, termios.cc = fields[:6]
        # A pseudo-terminal has 8 bits, and no modem that could hang up.
        termios.cflag = termios.cflag & ~0o460 | 0o260
        if request in _FLUSHING:
            self.ldisc.flush_input()
        self.ldisc.set(termios)
        self.slave_queue.notify()

    def _set_size(self, data: bytes) -> None:
        if data != self.winsize:
            self.winsize = data
            if self.foreground:
                self.kernel.signals.send_pgrp(self.foreground, tty.SIGWINCH)

    def _flush(self, which: int) -> None:
        if which not in (0, 1, 2):
            raise SyscallError(errno.EINVAL)
        if which in (0, 2):
            self.ldisc.flush_input()
            self.master_queue.notify(WRITABLE)
        if which in (1, 2):
            self.flush_output()

    def _flow(self, action: int) -> None:
        if action not in (0, 1, 2, 3):
            raise SyscallError(errno.EINVAL)
        if action < 2:
            self.ldisc.stopped = action == 0
            self.slave_queue.notify(WRITABLE)

    # The end.

    def hang_up(self) -> None:
        """End with the master: slaves read the end of file, the session loses its terminal and its leader gets SIGHUP."""
        self.hung_up = True
        session = self.session
        if session is not None:
            session.tty = None
            leader = self.kernel.groups.get(session.sid)
            self.release_session()
            if leader is not None:
                self.kernel.signals.send_group(leader, exits.SIGHUP)
                self.kernel.signals.send_group(leader, exits.SIGCONT)
        self.slave_queue.notify(READABLE | WRITABLE | POLLHUP | POLLERR)
        terminals(self.kernel).pop(self.number, None)


SETTERS: Final = {
    tty.TCSETS: _TERMIOS, tty.TCSETSW: _TERMIOS, tty.TCSETSF: _TERMIOS, tty.TCSETA: _TERMIO, tty.TCSETAW: _TERMIO,
    tty.TCSETAF: _TERMIO, TCSETS2: _TERMIOS2, TCSETSW2: _TERMIOS2, TCSETSF2: _TERMIOS2,
}  # fmt: skip


def _pack_settings(t: Termios, request: int) -> bytes | None:
    """Return the settings as the structure a request asks for; None when it asks for none."""
    if request == tty.TCGETS:
        return _TERMIOS.pack(t.iflag, t.oflag, t.cflag, t.lflag, t.line, t.cc)
    if request == TCGETS2:
        return _TERMIOS2.pack(t.iflag, t.oflag, t.cflag, t.lflag, t.line, t.cc, _BAUD, _BAUD)
    if request == tty.TCGETA:
        flags = (flag & 0xFFFF for flag in (t.iflag, t.oflag, t.cflag, t.lflag))
        return _TERMIO.pack(*flags, t.line, t.cc[:8])
    return None
