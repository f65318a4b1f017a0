"""Host directories by descriptor, and which of the host's file systems guests never see.

A path is only as good as the moment it was made: a guest (or two of them) can rename a directory that another name was
built on, put a symbolic link in its place, and be led out of what it was given. So what is written below --rw goes by
descriptors: each directory is opened from its parent's, no link is followed, and it must still be the same inode.
"""

import errno
import os
from typing import Final, Protocol

from systrap.sentry.errors import SyscallError

_MAX_OPEN: Final = 256
_OPEN_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

HIDDEN_TYPES: Final = frozenset(
    (
        b"autofs", b"binfmt_misc", b"bpf", b"cgroup", b"cgroup2", b"configfs", b"debugfs", b"devpts", b"devtmpfs",
        b"efivarfs", b"fusectl", b"mqueue", b"nsfs", b"proc", b"pstore", b"rpc_pipefs", b"securityfs", b"selinuxfs",
        b"sysfs", b"tracefs",
    )
)  # fmt: skip
"""Types of file systems that are the host kernel's own controls: guests see empty directories there."""


class Place(Protocol):
    """A host directory: where it hangs, and which inode it is."""

    name: bytes
    key: tuple[int, int]

    @property
    def above(self) -> "Place | None":
        """The directory this one is in; None for a root."""


class Directories:
    """Descriptors of host directories (O_PATH), opened when needed, the least recently used ones closed again."""

    def __init__(self) -> None:
        self._open: dict[Place, int] = {}

    def add_root(self, place: Place, fd: int) -> None:
        """Take over the descriptor of a directory without a parent."""
        self._open[place] = fd

    def fd(self, place: Place) -> int:
        """Return a descriptor, valid until the next trim(). ESTALE when another directory is there now."""
        opened = self._open
        found = opened.pop(place, None)
        if found is not None:
            opened[place] = found
            return found
        missing = [place]
        here = place.above
        while here is not None and here not in opened:
            missing.append(here)
            here = here.above
        if here is None:
            raise SyscallError(errno.ESTALE)
        below = opened[here]
        for step in reversed(missing):
            below = self._open_step(below, step)
        return below

    def _open_step(self, above: int, place: Place) -> int:
        try:
            fd = os.open(place.name, _OPEN_DIRECTORY, dir_fd=above)
        except OSError as error:
            stale = error.errno in (errno.ENOTDIR, errno.ELOOP)
            raise SyscallError(errno.ESTALE if stale else error.errno or errno.EIO) from error
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != place.key:
            os.close(fd)
            raise SyscallError(errno.ESTALE)
        self._open[place] = fd
        return fd

    def trim(self) -> None:
        """Close what is too much. Called where no descriptor is in use."""
        if len(self._open) > _MAX_OPEN:
            for place in [place for place in self._open if place.above is not None][: _MAX_OPEN // 2]:
                os.close(self._open.pop(place))

    def take(self, place: Place) -> int:
        """Give a removed directory's descriptor to the caller; -1 when it is not open."""
        return self._open.pop(place, -1)


class HiddenDevices:
    """Device numbers of the host's control file systems, by the mount table; asked again when a new number appears."""

    def __init__(self) -> None:
        self._hidden: dict[int, bool] = {}

    def __contains__(self, dev: int) -> bool:
        hidden = self._hidden.get(dev)
        if hidden is None:
            self._read()
            hidden = self._hidden.setdefault(dev, False)
        return hidden

    def _read(self) -> None:
        try:
            with open("/proc/self/mountinfo", "rb") as table:
                lines = table.read().splitlines()
        except OSError:
            return
        for line in lines:
            fields, _, rest = line.partition(b" - ")
            numbers, kind = fields.split()[2], rest.split()[0]
            major, _, minor = numbers.partition(b":")
            self._hidden[os.makedev(int(major), int(minor))] = kind in HIDDEN_TYPES


hidden_devices: Final = HiddenDevices()
"""The host's; one table, since there is one host."""
