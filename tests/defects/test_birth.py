"""A trap that upstream does not meet and every port to a glibc process does: restartable sequences (10-stub §1.6)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from systrap.host import limits
from tests.blobs import world as worlds
from tests.blobs.stub import new_world, running_source, wait_death
from tests.blobs.world import PAGE, Call, Channel, World
from tests.defects.both_ways import DefectError, both_ways

ROUNDS = 100


def run(pid: int, channel: Channel, *calls: Call) -> None:
    """Run a batch in the source, and see whether it outlives it."""
    channel.send(calls)
    deadline = time.monotonic() + 10
    while channel.pages.u32(PAGE + 12) != channel.seq:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            ended = wait_death(pid)
            assert ended == -signal.SIGSEGV
            raise DefectError("the stub died of a preemption")
        assert time.monotonic() < deadline, "the source neither answers nor dies"


@contextmanager
def company(pid: int) -> Iterator[None]:
    """Let something else want the CPU that a process runs on, so that each of its sched_yield calls is a preemption."""
    cpu = min(os.sched_getaffinity(0))
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        for one in (pid, busy.pid):
            os.sched_setaffinity(one, {cpu})
        yield
    finally:
        busy.kill()
        busy.wait()


def check_a_source_lives_without_its_parents_memory(world: World) -> None:
    """Preempt a source that has forgotten its parent: a registered thread whose rseq area is gone is killed."""
    place = world.place
    kept = [(place.stub_start, place.ro_end), (place.area0, place.area0 + 2 * PAGE)]
    holes = zip([0, *(end for _, end in kept)], [*(start for start, _ in kept), limits.task_size()], strict=True)
    with running_source(world) as (pid, channel), company(pid):
        for start, end in holes:
            run(pid, channel, Call("munmap", (start, end - start)))
        for _ in range(ROUNDS):
            run(pid, channel, *[Call("sched_yield")] * 63)


@both_ways
def test_a_stub_is_not_registered_for_rseq(original: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """RSEQ; S-011: "original" is a port that does not know of it."""
    if worlds.rseq_registration()[1] == 0:
        pytest.skip("this process is not registered for rseq")
    if not original:
        with new_world() as world:
            check_a_source_lives_without_its_parents_memory(world)
        return
    monkeypatch.setattr(worlds, "rseq_registration", lambda: (0, 0))
    with new_world() as world:
        try:
            check_a_source_lives_without_its_parents_memory(world)
        except DefectError:
            return
    pytest.skip("no preemption came at the moment that would have killed it")
