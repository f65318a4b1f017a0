"""The walk from a path to a location."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.inode import MAY_EXEC, Location
from systrap.sentry.fs.places import settle

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Inode
    from systrap.sentry.task import Task

PATH_MAX: Final = 4096
NAME_MAX: Final = 255
MAX_SYMLINKS: Final = 40


class FSContext:
    """Where a process is: its root, its directory, its umask. Shared by CLONE_FS, copied by fork."""

    __slots__ = ("cwd", "root", "umask")

    def __init__(self, root: Location, cwd: Location, umask: int) -> None:
        self.root = root
        self.cwd = cwd
        self.umask = umask

    def copy(self) -> "FSContext":
        """Return a context of its own."""
        return FSContext(self.root, self.cwd, self.umask)


class Walk:
    """One walk. ``mounts``: what covers directories. After run(): the last component's parent and name, and what is there.

    ``found`` is None when everything but the last component exists. ``trailing_slash``: the path insists on a directory;
    ``ends_in_slash``: by a slash, not by "/.".
    """

    __slots__ = ("_links", "_mounts", "_task", "ends_in_slash", "found", "name", "parent", "trailing_slash")

    def __init__(self, task: "Task", mounts: "dict[Inode, Inode]") -> None:
        self._task = task
        self._mounts = mounts
        self._links = 0
        self.parent: Location | None = None
        self.name = b""
        self.found: Location | None = None
        self.trailing_slash = False
        self.ends_in_slash = False

    def run(self, start: Location, path: bytes, follow: bool, entry: bool = False) -> None:
        """Walk ``path`` from ``start`` (or the root); ``follow``: a symbolic link at the end, too.

        ``entry``: the entry itself is meant (mkdir, unlink, rename…); not even a trailing slash follows it.
        """
        if len(path) >= PATH_MAX:
            raise SyscallError(errno.ENAMETOOLONG)
        here = self._start(start, path.startswith(b"/"))
        parts = [part for part in path.split(b"/") if part]
        self.ends_in_slash = path.endswith(b"/")
        self.trailing_slash = self.ends_in_slash or path.endswith(b"/.")
        parts.reverse()
        self.parent, self.name, self.found = here, b".", here
        while parts:
            name = parts.pop()
            if name == b".":
                if not here.inode.is_directory:
                    raise SyscallError(errno.ENOTDIR)
                self.found, self.name = here, b"."
                continue
            if len(name) > NAME_MAX:
                raise SyscallError(errno.ENAMETOOLONG)
            last = not parts
            self._enter(here)
            if name == b"..":
                here = self._above(here)
                self.parent, self.name, self.found = here, b"..", here
                continue
            child = self._child(here, name)
            if child is None:
                if not last:
                    raise SyscallError(errno.ENOENT)
                self.parent, self.name, self.found = here, name, None
                return
            if child.inode.is_symlink and (not last or follow or (self.trailing_slash and not entry)):
                target = self._follow(child)
                if isinstance(target, Location):
                    self.parent, self.name = here, name
                    here = self.found = target
                    continue
                if target.startswith(b"/"):
                    here = self._start(here, True)
                if last and target.endswith(b"/"):
                    self.trailing_slash = self.ends_in_slash = True
                more = [part for part in target.split(b"/") if part]
                parts.extend(reversed(more))
                if not parts:
                    self.parent, self.name, self.found = here, b".", here
                continue
            self.parent, self.name = here, name
            here = self.found = child

    def _start(self, start: Location, absolute: bool) -> Location:
        """Return where a path, or the text of a symbolic link, goes on from."""
        return self._task.fs.root if absolute else start

    def _above(self, here: Location) -> Location:
        """Return what ".." means: the directory above, but never above the root."""
        return here if here.inode is self._task.fs.root.inode else settle(here).parent or here

    def _enter(self, here: Location) -> None:
        """Check that the walk may go on below a location."""
        inode = here.inode
        if not inode.is_directory:
            raise SyscallError(errno.ENOTDIR)
        creds = self._task.creds
        if creds.fsuid != 0:
            inode.check(creds, MAY_EXEC)

    def _child(self, here: Location, name: bytes) -> Location | None:
        try:
            inode = here.inode.lookup(name)
        except SyscallError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return Location(self._mounts.get(inode, inode), here, name)

    def _follow(self, link: Location) -> "Location | bytes":
        """Return where a symbolic link leads: a location (magic links), or the text to go on with."""
        self._links += 1
        if self._links > MAX_SYMLINKS:
            raise SyscallError(errno.ELOOP)
        magic = link.inode.follow(self._task)
        if magic is not None:
            return magic
        target = link.inode.readlink()
        if not target:
            raise SyscallError(errno.ENOENT)
        return target
