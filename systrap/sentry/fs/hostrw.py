"""The host's files below --rw: what the guest does to them is done on the host, by descriptors (see hostdirs.py).

The host decides what the sentry may do; ids and modes of new files are the guest's as far as the host allows it. Set-id
bits are not given to files of the host: a guest must not leave programs behind that run as somebody else.
"""

import errno
import os
import stat as stats
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from systrap.host import rename
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_ACCMODE, O_RDONLY, OpenFile
from systrap.sentry.fs.contents import DirectoryFile, HostContents, HostFile
from systrap.sentry.fs.hostdirs import Directories, hidden_devices
from systrap.sentry.fs.inode import Inode, Location, Stat, d_type_of, from_host
from systrap.sentry.fs.nodes import HostNode, host_error

if TYPE_CHECKING:
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.task import Task

T = TypeVar("T")

_SAFE_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_SET_ID: Final = 0o6000
_S_ISGID: Final = 0o2000


def _host(call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise host_error(error) from error


class HostInode(Inode, HostNode):
    """A host file: a name in a host directory, and the (device, inode) that must be found there."""

    __slots__ = ("_contents", "_fresh", "_held", "_kind", "_writable", "above", "endpoint", "key", "name")

    def __init__(self, path: bytes, above: "HostInode | None" = None, found: os.stat_result | None = None) -> None:
        """Open a path of the operator's (links followed), or take what lookup found under a name (``path``)."""
        self.above = above
        self.name = path
        self.endpoint: object = None
        self._contents: weakref.ReferenceType[HostContents] | None = None
        self._writable = False
        self._held = -1
        self._fresh: HostContents | None = None
        if found is None:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            found = os.fstat(fd)
            _directories.add_root(self, fd)
        self.key = (found.st_dev, found.st_ino)
        self._kind = found.st_mode & 0o170000
        _known[self.key] = self

    @property
    def format(self) -> int:
        """See Inode."""
        return self._kind

    def _own(self) -> int:
        """Return a descriptor of this directory, or of a file that has no name."""
        return self._held if self._held >= 0 else _directories.fd(self)

    def _at(self) -> int:
        """Return the descriptor of the directory this is in. ESTALE for what was opened as a root."""
        if self.above is None:
            raise SyscallError(errno.EBUSY)
        return _directories.fd(self.above)

    def _for_change(self) -> int:
        """Return the descriptor of this directory, whose entries are to change. EROFS where guests see nothing."""
        if self.key[0] in hidden_devices:
            raise SyscallError(errno.EROFS)
        return self._own()

    def _check_same(self, found: os.stat_result) -> os.stat_result:
        if (found.st_dev, found.st_ino) != self.key:
            raise SyscallError(errno.ESTALE)
        return found

    def _host_stat(self) -> os.stat_result:
        if self.above is None or self._kind == stats.S_IFDIR:
            return os.fstat(self._own())
        contents = self._contents() if self._contents is not None else None
        if contents is not None:
            return os.fstat(contents.fd)
        return self._check_same(os.stat(self.name, dir_fd=self._at(), follow_symlinks=False))

    def stat(self) -> Stat:
        """See Inode."""
        return from_host(_host(self._host_stat))

    # Directories.

    def lookup(self, name: bytes) -> Inode:
        """See Inode: one object for one inode of the host while it is in use."""
        if self._kind != stats.S_IFDIR:
            raise SyscallError(errno.ENOTDIR)
        if self.key[0] in hidden_devices:
            raise SyscallError(errno.ENOENT)
        _directories.trim()
        here = self._own()
        found = _host(lambda: os.stat(name, dir_fd=here, follow_symlinks=False))
        if found.st_dev in hidden_devices and not stats.S_ISDIR(found.st_mode):
            raise SyscallError(errno.EACCES)
        inode = _known.get((found.st_dev, found.st_ino))
        if inode is None or inode._kind != found.st_mode & 0o170000:
            return HostInode(name, self, found)
        if inode.above is not None:
            inode.above, inode.name = self, name
        return inode

    def entries(self) -> list[tuple[bytes, int, int]]:
        """See Inode."""
        if self._kind != stats.S_IFDIR:
            raise SyscallError(errno.ENOTDIR)
        if self.key[0] in hidden_devices:
            return []
        _directories.trim()
        here = self._own()
        fd = _host(lambda: os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here))
        try:
            with os.scandir(fd) as listing:
                return [(os.fsencode(entry.name), entry.inode(), _entry_type(entry)) for entry in listing]
        except OSError as error:
            raise host_error(error) from error
        finally:
            os.close(fd)

    def create(self, name: bytes, mode: int, creds: "Credentials", rdev: int = 0) -> Inode:
        """See Inode. Device nodes are not made on the host."""
        here, kind, bits = self._for_change(), mode & 0o170000 or stats.S_IFREG, mode & 0o7777
        contents = None
        if kind == stats.S_IFDIR:
            _host(lambda: os.mkdir(name, bits, dir_fd=here))
        elif kind == stats.S_IFREG:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | _SAFE_OPEN
            contents = HostContents(_host(lambda: os.open(name, flags, bits & ~_SET_ID, dir_fd=here)))
        elif kind in (stats.S_IFIFO, stats.S_IFSOCK):
            _host(lambda: os.mknod(name, kind | bits & 0o777, dir_fd=here))
        else:
            raise SyscallError(errno.EPERM)
        inode = self.lookup(name)
        if contents is not None and isinstance(inode, HostInode) and _key(os.fstat(contents.fd)) == inode.key:
            inode._fresh, inode._contents, inode._writable = contents, weakref.ref(contents), True
        self._give_to(creds, inode)
        if kind == stats.S_IFDIR and self._host_stat().st_mode & _S_ISGID:
            bits |= _S_ISGID
        inode.chmod(bits)
        return inode

    def _give_to(self, creds: "Credentials", inode: Inode) -> None:
        """Make a new file in this directory its maker's; a set-group-id directory gives its group."""
        if os.geteuid() == 0:
            inode.chown(creds.fsuid, -1 if self._host_stat().st_mode & _S_ISGID else creds.fsgid)

    def unnamed(self, mode: int, creds: "Credentials") -> Inode:
        """See Inode."""
        here = self._for_change()
        fd = _host(lambda: os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode & 0o777, dir_fd=here))
        inode = HostInode(b"", self, os.fstat(fd))
        inode.above, inode._held = None, fd
        self._give_to(creds, inode)
        inode.chmod(mode & 0o7777)
        return inode

    def symlink(self, name: bytes, target: bytes, creds: "Credentials") -> Inode:
        """See Inode."""
        here = self._for_change()
        _host(lambda: os.symlink(target, name, dir_fd=here))
        inode = self.lookup(name)
        self._give_to(creds, inode)
        return inode

    def link(self, name: bytes, inode: Inode) -> None:
        """See Inode."""
        if not isinstance(inode, HostInode):
            raise SyscallError(errno.EXDEV)
        here = self._for_change()
        if inode._held >= 0:
            own = b"/proc/self/fd/%d" % inode._held
            _host(lambda: os.link(own, name, dst_dir_fd=here, follow_symlinks=True))
            return
        if inode.above is None:
            raise SyscallError(errno.EXDEV)
        there = inode._at()
        _host(lambda: inode._check_same(os.stat(inode.name, dir_fd=there, follow_symlinks=False)))
        _host(lambda: os.link(inode.name, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False))

    def unlink(self, name: bytes) -> None:
        """See Inode."""
        here = self._for_change()
        _host(lambda: os.unlink(name, dir_fd=here))

    def rmdir(self, name: bytes) -> None:
        """See Inode."""
        inode, here = self.lookup(name), self._for_change()
        _host(lambda: os.rmdir(name, dir_fd=here))
        if isinstance(inode, HostInode):
            inode._held = _directories.take(inode)

    def rename(self, name: bytes, target: Inode, new_name: bytes, exchange: bool) -> None:
        """See Inode."""
        if not isinstance(target, HostInode):
            raise SyscallError(errno.EXDEV)
        moved = self.lookup(name)
        here, there = self._for_change(), target._for_change()
        if exchange:
            other = target.lookup(new_name)
            _host(lambda: rename.exchange(here, name, there, new_name))
            if isinstance(other, HostInode) and other.above is not None:
                other.above, other.name = self, name
        else:
            _host(lambda: os.rename(name, new_name, src_dir_fd=here, dst_dir_fd=there))
        if isinstance(moved, HostInode) and moved.above is not None:
            moved.above, moved.name = target, new_name

    # Other kinds.

    def readlink(self) -> bytes:
        """See Inode."""
        if self._kind != stats.S_IFLNK:
            raise SyscallError(errno.EINVAL)
        here = self._at()
        return _host(lambda: os.readlink(self.name, dir_fd=here))

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode: regular files, directories, and FIFOs, whose data stays in the sentry."""
        if self._kind == stats.S_IFDIR:
            return DirectoryFile(location, flags)
        if self._kind == stats.S_IFIFO:
            from systrap.sentry.fs.places import full_path
            from systrap.sentry.pipe import open_fifo

            end = open_fifo(self, task, flags)
            end.path = full_path(location)
            return end
        if self._kind != stats.S_IFREG:
            raise SyscallError(errno.ENXIO)
        return HostFile(location, flags, self._opened(flags & O_ACCMODE != O_RDONLY))

    def _opened(self, write: bool) -> HostContents:
        """Return the contents; one object serves all, and one opened for writing replaces one that was not.

        Who made the file may open it whatever its mode says: what create() opened serves the open that follows.
        """
        fresh, self._fresh = self._fresh, None
        if fresh is not None:
            return fresh
        contents = self._contents() if self._contents is not None else None
        if contents is None or (write and not self._writable):
            if not write:
                fd = self._open_fd(os.O_RDONLY)
            else:
                try:
                    fd = self._open_fd(os.O_RDWR)
                except SyscallError as error:
                    if error.errno != errno.EACCES:
                        raise
                    fd = self._open_fd(os.O_WRONLY)
            contents = HostContents(fd)
            self._contents, self._writable = weakref.ref(contents), write
        return contents

    def _open_fd(self, flags: int) -> int:
        """Open the regular file itself; never what has taken its name."""
        if self.above is None:
            own = b"/proc/self/fd/%d" % self._own()
            return _host(lambda: os.open(own, flags | os.O_CLOEXEC | os.O_NONBLOCK))
        here = self._at()
        fd = _host(lambda: os.open(self.name, flags | _SAFE_OPEN, dir_fd=here))
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != self.key or not stats.S_ISREG(found.st_mode):
            os.close(fd)
            raise SyscallError(errno.ESTALE)
        return fd

    # Attributes.

    def chmod(self, mode: int) -> None:
        """See Inode. Through a descriptor of the file itself, since the host's chmod follows links."""
        if self._kind != stats.S_IFDIR:
            mode &= ~_SET_ID
        if self.above is None or self._kind == stats.S_IFDIR:
            own = self._own()
            _host(lambda: os.chmod(b"/proc/self/fd/%d" % own, mode & 0o7777))
            return
        self._by_itself(lambda path: os.chmod(path, mode & 0o7777))

    def _by_itself(self, call: Callable[[bytes], T]) -> T:
        """Call the host with a path that leads to this very file, even if it is a symbolic link."""
        if self.above is None or self._kind == stats.S_IFDIR:
            own = self._own()
            return _host(lambda: call(b"/proc/self/fd/%d" % own))
        here = self._at()
        fd = _host(lambda: os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here))
        try:
            self._check_same(os.fstat(fd))
            return _host(lambda: call(b"/proc/self/fd/%d" % fd))
        finally:
            os.close(fd)

    def chown(self, uid: int, gid: int) -> None:
        """See Inode."""
        if self.above is None:
            self._by_itself(lambda path: os.chown(path, uid, gid))
            return
        here = self._at()
        _host(lambda: os.chown(self.name, uid, gid, dir_fd=here, follow_symlinks=False))

    def utimens(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See Inode."""
        now = self.stat()
        times = (now.atime_ns if atime_ns is None else atime_ns, now.mtime_ns if mtime_ns is None else mtime_ns)
        if self.above is None:
            own = b"/proc/self/fd/%d" % self._own()
            _host(lambda: os.utime(own, ns=times))
            return
        here = self._at()
        _host(lambda: os.utime(self.name, ns=times, dir_fd=here, follow_symlinks=False))

    def truncate(self, length: int) -> None:
        """See Inode."""
        if self._kind != stats.S_IFREG:
            raise SyscallError(errno.EINVAL)
        contents = self._opened(write=True)
        _host(lambda: os.ftruncate(contents.fd, length))

    def get_xattr(self, name: bytes) -> bytes:
        """See Inode."""
        return self._by_itself(lambda path: os.getxattr(path, name))

    def list_xattrs(self) -> list[bytes]:
        """See Inode."""
        found = self._by_itself(lambda path: os.listxattr(path))
        return [os.fsencode(name) for name in found if not name.startswith("system.")]

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:
        """See Inode. Only user.*: the others mean something to the host's kernel."""
        if not name.startswith(b"user."):
            raise SyscallError(errno.EOPNOTSUPP)
        self._by_itself(lambda path: os.setxattr(path, name, value, flags))

    def remove_xattr(self, name: bytes) -> None:
        """See Inode."""
        if not name.startswith(b"user."):
            raise SyscallError(errno.ENODATA if name.startswith(b"system.") else errno.EOPNOTSUPP)
        self._by_itself(lambda path: os.removexattr(path, name))

    def __del__(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def statfs_magic(self) -> int:
        """See Inode."""
        return 0xEF53


def _key(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _entry_type(entry: "os.DirEntry[str]") -> int:
    if entry.is_symlink():
        return 10
    try:
        return d_type_of(entry.stat(follow_symlinks=False).st_mode) if not entry.is_file() else 8
    except OSError:
        return 0


_directories = Directories()
_known: "weakref.WeakValueDictionary[tuple[int, int], HostInode]" = weakref.WeakValueDictionary()
