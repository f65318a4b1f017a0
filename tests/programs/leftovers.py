"""Seeing what a run leaves behind: its orphans become children of this process, and are looked at."""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.programs.support import SLOWNESS

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_libc = ctypes.CDLL(None, use_errno=True)


def children_of(pid: int) -> set[int]:
    """Return the children of a process, zombies included."""
    found: set[int] = set()
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process still runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextmanager
def nothing_left(patience: float = 5 * SLOWNESS) -> Iterator[None]:
    """Assert that what runs inside leaves no process alive a few seconds later."""
    before = children_of(os.getpid())
    # Platforms in this process are subreapers, too, and stay it: what was set is set again in the end.
    was = ctypes.c_int()
    assert _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0) == 0
    assert _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
        deadline = time.monotonic() + patience
        while True:
            left = {pid for pid in children_of(os.getpid()) - before if is_alive(pid)}
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        for pid in children_of(os.getpid()) - before - left:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue
        for pid in left:
            os.kill(pid, 9)
        assert not left, f"still there after {patience} s: {sorted(left)}"
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, was.value, 0, 0, 0)
