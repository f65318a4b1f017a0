"""What /proc/PID/fd/N leads to when it is no place in the file system: the open file itself, to be opened once more."""

import errno
import os
import stat as stats
from typing import TYPE_CHECKING

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_ACCMODE, O_APPEND, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, OpenFile
from systrap.sentry.fs.contents import PathFile
from systrap.sentry.fs.inode import Inode, Location, Stat
from systrap.sentry.fs.memfd import MemoryDescriptor
from systrap.sentry.fs.places import is_deleted
from systrap.sentry.hoststream import HostStream
from systrap.sentry.pipe import PipeEnd

if TYPE_CHECKING:
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.task import Task


class OpenInode(Inode):
    """An open file as an inode: a pipe, a host stream, a terminal."""

    __slots__ = ("file",)

    def __init__(self, file: OpenFile) -> None:
        self.file = file

    def stat(self) -> Stat:
        """See Inode."""
        return self.file.stat()

    def truncate(self, length: int) -> None:
        """See Inode."""
        if not self.file.writable:
            raise SyscallError(errno.EACCES)
        self.file.truncate(length)

    def check(self, creds: "Credentials", wanted: int, real: bool = False) -> None:
        """See Inode. The run's own pipes are open to whoever has a descriptor of them."""
        if isinstance(self.file, HostStream):
            super().check(creds, wanted, real)

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode. ENXIO for what cannot be opened again."""
        file = self.file
        if isinstance(file, PipeEnd):
            return PipeEnd(file.pipe, flags, file.inode)
        if isinstance(file, HostStream):
            return _open_host(task, file, flags)
        opener = getattr(file, "reopen", None)
        if opener is not None:
            found = opener(task, flags)
            if isinstance(found, OpenFile):
                return found
        raise SyscallError(errno.ENXIO)


def _open_host(task: "Task", file: HostStream, flags: int) -> OpenFile:
    """Open a host stream once more, never with more access than it had: that is what the run was given."""
    access = flags & O_ACCMODE
    if (access in (O_RDONLY, O_RDWR) and not file.readable) or (access in (O_WRONLY, O_RDWR) and not file.writable):
        raise SyscallError(errno.EACCES)
    from systrap.sentry.tty import HostTerminal

    if isinstance(file, HostTerminal):
        return HostTerminal(task.kernel, os.dup(file.fd), flags, file.terminal)
    mode = os.fstat(file.fd).st_mode
    if stats.S_ISSOCK(mode):
        raise SyscallError(errno.ENXIO)
    extra = os.O_NONBLOCK if stats.S_ISFIFO(mode) else 0
    try:
        own = os.open(f"/proc/self/fd/{file.fd}", access | flags & O_APPEND | extra | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        own = os.dup(file.fd)
    return HostStream(task.kernel, own, flags & ~O_TRUNC)


def location_of(file: OpenFile) -> Location:
    """Return where the magic link of a descriptor leads."""
    if isinstance(file, PathFile):
        return file.location
    if isinstance(file, MemoryDescriptor):
        return Location(file.memory)
    return Location(OpenInode(file))


def link_text(file: OpenFile) -> bytes:
    """Return what readlink of a descriptor's magic link tells."""
    text = os.fsencode(file.describe())
    if isinstance(file, PathFile) and not text.endswith(b" (deleted)") and is_deleted(file.location):
        text += b" (deleted)"
    return text
