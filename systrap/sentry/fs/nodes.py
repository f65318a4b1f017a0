"""Files in memory, and the overlay: host files that become files in memory when the guest changes them.

One family of nodes serves tmpfs and the overlay. A node may have a *lower* side, a path on the host; until the guest
changes it, attributes and contents are the host's. A change gives the node attributes of its own (``_own``) and, for
data, contents in memory. Changed nodes are remembered by the host's (device, inode), so that every name of the file
finds them again; unchanged ones come and go.

A directory keeps ``upper``: children that were made, changed places or were removed (None) here.
"""

import errno
import os
import stat as stats
import time
import weakref
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_ACCMODE, O_RDONLY, OpenFile
from systrap.sentry.fs.contents import DirectoryFile, HostContents, LowerFile, MemoryFileHandle
from systrap.sentry.fs.hostdirs import hidden_devices
from systrap.sentry.fs.inode import BLOCK_SIZE, Inode, Location, Stat, d_type_of, from_host, new_ino, without_set_id
from systrap.sentry.pages import PageStore

if TYPE_CHECKING:
    from systrap.memory import MemoryFile
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.task import Task

_COPY_CHUNK: Final = 1 << 20
_TMPFS_MAGIC: Final = 0x01021994
_CLOCK_REALTIME_COARSE: Final = 5
_S_ISVTX: Final = 0o1000
_S_ISGID: Final = 0o2000


def host_error(error: OSError) -> SyscallError:
    """Return a host call's failure as the guest's."""
    return SyscallError(error.errno or errno.EIO)


def coarse_now() -> int:
    """Return the time as files are stamped: the kernel's clock of its last tick, so that quick successions are equal."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class FileSystem:
    """What the nodes of one tree share: memory for contents, the device number, and the changed and known host files."""

    def __init__(self, memory: "MemoryFile", dev: int) -> None:
        self.memory = memory
        self.dev = dev
        self.in_memory = False
        self.changed: dict[tuple[int, int], Node] = {}
        self.known: weakref.WeakValueDictionary[tuple[int, int], Node] = weakref.WeakValueDictionary()

    def host_node(self, path: bytes, found: os.stat_result) -> "Node":
        """Return the node of a host file: the changed one, the known one, or a new one.

        What is on a control file system of the host (its /proc, for one, wherever that is mounted) has no lower side.
        """
        key = (found.st_dev, found.st_ino)
        lower = None if found.st_dev in hidden_devices else path
        node = self.changed.get(key) or self.known.get(key)
        if node is None or node.kind != found.st_mode & 0o170000:
            node = _KINDS.get(found.st_mode & 0o170000, Special)(self, found.st_mode & 0o170000)
            node.lower = lower
            self.known[key] = node
        if node.own is None:
            node.host_stat = found
            node.lower = lower
        return node


class Attributes:
    """Attributes that a node has of its own."""

    __slots__ = ("atime", "btime", "ctime", "gid", "ino", "mode", "mtime", "nlink", "rdev", "uid")

    def __init__(self, mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        now = coarse_now()
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.nlink = 1
        self.ino = new_ino()
        self.atime = self.mtime = self.ctime = self.btime = now

    def count_below(self, change: int) -> None:
        """Count directories in this one: in its links, unless its file system does not count (overlayfs, btrfs tell 1)."""
        if self.nlink > 1:
            self.nlink = max(self.nlink + change, 2)


class Node(Inode):
    """What all kinds share. ``own``: its own attributes, None while they are the host's (then ``host_stat`` is set)."""

    __slots__ = ("fs", "host_stat", "kind", "lower", "own", "xattrs")

    def __init__(self, fs: FileSystem, kind: int) -> None:
        """Make a node of a kind (format bits); the maker sets ``own`` or ``host_stat`` and ``lower``."""
        self.fs = fs
        self.kind = kind
        self.lower: bytes | None = None
        self.host_stat: os.stat_result | None = None
        self.own: Attributes | None = None
        self.xattrs: dict[bytes, bytes] | None = None

    @property
    def format(self) -> int:
        """See Inode."""
        return self.kind

    @property
    def is_directory(self) -> bool:
        """See Inode."""
        return self.kind == stats.S_IFDIR

    @property
    def is_symlink(self) -> bool:
        """See Inode."""
        return self.kind == stats.S_IFLNK

    def stat(self) -> Stat:
        """See Inode."""
        own = self.own
        if own is None:
            if self.host_stat is None:
                raise SyscallError(errno.ESTALE)
            return from_host(self.host_stat)
        size, blocks = self._size()
        dev = self.fs.dev if self.host_stat is None else self.host_stat.st_dev
        return Stat(
            dev, own.ino, own.mode | self.kind, own.nlink, own.uid, own.gid, own.rdev, size, BLOCK_SIZE, blocks,
            own.atime, own.mtime, own.ctime, own.btime,
        )  # fmt: skip

    def statfs_magic(self) -> int:
        """See Inode."""
        return _TMPFS_MAGIC if self.fs.in_memory else super().statfs_magic()

    def _size(self) -> tuple[int, int]:
        """Return size and 512-byte blocks of a node with attributes of its own."""
        return 0, 0

    def copy_up(self) -> Attributes:
        """Give the node attributes of its own, if it has none; they start as the host's."""
        if self.own is not None:
            return self.own
        host = self.host_stat
        if host is None:
            raise SyscallError(errno.ESTALE)
        own = Attributes(host.st_mode & 0o7777, host.st_uid, host.st_gid, host.st_rdev)
        own.ino, own.nlink = host.st_ino, host.st_nlink
        own.atime, own.mtime, own.ctime = host.st_atime_ns, host.st_mtime_ns, host.st_ctime_ns
        self.own = own
        self.fs.changed[host.st_dev, host.st_ino] = self
        return own

    def changed(self) -> None:
        """Note that the contents changed."""
        own = self.copy_up()
        own.mtime = own.ctime = coarse_now()

    def chmod(self, mode: int) -> None:
        """See Inode."""
        own = self.copy_up()
        own.mode = mode & 0o7777
        own.ctime = coarse_now()

    def chown(self, uid: int, gid: int) -> None:
        """See Inode."""
        own = self.copy_up()
        if uid != -1:
            own.uid = uid
        if gid != -1:
            own.gid = gid
        own.ctime = coarse_now()

    def utimens(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See Inode."""
        own = self.copy_up()
        if atime_ns is not None:
            own.atime = atime_ns
        if mtime_ns is not None:
            own.mtime = mtime_ns
        own.ctime = coarse_now()

    def count_link(self, change: int) -> None:
        """Add a name, or take one away; without names the contents go with the last user."""
        own = self.copy_up()
        own.nlink += change
        own.ctime = coarse_now()

    def _all_xattrs(self) -> dict[bytes, bytes]:
        """Return the extended attributes: the host's, read once, as they were changed since."""
        if self.xattrs is None:
            self.xattrs = _host_xattrs(self.lower) if self.lower is not None else {}
        return self.xattrs

    def get_xattr(self, name: bytes) -> bytes:
        """See Inode."""
        try:
            return self._all_xattrs()[name]
        except KeyError:
            raise SyscallError(errno.ENODATA) from None

    def list_xattrs(self) -> list[bytes]:
        """See Inode."""
        return list(self._all_xattrs())

    def set_xattr(self, name: bytes, value: bytes, flags: int) -> None:
        """See Inode: as on tmpfs, but for access control lists."""
        if name.startswith(b"system."):
            raise SyscallError(errno.EOPNOTSUPP)
        there = name in self._all_xattrs()
        if flags & 1 and there:
            raise SyscallError(errno.EEXIST)
        if flags & 2 and not there:
            raise SyscallError(errno.ENODATA)
        self.copy_up().ctime = coarse_now()
        self._all_xattrs()[name] = value

    def remove_xattr(self, name: bytes) -> None:
        """See Inode."""
        if name not in self._all_xattrs():
            raise SyscallError(errno.ENODATA)
        self.copy_up().ctime = coarse_now()
        del self._all_xattrs()[name]


class Regular(Node):
    """A regular file: the host's contents, or a store in memory."""

    __slots__ = ("_host", "store")

    def __init__(self, fs: FileSystem, kind: int) -> None:
        super().__init__(fs, kind)
        self.store: PageStore | None = None
        self._host: weakref.ReferenceType[HostContents] | None = None

    def _size(self) -> tuple[int, int]:
        if self.store is not None:
            return self.store.size, self.store.allocated // 512
        host = self.host_stat
        return (host.st_size, host.st_blocks) if host is not None else (0, 0)

    def host_contents(self) -> HostContents:
        """Return the host file's contents; one object while anybody uses it, so that mappings know each other."""
        found = self._host() if self._host is not None else None
        if found is None:
            if self.lower is None:
                raise SyscallError(errno.ESTALE)
            try:
                found = HostContents(os.open(self.lower, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
            except OSError as error:
                raise host_error(error) from error
            self._host = weakref.ref(found)
        return found

    def writable_store(self, keep: bool = True) -> PageStore:
        """Return contents in memory; ``keep``: with what the host file holds, copied on the first call."""
        if self.store is None:
            store = PageStore(self.fs.memory)
            if keep and self.lower is not None:
                contents = self.host_contents()
                offset = 0
                while piece := os.pread(contents.fd, _COPY_CHUNK, offset):
                    store.write(offset, piece)
                    offset += len(piece)
            self.copy_up()
            self.store = store
            known = self._host() if self._host is not None else None
            if known is not None:
                known.replace(store)
        return self.store

    def strip_set_id(self) -> None:
        """Take set-id bits away, since somebody without power over them changed the contents."""
        own = self.copy_up()
        own.mode = without_set_id(own.mode)

    def truncate(self, length: int) -> None:
        """See Inode."""
        store = self.writable_store(keep=length > 0)
        store.truncate(length)
        self.changed()

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        if self.store is None and flags & O_ACCMODE == O_RDONLY:
            return LowerFile(location, flags, self.host_contents(), self)
        return MemoryFileHandle(location, flags, self, self.writable_store(), task.creds.fsuid != 0)


class Symlink(Node):
    """A symbolic link."""

    __slots__ = ("target",)

    def __init__(self, fs: FileSystem, kind: int) -> None:
        super().__init__(fs, kind)
        self.target: bytes | None = None

    def _size(self) -> tuple[int, int]:
        return len(self.readlink()), 0

    def readlink(self) -> bytes:
        """See Inode."""
        if self.target is not None:
            return self.target
        if self.lower is None:
            raise SyscallError(errno.ESTALE)
        try:
            return os.readlink(self.lower)
        except OSError as error:
            raise host_error(error) from error


class Special(Node):
    """A FIFO, a socket's name, a device node. ``endpoint``: what a socket is bound to."""

    __slots__ = ("endpoint",)

    def __init__(self, fs: FileSystem, kind: int) -> None:
        super().__init__(fs, kind)
        self.endpoint: object = None

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode: FIFOs of the guest's open; the host's, sockets and device nodes do not."""
        if self.kind == stats.S_IFIFO and self.lower is None:
            from systrap.sentry.fs.places import full_path
            from systrap.sentry.pipe import open_fifo

            end = open_fifo(self, task, flags)
            end.path = full_path(location)
            return end
        if self.kind == stats.S_IFCHR and self.own is not None:
            from systrap.sentry.fs.dev import open_device

            return open_device(task, location, self.own.rdev, flags)
        raise SyscallError(errno.ENXIO)


class Directory(Node):
    """A directory. ``upper`` hides what the host's directory has of the same name; None stands for a removed name."""

    __slots__ = ("upper",)

    def __init__(self, fs: FileSystem, kind: int) -> None:
        super().__init__(fs, kind)
        self.upper: dict[bytes, Inode | None] = {}

    def _size(self) -> tuple[int, int]:
        return BLOCK_SIZE, 0

    def lookup(self, name: bytes) -> Inode:
        """See Inode."""
        upper = self.upper
        if name in upper:
            found = upper[name]
            if found is None:
                raise SyscallError(errno.ENOENT)
            return found
        if self.lower is None:
            raise SyscallError(errno.ENOENT)
        path = self.lower + b"/" + name
        try:
            return self._child(path, os.lstat(path))
        except OSError as error:
            raise host_error(error) from error

    def _child(self, path: bytes, found: os.stat_result) -> Inode:
        return self.fs.host_node(path, found)

    def _has(self, name: bytes) -> bool:
        try:
            self.lookup(name)
        except SyscallError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode: what was made here, then the host's that is not hidden."""
        found = []
        for name, inode in self.upper.items():
            if inode is not None:
                stat = inode.stat()
                found.append((name, stat.ino, d_type_of(stat.mode)))
        if self.lower is not None:
            try:
                with os.scandir(self.lower or b"/") as listing:
                    found += [
                        (entry.name, entry.inode(), _host_type(entry))
                        for entry in listing
                        if entry.name not in self.upper
                    ]
            except OSError as error:
                raise host_error(error) from error
        return found

    def create(self, name: bytes, mode: int, creds: "Credentials", rdev: int = 0) -> Inode:
        """See Inode."""
        self._require_absent(name)
        kind = mode & 0o170000 or stats.S_IFREG
        node = _KINDS.get(kind, Special)(self.fs, kind)
        directory = self.copy_up()
        gid = directory.gid if directory.mode & _S_ISGID else creds.fsgid
        bits = mode & 0o7777
        if directory.mode & _S_ISGID and kind == stats.S_IFDIR:
            bits |= _S_ISGID
        node.own = Attributes(bits, creds.fsuid, gid, rdev)
        if isinstance(node, Regular):
            node.store = PageStore(self.fs.memory)
        if isinstance(node, Directory):
            node.own.nlink = 2
            directory.count_below(1)
        self.upper[name] = node
        self.changed()
        return node

    def unnamed(self, mode: int, creds: "Credentials") -> Inode:
        """See Inode."""
        node = Regular(self.fs, stats.S_IFREG)
        inherits = self.stat()
        node.own = Attributes(mode & 0o7777, creds.fsuid, inherits.gid if inherits.mode & _S_ISGID else creds.fsgid)
        node.own.nlink = 0
        node.store = PageStore(self.fs.memory)
        return node

    def symlink(self, name: bytes, target: bytes, creds: "Credentials") -> Inode:
        """See Inode."""
        node = self.create(name, stats.S_IFLNK | 0o777, creds)
        if isinstance(node, Symlink):
            node.target = target
        return node

    def _require_absent(self, name: bytes) -> None:
        if self.own is not None and self.own.nlink == 0:
            raise SyscallError(errno.ENOENT)
        if self._has(name):
            raise SyscallError(errno.EEXIST)

    def link(self, name: bytes, inode: Inode) -> None:
        """See Inode."""
        if not isinstance(inode, Node) or inode.fs is not self.fs or isinstance(inode, HostNode):
            raise SyscallError(errno.EXDEV)
        self._require_absent(name)
        inode.count_link(1)
        self.upper[name] = inode
        self.changed()

    def _remove(self, name: bytes) -> None:
        """Take a name away, hiding the host's of the same name."""
        hidden = False
        if self.lower is not None:
            hidden = os.path.lexists(self.lower + b"/" + name)
        if hidden:
            self.upper[name] = None
        else:
            self.upper.pop(name, None)
        self.changed()

    def unlink(self, name: bytes) -> None:
        """See Inode."""
        inode = self.lookup(name)
        if isinstance(inode, Node):
            inode.count_link(-1)
        self._remove(name)

    def rmdir(self, name: bytes) -> None:
        """See Inode."""
        inode = self.lookup(name)
        if inode.entries():
            raise SyscallError(errno.ENOTEMPTY)
        if isinstance(inode, Node):
            inode.copy_up().nlink = 0
        self.copy_up().count_below(-1)
        self._remove(name)

    def rename(self, name: bytes, target: Inode, new_name: bytes, exchange: bool) -> None:
        """See Inode. A directory of the host's takes its lower path along."""
        if not isinstance(target, Directory) or target.fs is not self.fs or isinstance(target, HostNode):
            raise SyscallError(errno.EXDEV)
        moved = self.lookup(name)
        if not isinstance(moved, Node):
            raise SyscallError(errno.EXDEV)
        replaced = target.lookup(new_name) if target._has(new_name) else None
        moved.copy_up().ctime = coarse_now()
        if exchange and isinstance(replaced, Node):
            replaced.copy_up()
            self.upper[name] = replaced
            target.upper[new_name] = moved
        else:
            self._remove(name)
            if isinstance(replaced, Node):
                replaced.count_link(-replaced.copy_up().nlink if replaced.is_directory else -1)
                if replaced.is_directory:
                    target.copy_up().count_below(-1)
            target.upper[new_name] = moved
        if target is not self:
            crossing = int(moved.is_directory) - int(exchange and replaced is not None and replaced.is_directory)
            self.copy_up().count_below(-crossing)
            target.copy_up().count_below(crossing)
        self.changed()
        target.changed()

    def open(self, task: "Task", location: Location, flags: int) -> OpenFile:
        """See Inode."""
        return DirectoryFile(location, flags)


class HostNode:
    """Marks nodes below --rw (hostrw.py): changes there are the host's own."""

    __slots__ = ()


_KINDS: Final[dict[int, type[Node]]] = {stats.S_IFREG: Regular, stats.S_IFDIR: Directory, stats.S_IFLNK: Symlink}


def _host_xattrs(path: bytes) -> dict[bytes, bytes]:
    """Return the extended attributes of a host file that guests see: not its access control lists (limits.md)."""
    found = {}
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith("system."):
                found[os.fsencode(name)] = os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return found
    return found


def _host_type(entry: "os.DirEntry[bytes]") -> int:
    if entry.is_symlink():
        return 10
    if entry.is_dir(follow_symlinks=False):
        return 4
    if entry.is_file(follow_symlinks=False):
        return 8
    try:
        return d_type_of(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return 0


def new_tree(memory: "MemoryFile", dev: int, mode: int, uid: int = 0, gid: int = 0) -> Directory:
    """Return the root of a new, empty tree in memory (tmpfs)."""
    root = Directory(FileSystem(memory, dev), stats.S_IFDIR)
    root.fs.in_memory = True
    root.own = Attributes(mode, uid, gid)
    root.own.nlink = 2
    return root


def host_overlay(memory: "MemoryFile", path: bytes) -> Node:
    """Return the root of an overlay over a host directory, or over a single file; it has that file's device number."""
    found = os.lstat(path)
    fs = FileSystem(memory, found.st_dev)
    root = fs.host_node(b"" if path == b"/" else path, found)
    fs.changed[found.st_dev, found.st_ino] = root
    return root
