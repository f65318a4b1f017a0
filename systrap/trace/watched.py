"""A platform that tells what it does: a wrapper around any platform, at the contract between it and the kernel.

What stubs did (when a thread took a context, when it gave it back) contexts tell afterwards (platform.Context.last_run), if
their platform knows.
"""

import time
from collections.abc import Sequence
from typing import Final

from systrap import arch
from systrap.platform import (
    AddressSpace,
    Context,
    EventKind,
    GuestCode,
    MapRequest,
    Platform,
    ProgrammingError,
    UnmapRequest,
)
from systrap.trace import events
from systrap.trace.events import Tracer

_now: Final = time.monotonic_ns
_IP: Final = arch.host().IP
_SYSCALL_NR: Final = arch.host().SYSCALL_NR


class WatchedSpace(AddressSpace):
    """An address space that tells of its mappings. ``inner`` is the platform's own."""

    def __init__(self, inner: AddressSpace, number: int, tracer: Tracer) -> None:
        self.inner = inner
        self.number = number
        self._tracer = tracer
        self.sites = self.threads = 0
        tracer.event(events.SpaceMade(_now(), number))

    @property
    def code(self) -> GuestCode | None:
        """See platform.AddressSpace."""
        return self.inner.code

    @code.setter
    def code(self, value: GuestCode | None) -> None:
        self.inner.code = value

    def apply(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        """See platform.AddressSpace."""
        began = _now()
        try:
            self.inner.apply(requests)
        finally:
            maps = [request for request in requests if isinstance(request, MapRequest)]
            length = sum(request.length for request in maps)
            low = min((request.addr for request in requests), default=0)
            unmaps = len(requests) - len(maps)
            self._tracer.event(events.Mapped(began, _now(), self.number, len(maps), unmaps, length, low))

    def pre_fork(self) -> None:
        """See platform.AddressSpace."""
        self.inner.pre_fork()

    def post_fork(self) -> None:
        """See platform.AddressSpace."""
        self.inner.post_fork()

    def statistics(self) -> dict[str, int]:
        """See platform.AddressSpace."""
        return self.inner.statistics()

    def release(self) -> None:
        """See platform.AddressSpace."""
        self.inner.release()
        self._tracer.event(events.SpaceReleased(_now(), self.number))


class WatchedPlatform(Platform):
    """See the module."""

    def __init__(self, inner: Platform, tracer: Tracer) -> None:
        self.inner = inner
        self.name = inner.name
        self._tracer = tracer
        self._spaces = 0
        self._numbers: dict[Context, int] = {}
        self._where: dict[Context, WatchedSpace] = {}
        self._kicks = 0
        self._contexts = 0

    def number(self, context: Context) -> int:
        """Return the number of a context in events."""
        found = self._numbers.get(context)
        if found is None:
            self._contexts += 1
            found = self._numbers[context] = self._contexts
        return found

    def forget(self, context: Context) -> None:
        """Let go of a context that was released."""
        self._numbers.pop(context, None)
        self._where.pop(context, None)

    # What the kernel asks for, told on the way.

    def new_address_space(self) -> AddressSpace:
        """See platform.Platform."""
        self._spaces += 1
        return WatchedSpace(self.inner.new_address_space(), self._spaces, self._tracer)

    def submit(self, context: Context, space: AddressSpace) -> None:
        """See platform.Platform."""
        if not isinstance(space, WatchedSpace):
            raise ProgrammingError("the address space belongs to another platform")
        number = self.number(context)
        self._where[context] = space
        began = _now()
        self.inner.submit(context, space.inner)
        self._tracer.event(events.Queued(began, _now(), number, space.number))
        kicks = self.inner.kicks()
        if kicks != self._kicks:
            self._kicks = kicks
            self._tracer.event(events.ThreadKicked(_now(), number, space.number))

    def next_ready(self, deadline: float | None) -> Context | None:
        """See platform.Platform."""
        context = self.inner.next_ready(deadline)
        if context is not None:
            self._tell(context, _now())
        return context

    def _tell(self, context: Context, seen: int) -> None:
        """Tell what happened to a context since it was queued."""
        number = self.number(context)
        where = self._where.get(context)
        space = where.number if where is not None else 0
        tell = self._tracer.event
        run = context.last_run()
        if run is not None:
            # Two clocks, read one after the other: what was given back was given back before it was seen.
            tell(events.Taken(min(run.taken, seen), number, space, run.thread))
            tell(events.Published(min(run.published, seen), number, space, run.thread, run.state))
        event = context.event
        if event.kind is EventKind.SYSCALL:
            trapped = events.Trapped(seen, number, space, context.regs[_SYSCALL_NR], run is not None and run.dispatched)
            tell(trapped)
            if where is not None:
                self._look_at(where, context, trapped.nr)
        elif event.kind is EventKind.SIGNAL and event.info is not None:
            info = event.info
            tell(events.Faulted(seen, number, space, info.signo, info.code, info.addr, int(event.access)))
        elif event.kind is EventKind.INTERRUPTED:
            tell(events.Interrupted(seen, number, space))
        else:
            tell(events.Died(seen, number, space, str(event.error)))

    def _look_at(self, where: WatchedSpace, context: Context, nr: int) -> None:
        """Tell what changed in a space besides: patched sites, new threads."""
        found = where.inner.statistics()
        sites, threads = found.get("sites_patched", 0), found.get("threads", 0)
        if sites != where.sites:
            where.sites = sites
            self._tracer.event(events.Patched(_now(), where.number, context.regs[_IP], nr))
        if threads != where.threads:
            where.threads = threads
            self._tracer.event(events.ThreadMade(_now(), where.number, threads))

    # Passed on.

    def supports_address_space_io(self) -> bool:
        """See platform.Platform."""
        return self.inner.supports_address_space_io()

    def cooperatively_schedules_address_space(self) -> bool:
        """See platform.Platform."""
        return self.inner.cooperatively_schedules_address_space()

    def detects_cpu_preemption(self) -> bool:
        """See platform.Platform."""
        return self.inner.detects_cpu_preemption()

    def has_cpu_numbers(self) -> bool:
        """See platform.Platform."""
        return self.inner.has_cpu_numbers()

    def map_unit(self) -> int:
        """See platform.Platform."""
        return self.inner.map_unit()

    def min_user_address(self) -> int:
        """See platform.Platform."""
        return self.inner.min_user_address()

    def max_user_address(self) -> int:
        """See platform.Platform."""
        return self.inner.max_user_address()

    def new_context(self) -> Context:
        """See platform.Platform."""
        return self.inner.new_context()

    def concurrency_count(self) -> int:
        """See platform.Platform."""
        return self.inner.concurrency_count()

    def have_global_memory_barrier(self) -> bool:
        """See platform.Platform."""
        return self.inner.have_global_memory_barrier()

    def global_memory_barrier(self) -> None:
        """See platform.Platform."""
        self.inner.global_memory_barrier()

    def wake(self) -> None:
        """See platform.Platform."""
        self.inner.wake()

    def statistics(self) -> dict[str, int]:
        """See platform.Platform."""
        return self.inner.statistics()

    def close(self) -> None:
        """See platform.Platform."""
        self.inner.close()
