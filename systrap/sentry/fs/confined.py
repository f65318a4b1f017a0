"""The walk of openat2: paths that may not leave a directory, follow links or change file systems."""

import errno
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.inode import Location
from systrap.sentry.fs.path import Walk
from systrap.sentry.fs.places import settle

if TYPE_CHECKING:
    from systrap.sentry.fs.inode import Inode
    from systrap.sentry.task import Task

NO_XDEV: Final = 0x01
NO_MAGICLINKS: Final = 0x02
NO_SYMLINKS: Final = 0x04
BENEATH: Final = 0x08
IN_ROOT: Final = 0x10
CACHED: Final = 0x20
KNOWN: Final = 0x3F


class ConfinedWalk(Walk):
    """A walk with RESOLVE_… restrictions. EXDEV where the path leads out, ELOOP where it follows what it may not."""

    __slots__ = ("_base", "_restrict")

    def __init__(self, task: "Task", mounts: "dict[Inode, Inode]", restrict: int) -> None:
        super().__init__(task, mounts)
        self._restrict = restrict
        self._base: Location | None = None

    def _start(self, start: Location, absolute: bool) -> Location:
        if self._base is None:
            self._base = start
        if not absolute:
            return start
        if self._restrict & BENEATH:
            raise SyscallError(errno.EXDEV)
        if self._restrict & IN_ROOT:
            return self._base
        return self._same_mount(start, super()._start(start, absolute))

    def _above(self, here: Location) -> Location:
        if self._restrict & (BENEATH | IN_ROOT) and self._base is not None and here.inode is self._base.inode:
            if self._restrict & BENEATH:
                raise SyscallError(errno.EXDEV)
            return here
        return self._same_mount(here, super()._above(here))

    def _child(self, here: Location, name: bytes) -> Location | None:
        child = super()._child(here, name)
        if child is not None and self._restrict & NO_XDEV and child.inode in self._mounts.values():
            raise SyscallError(errno.EXDEV)
        return child

    def _follow(self, link: Location) -> "Location | bytes":
        if self._restrict & NO_SYMLINKS:
            raise SyscallError(errno.ELOOP)
        target = super()._follow(link)
        if isinstance(target, Location):
            if self._restrict & NO_MAGICLINKS:
                raise SyscallError(errno.ELOOP)
            if self._restrict & (BENEATH | IN_ROOT):
                raise SyscallError(errno.EXDEV)
            self._same_mount(link, target)
        return target

    def _same_mount(self, here: Location, there: Location) -> Location:
        """Return ``there``. EXDEV when it is on another file system and that matters."""
        if self._restrict & NO_XDEV and self._mount(here) is not self._mount(there):
            raise SyscallError(errno.EXDEV)
        return there

    def _mount(self, place: Location) -> "Inode":
        roots = set(self._mounts.values())
        while place.inode not in roots:
            above = settle(place).parent
            if above is None:
                break
            place = above
        return place.inode
