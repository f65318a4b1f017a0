"""What is different in a context on arm64.

The thread pointer is not among the slot's registers but behind them (abi.TLS), and contexts show it as one of theirs. So the
registers that the caller sees are a copy here: put into the slot on the way in, read once on the way out.
"""

from typing import ClassVar

from systrap.arch import arm_fp
from systrap.arch.aarch64 import PTREGS, TPIDR, AArch64
from systrap.arch.x86_64 import X86_64
from systrap.platform import SYSCALL_EVENT, Event
from systrap.platforms.systrap.abi import ContextSlot
from systrap.platforms.systrap.context import FpFormat, SystrapContext


class AArch64Context(SystrapContext):
    """See platform.Context."""

    __slots__ = ()

    MACHINE: ClassVar[type[X86_64] | type[AArch64]] = AArch64
    FP: ClassVar[FpFormat] = arm_fp

    def _put_registers(self, slot: ContextSlot) -> None:
        """Put the registers into the slot, PSTATE such as the kernel accepts it (S-052)."""
        regs = self.regs
        AArch64.sanitize(regs)
        slot.regs[:] = regs[:PTREGS]
        slot.set_tls(regs[TPIDR])

    def _live_in(self, slot: ContextSlot) -> None:
        """Nothing: the registers are ours, and go into the slot each time."""

    def collect(self) -> Event | None:
        """Read what the stub left in the slot, registers included."""
        event = super().collect()
        slot = self.slot
        if event is not None and slot is not None:
            regs = self.regs
            regs[:PTREGS] = slot.regs
            regs[TPIDR] = slot.tls()
        return event

    def _syscall(self, slot: ContextSlot, state: int) -> Event:
        """Report a system call: its number is in x8, its arguments in x0…x5, nothing was overwritten."""
        return SYSCALL_EVENT
