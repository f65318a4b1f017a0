"""The seccomp programs, run as the kernel would run them."""

import pytest

from systrap.host.bpf import RET_ALLOW, RET_TRAP, RET_USER_NOTIF, evaluate
from systrap.host.sys import AUDIT_ARCH, NR
from systrap.platforms.systrap import filters, layout

PLACE = layout.compute(4096, 0x7F1234560000, 0x7000, 3000, 9000, 3)
BASE = filters.base_filter(PLACE)
THREAD = filters.thread_filter(PLACE)
NOTIFY = filters.notify_filter()
INSIDE = PLACE.sysmsg + 100
GUEST = 0x401002
FOREIGN_ARCH = 0x40000003
FUTEX = NR["futex"]


def answer(program: bytes, name: str, ip: int, *args: int, arch: int = AUDIT_ARCH) -> int:
    return evaluate(program, NR[name], arch, ip, args)


@pytest.mark.parametrize("program", [BASE, THREAD])
@pytest.mark.parametrize("nr", range(0, 460, 3))
def test_other_architectures_trap(program: bytes, nr: int) -> None:
    """S-104: whatever the number."""
    assert evaluate(program, nr, FOREIGN_ARCH, INSIDE) == RET_TRAP


def test_nothing_from_guest_code_passes() -> None:
    """S-101, S-103: no number, with any of these arguments, from any address outside the sysmsg image."""
    outside = (
        0,
        GUEST,
        PLACE.stub_start,
        PLACE.stub_start + 2,
        PLACE.sysmsg,
        PLACE.sysmsg_rules + 1,
        PLACE.ro_end,
        1 << 63,
    )
    for nr in range(-1, 600):
        for ip in outside:
            for args in ((), (PLACE.contexts, 1, 1), (PLACE.contexts, 0, 0), (0x1003,), (0x1002,)):
                assert evaluate(THREAD, nr, AUDIT_ARCH, ip, args) == RET_TRAP, (nr, hex(ip), args)


def test_what_the_handler_does_passes() -> None:
    """S-101: the futex calls of 10-stub §8.3 item 8, sigreturn, yield, the FS base."""
    assert answer(THREAD, "futex", INSIDE, PLACE.contexts + 0xF68, 1, 1, 0, 0, 0) == RET_ALLOW
    assert answer(THREAD, "futex", INSIDE, PLACE.context_queue + 0x100, 0, 0, 0, 0, 0) == RET_ALLOW
    assert answer(THREAD, "futex", INSIDE, PLACE.ready_ring + 0x40, 1, 1, 0, 0, 0) == RET_ALLOW
    assert answer(THREAD, "rt_sigreturn", PLACE.sysmsg + 9) == RET_ALLOW
    assert answer(THREAD, "sched_yield", INSIDE) == RET_ALLOW
    assert answer(THREAD, "arch_prctl", INSIDE, 0x1002, 5) == RET_ALLOW
    assert answer(THREAD, "arch_prctl", INSIDE, 0x1003, 5) == RET_ALLOW


@pytest.mark.parametrize(
    "args",
    [
        (PLACE.contexts, 129, 1, 0, 0, 0),
        (PLACE.contexts, 1, 2, 0, 0, 0),
        (PLACE.contexts, 1, 1, 0, 0, 666),
        (PLACE.contexts, 0, 0, 0x1000, 0, 0),
        (PLACE.contexts, 0, 0, 0, 1, 0),
        (PLACE.sysmsg, 1, 1, 0, 0, 0),
        (PLACE.end, 1, 1, 0, 0, 0),
        (GUEST, 1, 1, 0, 0, 0),
        (PLACE.contexts, 1 << 32, 1, 0, 0, 0),
    ],
)
def test_other_futex_calls_trap(args: tuple[int, ...]) -> None:
    """S-102: private futexes, time-outs, other arguments, other addresses."""
    assert evaluate(THREAD, FUTEX, AUDIT_ARCH, INSIDE, args) == RET_TRAP


@pytest.mark.parametrize(
    "name", ["mmap", "munmap", "clone", "exit_group", "kill", "prctl", "seccomp", "mprotect", "ptrace"]
)
def test_sysmsg_threads_may_not(name: str) -> None:
    """S-101, S-108: what the bootstrap may is not the handler's."""
    assert answer(THREAD, name, INSIDE, filters.CLONE_THREAD) == RET_TRAP


def test_the_bootstrap_may_what_it_needs_and_no_more() -> None:
    """S-100, S-120: F0's alternatives, and their neighbours."""
    ip = PLACE.stub_start + 50
    for flags in (filters.CLONE_PROCESS, filters.CLONE_THREAD):
        assert answer(BASE, "clone", ip, flags) == RET_ALLOW
        assert answer(BASE, "clone", ip, flags | 1 << 32) == RET_TRAP
    assert answer(BASE, "clone", ip, 17) == RET_TRAP
    assert answer(BASE, "prctl", ip, 1, 9) == RET_ALLOW
    assert answer(BASE, "prctl", ip, 1, 0) == RET_TRAP
    assert answer(BASE, "seccomp", ip, 1, 8, 5) == RET_ALLOW
    assert answer(BASE, "seccomp", ip, 1, 1, 5) == RET_TRAP
    for name in ("mprotect", "kill", "ptrace", "memfd_create", "wait4"):
        assert answer(BASE, name, ip) == RET_TRAP


def test_the_doorbell() -> None:
    """FN: exit_group rings, everything else is F0's."""
    assert answer(NOTIFY, "exit_group", 0) == RET_USER_NOTIF
    assert answer(NOTIFY, "mmap", 0) == RET_ALLOW
    assert answer(NOTIFY, "exit_group", 0, arch=FOREIGN_ARCH) == RET_ALLOW


def test_vsyscall_calls_trap() -> None:
    """S-049: from the vsyscall page, where the instruction pointer has bit 63 set."""
    for name in ("gettimeofday", "time", "getcpu"):
        assert answer(THREAD, name, 0xFFFFFFFFFF600009) == RET_TRAP
