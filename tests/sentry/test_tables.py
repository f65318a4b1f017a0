"""The tables of system calls of both architectures, on any host: a fresh interpreter is told to be on the other one."""

import functools
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest

from systrap.arch import linux
from systrap.arch.linux import Linux
from systrap.host.sys import PAGE_SIZE
from systrap.sentry import loader
from systrap.sentry.fs import proc_system
from systrap.sentry.syscalls import numbers
from tests.programs.support import ROOT

if TYPE_CHECKING:
    from systrap.sentry.mm import MemoryManager

SCRIPT = """
import json, os, sys
real = os.uname()
name = type("Name", (), {"machine": sys.argv[1], "release": real.release, "nodename": real.nodename})
os.uname = lambda: name
from systrap.sentry.syscalls import load_all
from systrap.sentry.syscalls.table import TABLE
from systrap.sentry import file, frames
from systrap.arch import current
load_all()
print(json.dumps({
    "calls": {entry.name: [nr, [argument for argument, _ in entry.takes]] for nr, entry in TABLE.items()},
    "flags": [file.O_DIRECT, file.O_LARGEFILE, file.O_DIRECTORY, file.O_NOFOLLOW, file.O_TMPFILE],
    "format": frames._FORMAT.__name__,
}))
"""

NOT_THERE = {
    "remap_file_pages", "fanotify_mark", "process_mrelease", "mseal", "setxattrat", "getxattrat", "listxattrat", "removexattrat",
    "nfsservctl",
}  # fmt: skip
"""Answered ENOSYS, by name in the report, on both (docs/limits.md)."""
NEVER = {
    "create_module", "get_kernel_syms", "query_module", "getpmsg", "putpmsg", "afs_syscall", "tuxcall", "security",
    "epoll_ctl_old", "epoll_wait_old", "vserver",
}  # fmt: skip
"""Numbers of x86-64 that no kernel of our release answers."""
ONLY_X86_64 = {
    "open", "stat", "lstat", "poll", "access", "pipe", "select", "dup2", "pause", "alarm", "fork", "vfork", "getdents", "rename",
    "mkdir", "rmdir", "creat", "link", "unlink", "symlink", "readlink", "chmod", "chown", "lchown", "getpgrp", "utime", "mknod",
    "uselib", "ustat", "sysfs", "modify_ldt", "_sysctl", "arch_prctl", "iopl", "ioperm", "time", "set_thread_area",
    "get_thread_area", "epoll_create", "epoll_wait", "utimes", "inotify_init", "futimesat", "signalfd", "eventfd",
}  # fmt: skip
"""Calls that newer ones replace, or of x86-64's own parts: arm64 has no numbers for them."""


class Tables(NamedTuple):
    """What a sentry has on a machine: number and arguments of each call, flags of open, the module of signal frames."""

    calls: dict[str, tuple[int, list[str]]]
    flags: list[int]
    format: str


@functools.cache
def tables(machine: str) -> Tables:
    done = subprocess.run([sys.executable, "-c", SCRIPT, machine], capture_output=True, text=True, check=True, cwd=ROOT)
    return Tables(**json.loads(done.stdout))


@pytest.mark.parametrize(("machine", "known"), [("x86_64", numbers.X86_64), ("aarch64", numbers.AARCH64)])
def test_every_call_has_a_handler_or_is_known_not_to(machine: str, known: dict[str, int]) -> None:
    calls = tables(machine).calls
    assert {name: nr for name, (nr, _) in calls.items()} == {
        name: nr for name, nr in known.items() if name not in NOT_THERE | NEVER
    }


def test_arm64_lacks_what_newer_calls_replace_and_nothing_else() -> None:
    x86, arm = (set(tables(machine).calls) for machine in ("x86_64", "aarch64"))
    assert x86 - arm == ONLY_X86_64
    assert arm - x86 == set()


def test_handlers_take_the_same_but_for_clone() -> None:
    """CONFIG_CLONE_BACKWARDS: the thread pointer comes before the child's id on arm64."""
    x86, arm = (tables(machine).calls for machine in ("x86_64", "aarch64"))
    assert [name for name in arm if arm[name][1] != x86[name][1]] == ["clone"]
    assert x86["clone"][1] == ["flags", "stack", "parent_tid", "child_tid", "tls"]
    assert arm["clone"][1] == ["flags", "stack", "parent_tid", "tls", "child_tid"]


@pytest.mark.parametrize(
    ("machine", "flags", "frame"),
    [
        ("x86_64", [0o40000, 0o100000, 0o200000, 0o400000, 0o20200000], "systrap.arch.x86_frame"),
        ("aarch64", [0o200000, 0o400000, 0o40000, 0o100000, 0o20040000], "systrap.arch.arm_frame"),
    ],
)
def test_flags_and_frames(machine: str, flags: list[int], frame: str) -> None:
    found = tables(machine)
    assert found.flags == flags
    assert found.format == frame


CPU = b"processor\t: 0\nBogoMIPS\t: 125.00\nFeatures\t: fp asimd aes cpuid sve sve2 bti paca\nCPU implementer\t: 0x00"


def test_cpuinfo_tells_what_the_auxiliary_vector_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """S-051: hidden features stand in neither; nothing else of the text changes, and nothing at all on x86-64."""
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="aarch64"))
    assert proc_system._without_hidden_features(CPU) == CPU.replace(b" cpuid sve sve2 bti", b"")
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="x86_64"))
    assert proc_system._without_hidden_features(CPU) == CPU


SIZES = [(linux.X86_64, (1 << 47) - PAGE_SIZE)] + [(linux.AARCH64, 1 << bits) for bits in (39, 42, 47, 48, 52)]


@pytest.mark.parametrize(("side", "size"), SIZES)
@pytest.mark.parametrize("stack", [8 << 20, 1 << 38, (1 << 64) - 1])
def test_programs_fit_into_every_address_space(
    monkeypatch: pytest.MonkeyPatch, side: Linux, size: int, stack: int
) -> None:
    """20-platform §1.2: 39 to 52 bits, any limit of the stack. What is random is far smaller than what it moves in."""
    monkeypatch.setattr(loader, "_LINUX", side)
    limits = SimpleNamespace(soft=lambda number: stack)
    for _ in range(50):
        mm = SimpleNamespace(max_address=size - size // 128, limits=limits, mmap_base=0)
        top = loader._lay_out(cast("MemoryManager", mm))
        base = loader._pie_base(cast("MemoryManager", mm))
        assert mm.mmap_base < top <= mm.max_address
        assert top - mm.mmap_base >= 128 << 20
        assert size // 16 < mm.mmap_base
        assert base % PAGE_SIZE == mm.mmap_base % PAGE_SIZE == 0
        assert size // 2 < base < base + (PAGE_SIZE << side.mmap_random) < mm.max_address
        if stack <= 8 << 20:
            assert base + (1 << 36) < mm.mmap_base
