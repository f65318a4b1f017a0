"""Inodes: what everything in the file name space has in common; attributes as plain tuples; places in the name space.

An inode does as it is told: who may do what is asked with ``check`` by those who walk paths. Errors are SyscallError.
"""

import errno
import itertools
import os
import stat as stats
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError

if TYPE_CHECKING:
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.file import OpenFile
    from systrap.sentry.task import Task

MAY_READ: Final = 4
MAY_WRITE: Final = 2
MAY_EXEC: Final = 1
BLOCK_SIZE: Final = PAGE_SIZE
DT_BY_FORMAT: Final = {
    stats.S_IFIFO: 1,
    stats.S_IFCHR: 2,
    stats.S_IFDIR: 4,
    stats.S_IFBLK: 6,
    stats.S_IFREG: 8,
    stats.S_IFLNK: 10,
    stats.S_IFSOCK: 12,
}
_ANONYMOUS_DEV: Final = 0xE
_OVERLAY_MAGIC: Final = 0x794C7630
_numbers = itertools.count(1 << 40)


def d_type_of(mode: int) -> int:
    """Return the d_type of a mode."""
    return DT_BY_FORMAT.get(mode & 0o170000, 0)


def without_set_id(mode: int) -> int:
    """Return what a mode becomes when somebody changes the contents: set-id bits that grant anything go."""
    return mode & ~(0o6000 if mode & 0o010 else 0o4000)


class Stat(NamedTuple):
    """Attributes of a file: all that stat and statx tell. Times in nanoseconds since 1970, ``blocks`` of 512 bytes."""

    dev: int
    ino: int
    mode: int
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    size: int = 0
    blksize: int = BLOCK_SIZE
    blocks: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    btime_ns: int = 0


class Location(NamedTuple):
    """A place in the name space: an inode, and by which name in which directory it was reached. The root has no parent."""

    inode: "Inode"
    parent: "Location | None" = None
    name: bytes = b""


def new_ino() -> int:
    """Return an inode number that no other file made here has; above those that hosts give."""
    return next(_numbers)


def from_host(found: os.stat_result) -> Stat:
    """Return a host file's attributes."""
    return Stat(
        found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev,
        found.st_size, found.st_blksize, found.st_blocks, found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip


def anonymous_stat(mode: int = 0o600, ino: int = 1) -> Stat:
    """Return the attributes of a file without a place: a pipe, an eventfd and the like."""
    return Stat(_ANONYMOUS_DEV, ino, mode)


class Inode:
    """Base of all kinds. What a kind cannot do raises what Linux answers for such a file."""

    __slots__ = ("__weakref__",)

    def stat(self) -> Stat:
        """Return the attributes."""
        raise NotImplementedError

    @property
    def format(self) -> int:
        """The kind of file: the format bits of the mode (S_IF…)."""
        return self.stat().mode & 0o170000

    @property
    def is_directory(self) -> bool:
        """It is a directory."""
        return self.format == stats.S_IFDIR

    @property
    def is_symlink(self) -> bool:
        """It is a symbolic link."""
        return self.format == stats.S_IFLNK

    def check(self, creds: "Credentials", wanted: int, real: bool = False) -> None:
        """Raise EACCES unless ``creds`` may do all of ``wanted`` (MAY_…); ``real``: by the real ids (access)."""
        uid, gid = (creds.ruid, creds.rgid) if real else (creds.fsuid, creds.fsgid)
        found = self.stat()
        mode = found.mode
        if uid == 0:
            if wanted & MAY_EXEC and not mode & 0o111 and not stats.S_ISDIR(mode):
                raise SyscallError(errno.EACCES)
            return
        if uid == found.uid:
            mode >>= 6
        elif gid == found.gid or found.gid in creds.groups:
            mode >>= 3
        if wanted & ~mode & 7:
            raise SyscallError(errno.EACCES)

    def open(self, task: "Task", location: Location, flags: int) -> "OpenFile":
        """Return a description of this file, found at ``location``; permissions were checked. ENXIO."""
        raise SyscallError(errno.ENXIO)

    def truncate(self, length: int) -> None:
        """Set the length of a regular file. EINVAL for others."""
        raise SyscallError(errno.EINVAL)

    # Directories.

    def lookup(self, name: bytes) -> "Inode":
        """Return the child of that name, not looking at mounts. ENOENT, ENOTDIR."""
        raise SyscallError(errno.ENOTDIR)

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """Return (name, inode number, d_type) of every child. ENOTDIR."""
        raise SyscallError(errno.ENOTDIR)

    def create(self, name: bytes, mode: int, creds: "Credentials", rdev: int = 0) -> "Inode":
        """Make a file of the kind in ``mode``, owned by ``creds``. EEXIST."""
        raise SyscallError(errno.EPERM)

    def unnamed(self, mode: int, creds: "Credentials") -> "Inode":
        """Make a regular file without a name on this directory's file system (O_TMPFILE)."""
        raise SyscallError(errno.EOPNOTSUPP)

    def symlink(self, name: bytes, target: bytes, creds: "Credentials") -> "Inode":
        """Make a symbolic link. EEXIST."""
        raise SyscallError(errno.EPERM)

    def link(self, name: bytes, inode: "Inode") -> None:
        """Give a file of the same file system one more name. EEXIST, EXDEV."""
        raise SyscallError(errno.EPERM)

    def unlink(self, name: bytes) -> None:
        """Remove the name of a file that is no directory."""
        raise SyscallError(errno.EPERM)

    def rmdir(self, name: bytes) -> None:
        """Remove an empty directory. ENOTEMPTY."""
        raise SyscallError(errno.EPERM)

    def rename(self, name: bytes, target: "Inode", new_name: bytes, exchange: bool) -> None:
        """Move a child to the directory ``target``, replacing what is there or exchanging with it. EXDEV."""
        raise SyscallError(errno.EXDEV)

    # Symbolic links.

    def readlink(self) -> bytes:
        """Return the text of a symbolic link. EINVAL for others."""
        raise SyscallError(errno.EINVAL)

    def follow(self, task: "Task") -> Location | None:
        """Return where a magic link of /proc leads, whatever its text says; None for all others."""
        return None

    # Attributes.

    def chmod(self, mode: int) -> None:
        """Set the permission bits."""
        raise SyscallError(errno.EPERM)

    def chown(self, uid: int, gid: int) -> None:
        """Set owner and group; −1 leaves one alone."""
        raise SyscallError(errno.EPERM)

    def utimens(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Set the times; None leaves one alone."""
        raise SyscallError(errno.EPERM)

    def get_xattr(self, name: bytes) -> bytes:
        """Return an extended attribute. ENODATA; EOPNOTSUPP where there are none."""
        raise SyscallError(errno.EOPNOTSUPP)

    def list_xattrs(self) -> list[bytes]:
        """Return the names of the extended attributes."""
        return []

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute; ``flags``: 1 XATTR_CREATE, 2 XATTR_REPLACE. EEXIST, ENODATA, EOPNOTSUPP."""
        raise SyscallError(errno.EOPNOTSUPP)

    def remove_xattr(self, name: bytes) -> None:
        """Remove an extended attribute. ENODATA, EOPNOTSUPP."""
        raise SyscallError(errno.EOPNOTSUPP)

    def statfs_magic(self) -> int:
        """Return the type statfs tells for the file system this is on."""
        return _OVERLAY_MAGIC
