"""One stub process = one guest address space (20-platform §2.4, §4.1, §9).

Guest threads are not host threads: up to 4095 contexts of a space take turns on a few *sysmsg threads*, which are
created when there is something to run. Everything shared with the stub lies in one slot of the platform's memory file.
"""

import errno
import os
import struct
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from systrap.host import mem, process
from systrap.memory import MemoryFile
from systrap.platform import (
    Access,
    AddressSpace,
    ContextError,
    MapError,
    MapRequest,
    PlatformError,
    UnmapRequest,
)
from systrap.platforms.systrap import abi, cpuid, filters
from systrap.platforms.systrap.abi import ContextSlot
from systrap.platforms.systrap.broker import Broker, Watched
from systrap.platforms.systrap.layout import CONTEXT_SLOT, THREAD_RECORD, slot_layout
from systrap.platforms.systrap.machine_code import SentryCode
from systrap.platforms.systrap.source import Source, explain_death
from systrap.platforms.systrap.syscall_thread import ENTER_NOTIFY, MAX_BATCH, MOVE_REQUEST, Call, SyscallThread
from systrap.platforms.systrap.usertrap import CallSites

if TYPE_CHECKING:
    from systrap.platforms.systrap.context import SystrapContext

_READ: Final = mem.PROT_READ
_WRITE: Final = mem.PROT_READ | mem.PROT_WRITE
_FIXED_SHARED: Final = mem.MAP_SHARED | mem.MAP_FIXED
_FIXED_PRIVATE: Final = mem.MAP_PRIVATE | mem.MAP_ANONYMOUS | mem.MAP_FIXED
_PATIENCE: Final = 10.0
_ONLY_SIGSEGV: Final = (1 << 64) - 1 & ~(1 << abi.SIGSEGV - 1)
_RECORD = struct.Struct("<QIIQQQQQQ")


class Environment:
    """What all subprocesses of a platform share."""

    __slots__ = (
        "_lock", "broker", "code", "cpuid", "image", "max_threads", "memory", "memory_base", "notify", "slots", "source",
    )  # fmt: skip

    def __init__(
        self, code: SentryCode, memory: MemoryFile, broker: Broker, source: Source, max_threads: int, notify: bool
    ) -> None:
        """``max_threads``: sysmsg threads a space may have; ``notify``: this host gives seccomp listeners."""
        self.code = code
        self.memory = memory
        self.memory_base = mem.address_of(memoryview(memory.data))
        self.broker = broker
        self.source = source
        self.image = source.image
        self.max_threads = max_threads
        self.notify = notify
        self.slots = slot_layout(self.image.layout)
        self.cpuid = cpuid.features(code) if cpuid.can_fault() else None
        self._lock = threading.Lock()

    def allocate_slot(self) -> int:
        """Return the offset of a new slot in the memory file. Any thread."""
        with self._lock:
            return self.memory.allocate(self.slots.size)

    def free_slot(self, start: int) -> None:
        """Give a slot back. Nothing of its stub may be left alive. Any thread."""
        with self._lock:
            self.memory.free(start, self.slots.size)


class Modes(NamedTuple):
    """How the stubs of one platform work. ``user_dispatch``: syscall user dispatch stands in front of seccomp (S-106)."""

    user_dispatch: bool
    patching: bool


class Observer(Protocol):
    """Who hands contexts to a stub, and has to know what becomes of it: the dispatcher."""

    def space_died(self, space: "Subprocess") -> None:
        """React to the death of a stub. Called on the broker's thread."""

    def forget(self, space: "Subprocess") -> None:
        """Stop looking at a space that is being released. Called on the releasing thread."""


class Subprocess(AddressSpace):
    """A stub process and the sentry's books about it.

    ``threads`` maps stack ids to host thread ids: the only way from an id in shared memory to a host thread (P-076).
    ``outstanding`` are the submitted contexts by id, ``sites`` the patched call sites (None: nothing is patched here).
    Owned by the thread that serves the platform, but for ``apply``, ``alive`` and ``threads`` lookups, which any may use.
    """

    __slots__ = (
        "_awake", "_free_ids", "_gone", "_lock", "_next_id", "_observer", "_pidfd", "_released", "_slot", "channel",
        "contexts", "contexts_address", "dead", "death", "environment", "head", "index", "modes", "outstanding", "pid", "queue",
        "queue_address", "ring", "ring_address", "sites", "threads",
    )  # fmt: skip

    def __init__(self, environment: Environment, observer: Observer, modes: Modes) -> None:
        """Create the stub process. Raises PlatformError."""
        self.environment = environment
        self.modes = modes
        self.sites = CallSites() if modes.patching else None
        self._observer = observer
        self._lock = threading.Lock()
        self._slot = environment.allocate_slot()
        self._free_ids: list[int] = []
        self._next_id = 0
        self._released = False
        self._gone = threading.Event()
        self.dead = False
        self.death: process.Death | None = None
        self.threads: dict[int, int] = {}
        self.contexts: dict[int, SystrapContext] = {}
        self.outstanding: dict[int, SystrapContext] = {}
        self.index = -1
        self.head = 0
        slots = environment.slots
        self.queue = self._view(slots.context_queue, abi.QUEUE_RING).cast("I")
        self.queue_address = environment.memory_base + self._slot + slots.context_queue
        self.ring = self._view(slots.ready_ring, abi.RING_SLOTS + 8 * abi.QUEUE_ENTRIES)
        self.ring_address = environment.memory_base + self._slot + slots.ready_ring
        self.contexts_address = environment.memory_base + self._slot + slots.contexts
        self._awake = 0
        abi.init_queue(self._view(slots.context_queue, abi.QUEUE_RING + 8 * abi.QUEUE_ENTRIES))
        self._write_records()
        self._start()

    def _view(self, offset: int, length: int) -> "memoryview[int]":
        """Return the sentry's view of a part of this stub's slot."""
        start = self._slot + offset
        return memoryview(self.environment.memory.data)[start : start + length]

    def _write_records(self) -> None:
        """Prepare what each sysmsg thread will configure itself from, once and for all (docs/images.md)."""
        image = self.environment.image
        place, area = image.layout, image.layout.area
        # Our own handler empties the mask at the first signal; until then only that signal may come (docs/images.md).
        mask = _ONLY_SIGSEGV if image.has_ready_ring else 0
        records = self._view(self.environment.slots.records, place.record_pages_size)
        dispatch = (place.stub_start, place.ro_end - place.stub_start) if self.modes.user_dispatch else (0, 0)
        for stack_id in range(1, self.environment.max_threads + 1):
            start = place.thread_area(stack_id)
            _RECORD.pack_into(
                records,
                stack_id * THREAD_RECORD,
                start + area.shared,
                0,
                0,
                area.signal_stack_size,
                start + area.sysmsg,
                mask,
                place.sysmsg_rules,
                *dispatch,
            )

    def _start(self) -> None:
        """Clone the stub and wait until it serves requests."""
        environment, page = self.environment, self.environment.image.layout.page
        request, reply = self._view(0, page), self._view(page, page)
        base = environment.memory_base + self._slot
        self.channel = SyscallThread(request, base, reply, base + page, self.alive, environment.code.release32)
        try:
            self.pid = environment.source.clone_stub(self._birth_batch(), request)
        except ContextError as error:
            raise PlatformError(f"no new address space: {error}") from error
        self._pidfd = process.pidfd_open(self.pid)
        environment.broker.watch(Watched(self.pid, os.dup(self._pidfd), self.threads, self._died, self._threads_died))
        try:
            born = self.channel.await_birth()
        except ContextError as error:
            raise PlatformError(f"a stub process was not born: {explain_death(self.death)}") from error
        if environment.notify:
            self.channel.use_listener(born.ret)

    def _birth_batch(self) -> list[Call]:
        """Return the calls a new stub makes before it serves: its own shared regions, its request page, its doorbell."""
        place, slots, fd = self.environment.image.layout, self.environment.slots, self.environment.memory.fd

        def shared(address: int, length: int, offset: int, prot: int, flags: int = 0) -> Call:
            return Call("mmap", (address, length, prot, _FIXED_SHARED, fd, self._slot + offset), flags)

        page = place.page
        batch = [
            shared(place.area0 + page, page, slots.reply, _WRITE),
            shared(place.area0 + 2 * page, place.record_pages_size, slots.records, _READ),
            shared(place.context_queue, slots.ready_ring - slots.context_queue, slots.context_queue, _WRITE),
            Call("mmap", (place.spinning_queue, page, _WRITE, _FIXED_PRIVATE, -1, 0)),
            shared(place.ready_ring, slots.areas - slots.ready_ring, slots.ready_ring, _WRITE),
            shared(place.contexts, slots.size - slots.contexts, slots.contexts, _WRITE),
            shared(place.area0, page, slots.request, _READ, MOVE_REQUEST),
        ]
        if self.environment.notify:
            install = (filters.SECCOMP_SET_MODE_FILTER, filters.SECCOMP_FILTER_FLAG_NEW_LISTENER, place.notify_rules)
            batch.append(Call("seccomp", install, ENTER_NOTIFY))
        return batch

    def alive(self) -> bool:
        """Tell whether the stub can still run guest code. Any thread."""
        return not self.dead

    def _died(self, death: process.Death) -> None:
        """Take note of the death: on the broker's thread, after the stub was reaped."""
        self.death = death
        self.dead = True
        self._observer.space_died(self)

    def _threads_died(self) -> None:
        """Take note that nothing of this stub runs any more: its memory is nobody's. On the broker's thread."""
        with self._lock:
            self._gone.set()
            self._free_if_unused()

    def kill(self) -> None:
        """Kill the stub process; its threads follow. Its death is noticed by the broker as any other."""
        with self._lock:
            if self._pidfd >= 0:
                process.pidfd_kill(self._pidfd)

    # Address space changes.

    def apply(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        """Carry out mapping requests in the stub, up to MAX_BATCH per round trip (platform.AddressSpace.apply)."""
        for start in range(0, len(requests), MAX_BATCH):
            self._apply_batch(requests[start : start + MAX_BATCH])

    def _apply_batch(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        calls: list[Call] = []
        refused: MapError | None = None
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
            reply = self.channel.run(calls)
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
        self._gone.wait(_PATIENCE)
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

    # Sysmsg threads.

    def create_thread(self) -> bool:
        """Create the next sysmsg thread. Returns False when the host refuses; a dead stub is no failure."""
        stack_id = len(self.threads) + 1
        image = self.environment.image
        place, area = image.layout, image.layout.area
        start, shared = place.thread_area(stack_id), self.environment.slots.areas + (stack_id - 1) * area.shared_size
        abi.init_sysmsg(
            self._view(shared + area.sysmsg - area.shared, place.page),
            start + area.sysmsg,
            image.syshandler,
            start + area.private_top,
            stack_id,
        )
        fd, offset = self.environment.memory.fd, self._slot + shared
        calls = [
            Call("mmap", (start + area.shared, area.shared_size, _WRITE, _FIXED_SHARED, fd, offset)),
            Call("mmap", (start + area.private, area.private_size, _WRITE, _FIXED_PRIVATE, -1, 0)),
            Call("clone", (filters.CLONE_THREAD, 0, 0, 0, 0, place.thread_record(stack_id))),
        ]
        try:
            reply = self.channel.run(calls)
        except ContextError:
            return self.dead
        if reply.done < len(calls) or reply.ret <= 0:
            return False
        # In futex mode a guest of this stub could have forged the number: believe only a child of this very stub.
        if not self.environment.notify and process.parent_of(reply.ret) != self.pid:
            self.kill()
            return True
        self.threads[stack_id] = reply.ret
        return True

    def report(self, stack_id: int) -> str | None:
        """Return what a sysmsg thread reported about its own failure, in words (S-140)."""
        area, slots = self.environment.image.layout.area, self.environment.slots
        if stack_id not in self.threads:
            return None
        offset = slots.areas + (stack_id - 1) * area.shared_size + area.sysmsg - area.shared
        return abi.stub_report(self._view(offset, abi.SYSMSG_SIZE))

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
        offset = self.environment.slots.contexts + context_id * CONTEXT_SLOT
        address = self.environment.memory_base + self._slot + offset
        slot = ContextSlot(self._view(offset, CONTEXT_SLOT), address, context_id)
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
        self.queue[abi.QUEUE_AWAKE_CONTEXTS >> 2] = self._awake & 0xFFFFFFFF

    def release(self) -> None:
        """Give the space up: nothing of the guest's is mapped from here on; the stub ends with its last bound context.

        (Keeping it for the next space is the pool's business, P-109.)
        """
        self._observer.forget(self)
        self.unmap(0, self.environment.image.layout.stub_start)
        self._released = True
        self._let_go()

    def abandon(self) -> None:
        """End the stub whatever is bound to it: its platform closes."""
        self._released = True
        self.contexts.clear()
        self._let_go()

    def wait_until_gone(self) -> None:
        """Wait until nothing of the stub is alive, for a moment at most."""
        self._gone.wait(_PATIENCE)

    def _let_go(self) -> None:
        if self._released and not self.contexts:
            self.kill()
            with self._lock:
                self._free_if_unused()

    def _free_if_unused(self) -> None:
        """Free descriptors and memory when the space was given up and nothing of the stub is alive. Lock held."""
        if self._released and not self.contexts and self._gone.is_set() and self._pidfd >= 0:
            self.channel.close()
            os.close(self._pidfd)
            self._pidfd = -1
            self.environment.free_slot(self._slot)


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
