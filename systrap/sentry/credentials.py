"""Who a process is: user and group ids. Capabilities follow from them: effective uid 0 has all, others none."""

from typing import NamedTuple


class Credentials(NamedTuple):
    """The ids of a task. Immutable: a change makes a new object (``_replace``)."""

    ruid: int
    euid: int
    suid: int
    fsuid: int
    rgid: int
    egid: int
    sgid: int
    fsgid: int
    groups: tuple[int, ...] = ()

    @property
    def uid(self) -> int:
        """The real user id."""
        return self.ruid

    @property
    def gid(self) -> int:
        """The real group id."""
        return self.rgid

    def capable(self, capability: int) -> bool:
        """Tell whether a capability is effective."""
        return self.euid == 0

    def in_group(self, gid: int) -> bool:
        """Tell whether files of this group are the task's group's."""
        return gid == self.fsgid or gid in self.groups
