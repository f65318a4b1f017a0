"""Where a location is now: paths, and the directories above, after renames.

A Location remembers the way it was reached. When a directory on that way is moved, those who hold the location (as a
working directory, as an open file) are in the new place. So every move leaves a note, and the way up looks at the notes.
"""

import weakref

from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.inode import Inode, Location

_moves: "weakref.WeakKeyDictionary[Inode, tuple[Location, bytes]]" = weakref.WeakKeyDictionary()


def note_move(inode: Inode, parent: Location, name: bytes) -> None:
    """Remember where something was moved to."""
    _moves[inode] = (parent, name)


def settle(location: Location) -> Location:
    """Return a location with its present parent and name. A file keeps a name that still leads to it: it may have many."""
    move = _moves.get(location.inode) if _moves else None
    if move is None or location.parent is None:
        return location
    if not location.inode.is_directory and leads_to(location):
        return location
    return Location(location.inode, *move)


def leads_to(location: Location) -> bool:
    """Tell whether a location's name in its parent is its inode's still (or that of what is mounted there)."""
    if location.parent is None:
        return True
    try:
        found = location.parent.inode.lookup(location.name)
    except SyscallError:
        return False
    return found is location.inode


def is_deleted(location: Location) -> bool:
    """Tell whether the name by which something was reached is gone, even if other names of it are left."""
    here = settle(location)
    if here.parent is None:
        return False
    try:
        if here.inode.stat().nlink == 0:
            return True
        if not here.inode.is_directory:
            here.parent.inode.lookup(here.name)
    except SyscallError:
        return True
    return False


def path_of(location: Location, root: Location) -> bytes:
    """Return the path of a location as seen from ``root``."""
    names: list[bytes] = []
    here: Location | None = location
    while here is not None and here.inode is not root.inode:
        here = settle(here)
        if here.parent is not None:
            names.append(here.name)
        here = here.parent
    return b"/" + b"/".join(reversed(names))


def full_path(location: Location) -> bytes:
    """Return the path of a location from the very root."""
    names: list[bytes] = []
    here = settle(location)
    while here.parent is not None:
        names.append(here.name)
        here = settle(here.parent)
    return b"/" + b"/".join(reversed(names))


def is_above(inode: Inode, place: Location) -> bool:
    """Tell whether an inode is a place's, or lies on the way to it."""
    here: Location | None = place
    while here is not None:
        if here.inode is inode:
            return True
        here = settle(here).parent
    return False
