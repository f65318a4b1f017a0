"""What other threads ask a tracer's thread to do."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from systrap.platform import ContextError, Event, EventKind, PlatformError
from systrap.platforms.ptrace.stub import Stub

if TYPE_CHECKING:
    from systrap.platforms.ptrace.context import PtraceContext
    from systrap.platforms.ptrace.tracer import Tracer

_ESRCH: Final = 3


class Job(ABC):
    """Something that another thread wants done on a tracer's thread."""

    __slots__ = ()

    @abstractmethod
    def __call__(self) -> None:
        """Do it, on the tracer's thread. Raises nothing."""

    @abstractmethod
    def fail(self, error: PlatformError) -> None:
        """Tell that it will never be done."""


class Run(Job):
    """Start a context."""

    __slots__ = ("_context", "_stub", "_tracer")

    def __init__(self, tracer: "Tracer", context: "PtraceContext", stub: Stub) -> None:
        self._tracer = tracer
        self._context = context
        self._stub = stub

    def __call__(self) -> None:
        """Start it."""
        self._tracer.start(self._context, self._stub)

    def fail(self, error: PlatformError) -> None:
        """Let the context die."""
        self._tracer.finish(self._context, Event(EventKind.DEATH, error=ContextError(str(error), _ESRCH)))
