"""What happens in a run, as data: one event for every hand-over between sentry and stubs, and for what the kernel does between.

Every time is in nanoseconds of the monotonic clock (CLOCK_MONOTONIC). Contexts and spaces have numbers of their own, counted
from 1, since a platform reuses what it calls them by. A tracer gets each event when it became known, on the kernel's thread; what
a stub did is known only when the sentry looks, so these times lie before that of the event in front.

Without a tracer there are no events and nothing that could make one: the platform and the kernel that tell of them are
wrappers (watched.py, sentry/traced.py) which an untraced run does not have.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. ``at``: when it happened."""

    at: int


# What the platform and the stubs do.


@dataclass(frozen=True, slots=True)
class SpaceMade(Event):
    """There is a new address space."""

    space: int


@dataclass(frozen=True, slots=True)
class SpaceReleased(Event):
    """An address space was given back."""

    space: int


@dataclass(frozen=True, slots=True)
class Queued(Event):
    """The sentry put a context on the context queue of a stub; it was done with that at ``until``."""

    until: int
    context: int
    space: int


@dataclass(frozen=True, slots=True)
class ThreadKicked(Event):
    """The sentry woke a sleeping stub thread, for the context it had just queued."""

    context: int
    space: int


@dataclass(frozen=True, slots=True)
class ThreadMade(Event):
    """A stub got another thread; it has ``threads`` now."""

    space: int
    threads: int


@dataclass(frozen=True, slots=True)
class Taken(Event):
    """A stub thread took a context from the queue: guest code runs from here on. The stub told when."""

    context: int
    space: int
    thread: int


@dataclass(frozen=True, slots=True)
class Published(Event):
    """A stub thread wrote a context's registers back and announced it. ``state``: the word it left. The stub told when."""

    context: int
    space: int
    thread: int
    state: str


@dataclass(frozen=True, slots=True)
class Trapped(Event):
    """The sentry found a context that made a system call. ``dispatched``: through a patched site, without a signal."""

    context: int
    space: int
    nr: int
    dispatched: bool


@dataclass(frozen=True, slots=True)
class Faulted(Event):
    """The sentry found a context with a fault. ``access``: 0 for other signals than page faults."""

    context: int
    space: int
    signo: int
    code: int
    address: int
    access: int


@dataclass(frozen=True, slots=True)
class Interrupted(Event):
    """The sentry found a context that came back for no reason but that it was asked to."""

    context: int
    space: int


@dataclass(frozen=True, slots=True)
class Died(Event):
    """The sentry found a context whose stub is gone."""

    context: int
    space: int
    reason: str


@dataclass(frozen=True, slots=True)
class Mapped(Event):
    """An address space was changed, from ``at`` to ``until``.

    ``maps`` ranges of ``length`` bytes together were mapped, ``unmaps`` ranges unmapped; ``low`` is the lowest address
    among them.
    """

    until: int
    space: int
    maps: int
    unmaps: int
    length: int
    low: int


@dataclass(frozen=True, slots=True)
class Patched(Event):
    """A call site of guest code was turned into a jump into the stub. ``address``: behind the site."""

    space: int
    address: int
    nr: int


# What the kernel does.


@dataclass(frozen=True, slots=True)
class TaskBegan(Event):
    """There is a new guest task, which runs in ``context``. ``pid``: its process; ``name``: its program."""

    tid: int
    pid: int
    context: int
    name: str


@dataclass(frozen=True, slots=True)
class TaskEnded(Event):
    """A task is gone; ``status`` as wait4 has it."""

    tid: int
    status: int


@dataclass(frozen=True, slots=True)
class AddressMap(Event):
    """What is mapped in a process that ends, as /proc/PID/maps shows it."""

    tid: int
    text: str


@dataclass(frozen=True, slots=True)
class Executed(Event):
    """A task runs another program now."""

    tid: int
    name: str


@dataclass(frozen=True, slots=True)
class Handled(Event):
    """A system call was answered. ``result`` is None when its task does not come back from it."""

    tid: int
    nr: int
    name: str
    result: int | None


@dataclass(frozen=True, slots=True)
class Parked(Event):
    """A system call waits."""

    tid: int
    nr: int
    name: str


@dataclass(frozen=True, slots=True)
class Woken(Event):
    """A system call that waited goes on."""

    tid: int
    nr: int
    name: str


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """The kernel lets a task run guest code again."""

    tid: int


@dataclass(frozen=True, slots=True)
class Kicked(Event):
    """The kernel asked a running context to come back (platform.Context.interrupt)."""

    tid: int


@dataclass(frozen=True, slots=True)
class Signalled(Event):
    """A task takes a signal."""

    tid: int
    signo: int


class Tracer(Protocol):
    """Who wants to know."""

    def event(self, event: Event) -> None:
        """Take an event. On the kernel's thread; what it costs, guests wait."""


class Discard:
    """A tracer that wants nothing."""

    def event(self, event: Event) -> None:
        """Drop the event."""


DISCARD: Discard = Discard()


class Recorder:
    """Keeps events, up to a limit; ``dropped`` counts what came after that."""

    def __init__(self, limit: int = 2_000_000) -> None:
        self.events: list[Event] = []
        self.dropped = 0
        self._limit = limit

    def event(self, event: Event) -> None:
        """Keep the event."""
        if len(self.events) < self._limit:
            self.events.append(event)
        else:
            self.dropped += 1
