"""The file name space of a run, and the operations on names: open, mkdir, rename and the like.

Paths are bytes (text is accepted). ``at`` is where relative paths start; None is the task's directory. Everything raises
SyscallError as Linux fails.
"""

import errno
import os
import resource
import stat as stats
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import (
    O_ACCMODE,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOATIME,
    O_NOFOLLOW,
    O_PATH,
    O_RDONLY,
    O_TMPFILE,
    O_TRUNC,
    O_WRONLY,
    OpenFile,
)
from systrap.sentry.fs import notify, places
from systrap.sentry.fs.contents import OPathFile, PathFile
from systrap.sentry.fs.hostrw import HostInode
from systrap.sentry.fs.inode import MAY_EXEC, MAY_READ, MAY_WRITE, Inode, Location, without_set_id
from systrap.sentry.fs.nodes import host_overlay, new_tree
from systrap.sentry.fs.path import Walk
from systrap.sentry.fs.synthetic import PROC_DEV, SyntheticInode
from systrap.sentry.limits import RLIMIT_NOFILE, remember_host_limit

if TYPE_CHECKING:
    from systrap.sentry.credentials import Credentials
    from systrap.sentry.kernel import Kernel
    from systrap.sentry.task import Task

AT_FDCWD: Final = -100
_TMP: Final = b"/tmp/"
_ENDS_A_PATH: Final = b" \t\n'\"`;|&()<>$*?[]{},"
_S_ISVTX: Final = 0o1000
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_MAX_HOST_FILES: Final = 1 << 20

Path = bytes | str


class VFS:
    """The tree: the host's root under an overlay, tmpfs, /proc, /dev, and what --rw opens."""

    def __init__(self, kernel: "Kernel") -> None:
        """Build the mounts from the kernel's configuration."""
        _raise_file_limit()
        self.kernel = kernel
        self.mounts: dict[Inode, Inode] = {}
        through = b"/" in kernel.config.rw_paths
        self.mount_points: list[tuple[bytes, str]] = [(b"/", "host" if through else "overlay")]
        self.root = Location(HostInode(b"/") if through else host_overlay(kernel.memory, b"/"))
        if not through:
            self._mount(b"/tmp", new_tree(kernel.memory, 0x21, 0o1777), "tmpfs")
        self._mount_synthetic()
        for path in self._shown():
            self._show(path, host_overlay(kernel.memory, path), "overlay")
        for path in kernel.config.rw_paths:
            if path != b"/":
                self._show(path, HostInode(path), "host")

    def _mount_synthetic(self) -> None:
        from systrap.sentry.fs import dev, procfs, sysfs

        self._mount(b"/dev", dev.mount_root(self.kernel), "devtmpfs")
        self._mount(b"/proc", procfs.mount_root(self.kernel), "proc")
        self._mount(b"/sys", sysfs.mount_root(self.kernel), "sysfs")

    def _shown(self) -> list[bytes]:
        """Return what the run refers to below the fresh /tmp: it is shown (read-only underneath) all the same.

        That is the working directory, the program's directory, the places the command line names, and HOME and TMPDIR.
        """
        config = self.kernel.config
        named = {config.cwd, os.path.dirname(os.path.realpath(config.path))}
        for word in config.argv:
            named |= _places_in(word)
        for setting in config.env:
            if setting.startswith((b"HOME=", b"TMPDIR=")):
                named.add(setting.partition(b"=")[2])
        found: list[bytes] = []
        for path in sorted(os.path.normpath(path) for path in named):
            if not path.startswith(_TMP) or not os.path.lexists(path):
                continue
            folder = path if os.path.isdir(path) else os.path.dirname(path)
            place = path if folder + b"/" == _TMP else folder
            if not any(place == other or place.startswith(other + b"/") for other in found):
                found = [other for other in found if not other.startswith(place + b"/")]
                found.append(place)
        return found

    def _mount(self, path: bytes, inode: Inode, kind: str) -> None:
        """Cover a directory below the root, if it is there."""
        try:
            point = self.find(path)
        except SyscallError:
            return
        self.mounts[point] = inode
        self.mount_points.append((path, kind))

    def find(self, path: bytes) -> Inode:
        """Walk without a task: no symbolic links, no permissions."""
        inode = self.root.inode
        for name in path.split(b"/"):
            if name:
                inode = inode.lookup(name)
                inode = self.mounts.get(inode, inode)
        return inode

    def _show(self, path: bytes, inode: Inode, kind: str) -> None:
        """Mount something at a path, making directories in tmpfs for it where needed."""
        from systrap.sentry.credentials import Credentials

        config = self.kernel.config
        creds = Credentials(*(4 * (config.uid,)), *(4 * (config.gid,)))
        here = self.root.inode
        names = [name for name in path.split(b"/") if name]
        for position, name in enumerate(names):
            try:
                below = here.lookup(name)
            except SyscallError:
                is_file = position == len(names) - 1 and not inode.is_directory
                below = here.create(name, (stats.S_IFREG if is_file else stats.S_IFDIR) | 0o755, creds)
            if position == len(names) - 1:
                self.mounts[below] = inode
                self.mount_points.append((path, kind))
                return
            here = self.mounts.get(below, below)

    # Finding.

    def walk(
        self, task: "Task", at: Location | None, path: Path, follow: bool, entry: bool = False, restrict: int = 0
    ) -> Walk:
        """Walk a path (see Walk.run); ``restrict``: RESOLVE_… of openat2. ENOENT for an empty one."""
        if isinstance(path, str):
            path = os.fsencode(path)
        if not path:
            raise SyscallError(errno.ENOENT)
        if restrict:
            from systrap.sentry.fs.confined import ConfinedWalk

            walk: Walk = ConfinedWalk(task, self.mounts, restrict)
        else:
            walk = Walk(task, self.mounts)
        walk.run(at or task.fs.cwd, path, follow, entry)
        return walk

    def lookup(self, task: "Task", at: Location | None, path: Path, follow: bool = True, restrict: int = 0) -> Location:
        """Return what is at a path. ENOENT; ENOTDIR when a trailing slash meets no directory."""
        walk = self.walk(task, at, path, follow, restrict=restrict)
        if walk.found is None:
            raise SyscallError(errno.ENOENT)
        if walk.trailing_slash and not walk.found.inode.is_directory:
            raise SyscallError(errno.ENOTDIR)
        return walk.found

    def directory(self, task: "Task", dirfd: int) -> Location:
        """Return where paths relative to ``dirfd`` start. EBADF, ENOTDIR."""
        if dirfd == AT_FDCWD:
            return task.fs.cwd
        file = task.fds.get(dirfd)
        if not isinstance(file, PathFile):
            raise SyscallError(errno.ENOTDIR)
        return file.location

    def at(self, task: "Task", dirfd: int, path: bytes) -> Location | None:
        """Return the start for ``path``; an absolute one does not look at ``dirfd``."""
        if not path:
            raise SyscallError(errno.ENOENT)
        return None if path.startswith(b"/") else self.directory(task, dirfd)

    @staticmethod
    def path_of(location: Location, root: Location) -> bytes:
        """Return the path of a location as seen from ``root``."""
        return places.path_of(location, root)

    # Opening.

    def open(self, task: "Task", at: Location | None, path: Path, flags: int, mode: int, restrict: int = 0) -> OpenFile:
        """Open a file (openat). The description has no reference yet; one that must wait (FIFO) says so."""
        if flags & O_TMPFILE == O_TMPFILE:
            return self._open_unnamed(task, self.lookup(task, at, path, restrict=restrict), flags, mode)
        if flags & O_PATH:
            flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW
        if flags & O_CREAT and flags & O_DIRECTORY:
            raise SyscallError(errno.EINVAL)
        follow = not flags & O_NOFOLLOW and not (flags & O_CREAT and flags & O_EXCL)
        makes_slash = bool(flags & O_CREAT) and path[-1:] in (b"/", "/")
        walk = self.walk(task, at, path, follow and not makes_slash, makes_slash, restrict)
        found = walk.found
        if flags & O_CREAT and walk.ends_in_slash and walk.name not in (b".", b".."):
            raise SyscallError(errno.EISDIR)
        if found is None:
            if not flags & O_CREAT:
                raise SyscallError(errno.ENOENT)
            found = self._create(task, walk, stats.S_IFREG | mode & 0o7777 & ~task.fs.umask)
            return self._opened(task, found, flags & ~O_TRUNC)
        if flags & O_CREAT and flags & O_EXCL:
            raise SyscallError(errno.EEXIST)
        return self._open_found(task, walk, found, flags)

    def _open_found(self, task: "Task", walk: Walk, found: Location, flags: int) -> OpenFile:
        inode = found.inode
        if inode.is_symlink and not flags & O_PATH:
            raise SyscallError(errno.ENOTDIR if flags & O_DIRECTORY else errno.ELOOP)
        if inode.is_directory:
            writes = flags & O_ACCMODE != O_RDONLY or flags & O_TRUNC
            if flags & O_CREAT or (writes and not flags & O_PATH):
                raise SyscallError(errno.EISDIR)
        elif flags & O_DIRECTORY or walk.trailing_slash:
            raise SyscallError(errno.ENOTDIR)
        if flags & O_PATH:
            return OPathFile(found, flags)
        access = flags & O_ACCMODE
        wanted = (MAY_READ if access != O_WRONLY else 0) | (MAY_WRITE if access != O_RDONLY else 0)
        if flags & O_TRUNC:
            wanted |= MAY_WRITE
        inode.check(task.creds, wanted)
        if flags & O_NOATIME and task.creds.fsuid not in (0, inode.stat().uid):
            raise SyscallError(errno.EPERM)
        return self._opened(task, found, flags)

    @staticmethod
    def _opened(task: "Task", location: Location, flags: int) -> OpenFile:
        inode = location.inode
        if flags & O_TRUNC and inode.format == stats.S_IFREG:
            inode.truncate(0)
        if notify.watched:
            notify.at(location, notify.IN_OPEN)
            if flags & O_TRUNC:
                notify.at(location, notify.IN_MODIFY)
        magic = inode.follow(task) if inode.is_symlink else None
        return (magic or location).inode.open(task, magic or location, flags)

    @staticmethod
    def _open_unnamed(task: "Task", where: Location, flags: int, mode: int) -> OpenFile:
        """O_TMPFILE: a regular file without a name."""
        if flags & O_ACCMODE == O_RDONLY or flags & O_CREAT:
            raise SyscallError(errno.EINVAL)
        if not where.inode.is_directory:
            raise SyscallError(errno.ENOTDIR)
        where.inode.check(task.creds, MAY_WRITE | MAY_EXEC)
        node = where.inode.unnamed(mode & 0o7777 & ~task.fs.umask, task.creds)
        return node.open(task, Location(node, where, b"#%d" % node.stat().ino), flags & ~(O_TMPFILE | O_DIRECTORY))

    def open_exec(self, task: "Task", at: Location | None, path: Path) -> OpenFile:
        """Open a program. EACCES unless it is a regular file the task may execute."""
        found = self.lookup(task, at, path)
        if found.inode.format != stats.S_IFREG:
            raise SyscallError(errno.EACCES)
        found.inode.check(task.creds, MAY_EXEC)
        return found.inode.open(task, found, O_RDONLY)

    # Changing names.

    def _parent_for_change(self, task: "Task", walk: Walk) -> Inode:
        """Return the directory a name is to be added to or taken from. EACCES."""
        if walk.parent is None:
            raise SyscallError(errno.ENOENT)
        walk.parent.inode.check(task.creds, MAY_WRITE | MAY_EXEC)
        return walk.parent.inode

    def _create(self, task: "Task", walk: Walk, mode: int, rdev: int = 0) -> Location:
        parent = None if walk.parent is None else walk.parent.inode
        if isinstance(parent, SyntheticInode) and parent.dev == PROC_DEV:
            # /proc finds no such name before anybody asks for permissions.
            raise SyscallError(errno.ENOENT)
        directory = self._parent_for_change(task, walk)
        inode = directory.create(walk.name, mode, task.creds, rdev)
        notify.named(walk.parent, walk.name, inode, notify.IN_CREATE)
        return Location(inode, walk.parent, walk.name)

    def make(self, task: "Task", at: Location | None, path: Path, mode: int, rdev: int = 0) -> Location:
        """Make a directory, a special file or a regular one (mkdir, mknod): ``mode`` with format bits, umask applied here."""
        walk = self.walk(task, at, path, follow=False, entry=True)
        if walk.found is not None:
            raise SyscallError(errno.EEXIST)
        if walk.trailing_slash and mode & 0o170000 != stats.S_IFDIR:
            raise SyscallError(errno.ENOENT)
        return self._create(task, walk, mode & ~task.fs.umask, rdev)

    def symlink(self, task: "Task", at: Location | None, path: Path, target: bytes) -> None:
        """Make a symbolic link."""
        walk = self.walk(task, at, path, follow=False, entry=True)
        if walk.found is not None:
            raise SyscallError(errno.EEXIST)
        if walk.trailing_slash:
            raise SyscallError(errno.ENOENT)
        self._parent_for_change(task, walk).symlink(walk.name, target, task.creds)
        notify.named(walk.parent, walk.name, None, notify.IN_CREATE)

    def link(self, task: "Task", source: Location, at: Location | None, path: Path) -> None:
        """Give a file another name."""
        walk = self.walk(task, at, path, follow=False, entry=True)
        if walk.found is not None:
            raise SyscallError(errno.EEXIST)
        if walk.trailing_slash:
            raise SyscallError(errno.ENOENT)
        if source.inode.is_directory:
            raise SyscallError(errno.EPERM)
        _check_hardlink(task.creds, source.inode)
        self._parent_for_change(task, walk).link(walk.name, source.inode)
        notify.tell(source.inode, notify.IN_ATTRIB)
        notify.named(walk.parent, walk.name, None, notify.IN_CREATE)

    def _removable(self, task: "Task", walk: Walk) -> Location:
        """Return what is to be removed, after the checks all removals share: sticky directories, mount points."""
        if walk.found is None:
            raise SyscallError(errno.ENOENT)
        directory = self._parent_for_change(task, walk)
        self._check_sticky(task.creds, directory, walk.found.inode)
        if walk.found.inode in self.mounts.values():
            raise SyscallError(errno.EBUSY)
        return walk.found

    @staticmethod
    def _check_sticky(creds: "Credentials", directory: Inode, inode: Inode) -> None:
        attributes = directory.stat()
        if attributes.mode & _S_ISVTX and creds.fsuid not in (0, attributes.uid, inode.stat().uid):
            raise SyscallError(errno.EPERM)

    def unlink(self, task: "Task", at: Location | None, path: Path) -> None:
        """Remove a name that is no directory's."""
        walk = self.walk(task, at, path, follow=False, entry=True)
        if walk.name in (b".", b".."):
            raise SyscallError(errno.EISDIR)
        found = self._removable(task, walk)
        if found.inode.is_directory:
            raise SyscallError(errno.EISDIR)
        if walk.trailing_slash:
            raise SyscallError(errno.ENOTDIR)
        if walk.parent is not None:
            walk.parent.inode.unlink(walk.name)
            notify.unlinked(found.inode)
            notify.named(walk.parent, walk.name, found.inode, notify.IN_DELETE)

    def rmdir(self, task: "Task", at: Location | None, path: Path) -> None:
        """Remove an empty directory."""
        walk = self.walk(task, at, path, follow=False, entry=True)
        if walk.name == b".":
            raise SyscallError(errno.EINVAL if walk.found is not self.root else errno.EBUSY)
        if walk.name == b"..":
            raise SyscallError(errno.ENOTEMPTY)
        found = self._removable(task, walk)
        if not found.inode.is_directory:
            raise SyscallError(errno.ENOTDIR)
        if walk.parent is not None:
            walk.parent.inode.rmdir(walk.name)
            notify.unlinked(found.inode)
            notify.named(walk.parent, walk.name, found.inode, notify.IN_DELETE)

    def rename(
        self, task: "Task", at: Location | None, path: Path, new_at: Location | None, new_path: Path, flags: int
    ) -> None:
        """Rename (renameat2): flags NOREPLACE, EXCHANGE."""
        if flags & ~(_RENAME_NOREPLACE | _RENAME_EXCHANGE) or flags == _RENAME_NOREPLACE | _RENAME_EXCHANGE:
            raise SyscallError(errno.EINVAL)
        old, new = (
            self.walk(task, at, path, follow=False, entry=True),
            self.walk(task, new_at, new_path, follow=False, entry=True),
        )
        exchange = bool(flags & _RENAME_EXCHANGE)
        self._check_rename(old, new, flags)
        if old.parent is None or new.parent is None or old.found is None:
            raise SyscallError(errno.EBUSY)
        if new.found is not None and new.found.inode is old.found.inode:
            return
        moved = self._removable(task, old)
        target = self._parent_for_change(task, new)
        if new.found is not None:
            self._removable(task, new)
            if not exchange:
                self._check_replaced(moved.inode, new.found.inode)
        if target is not old.parent.inode:
            for entry in (moved, new.found if exchange else None):
                if entry is not None and entry.inode.is_directory:
                    entry.inode.check(task.creds, MAY_WRITE)
        old.parent.inode.rename(old.name, target, new.name, exchange)
        places.note_move(moved.inode, new.parent, new.name)
        notify.moved((old.parent, old.name), (new.parent, new.name), moved.inode)
        if new.found is not None and not exchange:
            notify.unlinked(new.found.inode)
        if new.found is not None and exchange:
            places.note_move(new.found.inode, old.parent, old.name)

    @staticmethod
    def _check_rename(old: Walk, new: Walk, flags: int) -> None:
        """Refuse what cannot be renamed whoever asks, in Linux's order."""
        exchange = bool(flags & _RENAME_EXCHANGE)
        if old.name in (b".", b"..") or old.parent is None:
            raise SyscallError(errno.EBUSY)
        if new.name in (b".", b"..") or new.parent is None:
            raise SyscallError(errno.EEXIST if flags & _RENAME_NOREPLACE else errno.EBUSY)
        if old.found is None:
            raise SyscallError(errno.ENOENT)
        if new.found is not None and flags & _RENAME_NOREPLACE:
            raise SyscallError(errno.EEXIST)
        if exchange:
            if new.found is None:
                raise SyscallError(errno.ENOENT)
            if new.trailing_slash and not new.found.inode.is_directory:
                raise SyscallError(errno.ENOTDIR)
        if not old.found.inode.is_directory and (old.trailing_slash or (new.trailing_slash and not exchange)):
            raise SyscallError(errno.ENOTDIR)
        if places.is_above(old.found.inode, new.parent):
            raise SyscallError(errno.EINVAL)
        if new.found is not None and places.is_above(new.found.inode, old.parent):
            raise SyscallError(errno.EINVAL if exchange else errno.ENOTEMPTY)

    @staticmethod
    def _check_replaced(moved: Inode, replaced: Inode) -> None:
        if replaced.is_directory:
            if not moved.is_directory:
                raise SyscallError(errno.EISDIR)
            if replaced.entries():
                raise SyscallError(errno.ENOTEMPTY)
        elif moved.is_directory:
            raise SyscallError(errno.ENOTDIR)


def _places_in(word: bytes) -> set[bytes]:
    """Return the paths below /tmp that a word of the command line contains; a script's text may name several."""
    places: set[bytes] = set()
    start = word.find(_TMP)
    while start >= 0:
        end = start
        while end < len(word) and word[end] not in _ENDS_A_PATH:
            end += 1
        places.add(word[start:end])
        start = word.find(_TMP, end)
    return places


def _check_hardlink(creds: "Credentials", inode: Inode) -> None:
    """Refuse links to what one neither owns nor may read and write (fs.protected_hardlinks)."""
    found = inode.stat()
    if creds.fsuid in (0, found.uid):
        return
    if not stats.S_ISREG(found.mode) or found.mode != without_set_id(found.mode):
        raise SyscallError(errno.EPERM)
    try:
        inode.check(creds, MAY_READ | MAY_WRITE)
    except SyscallError:
        raise SyscallError(errno.EPERM) from None


def _raise_file_limit() -> None:
    """Let the sentry open as many host files as the host allows; guests keep the limit that was there."""
    remember_host_limit(RLIMIT_NOFILE)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_HOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_HOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
