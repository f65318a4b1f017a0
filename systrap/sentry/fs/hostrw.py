"""The host's files below --rw: what the guest does to them is done on the host, by path, never through a symbolic link."""

import errno
import os
import stat as stats
import weakref
from typing import TYPE_CHECKING

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_ACCMODE, O_RDONLY, OpenFile
from systrap.sentry.fs.contents import DirectoryFile, HostContents, HostFile
from systrap.sentry.fs.inode import Inode, Location, Stat, from_host
from systrap.sentry.fs.nodes import HostNode, _host_type, host_error

if TYPE_CHECKING:
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.task import Task


class HostInode(Inode, HostNode):
    """A host file by its path. Attributes are read when asked for."""

    __slots__ = ("_contents", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self._contents: weakref.ReferenceType[HostContents] | None = None

    def stat(self) -> Stat:
        """See Inode."""
        try:
            return from_host(os.lstat(self.path))
        except OSError as error:
            raise host_error(error) from error

    def _below(self, name: bytes) -> bytes:
        return self.path + b"/" + name

    def lookup(self, name: bytes) -> Inode:
        """See Inode: one object for one path while it is in use."""
        path = self._below(name)
        try:
            os.lstat(path)
        except OSError as error:
            raise host_error(error) from error
        found = _known.get(path)
        if found is None:
            found = _known[path] = HostInode(path)
        return found

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        try:
            with os.scandir(self.path) as listing:
                return [(entry.name, entry.inode(), _host_type(entry)) for entry in listing]
        except OSError as error:
            raise host_error(error) from error

    def create(self, name: bytes, mode: int, creds: "Credentials", rdev: int = 0) -> Inode:
        """See Inode. Device nodes are not made on the host."""
        path, kind = self._below(name), mode & 0o170000 or stats.S_IFREG
        try:
            if kind == stats.S_IFDIR:
                os.mkdir(path, mode & 0o7777)
            elif kind == stats.S_IFREG:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode & 0o7777))
            else:
                raise SyscallError(errno.EPERM)
            os.chmod(path, mode & 0o7777)
            if os.geteuid() == 0:
                os.lchown(path, creds.fsuid, creds.fsgid)
        except OSError as error:
            raise host_error(error) from error
        return self.lookup(name)

    def symlink(self, name: bytes, target: bytes, creds: "Credentials") -> Inode:
        """See Inode."""
        try:
            os.symlink(target, self._below(name))
        except OSError as error:
            raise host_error(error) from error
        return self.lookup(name)

    def link(self, name: bytes, inode: Inode) -> None:
        """See Inode."""
        if not isinstance(inode, HostInode):
            raise SyscallError(errno.EXDEV)
        self._host(lambda: os.link(inode.path, self._below(name), follow_symlinks=False))

    def unlink(self, name: bytes) -> None:
        """See Inode."""
        self._host(lambda: os.unlink(self._below(name)))

    def rmdir(self, name: bytes) -> None:
        """See Inode."""
        self._host(lambda: os.rmdir(self._below(name)))

    def rename(self, name: bytes, target: Inode, new_name: bytes, exchange: bool) -> None:
        """See Inode."""
        if not isinstance(target, HostInode) or exchange:
            raise SyscallError(errno.EXDEV if not exchange else errno.EINVAL)
        old, new = self._below(name), target._below(new_name)
        self._host(lambda: os.rename(old, new))
        moved = _known.pop(old, None)
        if moved is not None:
            moved.path = new
            _known[new] = moved

    @staticmethod
    def _host(call: "object") -> None:
        if not callable(call):
            raise TypeError("not a call")
        try:
            call()
        except OSError as error:
            raise host_error(error) from error

    def readlink(self) -> bytes:
        """See Inode."""
        try:
            return os.readlink(self.path)
        except OSError as error:
            raise host_error(error) from error

    def chmod(self, mode: int) -> None:
        """See Inode."""
        self._host(lambda: os.chmod(self.path, mode & 0o7777))

    def chown(self, uid: int, gid: int) -> None:
        """See Inode."""
        self._host(lambda: os.lchown(self.path, uid, gid))

    def utimens(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See Inode."""
        now = self.stat()
        times = (now.atime_ns if atime_ns is None else atime_ns, now.mtime_ns if mtime_ns is None else mtime_ns)
        self._host(lambda: os.utime(self.path, ns=times, follow_symlinks=False))

    def truncate(self, length: int) -> None:
        """See Inode."""
        self._host(lambda: os.truncate(self.path, length))

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode: regular files and directories only."""
        mode = self.stat().mode
        if stats.S_ISDIR(mode):
            return DirectoryFile(location, flags)
        if not stats.S_ISREG(mode):
            raise SyscallError(errno.ENXIO)
        how = os.O_RDONLY if flags & O_ACCMODE == O_RDONLY else os.O_RDWR
        contents = self._contents() if self._contents is not None else None
        if contents is None or how == os.O_RDWR:
            try:
                contents = HostContents(os.open(self.path, how | os.O_NOFOLLOW | os.O_CLOEXEC))
            except PermissionError:
                try:
                    contents = HostContents(os.open(self.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
                except OSError as error:
                    raise host_error(error) from error
            except OSError as error:
                raise host_error(error) from error
            self._contents = weakref.ref(contents)
        return HostFile(location, flags, contents)


_known: "weakref.WeakValueDictionary[bytes, HostInode]" = weakref.WeakValueDictionary()
