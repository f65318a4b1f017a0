"""A defect of the spinning queue that upstream mended before the seed: what comes first, the slot or the index (10-stub §4.5)."""

import ctypes
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from blobs import build
from systrap.platforms.systrap import blob
from tests.blobs.machine import Words, map_code
from tests.defects.both_ways import both_ways, demand, verdict
from tests.defects.mutants import Edit, put_back

CHURN = Path(__file__).with_name("churn.c")
ROUNDS = 300_000
THREADS = 2
PATIENCE = 20.0
SOON = 3.0
LENGTH, START, END, TIMES, ENTRIES = 0, 4, 8, 16, 256

INDEX_FIRST = Edit(
    "spinning_queue.c",
    "if (compare_and_swap_u64(slot, since, 0)) {\n            fetch_add(&queue->start, 1);",
    "fetch_add(&queue->start, 1);\n        if (compare_and_swap_u64(slot, since, 0)) {",
)


def churning_image(original: bool) -> blob.Image:
    """Build the spinning queue with the loop around it."""
    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(f"no image: {error}")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        sources = Path(folder) / "src"
        shutil.copytree(build.SOURCES, sources)
        shutil.copy(CHURN, sources / CHURN.name)
        if original:
            put_back(sources / INDEX_FIRST.file, INDEX_FIRST)
        patch.setattr(build, "SOURCES", sources)
        image = build.ImageSources("churn", (CHURN.name, "spinning_queue.c"), ())
        flat, _ = build.build_image(build.ARCHES[0], image, Path(folder))
    return blob.Image("churn", flat.data, flat.exports, {})


def check_entries_come_and_go(image: blob.Image, patience: float) -> None:
    """Let several threads enter and leave: all get through, and nothing is left in the queue.

    They are processes, which can be killed when they hang.
    """
    queue = Words.shared(4096)
    function = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32)(
        map_code(image.data) + image.offset("churn")
    )
    children = []
    cpus = sorted(os.sched_getaffinity(0))
    for number in range(THREADS):
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, {cpus[number % len(cpus)]})
            os._exit(1 if function(queue.address, ROUNDS) else 0)
        children.append(child)
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + patience
    try:
        while len(statuses) < THREADS and time.monotonic() < deadline:
            for child in set(children) - set(statuses):
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    statuses[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
    finally:
        for child in set(children) - set(statuses):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    demand(len(statuses) == THREADS, "a thread waits for an entry that was counted and is not there")
    demand(set(statuses.values()) == {0}, "a thread found the queue full, which has room for 256")
    left = [queue.u64(TIMES + 8 * i) for i in range(ENTRIES)]
    counted = (queue.u32(START), queue.u32(END), queue.u32(LENGTH))
    demand(counted == (THREADS * ROUNDS, THREADS * ROUNDS, 0), f"start, end and length are {counted}")
    demand(not any(left), "an entry is left behind")


@both_ways
def test_the_slot_is_cleared_before_the_index_moves_on(original: bool) -> None:
    """SPIN-ORDER; S-070, S-071."""
    if original and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("on one CPU threads seldom meet")
    image = churning_image(original)
    with verdict(original):
        # On a busy host the two may not run at the same time.
        for _ in range(20 if original else 1):
            check_entries_come_and_go(image, SOON if original else PATIENCE)
