"""epoll: a set of files that collects what happens to them."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_RDWR, OpenFile
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLRDNORM

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Stat

CTL_ADD: Final = 1
CTL_DEL: Final = 2
CTL_MOD: Final = 3
EPOLL_CLOEXEC: Final = 0o2000000
EPOLLEXCLUSIVE: Final = 1 << 28
EPOLLONESHOT: Final = 1 << 30
EPOLLET: Final = 1 << 31
_ALWAYS: Final = POLLERR | POLLHUP
_MAX_DEPTH: Final = 5


class Entry:
    """One file in an epoll set (a waiter of the file's queue). ``fired``: something happened since it was last reported."""

    __slots__ = ("armed", "data", "epoll", "events", "fd", "file", "fired")

    def __init__(self, epoll: "Epoll", fd: int, file: OpenFile, events: int, data: int) -> None:
        self.epoll = epoll
        self.fd = fd
        self.file = file
        self.events = events
        self.data = data
        self.armed = True
        self.fired = True

    def notified(self, events: int) -> None:
        """Note that something happened that this entry asks for (wait.Waiter)."""
        if not events & (self.events & 0xFFFF | _ALWAYS):
            return
        self.fired = True
        if self.armed:
            self.epoll.candidates[self] = None
            self.epoll.queue.notify(POLLIN | POLLRDNORM)


class Epoll(OpenFile):
    """An epoll instance. ``candidates`` are the entries worth looking at, in the order in which they became so."""

    __slots__ = ("candidates", "entries")

    def __init__(self) -> None:
        """Make an empty set."""
        super().__init__(O_RDWR)
        self.entries: dict[tuple[int, int], Entry] = {}
        self.candidates: dict[Entry, None] = {}

    def control(self, operation: int, fd: int, file: OpenFile, events: int, data: int) -> None:
        """Add, change or remove a file (epoll_ctl). EEXIST, ENOENT, EPERM for files that are always ready, ELOOP, EINVAL."""
        key = (fd, id(file))
        entry = self.entries.get(key)
        if operation == CTL_ADD:
            if not file.pollable:
                raise SyscallError(errno.EPERM)
            if entry is not None:
                raise SyscallError(errno.EEXIST)
            if isinstance(file, Epoll) and (_contains(file, self, 0)):
                raise SyscallError(errno.ELOOP)
            entry = self.entries[key] = Entry(self, fd, file, events, data)
            file.queue.add(entry)
            file.watchers[self] = file.watchers.get(self, 0) + 1
            self._look_at(entry)
        elif operation == CTL_MOD:
            if entry is None:
                raise SyscallError(errno.ENOENT)
            if (events | entry.events) & EPOLLEXCLUSIVE:
                raise SyscallError(errno.EINVAL)
            entry.events, entry.data, entry.armed, entry.fired = events, data, True, True
            self._look_at(entry)
        elif operation == CTL_DEL:
            if entry is None:
                raise SyscallError(errno.ENOENT)
            self._remove(key)
        else:
            raise SyscallError(errno.EINVAL)

    def _look_at(self, entry: Entry) -> None:
        self.candidates[entry] = None
        if _ready(entry):
            self.queue.notify(POLLIN | POLLRDNORM)

    def _remove(self, key: tuple[int, int]) -> None:
        entry = self.entries.pop(key)
        entry.armed = False
        self.candidates.pop(entry, None)
        entry.file.queue.discard(entry)
        watchers = entry.file.watchers
        left = watchers.get(self, 1) - 1
        if left:
            watchers[self] = left
        else:
            watchers.pop(self, None)

    def forget(self, file: OpenFile) -> None:
        """Remove a file whose last descriptor was closed."""
        for key in [key for key, entry in self.entries.items() if entry.file is file]:
            self._remove(key)

    def collect(self, count: int) -> list[tuple[int, int]]:
        """Return up to ``count`` (events, data) of ready files, and mark them as reported."""
        found: list[tuple[int, int]] = []
        for entry in list(self.candidates):
            if len(found) == count:
                break
            events = _ready(entry)
            del self.candidates[entry]
            if not events:
                continue
            found.append((events, entry.data))
            entry.fired = False
            if entry.events & EPOLLONESHOT:
                entry.armed = False
            elif not entry.events & EPOLLET:
                # Level-triggered: it stays a candidate, behind the others, as long as it is ready.
                self.candidates[entry] = None
        return found

    def poll(self) -> int:
        """See OpenFile: readable when collect() would find something."""
        return POLLIN | POLLRDNORM if any(_ready(entry) for entry in self.candidates) else 0

    def stat(self) -> "Stat":
        """See OpenFile."""
        from systrap.sentry.fs.inode import anonymous_stat

        return anonymous_stat()

    def describe(self) -> str:
        """See OpenFile."""
        return "anon_inode:[eventpoll]"

    def release(self) -> None:
        """See OpenFile."""
        for key in list(self.entries):
            self._remove(key)


def _ready(entry: Entry) -> int:
    """Return the events to report for an entry; 0: none."""
    if not entry.armed or (entry.events & EPOLLET and not entry.fired):
        return 0
    return entry.file.poll() & (entry.events & 0xFFFF | _ALWAYS)


def _contains(inner: Epoll, outer: Epoll, depth: int) -> bool:
    """Tell whether ``outer`` is reachable from ``inner``, or the nesting is too deep."""
    if inner is outer or depth >= _MAX_DEPTH:
        return True
    files = [entry.file for entry in inner.entries.values()]
    return any(_contains(file, outer, depth + 1) for file in files if isinstance(file, Epoll))
