"""inotify: queues of what happened to watched inodes. Only what guests do is seen; the host's own changes are not.

Whoever changes something calls ``tell`` or ``modified`` and kin, after a look at ``watched``: it is empty in nearly every run.
"""

import errno
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.eventfd import AnonymousFile
from systrap.sentry.file import O_RDONLY, OpenFile
from systrap.sentry.wait import POLLIN, POLLRDNORM

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Inode, Location
    from systrap.sentry.task import Task

IN_ACCESS: Final = 0x001
IN_MODIFY: Final = 0x002
IN_ATTRIB: Final = 0x004
IN_CLOSE_WRITE: Final = 0x008
IN_CLOSE_NOWRITE: Final = 0x010
IN_OPEN: Final = 0x020
IN_MOVED_FROM: Final = 0x040
IN_MOVED_TO: Final = 0x080
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x01000000
IN_DONT_FOLLOW: Final = 0x02000000
IN_EXCL_UNLINK: Final = 0x04000000
IN_MASK_CREATE: Final = 0x10000000
IN_MASK_ADD: Final = 0x20000000
IN_ISDIR: Final = 0x40000000
IN_ONESHOT: Final = 0x80000000
ALL_EVENTS: Final = 0xFFF

_MAX_QUEUED: Final = 16384
_FIONREAD: Final = 0x541B
_HEAD: Final = struct.Struct("<iIII")


class Watch:
    """What an instance wants to know of one inode."""

    __slots__ = ("inode", "mask", "number")

    def __init__(self, inode: "Inode", number: int, mask: int) -> None:
        self.inode = inode
        self.number = number
        self.mask = mask


watched: "dict[Inode, dict[Inotify, Watch]]" = {}
"""Every watched inode, with its watches."""

_cookie = 0


class Inotify(AnonymousFile):
    """An inotify instance."""

    __slots__ = ("_events", "_next", "_watches")
    KIND = "inotify"

    def __init__(self, flags: int) -> None:
        super().__init__(O_RDONLY | flags)
        self._events: deque[tuple[int, int, int, bytes]] = deque()
        self._watches: dict[int, Watch] = {}
        self._next = 1

    def describe(self) -> str:
        """See OpenFile."""
        return "anon_inode:inotify"

    def add(self, inode: "Inode", mask: int) -> int:
        """Watch an inode, or change what is wanted of it; return the watch's number. EEXIST with IN_MASK_CREATE."""
        there = watched.setdefault(inode, {})
        watch = there.get(self)
        wanted = mask & (ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK)
        if watch is not None:
            if mask & IN_MASK_CREATE:
                raise SyscallError(errno.EEXIST)
            watch.mask = watch.mask | wanted if mask & IN_MASK_ADD else wanted
            return watch.number
        watch = there[self] = Watch(inode, self._next, wanted)
        self._watches[self._next] = watch
        self._next += 1
        return watch.number

    def remove(self, number: int) -> None:
        """Take a watch away; its last event says so. EINVAL."""
        watch = self._watches.get(number)
        if watch is None:
            raise SyscallError(errno.EINVAL)
        self.forget(watch)

    def forget(self, watch: Watch) -> None:
        """Take a watch away."""
        del self._watches[watch.number]
        there = watched.get(watch.inode, {})
        there.pop(self, None)
        if not there:
            watched.pop(watch.inode, None)
        self._queue((watch.number, IN_IGNORED, 0, b""))

    def happened(self, watch: Watch, mask: int, cookie: int, name: bytes) -> None:
        """Queue an event if it is wanted."""
        if watch.mask & mask & ALL_EVENTS:
            self._queue((watch.number, mask, cookie, name))
            if watch.mask & IN_ONESHOT:
                self.forget(watch)

    def _queue(self, event: tuple[int, int, int, bytes]) -> None:
        events = self._events
        if events and events[-1] == event:
            return
        if len(events) >= _MAX_QUEUED:
            event = (-1, IN_Q_OVERFLOW, 0, b"")
            if events[-1] == event:
                return
        events.append(event)
        self.queue.notify(POLLIN | POLLRDNORM)

    def read(self, count: int) -> bytes:
        """See OpenFile: as many whole events as fit. EINVAL when not even one does."""
        if not self._events:
            raise WouldBlockError
        found = b""
        while self._events:
            event = _pack(*self._events[0])
            if len(found) + len(event) > count:
                break
            found += event
            self._events.popleft()
        if not found:
            raise SyscallError(errno.EINVAL)
        return found

    def poll(self) -> int:
        """See OpenFile."""
        return POLLIN | POLLRDNORM if self._events else 0

    def ioctl(self, task: "Task", request: int, argument: int) -> int:
        """See OpenFile: FIONREAD."""
        if request != _FIONREAD:
            return super().ioctl(task, request, argument)
        task.mm.write_u32(argument, sum(len(_pack(*event)) for event in self._events))
        return 0

    def release(self) -> None:
        """See OpenFile."""
        for watch in self._watches.values():
            there = watched.get(watch.inode, {})
            there.pop(self, None)
            if not there:
                watched.pop(watch.inode, None)
        self._watches = {}


def _pack(number: int, mask: int, cookie: int, name: bytes) -> bytes:
    """Return a struct inotify_event: the name is padded to multiples of 16 with at least one NUL."""
    padded = name.ljust((len(name) // 16 + 1) * 16, b"\0") if name else b""
    return _HEAD.pack(number, mask, cookie, len(padded)) + padded


def tell(inode: "Inode", mask: int, cookie: int = 0, name: bytes = b"") -> None:
    """Tell what happened to an inode (or with ``name``: to its child)."""
    there = watched.get(inode)
    if there:
        for instance, watch in list(there.items()):
            instance.happened(watch, mask, cookie, name)


def at(location: "Location", mask: int) -> None:
    """Tell what happened to what is at a location: its watchers and its directory's are told."""
    if location.inode.is_directory:
        mask |= IN_ISDIR
    if location.parent is not None:
        tell(location.parent.inode, mask, 0, location.name)
    tell(location.inode, mask)


def on_file(file: OpenFile, mask: int) -> None:
    """Tell what happened through an open file."""
    location = getattr(file, "location", None)
    if location is not None:
        at(location, mask)


def named(parent: "Location | None", name: bytes, inode: "Inode | None", mask: int, cookie: int = 0) -> None:
    """Tell that a directory's entry came or went (IN_CREATE, IN_DELETE, IN_MOVED_…)."""
    if parent is not None:
        is_directory = inode is not None and inode.is_directory
        tell(parent.inode, mask | (IN_ISDIR if is_directory else 0), cookie, name)


def attributes(inode: "Inode") -> None:
    """Tell that attributes changed. Which watched directories have the inode is looked up: nobody knows the name here."""
    if not watched:
        return
    ino = inode.stat().ino
    for directory in list(watched):
        if directory.is_directory:
            for name, number, _ in directory.entries():
                if number == ino and _is_child(directory, name, inode):
                    tell(directory, IN_ATTRIB | (IN_ISDIR if inode.is_directory else 0), 0, name)
    tell(inode, IN_ATTRIB | (IN_ISDIR if inode.is_directory else 0))


def _is_child(directory: "Inode", name: bytes, inode: "Inode") -> bool:
    try:
        return directory.lookup(name) is inode
    except SyscallError:
        return False


def unlinked(inode: "Inode") -> None:
    """Tell that an inode lost a name; without any it is gone for its watchers."""
    if inode not in watched:
        return
    tell(inode, IN_ATTRIB)
    if inode.is_directory or inode.stat().nlink == 0:
        tell(inode, IN_DELETE_SELF)
        for instance, watch in list(watched.get(inode, {}).items()):
            instance.forget(watch)


def moved(source: "tuple[Location | None, bytes]", target: "tuple[Location | None, bytes]", inode: "Inode") -> None:
    """Tell that an entry moved."""
    global _cookie
    _cookie += 1
    named(*source, inode, IN_MOVED_FROM, _cookie)
    named(*target, inode, IN_MOVED_TO, _cookie)
    tell(inode, IN_MOVE_SELF | (IN_ISDIR if inode.is_directory else 0))
