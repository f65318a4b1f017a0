"""/proc: the root directory. proc_pid.py has what is below a process, proc_system.py what is about the whole system."""

import errno
from typing import TYPE_CHECKING

from systrap.sentry.errors import SyscallError
from systrap.sentry.fs.inode import Inode
from systrap.sentry.fs.proc_pid import ThreadDirectory, process_directory
from systrap.sentry.fs.proc_system import RELEASE, VERSION, system_files
from systrap.sentry.fs.synthetic import Directory, Link, ino_of

if TYPE_CHECKING:
    from systrap.sentry.kernel import Kernel

__all__ = ["RELEASE", "VERSION", "ProcRoot", "mount_root"]


class ProcRoot(Directory):
    """The root of /proc: the system's files, and a directory for every process."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: "Kernel") -> None:
        """Build the fixed part."""
        children: dict[bytes, Inode] = dict(system_files(kernel).children)
        children[b"self"] = Link(self._self, ino_of("proc", "self"))
        children[b"thread-self"] = Link(self._thread_self, ino_of("proc", "thread-self"))
        children[b"mounts"] = Link(lambda: b"self/mounts", ino_of("proc", "mounts"))
        children[b"net"] = Link(lambda: b"self/net", ino_of("proc", "net"))
        super().__init__(children, 1)
        self._kernel = kernel

    def _self(self) -> bytes:
        task = self._kernel.current
        if task is None:
            raise SyscallError(errno.ENOENT)
        return b"%d" % task.group.pid

    def _thread_self(self) -> bytes:
        task = self._kernel.current
        if task is None:
            raise SyscallError(errno.ENOENT)
        return b"%d/task/%d" % (task.group.pid, task.tid)

    def lookup(self, name: bytes) -> Inode:
        """See Inode: a number is a process's, or a thread's, which is not listed."""
        found = self.children.get(name)
        if found is not None:
            return found
        if name.isdigit() and not name.startswith(b"0"):
            number = int(name)
            group = self._kernel.groups.get(number)
            if number == self._kernel.init.pid:
                group = self._kernel.init
            if group is not None:
                return process_directory(group)
            task = self._kernel.tasks.get(number)
            if task is not None:
                return ThreadDirectory(task)
        raise SyscallError(errno.ENOENT)

    def entries(self) -> "list[tuple[bytes, int, int]]":
        """See Inode."""
        found = super().entries()
        pids = {self._kernel.init.pid, *self._kernel.groups}
        found += [(b"%d" % pid, ino_of("pid", pid), 4) for pid in sorted(pids)]
        return found


def mount_root(kernel: "Kernel") -> Inode:
    """Return the root of /proc."""
    return ProcRoot(kernel)
