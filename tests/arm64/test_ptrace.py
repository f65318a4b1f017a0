"""The ptrace platform on arm64: what is its own there. The rest is test_platform.py, for both platforms."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from systrap import platform
from systrap.arch.aarch64 import AArch64
from systrap.host.sys import NR
from systrap.platform import Options
from systrap.platforms.ptrace.space import PtraceSpace
from systrap.platforms.ptrace.stub import INJECTED
from tests.arm64 import guest
from tests.platforms.kernel import CODE, DATA, PAGE, SUBMIT, SWITCH, Kernel, R, W, is_syscall, reg, set_reg, signo

SIGTRAP = 5
RESTART_SYSCALL = 128


@pytest.fixture(params=[SWITCH, SUBMIT])
def ptrace(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    if os.uname().machine != "aarch64":
        pytest.skip("this needs an arm64 host")
    kernel = Kernel(platform.lookup("ptrace").new(Options()), str(request.param))
    yield kernel
    kernel.close()


@pytest.mark.parametrize("name", INJECTED)
def test_a_guest_on_the_stub_page_makes_no_call(ptrace: Kernel, name: str) -> None:
    """P-034: also those that are injected there are told, with their registers, and not made; and injection works afterwards."""
    space = ptrace.space(guest.JUMP.bytes)
    assert isinstance(space, PtraceSpace)
    at = space.stub.code
    arguments = (DATA, PAGE, 3, 0x32, (1 << 64) - 1, 0)
    values = {f"x{number}": value for number, value in enumerate(arguments)}
    context = ptrace.context(ip=at, x7=0x77, x8=NR[name], x30=0x30, **values)
    assert is_syscall(ptrace.run(context, space))
    assert AArch64.syscall_number(context.regs) == NR[name]
    assert [reg(context, f"x{number}") for number in range(6)] == list(arguments)
    assert (reg(context, "x7"), reg(context, "x30"), reg(context, "pc")) == (0x77, 0x30, at + 4)
    assert f"{DATA:x}-" not in Path(f"/proc/{space.stub.pid}/maps").read_text()
    # The call is over: nothing is made up for when it goes on.
    assert signo(ptrace.run(context, space)) == SIGTRAP
    assert reg(context, "pc") == at + 4
    ptrace.map(space, DATA, b"\x42", R | W)
    load = ptrace.context(ip=CODE + PAGE, x0=DATA)
    space.map_file(
        CODE + PAGE, ptrace.file, ptrace.page(guest.LOAD.bytes), PAGE, platform.Access.READ | platform.Access.EXECUTE
    )
    assert is_syscall(ptrace.run(load, space))
    assert reg(load, "x10") == 0x42


@pytest.mark.parametrize("code", [-512, -513, -514, -516])
def test_first_arguments_that_look_like_restarts(ptrace: Kernel, code: int) -> None:
    """P-040: the host kernel sets pc back for them, and the platform sets it right again.

    What remains is in docs/limits.md: behind −516 the very same call comes as another, when it is issued again.
    """
    space = ptrace.space(guest.CALLS.bytes)
    context = ptrace.context(x0=code & (1 << 64) - 1, x8=172)
    for _ in range(2):
        assert is_syscall(ptrace.run(context, space))
        assert (reg(context, "x0"), reg(context, "pc")) == (code & (1 << 64) - 1, CODE + 4)
        assert AArch64.syscall_number(context.regs) == 172
        set_reg(context, "pc", CODE)
        set_reg(context, "x0", 1)
        assert is_syscall(ptrace.run(context, space))
        again = RESTART_SYSCALL if code == -516 else 172
        assert (reg(context, "x0"), AArch64.syscall_number(context.regs)) == (1, again)
        set_reg(context, "x8", 172)
        set_reg(context, "x0", code & (1 << 64) - 1)
