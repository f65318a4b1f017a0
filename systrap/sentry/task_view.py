"""A guest task as those see it who trace its calls (trace/log.py): its memory, descriptors, directory."""

import errno
import struct
from typing import TYPE_CHECKING, Final

from systrap.sentry.errors import SyscallError
from systrap.trace.call import UnreadableError

if TYPE_CHECKING:
    from systrap.sentry.kernel import Config
    from systrap.sentry.task import Task

_HEAD: Final = 64


class TaskView:
    """Reads as a call of the task itself would. ``tid`` stays what it was when the running call began."""

    __slots__ = ("_task", "tid")

    def __init__(self, task: "Task") -> None:
        self._task = task
        self.tid = task.tid

    def read(self, addr: int, n: int) -> bytes:
        """See trace.call.Memory."""
        try:
            return self._task.mm.read(addr, n)
        except SyscallError:
            raise UnreadableError from None

    def read_partial(self, addr: int, n: int) -> bytes:
        """See trace.call.Memory."""
        return self._task.mm.read_partial(addr, n)

    def read_string(self, addr: int, limit: int) -> bytes | None:
        """See trace.call.Memory."""
        try:
            return self._task.mm.read_string(addr, limit)
        except SyscallError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise UnreadableError from None

    def describe(self, fd: int) -> str | None:
        """See trace.call.Files."""
        try:
            return self._task.fds.get(fd).describe()
        except SyscallError:
            return None

    def directory(self) -> str:
        """See trace.call.Files."""
        task = self._task
        return task.kernel.vfs.path_of(task.fs.cwd, task.fs.root).decode("utf-8", "backslashreplace")


class FirstCall:
    """Memory as it would lie before the execve that started the run, which no guest made: path, words, environment."""

    def __init__(self, config: "Config", base: int) -> None:
        """Lay it out at ``base``; ``args`` are the registers of that call."""
        words = [config.path, *config.argv, *config.env]
        pointers = len(config.argv) + len(config.env) + 2
        self._base = base
        addresses, text = [], b""
        for word in words:
            addresses.append(base + 8 * pointers + len(text))
            text += word + b"\0"
        count = len(config.argv)
        argv = [*addresses[1 : 1 + count], 0]
        env = [*addresses[1 + count :], 0]
        self._data = struct.pack(f"<{pointers}Q", *argv, *env) + text + bytes(_HEAD)
        self.args = (addresses[0], base, base + 8 * (count + 1), 0, 0, 0)

    def read(self, addr: int, n: int) -> bytes:
        """See trace.call.Memory."""
        start = addr - self._base
        if start < 0 or start + n > len(self._data):
            raise UnreadableError
        return self._data[start : start + n]

    def read_partial(self, addr: int, n: int) -> bytes:
        """See trace.call.Memory."""
        start = addr - self._base
        return self._data[start : start + n] if start >= 0 else b""

    def read_string(self, addr: int, limit: int) -> bytes | None:
        """See trace.call.Memory."""
        found = self.read_partial(addr, limit).split(b"\0", 1)
        return found[0] if len(found) == 2 else None
