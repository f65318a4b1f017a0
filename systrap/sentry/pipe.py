"""Pipes and FIFOs: a queue of bytes with a reading and a writing end.

Bytes are kept in the pieces they were written in; nothing is copied byte by byte. Writes of up to PIPE_BUF bytes are atomic.
"""

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_ACCMODE, O_DIRECT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, OpenFile
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, WaitQueue, wait

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Inode, Stat
    from systrap.sentry.task import Task

PIPE_BUF: Final = 4096
DEFAULT_CAPACITY: Final = 16 * PAGE_SIZE
MAX_CAPACITY: Final = 1 << 20
_FIONREAD: Final = 0x541B

_next_number = 0


class Pipe:
    """The queue itself. ``readers`` and ``writers`` count open descriptions; ``read_queue`` and ``write_queue`` their waiters."""

    __slots__ = (
        "capacity",
        "number",
        "packets",
        "pieces",
        "queue",
        "readers",
        "seen_readers",
        "seen_writers",
        "size",
        "start",
        "writers",
    )

    def __init__(self) -> None:
        """Make an empty pipe without ends."""
        global _next_number
        _next_number += 1
        self.number = 0x10000 + _next_number
        self.pieces: deque[bytes] = deque()
        # How much of the first piece was read already.
        self.start = 0
        self.packets = False
        self.size = 0
        self.capacity = DEFAULT_CAPACITY
        self.readers = 0
        self.writers = 0
        # How often an end was opened: a FIFO's blocking open waits for the other side's count to change.
        self.seen_readers = 0
        self.seen_writers = 0
        self.queue = WaitQueue()

    def read(self, count: int) -> bytes:
        """Take up to ``count`` bytes; b"" at the end. WouldBlockError while there may be more to come."""
        if not self.size:
            if self.writers:
                raise WouldBlockError
            return b""
        was_full = self.capacity - self.size < PIPE_BUF
        data = self._take(count)
        if was_full and self.capacity - self.size >= PIPE_BUF:
            self.queue.notify(POLLOUT | POLLWRNORM)
        return data

    def _take(self, count: int) -> bytes:
        """Take up to ``count`` of the bytes that are there; in packet mode, one packet, whose rest is lost."""
        pieces, start = self.pieces, self.start
        first = pieces[0]
        rest = len(first) - start
        if rest > count and not self.packets:
            self.start = start + count
            self.size -= count
            return first[start : start + count]
        pieces.popleft()
        self.start = 0
        self.size -= rest
        if start:
            first = first[start:]
        if rest >= count or self.packets or not pieces:
            return first[:count] if rest > count else first
        taken, left = [first], count - rest
        while pieces and left:
            piece = pieces[0]
            if len(piece) > left:
                piece = piece[:left]
                self.start = left
            else:
                pieces.popleft()
            taken.append(piece)
            left -= len(piece)
        self.size -= count - rest - left
        return b"".join(taken)

    def peek(self, count: int) -> bytes:
        """Return up to ``count`` bytes and leave them where they are (tee)."""
        return b"".join(self.pieces)[self.start : self.start + count]

    def put_back(self, data: bytes) -> None:
        """Put bytes just taken back in front (splice)."""
        if self.start:
            self.pieces[0] = self.pieces[0][self.start :]
            self.start = 0
        self.pieces.appendleft(data)
        self.size += len(data)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """Add bytes and return how many fitted. EPIPE without readers; WouldBlockError when there is no room."""
        if not self.readers:
            raise SyscallError(errno.EPIPE)
        length = len(data)
        if not length:
            return 0
        room = self.capacity - self.size
        if room <= 0 or (length <= PIPE_BUF and room < length):
            raise WouldBlockError
        piece = bytes(data[:room]) if length > room else bytes(data)
        self.pieces.append(piece)
        self.size += len(piece)
        if self.queue.waiters:
            # Also when there was something before: who watches for edges (EPOLLET) sees one at every write.
            self.queue.notify(POLLIN | POLLRDNORM)
        return len(piece)


class PipeEnd(OpenFile):
    """An open end of a pipe or FIFO: reading, writing, or (FIFOs only) both. ``inode`` is the FIFO's, None for a pipe."""

    __slots__ = ("inode", "must_wait", "path", "pipe")

    def __init__(self, pipe: Pipe, flags: int, inode: "Inode | None" = None) -> None:
        """Open an end."""
        super().__init__(flags)
        self.pipe = pipe
        self.inode = inode
        self.queue = pipe.queue
        self.must_wait = False
        self.path = b""
        mode = flags & O_ACCMODE
        if mode in (O_RDONLY, O_RDWR):
            pipe.readers += 1
            pipe.seen_readers += 1
        if mode in (O_WRONLY, O_RDWR):
            pipe.writers += 1
            pipe.seen_writers += 1
        if flags & O_DIRECT:
            pipe.packets = True
        pipe.queue.notify()

    def read(self, count: int) -> bytes:
        """See OpenFile."""
        return self.pipe.read(count)

    def write(self, data: "bytes | memoryview[int]") -> int:
        """See OpenFile."""
        return self.pipe.write(data)

    def poll(self) -> int:
        """See OpenFile: as Linux's pipe_poll."""
        pipe, events, mode = self.pipe, 0, self.flags & O_ACCMODE
        if mode in (O_RDONLY, O_RDWR):
            if pipe.size:
                events |= POLLIN | POLLRDNORM
            if not pipe.writers and pipe.seen_writers:
                events |= POLLHUP
        if mode in (O_WRONLY, O_RDWR):
            if pipe.capacity - pipe.size >= PIPE_BUF:
                events |= POLLOUT | POLLWRNORM
            if not pipe.readers:
                events |= POLLERR
        return events

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile: FIONREAD."""
        if request == _FIONREAD:
            task.mm.write(argument, struct.pack("<i", self.pipe.size))
            return 0
        return super().ioctl(task, request, argument)

    def pipe_size(self) -> int:
        """Return the capacity in bytes (F_GETPIPE_SZ)."""
        return self.pipe.capacity

    def set_pipe_size(self, size: int) -> int:
        """Set the capacity, rounded up to a power of two of pages (F_SETPIPE_SZ). EINVAL, EPERM, EBUSY."""
        if size > 1 << 31:
            raise SyscallError(errno.EINVAL)
        if size > MAX_CAPACITY:
            raise SyscallError(errno.EPERM)
        capacity = PAGE_SIZE
        while capacity < size:
            capacity *= 2
        if capacity < self.pipe.size:
            raise SyscallError(errno.EBUSY)
        self.pipe.capacity = capacity
        self.pipe.queue.notify(POLLOUT | POLLWRNORM)
        return capacity

    def stat(self) -> "Stat":
        """See OpenFile."""
        if self.inode is not None:
            return self.inode.stat()
        from systrap.sentry.fs.inode import anonymous_stat

        return anonymous_stat(mode=0o010600, ino=self.pipe.number)

    def describe(self) -> str:
        """See OpenFile."""
        return self.path.decode("utf-8", "surrogateescape") or f"pipe:[{self.pipe.number}]"

    def release(self) -> None:
        """See OpenFile: the last writer's leaving is the reader's end of file, the last reader's is the writer's EPIPE."""
        mode = self.flags & O_ACCMODE
        if mode in (O_RDONLY, O_RDWR):
            self.pipe.readers -= 1
        if mode in (O_WRONLY, O_RDWR):
            self.pipe.writers -= 1
        if not self.pipe.readers and not self.pipe.writers:
            self.pipe.pieces.clear()
            self.pipe.size = self.pipe.start = 0
        self.pipe.queue.notify()


def make_pipe(flags: int) -> tuple[PipeEnd, PipeEnd]:
    """Return reading and writing end of a new pipe; ``flags``: O_NONBLOCK, O_DIRECT."""
    pipe = Pipe()
    return PipeEnd(pipe, O_RDONLY | flags), PipeEnd(pipe, O_WRONLY | flags)


_fifos: "dict[Inode, Pipe]" = {}


def open_fifo(inode: "Inode", task: "Task", flags: int) -> PipeEnd:
    """Open a FIFO. Where the open has to wait for the other side, the result has ``must_wait`` set. ENXIO.

    All descriptions of one inode share one pipe, which lives as long as any of them.
    """
    pipe = _fifos.get(inode)
    if pipe is None or (not pipe.readers and not pipe.writers):
        pipe = _fifos[inode] = Pipe()
    mode = flags & O_ACCMODE
    if mode == O_WRONLY and flags & O_NONBLOCK and not pipe.readers:
        raise SyscallError(errno.ENXIO)
    end = PipeEnd(pipe, flags, inode)
    if not flags & O_NONBLOCK:
        end.must_wait = (mode == O_RDONLY and not pipe.writers) or (mode == O_WRONLY and not pipe.readers)
    return end


async def fifo_open_wait(end: PipeEnd) -> None:
    """Wait until the other side of a FIFO is opened, too. The caller drops the end when this raises."""
    pipe = end.pipe
    reading = end.flags & O_ACCMODE == O_RDONLY
    before = pipe.seen_writers if reading else pipe.seen_readers
    while (pipe.seen_writers if reading else pipe.seen_readers) == before:
        await wait(pipe.queue)
    end.must_wait = False
