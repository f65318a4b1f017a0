"""No system call of guest code reaches the host kernel: a watcher on the host's side sees the stub's own calls only.

The kernel's raw_syscalls tracepoints come after user dispatch and after seccomp: what they show was carried out. Needs
root and tracefs.
"""

import os
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from systrap.host.sys import NR
from systrap.platforms.systrap.filters import CLONE_PROCESS, CLONE_THREAD
from tests.programs.support import TIMEOUT, command, environment, need_platform

SERVING = {NR[n] for n in ("futex", "rt_sigreturn", "sched_yield", "arch_prctl")}
"""What the handler of a thread that runs guest code may call (filter F1)."""
BIRTH = {NR[n] for n in ("prctl", "getppid", "sigaltstack", "arch_prctl", "rt_sigprocmask", "seccomp")}
"""What such a thread calls before, once each, or a few times (docs/images.md)."""
STUB = {
    NR[n] for n in ("mmap", "munmap", "clone", "futex", "exit_group", "prctl", "getppid", "getpid", "seccomp", "exit")
}
"""What the syscall thread of a stub calls; guest code never runs on it."""

SCRIPT = "cd /etc; ls > /dev/null; echo hello; (exit 3); cat passwd | wc -l > /dev/null; kill -0 $$; uname; umask"


class Watcher:
    """An instance of the kernel's tracer, for one process and its descendants."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "instances" / f"systrap-{os.getpid()}"
        self.folder.mkdir()
        self.write("buffer_size_kb", "16384")

    def write(self, name: str, value: str) -> None:
        (self.folder / name).write_text(value)

    def watch(self, pid: int) -> None:
        self.write("options/event-fork", "1")
        self.write("set_event_pid", str(pid))
        self.write("events/raw_syscalls/enable", "1")

    def lines(self) -> list[str]:
        self.write("events/raw_syscalls/enable", "0")
        return (self.folder / "trace").read_text(errors="replace").splitlines()

    def close(self) -> None:
        self.write("events/raw_syscalls/enable", "0")
        self.folder.rmdir()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    if os.getuid() != 0:
        pytest.skip("watching system calls of the host needs root")
    with tempfile.TemporaryDirectory() as root:
        mounted = subprocess.run(["mount", "-t", "tracefs", "systrap-test", root], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no tracefs here: {mounted.stderr.decode().strip()}")
        try:
            if not Path(root, "events/raw_syscalls").exists():
                pytest.skip("this kernel has no raw_syscalls tracepoints")
            found = Watcher(Path(root))
            try:
                yield found
            finally:
                found.close()
        finally:
            subprocess.run(["umount", root], check=False)


class Calls(NamedTuple):
    """What each thread called, in order, and the threads that stubs made."""

    by_thread: dict[int, list[int]]
    stubs: set[int]
    workers: set[int]


_LINE = re.compile(r"-(\d+)\s+\[\d+\].*?: sys_(enter|exit): NR (-?\d+) (?:\((\w+)|= (-?\d+))")


def parse(lines: list[str]) -> Calls:
    calls: dict[int, list[int]] = defaultdict(list)
    flags: dict[int, int] = {}
    made: dict[int, set[int]] = {CLONE_PROCESS: set(), CLONE_THREAD: set()}
    for line in lines:
        found = _LINE.search(line)
        if found is None:
            continue
        thread, kind, number = int(found[1]), found[2], int(found[3])
        if kind == "enter":
            calls[thread].append(number)
            if number == NR["clone"]:
                flags[thread] = int(found[4], 16)
        elif number == NR["clone"] and flags.get(thread) in made and int(found[5]) > 0:
            made[flags[thread]].add(int(found[5]))
    return Calls(calls, made[CLONE_PROCESS], made[CLONE_THREAD])


def test_no_guest_system_call_reaches_the_host(watcher: Watcher) -> None:
    need_platform("systrap")
    child = subprocess.Popen(
        ["/bin/sh", "-c", 'read go; exec "$@"', "sh", *command("systrap", ("/bin/bash", "-c", SCRIPT))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    watcher.watch(child.pid)
    out, _ = child.communicate(b"go\n", timeout=TIMEOUT)
    assert (child.returncode, out.split()[0]) == (0, b"hello")
    calls = parse(watcher.lines())
    assert calls.stubs
    assert calls.workers, "no thread that runs guest code was seen"
    for thread in calls.workers:
        made = calls.by_thread[thread]
        assert (
            set(made) <= SERVING | BIRTH
        ), f"a thread that runs guest code called {sorted(set(made) - SERVING - BIRTH)}"
        for number in BIRTH - SERVING:
            assert made.count(number) <= 2, f"call {number} more than once: {made[:40]}"
    for thread in calls.stubs:
        assert set(calls.by_thread[thread]) <= STUB | BIRTH, sorted(set(calls.by_thread[thread]) - STUB - BIRTH)


def test_the_watcher_would_see_it(watcher: Watcher) -> None:
    """The same for a native run: the test above is not blind."""
    child = subprocess.Popen(["/bin/sh", "-c", "read go; exec uname"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    watcher.watch(child.pid)
    child.communicate(b"go\n", timeout=TIMEOUT)
    assert 63 in parse(watcher.lines()).by_thread[child.pid]
