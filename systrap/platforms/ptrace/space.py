"""Address spaces of the ptrace platform: a stub process each, mapped by injection."""

import os
from collections.abc import Sequence
from functools import partial
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap.host.limits import max_user_address
from systrap.host.mem import MAP_FIXED, MAP_POPULATE, MAP_SHARED
from systrap.host.sys import NR
from systrap.platform import AddressSpace, MapError, MapRequest, PlatformError, UnmapRequest
from systrap.platforms.ptrace.stub import Stub, StubDiedError, Tracee
from systrap.platforms.ptrace.tracer import Tracer

if TYPE_CHECKING:
    from systrap.platforms.ptrace.platform import PtracePlatform

_EPERM: Final = 1
_ESRCH: Final = 3
_EIO: Final = 5


class _Call(NamedTuple):
    """One host call of a batch. ``failed`` says what it means when it fails; None: it must not."""

    nr: int
    args: tuple[int, ...]
    failed: str | None


class PtraceSpace(AddressSpace):
    """One stub process. See platform.AddressSpace."""

    def __init__(self, platform: "PtracePlatform", stub: Stub) -> None:
        self.stub = stub
        self._platform = platform
        self._lock = Lock()

    def apply(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        """Inject the calls in order: on the thread that serves the guest if it has a stopped stub thread, else by the broker."""
        calls, error = self._calls(requests)
        if calls:
            with self._lock:
                server = self._platform.server
                if server is not None and server.ident == get_ident():
                    tracee = server.stopped(self.stub)
                    if tracee is not None:
                        self._inject(server, tracee, calls)
                        calls = []
                if calls:
                    self._by_broker(calls)
        if error is not None:
            raise error

    def _by_broker(self, calls: "list[_Call]") -> None:
        """Let the broker inject. A platform that is closed counts as a dead stub."""
        broker = self._platform.broker
        work = partial(self._inject, broker, self.stub.leader, calls)
        try:
            broker.call(work)
        except MapError:
            raise
        except PlatformError as error:
            self._dead(calls, str(error))

    @staticmethod
    def _calls(requests: Sequence[MapRequest | UnmapRequest]) -> "tuple[list[_Call], MapError | None]":
        """Turn requests into calls, up to the first that cannot be one: its error comes second."""
        calls = []
        limit = max_user_address()
        for request in requests:
            end = request.addr + request.length
            if isinstance(request, UnmapRequest):
                calls.append(_Call(NR["munmap"], (request.addr, min(end, limit) - request.addr), None))
                continue
            addr, length, file, start, access, precommit = request
            what = f"map {length:#x} bytes at {addr:#x}"
            if end > limit:
                return calls, MapError(f"{what}: beyond the end of user memory", _EPERM)
            try:
                fd = file.data_fd(start, length)
            except OSError as error:
                return calls, MapError(f"{what}: no data: {error}", error.errno or _EIO)
            flags = MAP_SHARED | MAP_FIXED | (MAP_POPULATE if precommit else 0)
            calls.append(_Call(NR["mmap"], (addr, length, int(access), flags, fd, start), what))
        return calls, None

    def _inject(self, tracer: Tracer, tracee: Tracee, calls: "list[_Call]") -> None:
        """Make the calls, on the tracer's thread. Raises MapError."""
        stub = self.stub
        for index, call in enumerate(calls):
            try:
                if stub.death:
                    raise StubDiedError(stub.death)
                result = tracer.inject(tracee, call.nr, *call.args)
            except StubDiedError as error:
                self._dead(calls[index:], str(error))
                return
            if call.failed is None:
                stub.unmaps += 1
                if result < 0:
                    # The caller may free the pages: nobody may be left who can reach them (20-platform §4.1).
                    stub.kill()
            elif result < 0:
                raise MapError(f"{call.failed}: {os.strerror(-result)}", -result)

    def _dead(self, calls: "list[_Call]", why: str) -> None:
        """Fail the maps among calls that nobody can make any more; unmaps are done by death itself (P-101)."""
        for call in calls:
            if call.failed is not None:
                raise MapError(f"{call.failed}: stub process {self.stub.pid} is dead: {why}", _ESRCH)

    def statistics(self) -> "dict[str, int]":
        """See platform.AddressSpace."""
        stub = self.stub
        return {"threads_idle": sum(len(idle) for idle in list(stub.idle.values())), "unmaps": stub.unmaps}

    def release(self) -> None:
        """Kill the stub. What other threads trace of it is reaped there."""
        self._platform.release_space(self)
