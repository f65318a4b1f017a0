"""A guest's stack pointer is the guest's: it never breaks the kernel."""

import os
import types

import pytest

from systrap.arch import x86_64 as r
from systrap.arch import x86_fp
from systrap.sentry import frames
from systrap.sentry.signals import SA_ONSTACK, SA_RESTORER, Action, Info

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="registers of x86-64; arm64: tests/arch/test_arm_frame.py"
)


class Memory:
    """Takes any write that lies in the address space."""

    def write(self, address: int, data: bytes) -> None:
        assert 0 <= address < 1 << 64


@pytest.mark.parametrize("sp", [0, 8, 128, 4096])
def test_no_room_below_a_low_stack_pointer(sp: int) -> None:
    regs = memoryview(bytearray(8 * 27)).cast("Q")
    regs[r.RSP] = sp
    context = types.SimpleNamespace(regs=regs, fp=x86_fp.initial(2696), pull_full_state=lambda: None)
    task = types.SimpleNamespace(context=context, mm=Memory(), altstack=(0, frames.SS_DISABLE, 0))
    pushed = frames.push(task, Info(14), Action(0x1000, SA_RESTORER, 0x2000), 0)  # type: ignore[arg-type] # a stand-in
    assert pushed is (sp == 4096)


def test_an_alternate_stack_beyond_the_address_space() -> None:
    regs = memoryview(bytearray(8 * 27)).cast("Q")
    regs[r.RSP] = 1 << 20
    context = types.SimpleNamespace(regs=regs, fp=x86_fp.initial(2696), pull_full_state=lambda: None)
    task = types.SimpleNamespace(context=context, mm=Memory(), altstack=((1 << 64) - 8, 0, 1 << 20))
    action = Action(0x1000, SA_RESTORER | SA_ONSTACK, 0x2000)
    assert not frames.push(task, Info(14), action, 0)  # type: ignore[arg-type] # a stand-in
