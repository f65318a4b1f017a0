"""Syscall user dispatch in front of seccomp (10-stub §7.6; S-106)."""

import errno
from collections.abc import Iterator

import pytest

from systrap.host import sys as host
from systrap.platform import AUTO, DISPATCH, SECCOMP, EventKind, Options, RequirementError
from systrap.platforms.systrap import platform as systrap_platform
from systrap.platforms.systrap.context import SystrapContext
from tests.platforms import guest as code
from tests.platforms.conftest import create
from tests.platforms.kernel import Kernel, is_syscall, reg

SYS_SECCOMP, SYS_USER_DISPATCH = 1, 2
SIGSYS = 31


@pytest.fixture(params=["switch", "submit"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run_call(trap: str, way: str) -> Iterator[SystrapContext]:
    """Yield a context that has just made a call that was not patched."""
    kernel = Kernel(create("systrap", Options(syscall_trap=trap)), way)
    space, context = kernel.space(code.ARGUMENTS), kernel.context()
    assert is_syscall(kernel.run(context, space))
    assert isinstance(context, SystrapContext)
    yield context
    kernel.close()


@pytest.mark.parametrize(("trap", "expected"), [(SECCOMP, SYS_SECCOMP), (DISPATCH, SYS_USER_DISPATCH)])
def test_who_raised_the_signal(trap: str, expected: int, way: str) -> None:
    """S-106: si_code says it; the call is the same for the caller."""
    for context in run_call(trap, way):
        assert context.slot is not None
        info = context.slot.siginfo()
        assert (info.signo, info.code) == (SIGSYS, expected)
        assert [reg(context, name) for name in ("orig_rax", "rdi", "rsi", "rdx", "r10", "r8", "r9")] == [
            500, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66,
        ]  # fmt: skip


def test_auto_takes_what_there_is(way: str) -> None:
    """S-106: dispatch where prctl knows it."""
    has_it = host.syscall(host.NR["prctl"], 59, 0, 0, 0, 0) == 0
    for context in run_call(AUTO, way):
        assert context.slot is not None
        assert context.slot.siginfo().code == (SYS_USER_DISPATCH if has_it else SYS_SECCOMP)


@pytest.mark.parametrize("number", [-errno.EINVAL, -errno.EPERM])
def test_kernel_without_it(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """7.6: auto falls back to seccomp; who insists is told."""
    real = host.syscall

    def refusing(nr: int, *arguments: int) -> int:
        return number if nr == host.NR["prctl"] and arguments[0] == 59 else real(nr, *arguments)

    monkeypatch.setattr(systrap_platform, "syscall", refusing)
    for context in run_call(AUTO, "submit"):
        assert context.slot is not None
        assert context.slot.siginfo().code == SYS_SECCOMP
    with pytest.raises(RequirementError, match="user dispatch"):
        systrap_platform.SystrapPlatform(Options(syscall_trap=DISPATCH))


def test_vsyscall_is_seccomp_all_the_same(way: str) -> None:
    """7.6, P-049: user dispatch does not see these calls; they arrive as the execute fault they are."""
    kernel = Kernel(create("systrap", Options(syscall_trap=DISPATCH)), way)
    context = kernel.context()
    kernel.map(space := kernel.space(code.VSYSCALL), context.regs[19] - 8 & -4096)
    event = kernel.run(context, space)
    assert event.kind == EventKind.SIGNAL
    assert event.info is not None
    assert (event.info.signo, event.info.addr) == (11, 0xFFFFFFFFFF600000)
    kernel.close()


def test_two_platforms_with_different_traps(way: str) -> None:
    """The trap is a platform's, not the process's: both run side by side."""
    kernels = [Kernel(create("systrap", Options(syscall_trap=trap)), way) for trap in (DISPATCH, SECCOMP)]
    found = []
    for kernel in kernels:
        space, context = kernel.space(code.CALLS), kernel.context()
        for _ in range(3):
            assert is_syscall(kernel.run(context, space))
        assert isinstance(context, SystrapContext)
        assert context.slot is not None
        found.append(context.slot.siginfo().code)
    assert found == [SYS_USER_DISPATCH, SYS_SECCOMP]
    for kernel in kernels:
        kernel.close()


UPROBE = 336
"""The kernel's own call for its uprobes: kept from seccomp filters where there is one, as is 335, uretprobe."""


@pytest.mark.parametrize(
    "trap",
    [
        DISPATCH,
        pytest.param(
            SECCOMP,
            marks=pytest.mark.xfail(
                host.syscall(UPROBE, 0, 0, 0, 0, 0) != -errno.ENOSYS,
                reason="no filter sees this call (Linux 6.18): the host answers it with ENXIO, and 335 with SIGILL",
                strict=True,
            ),
        ),
    ],
)
def test_call_that_seccomp_does_not_see(trap: str, way: str) -> None:
    """P-034: no call of a guest may reach the host. User dispatch stands in front of them all."""
    kernel = Kernel(create("systrap", Options(syscall_trap=trap)), way)
    space, context = kernel.space(code.CALLS), kernel.context(rax=UPROBE)
    event = kernel.run(context, space)
    number = reg(context, "orig_rax")
    kernel.close()
    assert is_syscall(event)
    assert number == UPROBE
