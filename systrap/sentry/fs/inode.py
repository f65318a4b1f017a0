"""Inodes: everything that has attributes, and the operations its kind offers.

A file system is a tree of inodes. A directory knows its one parent and name (``parent``, ``name``): this is what ".."
and getcwd read, and renaming a directory is changing them. The root of a mounted file system has the parent and name of
the directory it covers; ``mounted`` of that directory is the root. So nothing else needs to know about mounts.

Permissions are checked above, in path.py and vfs.py: an inode does what it is told. Errors are SyscallError.
Times are nanoseconds since 1970.
"""

import errno
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import OpenFile

if TYPE_CHECKING:
    from systrap.sentry.fs.locks import FileLocks
    from systrap.sentry.fs.path import Location
    from systrap.sentry.task import Task

S_IFMT: Final = 0o170000
S_IFSOCK: Final = 0o140000
S_IFLNK: Final = 0o120000
S_IFREG: Final = 0o100000
S_IFBLK: Final = 0o060000
S_IFDIR: Final = 0o040000
S_IFCHR: Final = 0o020000
S_IFIFO: Final = 0o010000
S_ISUID: Final = 0o4000
S_ISGID: Final = 0o2000
S_ISVTX: Final = 0o1000

DT_SHIFT: Final = 12
"""``kind >> DT_SHIFT`` is the d_type of a directory entry."""

NAME_MAX: Final = 255


class Stat(NamedTuple):
    """Attributes of a file: all that stat and statx tell. Times in nanoseconds, ``blocks`` of 512 bytes."""

    ino: int
    mode: int
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    size: int = 0
    dev: int = 0
    rdev: int = 0
    blksize: int = 4096
    blocks: int = 0
    atime: int = 0
    mtime: int = 0
    ctime: int = 0
    btime: int = 0


class StatFS(NamedTuple):
    """What statfs tells of a file system; sizes in blocks of ``bsize`` bytes."""

    type: int
    bsize: int = 4096
    blocks: int = 0
    bfree: int = 0
    bavail: int = 0
    files: int = 0
    ffree: int = 0
    fsid: int = 0
    namelen: int = 255
    flags: int = 0


class FileSystem:
    """A mounted file system: its device number, and what mount tables and statfs show of it."""

    __slots__ = ("dev", "fstype", "magic", "next_ino", "options", "readonly", "source")

    def __init__(self, fstype: str, dev: int, magic: int, source: str = "none", options: str = "rw") -> None:
        """``dev``: st_dev of its files; ``magic``: statfs f_type; ``options``: as in /proc/mounts."""
        self.fstype = fstype
        self.dev = dev
        self.magic = magic
        self.source = source
        self.options = options
        self.readonly = False
        self.next_ino = 1

    def new_ino(self) -> int:
        """Return an inode number that was not used before."""
        ino = self.next_ino
        self.next_ino = ino + 1
        return ino

    def statfs(self) -> StatFS:
        """Return the figures of the file system: none, for what lives in memory without a limit."""
        return StatFS(self.magic)


class Attributes:
    """Attributes the sentry keeps itself. ``mode`` includes the file type."""

    __slots__ = ("atime", "btime", "ctime", "gid", "mode", "mtime", "nlink", "rdev", "uid")

    def __init__(self, mode: int, uid: int, gid: int, nlink: int = 1, rdev: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = nlink
        self.rdev = rdev
        self.atime = self.mtime = self.ctime = self.btime = time.time_ns()


class Change(NamedTuple):
    """Attributes to set; None leaves one alone. ``mode`` is permission bits only."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime: int | None = None
    mtime: int | None = None


class Inode:
    """Base of all kinds of inodes; what a kind cannot do raises what Linux answers for such a file."""

    __slots__ = ("__weakref__", "fs", "kind", "locks", "mounted", "name", "parent")

    def __init__(self, fs: FileSystem, kind: int) -> None:
        """``kind``: the file type, S_IF…; it never changes."""
        self.fs = fs
        self.kind = kind
        self.parent: Inode | None = None
        self.name = b""
        self.mounted: Inode | None = None
        self.locks: FileLocks | None = None

    def stat(self) -> Stat:
        """Return the attributes."""
        raise NotImplementedError

    def access(self) -> tuple[int, int, int]:
        """Return (mode, uid, gid): what a permission check needs, without the cost of a whole stat."""
        st = self.stat()
        return st.mode, st.uid, st.gid

    def set_attributes(self, change: Change) -> None:
        """Set attributes (chmod, chown, utimens); the change time becomes now."""
        raise SyscallError(errno.EPERM)

    def truncate(self, length: int) -> None:
        """Set the length of a regular file."""
        raise SyscallError(errno.EISDIR if self.kind == S_IFDIR else errno.EINVAL)

    def open(self, task: "Task", flags: int, location: "Location") -> OpenFile:
        """Return a new description of this file. ``location`` is where it was found."""
        raise SyscallError(errno.ENXIO)

    def linked(self) -> None:
        """Note that one more name leads here."""

    def unlinked(self) -> None:
        """Note that one name less leads here."""

    # Directories.

    def lookup(self, name: bytes) -> "Inode":
        """Return the child of that name, not looking for a file system mounted on it. ENOENT."""
        raise SyscallError(errno.ENOTDIR)

    def has_child(self, name: bytes, inode: "Inode") -> bool:
        """Tell whether ``name`` still leads to ``inode``."""
        try:
            found = self.lookup(name)
        except SyscallError:
            return False
        return found is inode or found.mounted is inode

    def entries(self) -> list[tuple[bytes, int, int]]:
        """Return (name, inode number, kind) of all children, without "." and ".."."""
        raise SyscallError(errno.ENOTDIR)

    def is_empty(self) -> bool:
        """Tell whether a directory has no children."""
        return not self.entries()

    def create(self, name: bytes, mode: int, uid: int, gid: int) -> "Inode":
        """Make an empty regular file. The name is known to be free here and in the calls below."""
        raise SyscallError(errno.EPERM)

    def mkdir(self, name: bytes, mode: int, uid: int, gid: int) -> "Inode":
        """Make a directory."""
        raise SyscallError(errno.EPERM)

    def mknod(self, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> "Inode":
        """Make a FIFO, socket or device; ``mode`` includes the file type."""
        raise SyscallError(errno.EPERM)

    def symlink(self, name: bytes, target: bytes, uid: int, gid: int) -> "Inode":
        """Make a symbolic link."""
        raise SyscallError(errno.EPERM)

    def link(self, name: bytes, inode: "Inode") -> None:
        """Make one more name for a file of this file system."""
        raise SyscallError(errno.EPERM)

    def unlink(self, name: bytes, inode: "Inode") -> None:
        """Remove the name of something that is no directory."""
        raise SyscallError(errno.EPERM)

    def rmdir(self, name: bytes, inode: "Inode") -> None:
        """Remove an empty directory."""
        raise SyscallError(errno.EPERM)

    def rename(self, name: bytes, inode: "Inode", new_dir: "Inode", new_name: bytes, victim: "Inode | None") -> None:
        """Move ``inode`` to a directory of this file system, replacing ``victim`` there. All checks were made."""
        raise SyscallError(errno.EPERM)

    def exchange(self, name: bytes, inode: "Inode", new_dir: "Inode", new_name: bytes, other: "Inode") -> None:
        """Swap two entries (RENAME_EXCHANGE)."""
        raise SyscallError(errno.EINVAL)

    def unnamed(self, mode: int, uid: int, gid: int) -> "Inode":
        """Make a regular file without a name (O_TMPFILE)."""
        raise SyscallError(errno.EOPNOTSUPP)

    # Symbolic links.

    def readlink(self, task: "Task") -> bytes:
        """Return the text of a symbolic link."""
        raise SyscallError(errno.EINVAL)

    def follow(self, task: "Task") -> "Location | None":
        """Return where a magic link (of /proc) leads, whatever its text says; None for ordinary links."""
        return None

    # Extended attributes.

    def xattrs(self) -> dict[bytes, bytes]:
        """Return the extended attributes, to be read only. EOPNOTSUPP where there are none."""
        raise SyscallError(errno.EOPNOTSUPP)

    def set_xattr(self, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute, or remove it (None)."""
        raise SyscallError(errno.EOPNOTSUPP)

    def statfs(self) -> StatFS:
        """Return the figures of the file system this is on."""
        return self.fs.statfs()
