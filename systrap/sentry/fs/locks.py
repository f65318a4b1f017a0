"""Advisory locks: POSIX record locks, open file description locks, and flock.

Record locks of a process belong to its descriptor table, OFD locks and flocks to the open file description. The table and
the description tell when they let go of a file (``FDTable.on_close``, ``OpenFile.on_release``).
"""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import FDTable, OpenFile
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.wait import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

F_RDLCK: Final = 0
F_WRLCK: Final = 1
F_UNLCK: Final = 2
END: Final = 1 << 63
"""The end of a range that reaches to the end of the file, however long it gets."""

LOCK_SH: Final = 1
LOCK_EX: Final = 2
LOCK_UN: Final = 8

Owner = FDTable | OpenFile


class Record:
    """A lock on ``[start, end)``. ``pid`` is the owner's for F_GETLK, −1 for OFD locks."""

    __slots__ = ("end", "kind", "owner", "pid", "start")

    def __init__(self, owner: Owner, kind: int, start: int, end: int, pid: int) -> None:
        self.owner = owner
        self.kind = kind
        self.start = start
        self.end = end
        self.pid = pid


class FileLocks:
    """All locks of one file. ``queue`` is notified whenever one goes away."""

    __slots__ = ("flocks", "queue", "records", "waiting")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.flocks: dict[OpenFile, int] = {}
        self.queue = WaitQueue()
        self.waiting = 0

    @property
    def empty(self) -> bool:
        """Nobody has or wants a lock."""
        return not (self.records or self.flocks or self.waiting)

    def conflict(self, owner: Owner, kind: int, start: int, end: int) -> Record | None:
        """Return a lock of somebody else that forbids this one."""
        for record in self.records:
            if (
                record.owner is not owner
                and record.start < end
                and start < record.end
                and F_WRLCK in (kind, record.kind)
            ):
                return record
        return None

    def set(self, owner: Owner, kind: int, start: int, end: int, pid: int) -> None:
        """Set, change or (F_UNLCK) remove a lock of ``owner``. WouldBlockError on a conflict."""
        if kind != F_UNLCK and self.conflict(owner, kind, start, end) is not None:
            raise WouldBlockError
        kept: list[Record] = []
        new = Record(owner, kind, start, end, pid)
        for record in self.records:
            if record.owner is not owner:
                kept.append(record)
            elif record.kind == kind and record.start <= new.end and new.start <= record.end:
                new.start, new.end = min(new.start, record.start), max(new.end, record.end)
            elif record.end <= start or end <= record.start:
                kept.append(record)
            else:
                if record.start < start:
                    kept.append(Record(owner, record.kind, record.start, start, record.pid))
                if end < record.end:
                    kept.append(Record(owner, record.kind, end, record.end, record.pid))
        if kind != F_UNLCK:
            kept.append(new)
        self.records = kept
        self.queue.notify()

    def forget(self, owner: Owner) -> None:
        """Remove every record lock of ``owner``."""
        before = len(self.records)
        self.records = [record for record in self.records if record.owner is not owner]
        if len(self.records) != before:
            self.queue.notify()

    def flock(self, file: OpenFile, kind: int) -> None:
        """Set or remove a flock. WouldBlockError on a conflict; what the description had is given up first, as on Linux."""
        had = self.flocks.get(file)
        if had == kind:
            return
        if had is not None:
            del self.flocks[file]
            self.queue.notify()
        if kind == LOCK_UN:
            return
        if any(kind == LOCK_EX or other == LOCK_EX for other in self.flocks.values()):
            raise WouldBlockError
        self.flocks[file] = kind


_all: dict[object, FileLocks] = {}
_waits: dict[Owner, Owner] = {}


def key_of(file: OpenFile) -> object:
    """Return what identifies the file behind a description."""
    if isinstance(file, PathFile):
        return file.location.inode
    inode = getattr(file, "inode", None)
    if inode is not None:
        return inode
    try:
        stat = file.stat()
    except NotImplementedError:
        return file
    return (stat.dev, stat.ino) if stat.dev != 0x0E else file


def locks_of(file: OpenFile) -> FileLocks:
    """Return the locks of the file behind a description, to change them."""
    key = key_of(file)
    found = _all.get(key)
    if found is None:
        found = _all[key] = FileLocks()
    return found


def find(file: OpenFile) -> FileLocks | None:
    """Return the locks of a file if it has any."""
    return _all.get(key_of(file))


def tidy(file: OpenFile) -> None:
    """Forget a file that has no locks any more."""
    key = key_of(file)
    found = _all.get(key)
    if found is not None and found.empty:
        del _all[key]


def all_records() -> "Iterator[tuple[object, Record]]":
    """Return every record lock with its file's key (/proc/locks)."""
    for key, locks in _all.items():
        for record in locks.records:
            yield key, record


def keep_by_table(table: FDTable) -> None:
    """Have a table's record locks go when it closes the file."""
    table.on_close = _closed


def keep_by_file(file: OpenFile) -> None:
    """Have a description's locks go with it."""
    file.on_release = _released


def _closed(table: FDTable, file: OpenFile) -> None:
    """React to a process that closed a descriptor of a file: it loses all record locks on it."""
    locks = find(file)
    if locks is not None:
        locks.forget(table)
        tidy(file)


def _released(file: OpenFile) -> None:
    locks = find(file)
    if locks is not None:
        locks.forget(file)
        locks.flock(file, LOCK_UN)
        tidy(file)


def begin_wait(locks: FileLocks, owner: Owner, kind: int, start: int, end: int) -> None:
    """Note that ``owner`` waits for whoever is in its way. EDEADLK when that one waits for ``owner``."""
    blocker = locks.conflict(owner, kind, start, end)
    if blocker is None:
        return
    here: Owner | None = blocker.owner
    while here is not None:
        if here is owner:
            raise SyscallError(errno.EDEADLK)
        here = _waits.get(here)
    _waits[owner] = blocker.owner


def end_wait(owner: Owner) -> None:
    """Note that the wait is over."""
    _waits.pop(owner, None)
