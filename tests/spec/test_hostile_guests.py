"""Guests that scribble over what they share with the sentry, and that reach for stub code (10-stub §10; 20-platform §8).

Scribbling is done from here, in the sentry's view of the same pages: what is written is what a guest could write.
"""

import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable

import pytest

from systrap.host import process
from systrap.platform import AddressSpace, Context, Event, EventKind, MapError
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ContextState
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.subprocess import Subprocess
from tests.blobs.play import SYSCALL
from tests.blobs.stub import new_world, running_stub
from tests.platforms import guest
from tests.platforms.kernel import DATA, PAGE, SWITCH, Kernel, R, W, eventually, is_syscall, signo
from tests.spec import support
from tests.spec.support import died_of, slot, stub, sysmsg, words

SEED = int(os.environ.get("SYSTRAP_TEST_SEED", "0")) or random.randrange(1 << 32)
EPERM, ECHILD = 1, 10


class Counting:
    """A view of words that counts how often each is read."""

    def __init__(self, memory: "memoryview[int]") -> None:
        self.memory = memory
        self.reads: dict[int, int] = {}

    def __getitem__(self, index: int) -> int:
        self.reads[index] = self.reads.get(index, 0) + 1
        return self.memory[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.memory[index] = value


@pytest.mark.parametrize(
    ("state", "code"), [(ContextState.SYSCALL, 0), (ContextState.FAULT, 4), (ContextState.FAULT, 11), (9, 0)]
)
def test_each_word_is_read_once(server: Kernel, state: int, code: int) -> None:
    """S-142: state, thread_id and the fault word, at most once for each return: there is no second, different answer."""
    space, context = server.space(guest.CALLS), server.context()
    assert is_syscall(server.run(context, space))
    assert isinstance(context, SystrapContext)
    one = slot(context)
    counting = Counting(one._u32)
    one._u32 = counting  # type: ignore[assignment] # indexing is all that the accessors do
    struct.pack_into("<i", one._bytes, abi.SIGINFO, code)
    counting.memory[abi.STATE >> 2] = state
    assert context.collect() is not None
    assert counting.reads[abi.STATE >> 2] == 1
    assert counting.reads[abi.THREAD_ID >> 2] == 1
    assert counting.reads.get(abi.ERR >> 2, 0) <= 1
    one._u32 = counting.memory


def scribble_while(write: Callable[[random.Random], None], seed: int) -> tuple[threading.Event, threading.Thread]:
    """Write all the time from another thread, as guest threads could, until the event is set."""
    stop = threading.Event()
    dice = random.Random(seed)

    def work() -> None:
        while not stop.is_set():
            write(dice)

    thread = threading.Thread(target=work)
    thread.start()
    return stop, thread


def test_a_racing_writer(kernel: Kernel) -> None:
    """S-142, S-141: state, thread and signal change under the sentry's eyes; each answer is one of those there are."""
    print(f"SYSTRAP_TEST_SEED={SEED}")
    bystander, other = kernel.space(guest.COUNT_CALLS), kernel.context()
    calls = 0
    for attempt in range(10):
        space, context = kernel.space(guest.CALLS), kernel.context(rax=39)
        assert is_syscall(kernel.run(context, space))
        view = words(context)
        fields = [abi.SIGINFO, abi.ERR, abi.LAST_THREAD_ID, abi.PTREGS + 80, abi.STATE_CHANGED_TIME]
        if attempt % 2:
            fields.append(abi.THREAD_ID)

        def write(dice: random.Random, view: "memoryview[int]" = view, fields: list[int] = fields) -> None:
            field = dice.choice(fields)
            view[field >> 2] = dice.choice((0, 1, 4, 11, abi.INVALID_ID, 0xFFFFFFFF))
            time.sleep(0)

        stop, thread = scribble_while(write, SEED + attempt)
        try:
            deadline = time.monotonic() + 0.1
            while time.monotonic() < deadline:
                event = bounded_run(kernel, context, space)
                if event.kind == EventKind.DEATH:
                    break
                calls += event.kind == EventKind.SYSCALL
        finally:
            stop.set()
            thread.join()
        stub(space).kill()
        assert is_syscall(kernel.run(other, bystander))
    assert calls > 10


def bounded_run(kernel: Kernel, context: Context, space: AddressSpace, limit: float = 0.5) -> Event:
    """Run a context whose stub may be out of its mind: it is killed if nothing comes back."""
    assert isinstance(space, Subprocess)
    if kernel.path == SWITCH:
        killer = threading.Timer(limit, space.kill)
        killer.start()
        event = context.switch(space)
        killer.cancel()
        killer.join()
        return event
    kernel.platform.submit(context, space)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ready = kernel.platform.next_ready(deadline)
        if ready is context:
            return ready.event
        assert ready is None
    space.kill()
    assert kernel.wait() is context
    return context.event


@pytest.mark.slow
def test_scribbling_over_everything(kernel: Kernel) -> None:
    """S-141, P-104: random words in everything a guest can write; no exception, no hang, and others do not notice."""
    print(f"SYSTRAP_TEST_SEED={SEED}")
    environment = support.environment(kernel.platform)
    slots, dice = environment.slots, random.Random(SEED)
    regions = (
        (slots.reply, PAGE),
        (slots.context_queue, abi.QUEUE_RING),
        (slots.context_queue, abi.QUEUE_RING + 8 * abi.QUEUE_ENTRIES),
        (slots.ready_ring, abi.RING_SLOTS + 8 * abi.QUEUE_ENTRIES),
        (slots.ready_ring, abi.RING_SLOTS),
        (slots.areas, environment.image.layout.area.shared_size),
        (slots.contexts, abi.CONTEXT_SIZE),
        (slots.contexts + abi.FPSTATE_CHANGED, abi.CONTEXT_SIZE - abi.FPSTATE_CHANGED),
    )
    bystander, other = kernel.space(guest.COUNT_CALLS), kernel.context()
    kinds: dict[object, int] = {}
    for _ in range(60):
        space, context = kernel.space(guest.CALLS), kernel.context(rax=39)
        assert is_syscall(kernel.run(context, space))
        for _ in range(dice.randrange(1, 40)):
            start, length = dice.choice(regions)
            offset = start + dice.randrange(length // 4) * 4
            value = dice.choice(
                (0, 1, 2, 3, 5, 6, 7, 0xFF, abi.INVALID_ID, 0x7FFFFFFF, 0xFFFFFFFF, dice.getrandbits(32))
            )
            stub(space)._view(offset, 4).cast("I")[0] = value
        event = bounded_run(kernel, context, space)
        kinds[event.kind] = kinds.get(event.kind, 0) + 1
        context.pull_full_state()
        try:
            kernel.map(space, DATA)
        except MapError:
            kinds["map"] = kinds.get("map", 0) + 1
        space.unmap(DATA, PAGE)
        before = other.regs[3]
        assert is_syscall(kernel.run(other, bystander))
        assert other.regs[3] == before + 1
        context.release()
        space.release()
    print(kinds)
    assert kinds.get(EventKind.SYSCALL, 0) > 0
    assert len(kinds) > 1, "nothing of it did any harm"


@pytest.mark.parametrize("notify", [True, False])
def test_forged_results_of_the_syscall_thread(server: Kernel, monkeypatch: pytest.MonkeyPatch, notify: bool) -> None:
    """S-146: the reply page says what a guest likes; other spaces and the sentry do not care."""
    environment = support.environment(server.platform)
    if notify and not environment.notify:
        pytest.skip("this kernel has no seccomp listeners")
    monkeypatch.setattr(environment, "notify", notify)
    space, bystander = server.space(guest.LOAD), server.space(guest.LOAD)
    reply = stub(space)._view(environment.slots.reply, 16)

    def write(dice: random.Random) -> None:
        ret = dice.choice((0, -1, -12, -4096, 3, environment.memory.fd, 1 << 62))
        struct.pack_into("<qI", reply, 0, ret, dice.choice((0, 1, 63, 0xFFFFFFFF)))
        if not notify:
            struct.pack_into("<I", reply, 12, (stub(space).channel._seq + dice.randrange(2)) & 0xFFFFFFFF)
        time.sleep(0)

    stop, thread = scribble_while(write, SEED)
    refused = 0
    try:
        for number in range(200):
            try:
                server.map(space, DATA, bytes([number]) * 8)
            except MapError:
                refused += 1
                if stub(space).dead:
                    break
            server.map(bystander, DATA, bytes([number]) * 8)
    finally:
        stop.set()
        thread.join()
    if notify:
        assert refused == 0, "results come as arguments of a notification: there is nothing to forge"
    context = server.context(rdi=DATA)
    assert is_syscall(server.run(context, bystander))


def test_a_forged_thread_is_not_signalled(server: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """P-076: thread_id is looked up among the stub's own threads, whatever a guest writes there."""
    space, context = server.space(guest.SPIN), server.context()
    support.start(server, context, space)
    sent: list[tuple[int, int, int]] = []
    real = process.tgkill

    def record(tgid: int, tid: int, number: int) -> bool:
        sent.append((tgid, tid, number))
        return True

    monkeypatch.setattr(process, "tgkill", record)
    for forged in (0, 2, os.getpid(), os.getppid(), stub(space).pid, stub(space).threads[1], 0xFFFFFFFF):
        words(context)[abi.THREAD_ID >> 2] = forged
        context.interrupt()
        assert sent == []
    monkeypatch.setattr(process, "tgkill", real)
    words(context)[abi.THREAD_ID >> 2] = 1
    context.interrupt()
    assert server.wait() is context


def test_a_denied_call_in_the_handler_kills(server: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """S-109, S-054: the panic's way out is a call that F1 denies: the thread dies of SIGSYS, and its stub with it."""
    space, context = server.space(guest.CALLS), server.context(rax=39)
    assert is_syscall(server.run(context, space))
    bystander = server.space(guest.CALLS)
    deaths: dict[int, process.Death] = {}
    real = process.reap_of_group

    def reap(group: int) -> tuple[int, process.Death] | None:
        found = real(group)
        if found is not None:
            deaths[found[0]] = found[1]
        return found

    monkeypatch.setattr(process, "reap_of_group", reap)
    tid, pid = stub(space).threads[1], stub(space).pid
    struct.pack_into("<Q", sysmsg(space), abi.SYSMSG_SELF, 0x1000)
    errno, text = died_of(server.run(context, space))
    assert errno in (EPERM, ECHILD)
    assert eventually(lambda: {tid, pid} <= set(deaths))
    assert deaths[tid].signal == 31
    assert deaths[pid].signal == 9
    assert "BAD_SYSMSG" in text or "died" in text
    assert is_syscall(server.run(server.context(), bystander))


FD_CALLS = {
    "read": 0,
    "write": 1,
    "close": 3,
    "mmap": 9,
    "ioctl": 16,
    "dup": 32,
    "sendmsg": 46,
    "fcntl": 72,
    "openat": 257,
}


@pytest.mark.parametrize("dispatch", [True, False])
def test_stub_code_opens_no_way_to_a_descriptor(dispatch: bool) -> None:
    """S-148, S-108: a guest that jumps at the stub's own system call instruction, with any number, comes to the sentry."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    with new_world() as world, running_stub(world) as one:
        one.start_thread(1, dispatch=dispatch)
        context = one.context(0)
        restorer = struct.unpack_from("<Q", world.handler, 16)[0]
        for number in FD_CALLS.values():
            context["rip"], context["rax"], context["rdi"] = restorer + 5, number, write_end
            assert one.run(context) == SYSCALL
            assert context["orig_rax"] == number
    with pytest.raises(BlockingIOError):
        os.read(read_end, 1)
    assert os.write(write_end, b"x") == 1
    os.close(read_end)
    os.close(write_end)


def test_stub_code_can_be_read_and_not_written(kernel: Kernel) -> None:
    """S-003, P-031: a guest reads the stub's code; a store there is a fault like any other."""
    where = support.place(kernel.platform)
    space = kernel.space(guest.LOAD)
    assert is_syscall(kernel.run(kernel.context(rdi=where.sysmsg), space))
    space = kernel.space(guest.STORE)
    for address in (where.stub_start, where.sysmsg, where.sysmsg_rules, where.area0):
        event = kernel.run(kernel.context(rdi=address, rax=1), space)
        assert (signo(event), event.access) == (11, W)


def test_a_stub_that_tells_no_access(server: Kernel) -> None:
    """P-043, [seed]: an image that leaves the error word 0: a read at first, a write when the fault is repeated."""
    space, context = server.space(guest.STORE), server.context(rdi=DATA)
    assert isinstance(context, SystrapContext)
    accesses = []
    for _ in range(2):
        assert signo(server.run(context, space)) == signal.SIGSEGV
        words(context)[abi.ERR >> 2] = 0
        event = context.collect()
        assert event is not None
        accesses.append(event.access)
    assert accesses == [R, W]
