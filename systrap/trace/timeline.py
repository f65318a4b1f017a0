"""From events to a timeline: who did what from when until when, on which track, and what was handed to whom.

Tracks are those of a picture: one for the sentry's kernel, one for each guest task, one for each stub thread. On a track, slices
follow each other or lie within each other. What stubs tell of their times is put into order first: a guest can write there.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from systrap.trace import events as e
from systrap.trace.events import Event

SENTRY: Final = 1
GUESTS: Final = 2
STUBS: Final = 100
"""Process numbers of tracks: a stub has STUBS + the number of its space."""
_MOST_THREADS: Final = 4096


class Track(NamedTuple):
    """A line of the picture: the group it belongs to, and its number there."""

    group: int
    line: int


class Slice(NamedTuple):
    """Something that lasted. ``kind`` is its colour: guest, kernel, fault, wait, queue, ready, map."""

    track: Track
    begin: int
    end: int
    name: str
    kind: str
    detail: dict[str, object]


class Flow(NamedTuple):
    """A hand-over: from a moment within a slice of one track to one of another."""

    source: Track
    sent: int
    target: Track
    received: int
    name: str


class Instant(NamedTuple):
    """Something that happened at a moment."""

    track: Track
    at: int
    name: str


class Answered(NamedTuple):
    """A call that ended. Times are in nanoseconds.

    ``kernel``: how long the kernel worked on it; ``waited``: how long it waited; ``round_trip``: from the stub's giving the
    context back to its being taken again, where that is known and the call did not wait.
    """

    name: str
    failed: bool
    kernel: int
    waited: int
    round_trip: int | None


class Timeline(NamedTuple):
    """All of a run. Times are CLOCK_MONOTONIC nanoseconds."""

    begin: int
    end: int
    groups: dict[int, str]
    tracks: dict[Track, str]
    slices: list[Slice]
    flows: list[Flow]
    instants: list[Instant]
    answered: list[Answered]
    maps: list[tuple[str, str]]
    """Programs that ended, and what was mapped in them (/proc/PID/maps)."""


class _Open:
    """A slice that has begun; when it ends is not known yet."""

    __slots__ = ("begin", "detail", "kind", "name", "owner")

    def __init__(self, begin: int, name: str, kind: str, owner: int) -> None:
        self.begin = begin
        self.name = name
        self.kind = kind
        self.owner = owner
        self.detail: dict[str, object] = {}


class _Guest:
    """A task, or what there is of it. ``sent``: it was queued by what the kernel's track shows; ``stub``: where it ran last."""

    __slots__ = ("call", "given_back", "kernel", "parked", "queued", "sent", "stub", "taken", "track", "waited")

    def __init__(self, track: Track) -> None:
        self.track = track
        self.sent = False
        self.stub: Track | None = None
        self.queued = self.taken = self.given_back = 0
        self.call = ""
        self.kernel = self.waited = self.parked = 0


def build(events: Iterable[Event], names: Mapping[int, str]) -> Timeline:
    """Return the timeline of a run's events; ``names``: system calls by number."""
    builder = _Builder(names)
    for event in events:
        builder.take(event)
    return builder.finish()


class _Builder:
    """Takes events one after the other."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._kernel = Track(SENTRY, 1)
        self._guests: dict[int, _Guest] = {}
        self._by_tid: dict[int, int] = {}
        self._filled: dict[Track, int] = {}
        self._open: _Open | None = None
        self._pending: list[tuple[_Guest, Answered]] = []
        self._answers: dict[int, tuple[str, bool, int, int]] = {}
        self._programs: dict[int, str] = {}
        self._line = Timeline(
            0, 0, {SENTRY: "sentry", GUESTS: "guest tasks"}, {self._kernel: "kernel"}, [], [], [], [], []
        )
        self._begin = self._end = 0

    def take(self, event: Event) -> None:
        """Take the next event."""
        if not self._begin:
            self._begin = event.at
            self._open = _Open(event.at, "start", "kernel", 0)
        self._end = max(self._end, event.at)
        handler = _HANDLERS.get(type(event).__name__)
        if handler is not None:
            getattr(self, handler)(event)

    def finish(self) -> Timeline:
        """Return the timeline."""
        self._close(self._end)
        for context in list(self._answers):
            self._settle(context, None)
        return self._line._replace(begin=self._begin, end=self._end)

    # Slices.

    def _add(
        self, track: Track, begin: int, end: int, name: str, kind: str, detail: dict[str, object] | None = None
    ) -> bool:
        """Add a slice behind what the track has. Returns False when nothing is left of it."""
        begin = max(begin, self._filled.get(track, 0))
        if end <= begin:
            return False
        self._filled[track] = end
        self._end = max(self._end, end)
        self._line.slices.append(Slice(track, begin, end, name, kind, detail or {}))
        return True

    def _guest(self, context: int) -> _Guest:
        found = self._guests.get(context)
        if found is None:
            found = self._guests[context] = _Guest(Track(GUESTS, -context))
        return found

    def _begin_kernel(self, at: int, name: str, kind: str, owner: int) -> None:
        self._close(at)
        self._open = _Open(at, name, kind, owner)

    def _close(self, at: int, handed_over: int = 0) -> None:
        """End what the kernel does. For the task it ended when it was handed over: it may run before the kernel goes on."""
        opened, self._open = self._open, None
        if opened is None:
            return
        # However short it was: arrows lead to it.
        at = max(at, opened.begin + 1)
        self._line.slices.append(Slice(self._kernel, opened.begin, at, opened.name, opened.kind, opened.detail))
        guest = self._guests.get(opened.owner)
        if guest is not None:
            end = handed_over or at
            self._add(guest.track, opened.begin, end, opened.name, opened.kind, dict(opened.detail))

    # What the platform tells.

    def queued(self, event: e.Queued) -> None:
        """Take a hand-over to a stub: the kernel is done with that context."""
        guest = self._guest(event.context)
        guest.queued, guest.taken, guest.stub = event.at, 0, None
        guest.sent = self._open is not None and self._open.begin <= event.at < event.until
        if self._open is not None and self._open.owner in (event.context, 0):
            self._close(event.until, event.at)

    def taken(self, event: e.Taken) -> None:
        """Take the news that a stub thread took a context."""
        guest = self._guest(event.context)
        guest.taken = max(event.at, guest.queued)
        self._add(guest.track, guest.queued, guest.taken, "queued", "queue")
        self._settle(event.context, guest.taken)

    def published(self, event: e.Published) -> None:
        """Take the news that it gave the context back: between the two guest code ran, on this thread."""
        guest = self._guest(event.context)
        end = max(event.at, guest.taken)
        guest.given_back = end
        self._add(guest.track, guest.taken, end, "guest code", "guest", {"back as": event.state})
        if not 0 < event.thread <= _MOST_THREADS:
            return
        group = STUBS + event.space
        track = Track(group, event.thread)
        self._line.groups.setdefault(group, f"stub of space {event.space}")
        self._line.tracks.setdefault(track, f"thread {event.thread}")
        name = self._line.tracks.get(guest.track, "guest code")
        if self._add(track, guest.taken, end, name, "guest", {"back as": event.state}):
            begin = self._line.slices[-1].begin
            guest.stub = track
            if guest.sent:
                self._line.flows.append(Flow(self._kernel, guest.queued, track, begin, "queued"))

    def _seen(self, context: int, at: int, name: str, kind: str) -> None:
        """Let the kernel begin with a context that came back."""
        guest = self._guest(context)
        given_back = guest.given_back if guest.given_back >= guest.queued else 0
        if given_back:
            self._add(guest.track, given_back, at, "ready", "ready")
        else:
            self._add(guest.track, guest.queued, at, "guest code", "guest")
        self._begin_kernel(at, name, kind, context)
        if given_back and guest.stub is not None:
            self._line.flows.append(Flow(guest.stub, given_back - 1, self._kernel, at, "ready"))
            guest.stub = None

    def trapped(self, event: e.Trapped) -> None:
        """Take a system call."""
        name = self._names.get(event.nr, f"syscall_{event.nr:#x}")
        guest = self._guest(event.context)
        guest.call, guest.kernel, guest.waited = name, 0, 0
        self._seen(event.context, event.at, name, "kernel")
        if self._open is not None:
            self._open.detail["by"] = "a patched call site" if event.dispatched else "a trap"

    def faulted(self, event: e.Faulted) -> None:
        """Take a fault."""
        self._seen(event.context, event.at, "page fault" if event.access else f"signal {event.signo}", "fault")
        if self._open is not None:
            self._open.detail["address"] = hex(event.address)

    def interrupted(self, event: e.Interrupted) -> None:
        """Take an interrupt."""
        self._seen(event.context, event.at, "interrupted", "kernel")

    def died(self, event: e.Died) -> None:
        """Take the end of a stub."""
        self._seen(event.context, event.at, "stub died", "fault")

    def mapped(self, event: e.Mapped) -> None:
        """Take a change of an address space: within what the kernel does."""
        begin = max(event.at, self._open.begin) if self._open is not None else event.at
        if event.until > begin:
            detail: dict[str, object] = {
                "maps": event.maps,
                "unmaps": event.unmaps,
                "bytes": event.length,
                "from": hex(event.low),
            }
            self._line.slices.append(
                Slice(self._kernel, begin, event.until, f"map ({event.maps}+{event.unmaps})", "map", detail)
            )

    def _instant(self, at: int, name: str) -> None:
        self._line.instants.append(Instant(self._kernel, at, name))

    def kicked_thread(self, event: e.ThreadKicked) -> None:
        """Take the waking of a stub thread."""
        self._instant(event.at, f"woke a thread of stub {event.space}")

    def made_thread(self, event: e.ThreadMade) -> None:
        """Take the making of a stub thread."""
        self._instant(event.at, f"stub {event.space} has {event.threads} threads")

    def patched(self, event: e.Patched) -> None:
        """Take the patching of a call site."""
        self._instant(event.at, f"patched {self._names.get(event.nr, event.nr)} in front of {event.address:#x}")

    # What the kernel tells.

    def began(self, event: e.TaskBegan) -> None:
        """Give a task its track."""
        track = Track(GUESTS, event.tid)
        guest = self._guest(event.context)
        guest.track = track
        self._by_tid[event.tid] = event.context
        self._programs[event.tid] = event.name
        self._line.tracks[track] = f"{event.name} {event.tid}"

    def executed(self, event: e.Executed) -> None:
        """Name the track after the new program."""
        self._programs[event.tid] = event.name
        self._line.tracks[Track(GUESTS, event.tid)] = f"{event.name} {event.tid}"

    def handled(self, event: e.Handled) -> None:
        """Note what became of a call; its slice ends when its context is queued."""
        context = self._by_tid.get(event.tid, 0)
        guest = self._guests.get(context)
        if guest is None:
            return
        opened = self._open
        if opened is not None and opened.owner == context:
            opened.detail["result"] = "none" if event.result is None else event.result
            guest.kernel += max(event.at - opened.begin, 0)
        failed = event.result is not None and -4096 < event.result < 0
        self._answers[context] = (event.name, failed, guest.kernel, guest.waited)

    def _settle(self, context: int, taken: int | None) -> None:
        """Count a call, now that it is known when its context was taken again."""
        found = self._answers.pop(context, None)
        if found is None:
            return
        guest = self._guest(context)
        known = taken is not None and guest.given_back and not found[3] and taken >= guest.given_back
        self._line.answered.append(Answered(*found, taken - guest.given_back if known and taken is not None else None))

    def parked(self, event: e.Parked) -> None:
        """Take the beginning of a wait."""
        guest = self._guests.get(self._by_tid.get(event.tid, 0))
        if guest is None:
            return
        guest.parked = event.at
        opened = self._open
        if opened is not None and opened.owner == self._by_tid.get(event.tid):
            guest.kernel += max(event.at - opened.begin, 0)
            self._close(event.at)

    def woken(self, event: e.Woken) -> None:
        """Take the end of a wait."""
        context = self._by_tid.get(event.tid, 0)
        guest = self._guests.get(context)
        if guest is None:
            return
        if guest.parked:
            guest.waited += max(event.at - guest.parked, 0)
            self._add(guest.track, guest.parked, event.at, f"waits in {event.name}", "wait")
            guest.parked = 0
        self._begin_kernel(event.at, event.name, "kernel", context)

    def address_map(self, event: e.AddressMap) -> None:
        """Keep what was mapped."""
        self._line.maps.append((f"{self._programs.get(event.tid, '?')} {event.tid}", event.text))

    def signalled(self, event: e.Signalled) -> None:
        """Take a signal."""
        self._line.instants.append(Instant(Track(GUESTS, event.tid), event.at, f"signal {event.signo}"))

    def ended(self, event: e.TaskEnded) -> None:
        """Take the end of a task."""
        self._line.instants.append(Instant(Track(GUESTS, event.tid), event.at, "ends"))
        self._settle(self._by_tid.get(event.tid, 0), None)


_HANDLERS: Final = {
    "Queued": "queued", "Taken": "taken", "Published": "published", "Trapped": "trapped", "Faulted": "faulted",
    "Interrupted": "interrupted", "Died": "died", "Mapped": "mapped", "ThreadKicked": "kicked_thread",
    "ThreadMade": "made_thread", "Patched": "patched", "TaskBegan": "began", "Executed": "executed", "Handled": "handled",
    "Parked": "parked", "Woken": "woken", "AddressMap": "address_map", "Signalled": "signalled", "TaskEnded": "ended",
}  # fmt: skip
"""Which method takes which event."""
