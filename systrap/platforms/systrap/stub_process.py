"""A stub process and the sentry's books about it (20-platform §2.4; docs/images.md).

It serves one address space (subprocess.py) at a time. Guest threads are not host threads: up to 4095 contexts take turns on a
few *sysmsg threads*, which are created when there is something to run. Everything shared with the stub lies in one slot of
the platform's memory file.
"""

import os
import struct
import threading
from typing import Final, Protocol

from systrap.host import mem, process
from systrap.platform import ContextError, PlatformError
from systrap.platforms.systrap import abi, filters
from systrap.platforms.systrap.broker import Watched
from systrap.platforms.systrap.environment import Environment, Modes
from systrap.platforms.systrap.layout import THREAD_RECORD
from systrap.platforms.systrap.source import explain_death
from systrap.platforms.systrap.syscall_thread import ENTER_NOTIFY, MOVE_REQUEST, Call, SyscallThread

_READ: Final = mem.PROT_READ
_WRITE: Final = mem.PROT_READ | mem.PROT_WRITE
_FIXED_SHARED: Final = mem.MAP_SHARED | mem.MAP_FIXED
_FIXED_PRIVATE: Final = mem.MAP_PRIVATE | mem.MAP_ANONYMOUS | mem.MAP_FIXED
_PATIENCE: Final = 10.0
_ONLY_SIGSEGV: Final = (1 << 64) - 1 & ~(1 << abi.SIGSEGV - 1)
_RECORD = struct.Struct("<QIIQQQQQQ")


class Owner(Protocol):
    """Whose address space a stub process serves."""

    def stub_died(self) -> None:
        """React to the stub's death. Called once, on the broker's thread."""


class StubProcess:
    """One stub process, alive or dead.

    ``threads`` maps stack ids to host thread ids: the only way from an id in shared memory to a host thread (P-076).
    ``head`` is the index of the ready ring to be read next, while no dispatcher keeps it. ``owner`` is told of the death.
    ``alive``, ``kill`` and lookups in ``threads`` may come from any thread, everything else from the owner's.
    """

    __slots__ = (
        "_gone", "_lock", "_pidfd", "_slot", "_unwanted", "channel", "contexts_address", "dead", "death", "environment", "head",
        "modes", "owner", "pid", "queue", "queue_address", "ring", "ring_address", "threads", "used_contexts",
    )  # fmt: skip

    def __init__(self, environment: Environment, modes: Modes) -> None:
        """Create the process. Raises PlatformError."""
        self.environment = environment
        self.modes = modes
        self.owner: Owner | None = None
        self._lock = threading.Lock()
        self._slot = environment.allocate_slot()
        self._gone = threading.Event()
        self._unwanted = False
        self._pidfd = -1
        self.dead = False
        self.death: process.Death | None = None
        self.threads: dict[int, int] = {}
        self.head = 0
        self.used_contexts = 0
        slots, base = environment.slots, environment.memory_base + self._slot
        self.queue = self._view(slots.context_queue, abi.QUEUE_RING).cast("I")
        self.queue_address = base + slots.context_queue
        self.ring = self._view(slots.ready_ring, abi.RING_SLOTS + 8 * abi.QUEUE_ENTRIES)
        self.ring_address = base + slots.ready_ring
        self.contexts_address = base + slots.contexts
        abi.init_queue(self._view(slots.context_queue, abi.QUEUE_RING + 8 * abi.QUEUE_ENTRIES))
        self._write_records()
        try:
            self._start()
        except PlatformError:
            self._give_up_birth()
            raise

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
        code = environment.code
        self.channel = SyscallThread(request, base, reply, base + page, self.alive, code.release32, code.acquire32)
        with environment.source.births:
            try:
                self.pid = environment.source.clone_stub(self._birth_batch(), request)
            except ContextError as error:
                raise PlatformError(f"no new address space: {error}") from error
            self._pidfd = process.pidfd_open(self.pid)
            environment.broker.watch(
                Watched(self.pid, os.dup(self._pidfd), self.threads, self._died, self._threads_died)
            )
            try:
                born = self.channel.await_birth()
            except ContextError as error:
                raise PlatformError(f"a stub process was not born: {explain_death(self.death)}") from error
        if environment.notify:
            self.channel.use_listener(born.ret)

    def _give_up_birth(self) -> None:
        """Leave nothing of a stub that was not born."""
        if self._pidfd >= 0:
            self.discard()
        else:
            self.environment.free_slot(self._slot)

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

    # Life and death.

    def alive(self) -> bool:
        """Tell whether the stub can still run guest code. Any thread."""
        return not self.dead

    def _died(self, death: process.Death) -> None:
        """Take note of the death: on the broker's thread, after the stub was reaped."""
        self.death = death
        self.dead = True
        owner = self.owner
        if owner is not None:
            owner.stub_died()

    def _threads_died(self) -> None:
        """Take note that nothing of this stub runs any more: its memory is nobody's. On the broker's thread."""
        with self._lock:
            self._gone.set()
            self._free_if_unwanted()

    def kill(self) -> None:
        """Kill the process; its threads follow. Its death is noticed by the broker as any other. Any thread."""
        with self._lock:
            if self._pidfd >= 0:
                process.pidfd_kill(self._pidfd)

    def discard(self) -> None:
        """Kill the process, and give back all it holds when nothing of it is alive any more."""
        self.kill()
        with self._lock:
            self._unwanted = True
            self._free_if_unwanted()

    def wait_until_gone(self) -> None:
        """Wait until nothing of the stub is alive, for a moment at most."""
        self._gone.wait(_PATIENCE)

    def _free_if_unwanted(self) -> None:
        """Free descriptors and memory when nobody wants the stub and nothing of it is alive. Lock held."""
        if self._unwanted and self._gone.is_set() and self._pidfd >= 0:
            self.channel.close()
            os.close(self._pidfd)
            self._pidfd = -1
            self.environment.free_slot(self._slot)

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
        process.make_nicer(reply.ret)
        return True

    def report(self, stack_id: int) -> str | None:
        """Return what a sysmsg thread reported about its own failure, in words (S-140)."""
        return abi.stub_report(self.thread_words(stack_id)) if stack_id in self.threads else None

    def context_slot(self, context_id: int) -> abi.ContextSlot:
        """Return the slot of a context, as the sentry sees it."""
        offset = self.environment.slots.contexts + context_id * abi.CONTEXT_SIZE
        self.used_contexts = max(self.used_contexts, context_id + 1)
        address = self.environment.memory_base + self._slot + offset
        return abi.ContextSlot(self._view(offset, abi.CONTEXT_SIZE), address, context_id)

    # Recycling.

    def looks_untouched(self) -> bool:
        """Tell whether all that the sentry wrote once into shared memory is still there, and nothing is under way.

        A stub that does not look so was written to by its guest, and is not given to another.
        """
        word = self.queue
        idle = (
            word[abi.QUEUE_START >> 2] == word[abi.QUEUE_END >> 2]
            and word[abi.QUEUE_ACTIVE_CONTEXTS >> 2] == 0
            and word[abi.QUEUE_ACTIVE_THREADS >> 2] <= len(self.threads)
            and word[abi.QUEUE_THREADS_TO_WAKEUP >> 2] <= len(self.threads)
        )
        (tail,) = struct.unpack_from("<I", self.ring, abi.RING_TAIL)
        return idle and tail == self.head and all(self._thread_untouched(stack_id) for stack_id in self.threads)

    def thread_words(self, stack_id: int) -> "memoryview[int]":
        """Return the sentry's view of a thread's sysmsg structure (abi.SYSMSG_…)."""
        area, slots = self.environment.image.layout.area, self.environment.slots
        offset = slots.areas + (stack_id - 1) * area.shared_size + area.sysmsg - area.shared
        return self._view(offset, abi.SYSMSG_SIZE)

    def _thread_untouched(self, stack_id: int) -> bool:
        place = self.environment.image.layout
        start, area = place.thread_area(stack_id), place.area
        expected = (start + area.sysmsg, self.environment.image.syshandler, start + area.private_top, stack_id)
        return abi.sysmsg_constants(self.thread_words(stack_id)) == expected

    def forget_guest(self) -> None:
        """Make the contexts' slots zeros again: the next guest is not to find the registers of this one."""
        if self.used_contexts:
            length = self.used_contexts * abi.CONTEXT_SIZE
            self.environment.memory.clear(self._slot + self.environment.slots.contexts, length)
            self.used_contexts = 0
