"""What is measured, and by what: the ladder of ways to catch a system call, the steps of the guest, whole programs.

A *way* is something that runs a command (nothing, strace, systrap with some switches, runsc with some platform). A *step* is
something the guest program of blobs/src/ladder.c does many times, or that platform_steps.py does through the platform alone.
A *cell* is a step on a way; the measurement runs all cells one after the other, again and again (measure.py).
"""

import os
import shutil
import sys
from typing import Final, NamedTuple

RUNSC_FLAGS: Final = ("--network=none", "--ignore-cgroups")


class Way(NamedTuple):
    """A way to run a program: ``prefix`` goes in front of the command. ``slower``: so many times fewer repetitions."""

    name: str
    prefix: tuple[str, ...]
    slower: int = 1


class Step(NamedTuple):
    """A step of the guest: its name there, ``times`` natively, on how many threads; ``minus``: a step whose time is taken off."""

    name: str
    title: str
    what: str
    times: int
    threads: int = 1
    minus: str = ""
    in_process: bool = False


class Program(NamedTuple):
    """A whole program: a shell command, and what it shows."""

    name: str
    title: str
    command: str


class Cell(NamedTuple):
    """One measurement: ``command`` prints ``WHAT COUNT NANOSECONDS``, or is timed from outside where ``whole``."""

    step: str
    way: str
    command: tuple[str, ...]
    whole: bool = False


STEPS: Final = (
    Step("getpid", "system call (trapped)", "getpid", 50_000),
    Step("patched", "system call (patched site)", "patched", 50_000),
    Step("threads-2", "system call, 2 threads, aggregate", "threads", 40_000, 2),
    Step("threads-4", "system call, 4 threads, aggregate", "threads", 40_000, 4),
    Step("threads-8", "system call, 8 threads, aggregate", "threads", 40_000, 8),
    Step("fault", "page fault", "refault", 4_000, 1, "discard"),
    Step("discard", "madvise(DONTNEED) of a page", "discard", 4_000),
    Step("touch", "fresh memory, per page of 4 KiB", "touch", 20_000),
    Step("mmap", "mmap and munmap of 64 KiB", "mmap", 3_000),
    Step("fork", "fork, exit and wait4 of a static program", "fork", 200),
    Step("thread", "a thread made, and gone", "thread", 500),
    Step("switch", "two threads wake each other by futex", "switch", 3_000),
    Step("signal", "a signal to oneself, and its handler", "signal", 3_000),
    Step("compute", "one turn of a computing loop", "compute", 50_000_000),
)
"""What the guest does."""

IN_PROCESS: Final = (
    Step("contexts-1", "platform round trip, 1 context", "contexts-1", 20_000, in_process=True),
    Step("contexts-2", "platform round trip, 2 contexts", "contexts-2", 20_000, in_process=True),
    Step("contexts-8", "platform round trip, 8 contexts", "contexts-8", 20_000, in_process=True),
    Step("contexts-64", "platform round trip, 64 contexts", "contexts-64", 20_000, in_process=True),
    Step("space-fresh", "new address space, a new stub", "space-fresh", 40, in_process=True),
    Step("space-pooled", "new address space, from the pool, and its first call", "space-pooled", 200, in_process=True),
    Step("interrupt", "interrupt of computing guest code, to its event", "interrupt", 500, in_process=True),
    Step("idle", "CPU time of sentry and stub per second of a sleeping guest", "idle", 1, in_process=True),
)
"""What is done through the platform's interface, without a guest kernel; on systrap and ptrace."""

LADDER: Final = (
    ("native", "getpid", ()),
    ("seccomp filter that lets it pass", "filter", ()),
    ("SIGSYS handler in the same process, by seccomp", "trap", ()),
    ("SIGSYS handler in the same process, by user dispatch", "dispatch", ()),
    ("strace -f, asked for nothing", "getpid", "strace"),
    ("systrap on ptrace", "getpid", "systrap-ptrace"),
    ("systrap, trapped by seccomp", "getpid", "systrap-seccomp"),
    ("systrap, trapped by user dispatch", "getpid", "systrap"),
    ("systrap, trapped, nobody spins", "getpid", "systrap-sleeping"),
    ("systrap, trapped, upstream's sigreturn", "getpid", "systrap-sigreturn"),
    ("systrap, trapped, no quick calls", "getpid", "systrap-told"),
    ("systrap, patched", "patched", "systrap"),
    ("systrap, patched, nobody spins", "patched", "systrap-sleeping"),
)
"""One getpid, from nothing to a whole guest kernel: title, step, way ("" is native)."""


def programs() -> tuple[Program, ...]:
    """Return the whole programs whose tools are here."""
    found = [
        Program("true", "start-up: /bin/true", "/bin/true"),
        Program("find", "find /usr -name '*.py'", "find /usr -name '*.py' >/dev/null"),
        Program("grep", "grep -r through /usr/lib/python3", "grep -r dataclass /usr/lib/python3* >/dev/null"),
        Program("sha256", "sha256sum of 200 MB from a pipe", "head -c 200000000 /dev/zero | sha256sum >/dev/null"),
        Program("gzip", "gzip of 20 MB", "head -c 20000000 /dev/zero | gzip -c >/dev/null"),
        Program("sort", "sort of 200,000 lines", "seq 200000 | sort -R --random-source=/dev/zero >/dev/null"),
        Program("forks", "a shell loop of 500 forks", "i=0; while [ $i -lt 500 ]; do (:); i=$((i+1)); done"),
        Program("python", "python3 -c 'import json'", "/usr/bin/python3 -c 'import json'"),
        Program("compile", "gcc of a small file", "echo 'int main(void){return 0;}' | gcc -x c - -o /dev/null"),
    ]
    needed = {"compile": "gcc", "python": "/usr/bin/python3", "gzip": "gzip", "find": "find", "grep": "grep"}
    return tuple(p for p in found if shutil.which(needed.get(p.name, "sh")))


def systrap(*switches: str) -> tuple[str, ...]:
    """Return the prefix that runs a command under this systrap, with this interpreter."""
    return (sys.executable, "-m", "systrap", "run", *switches, "--")


def ways(runsc: str | None) -> dict[str, Way]:
    """Return the ways that exist here, by name. ``runsc``: its path, or None to look for it on the PATH."""
    found = [
        Way("native", ()),
        Way("systrap", systrap()),
        Way("systrap-seccomp", systrap("--syscall-trap", "seccomp")),
        Way("systrap-sleeping", systrap("--no-fast-path"), 5),
        Way("systrap-sigreturn", systrap("--no-user-resume")),
        Way("systrap-told", systrap("--no-quick-calls"), 2),
        Way("systrap-ptrace", systrap("--platform", "ptrace"), 20),
    ]
    strace = shutil.which("strace")
    if strace is not None:
        found.append(Way("strace", (strace, "-f", "-qq", "-o", os.devnull, "-e", "trace=none"), 20))
    path = runsc or shutil.which("runsc")
    if path is not None:
        found += [Way(f"runsc-{name}", (path, *RUNSC_FLAGS, f"--platform={name}", "do"), scale)
                  for name, scale in (("systrap", 1), ("ptrace", 20))]  # fmt: skip
    return {way.name: way for way in found}
