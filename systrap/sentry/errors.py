"""What a system call can end with besides a result. Nothing else leaves a handler because of what a guest did."""

import enum

from systrap.host.sys import errno_name


class SyscallError(Exception):
    """The system call fails with ``errno`` (positive)."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno_name(errno))
        self.errno = errno


class WouldBlockError(SyscallError):
    """EAGAIN from a file operation that could succeed later: the caller may wait on the file's queue and try again."""

    def __init__(self) -> None:
        super().__init__(11)


class QuietPipeError(SyscallError):
    """EPIPE that sends no SIGPIPE: of sockets with messages."""

    def __init__(self) -> None:
        super().__init__(32)


class RestartKind(enum.Enum):
    """When an interrupted system call is issued again (the kernel's ERESTART… codes)."""

    SYS = "unless a handler without SA_RESTART runs"
    NOHAND = "unless any handler runs"
    NOINTR = "always"


class Interrupted(Exception):  # noqa: N818 - it is not an error: it is what a signal does to a waiting call
    """Thrown into a waiting system call when its task has a signal to take.

    A handler that lets it pass is restarted as ``kind`` says (default SYS), else fails with EINTR. A handler that has made
    progress catches it and returns what it has; one that must not be restarted raises SyscallError(EINTR), or sets
    ``kind`` to NOHAND and raises on.
    """

    def __init__(self, kind: RestartKind = RestartKind.SYS) -> None:
        super().__init__(kind.value)
        self.kind = kind
