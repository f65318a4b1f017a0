"""Defects around dying stubs: waits without end, calls that must not fail and do, deaths that are not seen, leaks.

Upstream's side is put back by replacing methods of ours. (10-stub §8.1; 20-platform §4.1, §8.1, §9.3.)
"""

import ctypes
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from systrap.host import notify, process
from systrap.platform import ContextError, EventKind, MapError, MapRequest, PlatformError, UnmapRequest
from systrap.platforms.systrap.broker import Broker, Watched
from systrap.platforms.systrap.subprocess import Subprocess
from systrap.platforms.systrap.syscall_thread import Call, Reply, SyscallThread
from tests.blobs.stub import Stub, wait_death
from tests.blobs.world import PAGE
from tests.defects.both_ways import DefectError, both_ways, demand, verdict
from tests.platforms import guest
from tests.platforms.kernel import DATA, PATIENCE, Kernel, R, W, eventually, is_syscall

SOON = 2.0
"""How long the original is watched waiting for a process that is dead and reaped: an answer can come no more."""


def new_space(kernel: Kernel, code: bytes) -> tuple[Subprocess, int]:
    """Return a space and the process that it is."""
    space = kernel.space(code)
    assert isinstance(space, Subprocess)
    return space, space.stub.pid


# ---- STUB-WAIT ----


class Original:
    """Lets waits on a stub be endless, as upstream's are, until the test is over."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.over = False
        self._receive = notify.receive
        patch.setattr(SyscallThread, "_check", self._never_give_up)
        patch.setattr(notify, "receive", self._never_told)

    def _never_give_up(self, _doing: str, _deadline: float) -> None:
        """Stand in for a wait that asks neither for the time nor whether the stub lives."""
        if self.over:
            raise ContextError("the test is over", 0)

    def _never_told(self, fd: int, timeout: float) -> notify.Notification | None:
        """Stand in for the kernels that leave a listener waiting when its last task died."""
        try:
            return self._receive(fd, timeout)
        except notify.ListenerClosed:
            time.sleep(timeout)
            return None


def check_a_call_into_a_dying_stub(call: Callable[[], object], pid: int, patience: float) -> None:
    """Stop the stub, so that it lives when the call begins, and then kill it."""
    errors: list[Exception] = []
    ended = threading.Event()

    def caller() -> None:
        try:
            call()
        except (ContextError, MapError) as error:
            errors.append(error)
        ended.set()

    os.kill(pid, signal.SIGSTOP)
    threading.Thread(target=caller, daemon=True).start()
    assert not ended.wait(0.2), "a stopped stub answers"
    os.kill(pid, signal.SIGKILL)
    demand(ended.wait(patience), "the call waits for a stub that is dead")
    assert errors, "the call succeeded in a dead stub"


@both_ways
def test_a_dying_stub_in_futex_mode(original: bool, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """STUB-WAIT; S-131."""
    put_back = Original(monkeypatch) if original else None
    store = stub.world.machine.function("store_release32", None, ctypes.c_uint64, ctypes.c_uint32)
    load = stub.world.machine.function("load_acquire32", ctypes.c_uint32, ctypes.c_uint64)
    pages = stub.channel.pages
    dead = threading.Event()

    def release_store(address: int, value: int) -> int:
        store(address, value)
        return 0

    channel = SyscallThread(
        pages.bytes[:PAGE], pages.address, pages.bytes[PAGE:], pages.address + PAGE, lambda: not dead.is_set(), release_store,
        load,
    )  # fmt: skip
    channel._seq = stub.channel.seq
    assert channel.run([Call("getpid", ())]).ret == stub.pid

    def reaper() -> None:
        wait_death(stub.pid, PATIENCE)
        dead.set()

    threading.Thread(target=reaper, daemon=True).start()
    with verdict(original):
        try:
            check_a_call_into_a_dying_stub(
                lambda: channel.run([Call("getpid", ())]), stub.pid, SOON if original else PATIENCE
            )
        finally:
            if put_back is not None:
                put_back.over = True


@both_ways
def test_a_dying_stub_in_notify_mode(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """STUB-WAIT; S-131, P-101."""
    space, pid = new_space(kernel, guest.CALLS)
    if not space.environment.notify:
        pytest.skip("this host gives no seccomp listener")
    put_back = Original(monkeypatch) if original else None
    with verdict(original):
        try:
            check_a_call_into_a_dying_stub(lambda: kernel.map(space, DATA), pid, SOON if original else PATIENCE)
        finally:
            if put_back is not None:
                put_back.over = True


# ---- MUNMAP-PANIC, FORGED-REPLY ----


class SentryPanicError(BaseException):
    """Upstream's panic: the end of the sentry and of every guest."""


def panic_when_unmapping_fails(
    space: Subprocess, requests: Sequence[MapRequest | UnmapRequest], calls: list[Call]
) -> None:
    """Run a batch as upstream's Unmap does: an error from a live stub is not provided for."""
    reply = space.stub.channel.run(calls)
    if reply.ret < 0 and isinstance(requests[reply.done - 1], UnmapRequest):
        raise SentryPanicError(f"munmap: {os.strerror(-reply.ret)}")


def check_an_unmapping_that_fails(kernel: Kernel) -> None:
    """Let the host refuse a munmap (here: of half a page). One guest ends; the sentry and the others go on."""
    bystander, others = kernel.space(guest.CALLS), kernel.context()
    space, _ = new_space(kernel, guest.CALLS)
    context = kernel.context()
    assert is_syscall(kernel.run(context, space))
    try:
        space.unmap(DATA + 1, PAGE)
    except MapError:
        pass
    except SentryPanicError as error:
        raise DefectError("the sentry ends with all its guests") from error
    assert is_syscall(kernel.run(others, bystander))
    assert eventually(lambda: space.dead), "a stub that kept pages it must not have goes on"
    assert kernel.run(context, space).kind == EventKind.DEATH


@both_ways
def test_unmapping_may_fail(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """MUNMAP-PANIC; P-104."""
    if original:
        monkeypatch.setattr(Subprocess, "_run_batch", panic_when_unmapping_fails)
    with verdict(original):
        check_an_unmapping_that_fails(kernel)


def believe_the_reply_page(channel: SyscallThread, calls: Sequence[Call]) -> Reply:
    """Run a batch as upstream does: whatever the mode, the result is read where guests can write."""
    reply = _run(channel, calls)
    (ret,) = struct.unpack_from("<q", channel._reply, 0)
    return Reply(ret, reply.done)


_run = SyscallThread.run


def check_results_that_a_guest_forges(kernel: Kernel, then: Callable[[], None]) -> None:
    """Let a guest thread write an error over the result of the syscall thread's calls, all the time.

    ``then`` is called when it does: its own thread was made by such a call, too.
    """
    space, _ = new_space(kernel, b"\x48\x89\x07\xeb\xfb")  # 1: mov %rax, (%rdi); jmp 1b
    if not space.environment.notify:
        pytest.skip("this host gives no seccomp listener")
    place = space.environment.image.layout
    forger = kernel.context(rax=-1 & (1 << 64) - 1, rdi=place.area0 + place.page)
    offset = kernel.page(b"a page")
    kernel.platform.submit(forger, space)
    reply = memoryview(space.stub.channel._reply)
    assert eventually(lambda: reply[:8] == b"\xff" * 8)
    then()
    try:
        for _ in range(1000):
            space.map_file(DATA, kernel.file, offset, PAGE, R | W)
            space.unmap(DATA, PAGE)
    except MapError as error:
        raise DefectError("a guest made the sentry believe in an error of its own making") from error
    forger.interrupt()
    assert kernel.wait() is forger
    assert forger.event.kind == EventKind.INTERRUPTED


@both_ways
def test_results_are_not_the_guests_to_give(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """FORGED-REPLY; S-146: with upstream's munmap this error is a panic."""

    def put_back() -> None:
        if original:
            monkeypatch.setattr(SyscallThread, "run", believe_the_reply_page)

    with verdict(original):
        check_results_that_a_guest_forges(kernel, put_back)


# ---- RELEASE-LEAK ----


def release_the_living_only(space: Subprocess) -> None:
    """Release as upstream does: nothing happens for a dead stub, and its last reference is never dropped."""
    if not space.dead:
        _release(space)


_release = Subprocess.release


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def check_dead_spaces_leave_nothing(kernel: Kernel) -> None:
    """Make spaces, kill their stubs, release them."""

    def cycle() -> None:
        space, pid = new_space(kernel, guest.CALLS)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: space.dead)
        space.release()

    for _ in range(2):
        cycle()
    time.sleep(0.1)
    before = descriptors()
    for _ in range(8):
        cycle()
    left = eventually_at_most(descriptors, before + 1)
    demand(left <= before + 1, f"{left - before} descriptors are left of 8 dead spaces")


def eventually_at_most(count: Callable[[], int], limit: int) -> int:
    """Wait a while for a count to fall to ``limit``, and return it."""
    deadline = time.monotonic() + SOON
    while (now := count()) > limit and time.monotonic() < deadline:
        time.sleep(0.01)
    return now


@both_ways
def test_release_of_a_dead_space(original: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """RELEASE-LEAK; P-101, P-117."""
    if original:
        monkeypatch.setattr(Subprocess, "release", release_the_living_only)
    with verdict(original):
        check_dead_spaces_leave_nothing(kernel)


# ---- CORE-DUMP ----

GROUP = 0x7FFFFFF0
CORE_DUMPED = 0x80

Reap = Callable[[int], tuple[int, process.Death] | None]


def reap_by_the_letter(group: int) -> tuple[int, process.Death] | None:
    """Reap as upstream's alive() does: of waitid's codes only "exited" and "killed" are deaths, "dumped" is none."""
    _, status = os.waitpid(-group, os.WNOHANG)
    return None if os.WIFSIGNALED(status) and os.WCOREDUMP(status) else process.reap_of_group(group)


def check_every_death_is_one(reap: Reap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demand that a stub is dead however it ends."""
    waitpid = os.waitpid
    status = 0

    def wait(pid: int, options: int) -> tuple[int, int]:
        return (4711, status) if pid == -GROUP else waitpid(pid, options)

    monkeypatch.setattr(os, "waitpid", wait)
    for status, death in (
        (3 << 8, process.Death(0, 3)),
        (signal.SIGKILL, process.Death(signal.SIGKILL, 0)),
        (signal.SIGSYS | CORE_DUMPED, process.Death(signal.SIGSYS, 0)),
    ):
        found = reap(GROUP)
        demand(found is not None, f"a process with wait status {status:#x} counts as alive")
        assert found == (4711, death)


@both_ways
def test_a_stub_that_dumped_core_is_dead(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """CORE-DUMP; P-103."""
    with verdict(original):
        check_every_death_is_one(reap_by_the_letter if original else process.reap_of_group, monkeypatch)


# ---- ATTACHED-DEATH ----


def check_a_death_while_it_is_made(kernel: Kernel) -> None:
    """Demand an error soon, at the latest with the first use, for whoever wanted the space."""
    ended = threading.Event()
    kinds: list[EventKind] = []

    def caller() -> None:
        try:
            context = kernel.context()
            kinds.append(context.switch(kernel.space(guest.CALLS)).kind)
        except (PlatformError, MapError):
            kinds.append(EventKind.DEATH)
        ended.set()

    threading.Thread(target=caller, daemon=True).start()
    demand(ended.wait(10.0), "a stub died while it was made, and its maker waits")
    assert kinds == [EventKind.DEATH]


def test_a_stub_that_is_killed_while_it_is_born(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACHED-DEATH; P-012: upstream's sentry, attached as its tracer, kills itself at this sight."""

    def watch_and_kill(broker: Broker, stub: Watched) -> None:
        watch(broker, stub)
        os.kill(stub.pid, signal.SIGKILL)

    watch = Broker.watch
    with monkeypatch.context() as patch:
        patch.setattr(Broker, "watch", watch_and_kill)
        check_a_death_while_it_is_made(kernel)
    assert is_syscall(kernel.run(kernel.context(), kernel.space(guest.CALLS)))


def test_a_stub_that_is_reaped_before_it_is_watched(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACHED-DEATH; P-012, P-103: the broker woke for another reason just after the stub died."""

    def die_and_watch(broker: Broker, stub: Watched) -> None:
        os.kill(stub.pid, signal.SIGKILL)
        broker.call(lambda: None)
        assert eventually(lambda: broker.call(lambda: not process.exists(stub.pid)))
        watch(broker, stub)

    watch = Broker.watch
    with monkeypatch.context() as patch:
        patch.setattr(Broker, "watch", die_and_watch)
        check_a_death_while_it_is_made(kernel)
    assert is_syscall(kernel.run(kernel.context(), kernel.space(guest.CALLS)))
