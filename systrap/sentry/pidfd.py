"""pidfd: a descriptor for a process, readable (in poll's sense) when it has ended."""

import errno

from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_CLOEXEC, O_RDWR, OpenFile
from systrap.sentry.fs.inode import Stat, anonymous_stat
from systrap.sentry.task import ThreadGroup
from systrap.sentry.wait import POLLIN


class PidFile(OpenFile):
    """An open pidfd. ``group`` stays the same process for ever, whatever becomes of its number."""

    __slots__ = ("group",)

    def __init__(self, group: ThreadGroup, flags: int = 0) -> None:
        """Take the process; ``flags`` may hold O_NONBLOCK."""
        super().__init__(O_RDWR | O_CLOEXEC | flags)
        self.group = group
        group.exit_queue.add(self)

    def notified(self, events: int) -> None:
        """Pass the process's end on to those who poll this descriptor."""
        if not self.group.tasks:
            self.queue.notify(POLLIN)

    def poll(self) -> int:
        """See OpenFile."""
        return 0 if self.group.tasks else POLLIN

    def stat(self) -> Stat:
        """See OpenFile."""
        return anonymous_stat()

    def describe(self) -> str:
        """See OpenFile."""
        return "anon_inode:[pidfd]"

    def release(self) -> None:
        """See OpenFile."""
        self.group.exit_queue.discard(self)


def group_of(file: OpenFile) -> ThreadGroup:
    """Return the process of a pidfd. EBADF for other descriptors."""
    if not isinstance(file, PidFile):
        raise SyscallError(errno.EBADF)
    return file.group
