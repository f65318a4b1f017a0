"""File locks: flock, POSIX record locks, open-file-description locks. All within the guest."""

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.wait import Wait, WaitQueue

if TYPE_CHECKING:
    from systrap.sentry.task import Task, ThreadGroup

LOCK_SH: Final = 1
LOCK_EX: Final = 2
LOCK_NB: Final = 4
LOCK_UN: Final = 8
F_RDLCK: Final = 0
F_WRLCK: Final = 1
F_UNLCK: Final = 2
INFINITE: Final = 1 << 63

Owner = object


class Record(NamedTuple):
    """A locked range ``[start, end)`` of a file."""

    start: int
    end: int
    write: bool
    owner: Owner
    pid: int


class FileLocks:
    """All locks on one file. ``whole``: flock holders, by description."""

    __slots__ = ("queue", "records", "whole")

    def __init__(self) -> None:
        self.whole: dict[OpenFile, bool] = {}
        self.records: list[Record] = []
        self.queue = WaitQueue()

    def conflict(self, start: int, end: int, write: bool, owner: Owner) -> Record | None:
        """Return a record of somebody else's that is in the way."""
        for record in self.records:
            if record.owner is not owner and record.start < end and start < record.end and (write or record.write):
                return record
        return None

    def set(self, start: int, end: int, write: bool | None, owner: Owner, pid: int) -> None:
        """Replace what an owner has in a range; ``write`` None removes it."""
        kept: list[Record] = []
        for record in self.records:
            if record.owner is not owner or record.end <= start or end <= record.start:
                kept.append(record)
                continue
            if record.start < start:
                kept.append(record._replace(end=start))
            if end < record.end:
                kept.append(record._replace(start=end))
        if write is not None:
            kept.append(Record(start, end, write, owner, pid))
        self.records = kept
        self.queue.notify()


_locks: dict[object, FileLocks] = {}


def locks_of(file: OpenFile) -> FileLocks:
    """Return the locks on what a description is open on."""
    key: object = file.location.inode if isinstance(file, PathFile) else file
    found = _locks.get(key)
    if found is None:
        found = _locks[key] = FileLocks()
    return found


def _existing(file: OpenFile) -> FileLocks | None:
    return _locks.get(file.location.inode if isinstance(file, PathFile) else file)


async def flock(file: OpenFile, operation: int) -> None:
    """Take or give up a lock on the whole file (flock)."""
    kind = operation & ~LOCK_NB
    if kind not in (LOCK_SH, LOCK_EX, LOCK_UN):
        raise SyscallError(errno.EINVAL)
    locks = locks_of(file)
    if kind == LOCK_UN:
        release_flock(file)
        return
    while True:
        others = [exclusive for holder, exclusive in locks.whole.items() if holder is not file]
        if not others or (kind == LOCK_SH and not any(others)):
            locks.whole[file] = kind == LOCK_EX
            locks.queue.notify()
            return
        if operation & LOCK_NB:
            raise SyscallError(errno.EAGAIN)
        await Wait((locks.queue,))


def release_flock(file: OpenFile) -> None:
    """Give up a description's flock and its own record locks."""
    locks = _existing(file)
    if locks is not None:
        locks.whole.pop(file, None)
        locks.set(0, INFINITE, None, file, 0)


async def set_record(
    file: OpenFile, start: int, end: int, write: bool | None, owner: Owner, pid: int, wait: bool
) -> None:
    """Lock or unlock a range (fcntl). EAGAIN."""
    locks = locks_of(file)
    while write is not None and locks.conflict(start, end, write, owner) is not None:
        if not wait:
            raise SyscallError(errno.EAGAIN)
        await Wait((locks.queue,))
    locks.set(start, end, write, owner, pid)


def closed(task: "Task", file: OpenFile) -> None:
    """Give up what closing a descriptor gives up: the process's record locks; with the last one, the description's too."""
    locks = _existing(file)
    if locks is None:
        return
    locks.set(0, INFINITE, None, task.group, 0)
    if file.refs <= 1:
        release_flock(file)


def group_ended(group: "ThreadGroup") -> None:
    """Give up every record lock of a process."""
    for key, locks in list(_locks.items()):
        locks.set(0, INFINITE, None, group, 0)
        if not locks.records and not locks.whole and not locks.queue.waiters:
            del _locks[key]
