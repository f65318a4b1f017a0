"""/dev/pts: the slaves of pseudo-terminals as files."""

import errno
import os
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile
from systrap.sentry.fs.inode import Inode, Location
from systrap.sentry.fs.synthetic import S_IFCHR, S_IFDIR, SyntheticInode
from systrap.sentry.pty_pair import PseudoTerminal, terminals

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

SLAVE_MAJOR: Final = 136
_DEV: Final = 0x1A
_TTY_GROUP: Final = 5


class SlaveInode(SyntheticInode):
    """/dev/pts/N."""

    __slots__ = ("_gid", "_terminal", "_uid")

    def __init__(self, terminal: PseudoTerminal) -> None:
        super().__init__(S_IFCHR | 0o620, terminal.number + 3, _DEV)
        self._terminal = terminal
        self._uid = terminal.uid
        self._gid = _TTY_GROUP
        self.owner = lambda: (self._uid, self._gid)

    def rdev(self) -> int:
        """See SyntheticInode."""
        return os.makedev(SLAVE_MAJOR, self._terminal.number)

    def block_size(self) -> int:
        """See SyntheticInode."""
        return 1024

    def chown(self, uid: int, gid: int) -> None:
        """See Inode."""
        self._uid = uid if uid != -1 else self._uid
        self._gid = gid if gid != -1 else self._gid

    def utimens(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See Inode: not kept."""
        return

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode. EIO while locked or after the master is gone."""
        terminal = self._terminal
        if terminal.locked or terminal.hung_up:
            raise SyscallError(errno.EIO)
        if terminal.exclusive and task.creds.euid != 0:
            raise SyscallError(errno.EBUSY)
        from systrap.sentry.pty import open_slave

        return open_slave(terminal, flags, task)


class PtsDirectory(SyntheticInode):
    """The root of /dev/pts: the slaves there are, and ptmx."""

    __slots__ = ("_kernel", "_ptmx")

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(S_IFDIR | 0o755, 1, _DEV)
        from systrap.sentry.fs.dev import DeviceInode

        self._kernel = kernel
        self._ptmx = DeviceInode(b"ptmx", 5, 2, 0)

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        if name == b"ptmx":
            return self._ptmx
        terminal = None
        if name.isdigit() and (name == b"0" or not name.startswith(b"0")):
            terminal = terminals(self._kernel).get(int(name))
        if terminal is None:
            raise SyscallError(errno.ENOENT)
        return terminal.inode

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        found = [(b"%d" % number, number + 3, 2) for number in sorted(terminals(self._kernel))]
        return [*found, (b"ptmx", self._ptmx.ino, 2)]

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        from systrap.sentry.fs.contents import DirectoryFile

        return DirectoryFile(location, flags)
