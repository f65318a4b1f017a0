"""The bootstrap image in real processes: births, batches, both modes, deaths (docs/images.md)."""

import errno
import os
import time
from collections.abc import Iterator

import pytest

from systrap.host import mem, notify
from systrap.host.sys import NR
from tests.blobs.stub import Stub, kill, new_world, running_source, running_stub, wait_death
from tests.blobs.world import ENTER_NOTIFY, MAY_FAIL, PAGE, Call, World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with new_world() as world:
        yield world


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


# ---- the source ----


def test_the_source_is_born_and_serves(world: World) -> None:
    with running_source(world) as (pid, channel):
        reply = channel.run(Call("getpid"))
        assert reply == (pid, 1)


def test_the_source_is_set_up_as_it_should_be(world: World) -> None:
    """S-030, S-105, S-107, S-126: all signals blocked, the seven handled, one filter, no new privileges, own session."""
    with running_source(world) as (pid, channel):
        channel.run(Call("getpid"))
        status = status_of(pid)
        assert int(status["SigBlk"], 16) == 0xFFFFFFFFFFFFFFFF & ~(1 << 8 | 1 << 18)
        assert int(status["SigCgt"], 16) == 0x400104D8
        assert int(status["SigIgn"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status.get("Seccomp_filters", "1") == "1"
        assert os.getsid(pid) == pid


def test_it_has_no_stack_and_sleeps(world: World) -> None:
    """S-129."""
    with running_source(world) as (pid, channel):
        channel.run(Call("getpid"))
        time.sleep(0.05)
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
            fields = file.read().split()
        assert int(fields[0]) == NR["futex"]
        assert int(fields[-2], 16) == 0
        assert world.place.stub_start <= int(fields[-1], 16) < world.place.sysmsg


def test_a_batch_runs_in_order_and_answers_the_last_result(world: World) -> None:
    with running_source(world) as (pid, channel):
        address = 0x20000000
        reply = channel.run(
            Call("mmap", (address, PAGE, mem.PROT_READ, mem.MAP_PRIVATE | mem.MAP_ANONYMOUS | mem.MAP_FIXED, -1)),
            Call("getppid"),
            Call("munmap", (address, PAGE)),
            Call("getpid"),
        )
        assert reply == (pid, 4)


def test_the_first_failure_ends_a_batch(world: World) -> None:
    with running_source(world) as (pid, channel):
        reply = channel.run(Call("getpid"), Call("munmap", (1, PAGE)), Call("getpid"))
        assert reply == (-errno.EINVAL, 2)
        assert channel.run(Call("getpid")) == (pid, 1)


def test_calls_that_may_fail(world: World) -> None:
    with running_source(world) as (pid, channel):
        failing = Call("munmap", (1, PAGE), MAY_FAIL)
        assert channel.run(failing, Call("getpid")) == (pid, 2)
        assert channel.run(Call("getpid"), failing) == (-errno.EINVAL, 2)


def test_a_result_above_the_errors_is_no_failure(world: World) -> None:
    """-4096 is not an error; no call here answers it, so the border is shown from the other side: -EINVAL is."""
    with running_source(world) as (pid, channel):
        assert channel.run(*[Call("getpid")] * 63) == (pid, 63)


def test_many_batches(world: World) -> None:
    with running_source(world) as (pid, channel):
        for _ in range(300):
            assert channel.run(Call("getpid")) == (pid, 1)


def test_a_batch_that_leaves_the_page_is_death(world: World) -> None:
    with running_source(world) as (pid, channel):
        channel.send([Call("getpid")], count=64)
        assert wait_death(pid) == 122


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_failure_at_birth_is_death_that_says_where(world: World, index: int) -> None:
    birth = world.source_birth()
    birth.insert(index, Call("munmap", (1, PAGE)))
    pid, _ = world.clone_source(birth)
    assert wait_death(pid) == 1 + index


def test_a_wrong_parent(world: World) -> None:
    """S-128."""
    pid, _ = world.clone_source(world.source_birth(), ppid=1)
    assert wait_death(pid) == 121


def test_without_filter_there_is_no_source(world: World) -> None:
    pid, _ = world.clone_source(world.source_birth(), filter_at=8)
    assert wait_death(pid) == 115


def test_the_source_dies_with_the_thread_that_cloned_it(world: World) -> None:
    """S-121. A process of its own stands for the sentry."""
    read_end, write_end = os.pipe()
    sentry = os.fork()
    if sentry == 0:
        pid, channel = world.clone_source(world.source_birth())
        channel.reply()
        os.write(write_end, str(pid).encode())
        os._exit(0)
    source = int(os.read(read_end, 20))
    os.waitpid(sentry, 0)
    os.close(read_end)
    os.close(write_end)
    deadline = time.monotonic() + 10
    while alive(source):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Tell whether a process runs: no longer when it is dead and only waits to be reaped."""
    try:
        return status_of(pid)["State"][0] not in "ZX"
    except FileNotFoundError:
        return False


# ---- stubs cloned from it ----


@pytest.fixture
def stub(world: World) -> Iterator[Stub]:
    with running_stub(world) as stub:
        yield stub


def test_a_stub_is_born_from_the_batch(world: World, stub: Stub) -> None:
    assert stub.channel.run(Call("getpid")) == (stub.pid, 1)
    assert stub.channel.run(Call("getppid")) == (os.getpid(), 1)
    assert int(status_of(stub.pid)["SigBlk"], 16) == 0xFFFFFFFFFFFFFFFF & ~(1 << 8 | 1 << 18)


def test_a_stub_that_cannot_be_born(world: World) -> None:
    with running_source(world) as (_, source):
        pid = source.run(world.stub_birth()[0], Call("getpid"), Call("munmap", (1, PAGE))).ret
        assert wait_death(pid) == 1 + 2
        assert source.run(Call("getpid")).done == 1


# ---- notify mode ----


@pytest.fixture
def listening_stub(world: World) -> Iterator[tuple[Stub, int]]:
    """Run a stub that went over to notify mode at birth, and give its listener."""
    install = Call("seccomp", (1, 8, world.place.notify_rules), ENTER_NOTIFY)
    with pytest.MonkeyPatch.context() as patch:
        birth = world.stub_birth
        patch.setattr(world, "stub_birth", lambda: [*birth(), install])
        with running_stub(world) as stub:
            listener = stub.channel.reply().ret
            yield stub, listener
            os.close(listener)


def next_bell(listener: int) -> notify.Notification:
    deadline = time.monotonic() + 10
    while True:
        found = notify.receive(listener, 1.0)
        if found is not None:
            return found
        assert time.monotonic() < deadline


def ring(stub: Stub, listener: int, bell: notify.Notification, *calls: Call) -> notify.Notification:
    """Put a batch, let the stub go, and wait until it is done."""
    stub.channel.write(calls, stub.channel.seq)
    assert notify.answer(listener, bell.id)
    return next_bell(listener)


def test_notify_mode(listening_stub: tuple[Stub, int]) -> None:
    stub, listener = listening_stub
    bell = next_bell(listener)
    assert bell.args[:2] == (listener, 11), "the birth batch's own result"
    for _ in range(20):
        bell = ring(stub, listener, bell, Call("getpid"))
        assert bell.args == (stub.pid, 1, 0, 0, 0, 0)
    bell = ring(stub, listener, bell, Call("getpid"), Call("munmap", (1, PAGE)), Call("getpid"))
    assert bell.args[:2] == (-errno.EINVAL & (1 << 64) - 1, 2)


def test_notify_mode_ends_with_its_listener(world: World, listening_stub: tuple[Stub, int]) -> None:
    stub, listener = listening_stub
    next_bell(listener)
    # The descriptor table is shared with the stubs, so this closes it for everybody.
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, listener)
    os.close(null)
    assert stub.wait_death() == 123


# ---- births of threads ----


def test_a_thread_that_cannot_set_itself_up_dies_and_takes_the_stub_along(world: World, stub: Stub) -> None:
    """The record names a filter that is none: step 6. The exit signal of a sysmsg thread kills its stub (S-127)."""
    patched = world.place._replace(sysmsg_rules=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "place", patched)
        stub.start_thread(1)
    assert stub.wait_death() == -9


def test_a_thread_waits_for_work(world: World, stub: Stub) -> None:
    """S-064, S-100, S-123: it has two filters, its own thread group, no blocked signals outside the handler, and is parked."""
    tid = stub.start_thread(1)
    deadline = time.monotonic() + 10
    while True:
        with open(f"/proc/{tid}/syscall", encoding="ascii") as file:
            fields = file.read().split()
        if len(fields) > 7 and int(fields[0]) == NR["futex"]:
            break
        assert time.monotonic() < deadline, fields
        time.sleep(0.005)
    arguments = [int(field, 16) for field in fields[1:7]]
    assert arguments == [world.place.context_queue + 0x100, 0, 0, 0, 0, 0]
    status = status_of(tid)
    assert status.get("Seccomp_filters", "2") == "2"
    assert status["Tgid"] == str(tid)
    assert status["PPid"] == str(stub.pid)
    assert int(status["SigBlk"], 16) & 0x40010000 == 0x40010000
    assert stub.sysmsg(1).u32(0x2C) == 3


def test_requests_still_run_beside_threads(stub: Stub) -> None:
    stub.start_thread(1)
    assert stub.channel.run(Call("getpid")) == (stub.pid, 1)


def test_killing_a_thread_kills_the_stub_and_its_other_threads(stub: Stub) -> None:
    """S-127."""
    first, second = stub.start_thread(1), stub.start_thread(2)
    kill(first)
    assert stub.wait_death() == -9
    deadline = time.monotonic() + 10
    while alive(second):
        assert time.monotonic() < deadline
        time.sleep(0.005)
