"""Stubs that die, stop or freeze, and what becomes of those who wait for them (10-stub §8, §9; 20-platform §8)."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from systrap.platform import AddressSpace, ContextError, EventKind, MapError
from systrap.platforms.systrap import abi
from tests.platforms import guest
from tests.platforms.kernel import DATA, PAGE, PATIENCE, Kernel, R, W, eventually, is_syscall, reg
from tests.programs.support import command, environment, need_platform, need_program
from tests.spec import support
from tests.spec.support import stub, words


def test_death_of_a_worker(server: Kernel) -> None:
    """S-127, P-100: SIGKILL of one sysmsg thread ends its stub, its fellows and the guests of that space, nobody else."""
    space, bystander = server.space(guest.SPIN), server.space(guest.CALLS)
    contexts = [server.context() for _ in range(server.platform.concurrency_count())]
    for context in contexts:
        support.start(server, context, space)
    threads, pid = list(stub(space).threads.values()), stub(space).pid
    os.kill(threads[-1], signal.SIGKILL)
    begin = time.monotonic()
    assert {id(server.wait()) for _ in contexts} == {id(context) for context in contexts}
    assert time.monotonic() - begin < 5
    for context in contexts:
        assert context.event.kind == EventKind.DEATH
        assert isinstance(context.event.error, ContextError)
    assert eventually(lambda: all(support.gone(tid) for tid in (*threads, pid)))
    assert is_syscall(server.run(server.context(), bystander))


@pytest.mark.parametrize("victim", ["worker", "syscall thread"])
def test_switch_on_a_dying_stub(kernel: Kernel, victim: str) -> None:
    """P-100, P-101: whoever of a stub is killed, each that waits hears of it, and asking again is answered at once."""
    space, context = kernel.space(guest.SPIN), kernel.context()

    def kill() -> None:
        assert eventually(lambda: bool(stub(space).threads))
        os.kill(stub(space).threads[1] if victim == "worker" else stub(space).pid, signal.SIGKILL)

    helper = threading.Thread(target=kill)
    helper.start()
    assert kernel.run(context, space).kind == EventKind.DEATH
    helper.join()
    assert kernel.run(context, space).kind == EventKind.DEATH
    with pytest.raises(MapError):
        kernel.map(space, DATA)
    space.unmap(DATA, PAGE)
    context.release()
    space.release()
    assert eventually(lambda: not Path(f"/proc/{stub(space).pid}").exists()), "P-103: it is reaped"


def map_for_ever(kernel: Kernel, space: AddressSpace, offset: int) -> None:
    """Map the same page again and again, until that fails."""
    while True:
        space.map_file(DATA, kernel.file, offset, PAGE, R | W)


@pytest.mark.parametrize("notify", [True, False])
def test_requests_to_a_stub_that_dies_meanwhile(server: Kernel, monkeypatch: pytest.MonkeyPatch, notify: bool) -> None:
    """S-131: kill -9 in a storm of maps: an error within bounded time, in both modes."""
    shared = support.environment(server.platform)
    if notify and not shared.notify:
        pytest.skip("this kernel has no seccomp listeners")
    monkeypatch.setattr(shared, "notify", notify)
    offset = server.page()
    for attempt in range(20):
        space = server.space(guest.CALLS)
        killer = threading.Timer(0.0005 * (attempt % 7), os.kill, (stub(space).pid, signal.SIGKILL))
        killer.start()
        begin = time.monotonic()
        with pytest.raises(MapError):
            map_for_ever(server, space, offset)
        assert time.monotonic() - begin < PATIENCE
        killer.join()
        space.unmap(DATA, PAGE)
        space.release()


def test_a_guest_that_ruins_its_stub_again_and_again(server: Kernel) -> None:
    """S-131: sysmsg.self cleared, a hundred times over, while the sentry unmaps."""
    for _ in range(100):
        space, context = server.space(guest.CALLS), server.context(rax=39)
        assert is_syscall(server.run(context, space))
        support.sysmsg(space).cast("Q")[abi.SYSMSG_SELF >> 3] = 0
        server.platform.submit(context, space)
        space.unmap(DATA, PAGE)
        assert server.wait() is context
        assert context.event.kind == EventKind.DEATH
        context.release()
        space.release()


def test_stopped_and_continued(server: Kernel) -> None:
    """P-114, S-130: SIGSTOP breaks the wait for the doorbell off; after SIGCONT requests go on as before."""
    space = server.space(guest.LOAD)
    pid = stub(space).pid
    for number in range(1, 30):
        os.kill(pid, signal.SIGSTOP)
        assert eventually(lambda: support.status(pid)["State"][0] == "T")
        os.kill(pid, signal.SIGCONT)
        server.map(space, DATA, bytes([number]) * 8)
        context = server.context(rdi=DATA)
        assert is_syscall(server.run(context, space))
        assert reg(context, "r10") == int.from_bytes(bytes([number]) * 8, "little")
        context.release()


def test_a_request_to_a_stopped_stub_waits(server: Kernel) -> None:
    """P-114, S-130: asked while it is stopped, it answers when it goes on."""
    space = server.space(guest.LOAD)
    pid = stub(space).pid
    for _ in range(5):
        os.kill(pid, signal.SIGSTOP)
        assert eventually(lambda: support.status(pid)["State"][0] == "T")
        timer = threading.Timer(0.05, os.kill, (pid, signal.SIGCONT))
        timer.start()
        server.map(space, DATA, b"thawed!!")
        timer.join()
    assert is_syscall(server.run(server.context(rdi=DATA), space))


def test_a_stopped_worker_is_not_a_dead_one(server: Kernel) -> None:
    """P-114: a guest whose worker is stopped goes on where it was."""
    space, context = server.space(guest.SPIN), server.context()
    support.start(server, context, space)
    tid = stub(space).threads[1]
    os.kill(tid, signal.SIGSTOP)
    assert eventually(lambda: support.status(tid)["State"][0] == "T")
    assert server.platform.next_ready(time.monotonic() + 0.1) is None
    os.kill(tid, signal.SIGCONT)
    context.interrupt()
    assert server.wait() is context
    assert context.event.kind == EventKind.INTERRUPTED


def test_an_interrupt_of_a_dead_worker(server: Kernel) -> None:
    """P-100, S-131: tgkill says ESRCH: the context comes back as dead, and the stub is put down."""
    space, context = server.space(guest.SPIN), server.context()
    support.start(server, context, space)
    one = stub(space)
    tid = one.threads[1]
    one.threads[1] = 1 << 22
    context.interrupt()
    assert server.wait() is context
    assert context.event.kind == EventKind.DEATH
    assert words(context)[abi.STATE >> 2] in (abi.ContextState.UNEXPECTED_DEATH, abi.ContextState.NONE)
    assert eventually(lambda: support.gone(tid))


SENTRY = """
import sys, threading, time
from systrap import platform
from tests.platforms import guest
from tests.platforms.kernel import Kernel, children
kernel = Kernel(platform.lookup("systrap").new(platform.Options()), "submit")
print("begin", flush=True)
while True:
    space = kernel.space(guest.SPIN)
    for _ in range(2):
        kernel.platform.submit(kernel.context(), space)
"""


def stubs_of(group: int) -> list[int]:
    """Return the processes of a process group that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def test_killed_at_any_time_the_sentry_leaves_nobody() -> None:
    """S-121, P-107: also stubs and workers that are just being made."""
    for attempt in range(6):
        sentry = subprocess.Popen([sys.executable, "-c", SENTRY], stdout=subprocess.PIPE)
        assert sentry.stdout is not None
        assert sentry.stdout.readline() == b"begin\n"
        time.sleep(0.013 * attempt)
        pids = [int(word) for task in Path(f"/proc/{sentry.pid}/task").iterdir() for word in kids(task)]
        sentry.kill()
        sentry.wait()
        sentry.stdout.close()
        assert pids, "there is the source at least"
        assert eventually(partial(nobody_left, pids))


def nobody_left(pids: list[int]) -> bool:
    """Tell whether these processes, and all of the groups they led, are gone."""
    return all(support.gone(pid) for pid in pids) and not any(stubs_of(pid) for pid in pids)


def kids(task: Path) -> list[str]:
    """Return the children of a thread."""
    return (task / "children").read_text().split()


def test_a_guest_whose_stub_dies_ends_like_one_that_was_killed() -> None:
    """S-132: all threads of its group, with the status of SIGKILL; the sentry goes on with the others."""
    need_platform("systrap")
    bash = need_program("bash")
    script = "while :; do :; done & echo $!; wait $!; echo status $?"
    child = subprocess.Popen(
        command("systrap", (bash, "-c", script)), stdout=subprocess.PIPE, env=environment(), start_new_session=True
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.3)
    found = sorted(pid for pid in (int(w) for t in Path(f"/proc/{child.pid}/task").iterdir() for w in kids(t)))
    os.kill(found[-1], signal.SIGKILL)
    killed = child.stdout.read()
    assert killed == b"status 137\n"
    assert child.wait(PATIENCE) == 0
    child.stdout.close()
