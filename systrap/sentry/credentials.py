"""Who a process is: user and group ids, and the capabilities it has (capabilities(7))."""

from typing import Final, NamedTuple

CAPABILITIES: Final = 41
"""How many capabilities there are."""
ALL: Final = (1 << CAPABILITIES) - 1
_CAP_SETPCAP: Final = 8
_OF_FILES: Final = sum(1 << number for number in (0, 1, 2, 3, 4, 9, 27, 32))
"""Capabilities that follow fsuid: what concerns files."""


class Credentials(NamedTuple):
    """The ids and capability sets of a task. Immutable: a change makes a new object.

    Change user ids by ``with_uids``, which moves the capability sets along; the rest by ``_replace``.
    """

    ruid: int
    euid: int
    suid: int
    fsuid: int
    rgid: int
    egid: int
    sgid: int
    fsgid: int
    groups: tuple[int, ...] = ()
    permitted: int = 0
    effective: int = 0
    inheritable: int = 0
    ambient: int = 0
    bounding: int = ALL
    keep_caps: bool = False

    @staticmethod
    def of(uid: int, gid: int, groups: tuple[int, ...] = ()) -> "Credentials":
        """Return what a program starts with that a user runs: root has all capabilities, others none."""
        held = ALL if uid == 0 else 0
        return Credentials(uid, uid, uid, uid, gid, gid, gid, gid, tuple(sorted(groups)), held, held)

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
        return bool(self.effective >> capability & 1)

    def in_group(self, gid: int) -> bool:
        """Tell whether files of this group are the task's group's."""
        return gid == self.fsgid or gid in self.groups

    def with_uids(self, ruid: int, euid: int, suid: int) -> "Credentials":
        """Return these with other user ids, fsuid following euid: who stops being root loses capabilities."""
        permitted, effective, ambient = self.permitted, self.effective, self.ambient
        if 0 in (self.ruid, self.euid, self.suid) and 0 not in (ruid, euid, suid):
            ambient = 0
            if not self.keep_caps:
                permitted = effective = 0
        if self.euid == 0 and euid != 0:
            effective = 0
        elif self.euid != 0 and euid == 0:
            effective = permitted
        return self._replace(
            ruid=ruid, euid=euid, suid=suid, fsuid=euid, permitted=permitted, effective=effective, ambient=ambient
        )

    def with_fsuid(self, fsuid: int) -> "Credentials":
        """Return these with another fsuid; the capabilities about files go with it."""
        effective = self.effective
        if self.fsuid == 0 and fsuid != 0:
            effective &= ~_OF_FILES
        elif self.fsuid != 0 and fsuid == 0:
            effective |= self.permitted & _OF_FILES
        return self._replace(fsuid=fsuid, effective=effective)

    def with_sets(self, permitted: int, effective: int, inheritable: int) -> "Credentials | None":
        """Return these with other capability sets (capset), None when that would be more than is allowed."""
        if permitted & ~self.permitted or effective & ~permitted:
            return None
        gained = inheritable & ~self.inheritable
        if gained & ~self.bounding or (gained & ~self.permitted and not self.capable(_CAP_SETPCAP)):
            return None
        ambient = self.ambient & permitted & inheritable
        return self._replace(permitted=permitted, effective=effective, inheritable=inheritable, ambient=ambient)

    def after_exec(self) -> "Credentials":
        """Return what is left after execve of a program without set-id bits or file capabilities."""
        permitted = effective = self.ambient
        if 0 in (self.ruid, self.euid):
            permitted = self.inheritable | self.bounding
            effective = permitted if self.euid == 0 else 0
        return self._replace(
            suid=self.euid, fsuid=self.euid, sgid=self.egid, fsgid=self.egid,
            permitted=permitted, effective=effective, keep_caps=False,
        )  # fmt: skip
