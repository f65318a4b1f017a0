"""One stub process of a World, its contexts, and the sentry's half of the hand-over."""

import contextlib
import ctypes
import os
import signal
import struct
import time
from collections.abc import Iterator

from systrap.host.sys import NR
from systrap.platforms.systrap import abi, filters, layout
from tests.blobs.machine import NO_DEADLINE, RW, Block, Words, pack_words
from tests.blobs.world import (
    BIRTH_MASK,
    CS,
    FIRST_SEQ,
    GUEST,
    GUEST_PAGES,
    PAGE,
    SS,
    START,
    Call,
    Channel,
    World,
)


class Context:
    """One context slot, and its registers by name."""

    NAMES = (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
        "fs_base gs_base ds es fs gs"
    ).split()

    def __init__(self, memory: Words, context_id: int) -> None:
        self.words = memory
        self.id = context_id
        self.words.bytes[:] = bytes(4096)
        self.words.set32(abi.FPSTATE_CHANGED, 1)
        self.words.set32(abi.THREAD_ID, abi.INVALID_ID)
        struct.pack_into("<H", self.words.bytes, 0, 0x037F)
        struct.pack_into("<I", self.words.bytes, 24, 0x1F80)
        for name, value in (("cs", CS), ("ss", SS), ("eflags", 0x202), ("rip", START), ("rsp", GUEST + 8 * PAGE)):
            self[name] = value

    def __getitem__(self, register: str) -> int:
        return self.words.u64(abi.PTREGS + 8 * self.NAMES.index(register))

    def __setitem__(self, register: str, value: int) -> None:
        self.words.set64(abi.PTREGS + 8 * self.NAMES.index(register), value & NO_DEADLINE)

    def registers(self) -> dict[str, int]:
        return {name: self[name] for name in self.NAMES}

    @property
    def state(self) -> int:
        return self.words.u32(abi.STATE)

    def siginfo(self) -> tuple[int, int, int]:
        """Answer signal, code and address."""
        signo, _, code, address = struct.unpack_from("<iii4xQ", self.words.bytes, abi.SIGINFO)
        return signo, code, address


class Stub:
    """A stub process with its syscall thread, and the sentry's half of the hand-over."""

    def __init__(self, world: World, pid: int, channel: Channel) -> None:
        self.world = world
        self.pid = pid
        self.channel = channel
        slots, base = world.slots, world.file.address
        self.queue = Words(base + slots.context_queue, layout.round_up(layout.QUEUE_SIZE, PAGE))
        self.ring = Words(base + slots.ready_ring, layout.round_up(layout.RING_SIZE, PAGE))
        self.code = Words(base + world.guest, GUEST_PAGES * PAGE)
        self.tids: dict[int, int] = {}
        self.threads = 0
        block = world.machine.block
        block.set64(Block.QUEUE, self.queue.address)
        block.set32(Block.MAX_THREADS, 3)
        block.set32(Block.STUB_SPIN_OFF, 1)
        block.set32(Block.NOTIFY, abi.NOTIFY_RING)
        block.set32(Block.NR_SPACES, 1)
        world.machine.set_space(0, self.ring.address, self.queue.address, base + slots.contexts)

    def context(self, context_id: int) -> Context:
        at = self.world.file.address + self.world.slots.contexts + 4096 * context_id
        return Context(Words(at, 4096), context_id)

    def sysmsg(self, stack_id: int) -> Words:
        area = self.world.place.area
        at = self.world.slots.areas + stack_id * area.shared_size + area.sysmsg - area.shared
        return Words(self.world.file.address + at, PAGE)

    def start_thread(self, stack_id: int, *, dispatch: bool = True, mask: int = BIRTH_MASK) -> int:
        """Make a sysmsg thread; answers its tid."""
        world, place, area = self.world, self.world.place, self.world.place.area
        base = place.thread_area(stack_id)
        sysmsg = self.sysmsg(stack_id)
        abi.init_sysmsg(sysmsg.bytes, base + area.sysmsg, world.syshandler, base + area.private_top, stack_id)
        record = pack_words(base + area.shared, 0, area.signal_stack_size, base + area.sysmsg, mask, place.sysmsg_rules)
        record += pack_words(place.stub_start if dispatch else 0, place.ro_end - place.stub_start)
        at = world.slots.records + 64 * stack_id
        world.file.bytes[at : at + 64] = record
        shared = world.slots.areas + stack_id * area.shared_size
        reply = self.channel.run(
            world.map_shared(base + area.shared, area.shared_size, shared, RW),
            world.map_private(base + area.private, area.private_size),
            Call("clone", (filters.CLONE_THREAD, 0, 0, 0, 0, place.thread_record(stack_id))),
        )
        assert reply.done == 3, os.strerror(-reply.ret)
        self.tids[stack_id] = reply.ret
        self.threads += 1
        self.world.machine.block.set32(Block.THREADS, self.threads)
        return reply.ret

    def submit(self, context: Context) -> int:
        block = self.world.machine.block
        block.set64(Block.CONTEXT, context.words.address)
        block.set32(Block.CONTEXT_ID, context.id)
        return self.world.machine.submit()

    def next(self, timeout: float = 10.0) -> int:
        """Wait for the next context; answers its id. One that is only found when the time is up was lost."""
        block = self.world.machine.block
        at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(timeout * 1e9)
        block.set64(Block.DEADLINE_SEC, at // 10**9)
        block.set64(Block.DEADLINE_NSEC, at % 10**9)
        while (result := self.world.machine.next_ready()) == -4:
            pass
        assert result >= 0, f"no context came back: {result}; {self.reports()}"
        assert result & 7 == 1, f"no context came back: {result}; {self.reports()}"
        assert time.clock_gettime_ns(time.CLOCK_MONOTONIC) < at, "its wake-up was lost"
        return self.world.machine.ready()[1]

    def run(self, context: Context, timeout: float = 10.0) -> int:
        """Let a context run until it comes back; answers its state."""
        assert self.submit(context) >= 0
        assert self.next(timeout) == context.id
        assert context.words.u32(abi.THREAD_ID) == abi.INVALID_ID
        return context.state

    def reports(self) -> list[str | None]:
        """Answer what the threads say of their failures."""
        return [abi.stub_report(self.sysmsg(stack_id).bytes) for stack_id in self.tids]

    def interrupt(self, stack_id: int) -> None:
        tid = self.tids[stack_id]
        ctypes.CDLL(None).syscall(NR["tgkill"], tid, tid, signal.SIGCHLD)

    def wait_death(self, timeout: float = 10.0) -> int:
        return wait_death(self.pid, timeout)


def wait_death(pid: int, timeout: float = 10.0) -> int:
    """Reap a child; answers its wait status as an exit code, or minus the signal."""
    deadline = time.monotonic() + timeout
    while True:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            return os.waitstatus_to_exitcode(status)
        assert time.monotonic() < deadline, f"process {pid} does not die"
        time.sleep(0.002)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def running_source(world: World) -> Iterator[tuple[int, Channel]]:
    """Run a source that is born and serves requests."""
    pid, channel = world.clone_source(world.source_birth())
    try:
        channel.reply()
        yield pid, channel
    finally:
        kill(pid)


@contextlib.contextmanager
def running_stub(world: World) -> Iterator[Stub]:
    """Run a source, and a stub cloned from it; the stub serves requests."""
    with running_source(world) as (_, source):
        calls = world.stub_birth()
        pages = Words(world.file.address, 2 * PAGE)
        pages.bytes[:] = bytes(2 * PAGE)
        channel = Channel(pages)
        abi.init_queue(world.file.bytes[world.slots.context_queue :][: layout.round_up(layout.QUEUE_SIZE, PAGE)])
        # The child goes over from the source's page to its own half-way: both hold the batch.
        channel.write(calls, FIRST_SEQ)
        reply = source.run(*calls)
        assert reply.done == 1
        assert reply.ret > 0, os.strerror(-reply.ret)
        try:
            channel.reply()
            yield Stub(world, reply.ret, channel)
        finally:
            kill(reply.ret)


@contextlib.contextmanager
def new_world(
    patching: bool = True, ring: bool = True, fsgsbase: bool = True, user_resume: bool = False
) -> Iterator[World]:
    """Make a world, and take it away afterwards."""
    world = World(patching, ring, fsgsbase, user_resume)
    try:
        yield world
    finally:
        world.close()
