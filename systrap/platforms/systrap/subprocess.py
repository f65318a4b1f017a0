"""One address space of guests: the contexts that are in it, its mappings, its patched call sites (20-platform §4.1, §6.1, §9).

The process behind it is a stub (stub_process.py), a new one or one that served another space before (pool.py).
"""

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from systrap.host import mem
from systrap.platform import (
    Access,
    AddressSpace,
    ContextError,
    MapError,
    MapRequest,
    UnmapRequest,
)
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ContextSlot
from systrap.platforms.systrap.stub_process import StubProcess
from systrap.platforms.systrap.syscall_thread import MAX_BATCH, Call
from systrap.platforms.systrap.usertrap import CallSites

if TYPE_CHECKING:
    from systrap.platforms.systrap.context import SystrapContext


class Observer(Protocol):
    """Who hands contexts to a stub, and has to know what becomes of it: the dispatcher."""

    def space_died(self, space: "Subprocess") -> None:
        """React to the death of a stub. Called on the broker's thread."""

    def forget(self, space: "Subprocess") -> None:
        """Stop looking at a space that is being released. Called on the releasing thread."""


class Subprocess(AddressSpace):
    """An address space, served by ``stub``.

    ``outstanding`` are the submitted contexts by id, ``sites`` the patched call sites (None: nothing is patched here),
    ``unmaps`` how often the space was changed.
    Owned by the thread that serves the platform, but for ``apply`` and ``kill``, which any thread may use.
    """

    __slots__ = (
        "_awake", "_free_ids", "_give_back", "_next_id", "_observer", "_released", "abandoned", "contexts", "corrupt", "dead",
        "environment", "index", "outstanding", "sites", "stub", "unmaps",
    )  # fmt: skip

    def __init__(self, stub: StubProcess, observer: Observer, give_back: "Callable[[Subprocess], None]") -> None:
        """Take a stub that serves nobody; ``give_back`` is called when the space was released and its last context left."""
        self.stub = stub
        self.environment = stub.environment
        self.sites = CallSites() if stub.modes.patching else None
        self._observer = observer
        self._give_back = give_back
        self._free_ids: list[int] = []
        self._next_id = 0
        self._released = False
        self._awake = 0
        self.contexts: dict[int, SystrapContext] = {}
        self.outstanding: dict[int, SystrapContext] = {}
        self.index = -1
        self.corrupt = ""
        self.unmaps = 0
        self.abandoned = False
        self.count_awake(0)
        stub.owner = self
        # If it dies from here on, stub_died() is called; if it was before, nobody calls.
        self.dead = stub.dead

    def stub_died(self) -> None:
        """Tell the dispatcher of the death. On the broker's thread."""
        self.dead = True
        self._observer.space_died(self)

    def kill(self) -> None:
        """Kill the stub process. Any thread."""
        self.stub.kill()

    def condemn(self, reason: str) -> None:
        """Kill the stub process, which makes no sense any more, and say why: it serves nobody after this. Any thread."""
        self.corrupt = self.corrupt or reason
        self.stub.kill()

    def why_dead(self) -> str:
        """Say why nothing runs here any more, as well as it is known."""
        if self.corrupt:
            return self.corrupt
        return f"the stub process {self.stub.death}" if self.stub.death is not None else "the stub process died"

    # Address space changes.

    def apply(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        """Carry out mapping requests in the stub, up to MAX_BATCH per round trip (platform.AddressSpace.apply)."""
        for start in range(0, len(requests), MAX_BATCH):
            self._apply_batch(requests[start : start + MAX_BATCH])

    def _apply_batch(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        calls: list[Call] = []
        refused: MapError | None = None
        self.unmaps += 1
        for request in requests:
            try:
                calls.append(_call_for(request))
            except OSError as error:
                # The pages are not to be had (P-028); what stands before this request is carried out all the same.
                refused = MapError(f"no pages for {request.addr:#x}: {error}", error.errno or errno.EIO)
                break
        if calls:
            self._run_batch(requests, calls)
        if refused is not None:
            raise refused

    def _run_batch(self, requests: Sequence[MapRequest | UnmapRequest], calls: list[Call]) -> None:
        if self.dead:
            self._refuse_maps(requests)
            return
        try:
            reply = self.stub.channel.run(calls)
        except ContextError:
            self.kill()
            self._refuse_maps(requests)
            return
        if -4096 < reply.ret < 0:
            failed = requests[min(max(reply.done, 1), len(requests)) - 1]
            if isinstance(failed, MapRequest):
                raise MapError(
                    f"mapping {failed.length:#x} bytes at {failed.addr:#x} failed: {os.strerror(-reply.ret)}",
                    -reply.ret,
                )
            # A stub that cannot unmap keeps pages it must not have: it dies ([H] of 20-platform §4.1).
            self.kill()
            raise MapError(
                f"unmapping {failed.length:#x} bytes at {failed.addr:#x} failed: {os.strerror(-reply.ret)}", -reply.ret
            )

    def _refuse_maps(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        """Answer for a dead stub: unmapping is done when its threads are gone, mapping is impossible (P-101)."""
        self.stub.wait_until_gone()
        if any(isinstance(request, MapRequest) for request in requests):
            raise MapError("the address space's stub process died", errno.EFAULT)

    def pre_fork(self) -> None:
        """Let no call site be half patched while the guest's memory is copied (P-035)."""
        if self.sites is not None:
            self.sites.pre_fork()

    def post_fork(self) -> None:
        """End what pre_fork() began."""
        if self.sites is not None:
            self.sites.post_fork()

    # Contexts.

    def bind(self, context: "SystrapContext") -> ContextSlot:
        """Give ``context`` a slot of this space. Raises ContextError when all are taken (P-087)."""
        if self._free_ids:
            context_id = self._free_ids.pop()
        elif self._next_id < abi.MAX_CONTEXTS:
            context_id = self._next_id
            self._next_id += 1
        else:
            raise ContextError(f"an address space holds at most {abi.MAX_CONTEXTS} contexts", errno.EAGAIN)
        slot = self.stub.context_slot(context_id)
        slot.reset()
        self.contexts[context_id] = context
        return slot

    def unbind(self, context_id: int) -> None:
        """Take a slot back. The last one of a released space lets the stub go (P-110)."""
        del self.contexts[context_id]
        self._free_ids.append(context_id)
        self._let_go()

    def count_awake(self, change: int) -> None:
        """Tell stub threads how many contexts run, wait to run, or are being served: the sentry alone writes this word."""
        self._awake += change
        self.stub.queue[abi.QUEUE_AWAKE_CONTEXTS >> 2] = self._awake & 0xFFFFFFFF

    def statistics(self) -> dict[str, int]:
        """See platform.AddressSpace."""
        sites = self.sites
        return {
            "threads": len(self.stub.threads),
            "contexts": len(self.contexts),
            "contexts_running": len(self.outstanding),
            "contexts_awake": self._awake,
            "sites_patched": sites.patched if sites is not None else 0,
            "sites_refused": sites.refused if sites is not None else 0,
            "sites_fixed": sites.fixed if sites is not None else 0,
        }

    def release(self) -> None:
        """Give the space up: nothing of the guest's is mapped from here on; the stub is free with its last bound context."""
        self._observer.forget(self)
        self.unmap(0, self.environment.image.layout.stub_start)
        self._released = True
        self._let_go()

    def abandon(self) -> None:
        """End the stub whatever is bound to it: its platform closes."""
        self.abandoned = self._released = True
        self.contexts.clear()
        self._let_go()

    def _let_go(self) -> None:
        if self._released and not self.contexts:
            self._give_back(self)


def _call_for(request: MapRequest | UnmapRequest) -> Call:
    """Translate a mapping request to the host call the stub makes (20-platform §4.1)."""
    if isinstance(request, UnmapRequest):
        return Call("munmap", (request.addr, request.length))
    access = request.access
    prot = (access & Access.READ and mem.PROT_READ) | (access & Access.WRITE and mem.PROT_WRITE)
    prot |= access & Access.EXECUTE and mem.PROT_EXEC
    flags = mem.MAP_SHARED | mem.MAP_FIXED | (mem.MAP_POPULATE if request.precommit else 0)
    fd = request.file.data_fd(request.start, request.length)
    return Call("mmap", (request.addr, request.length, prot, flags, fd, request.start))
