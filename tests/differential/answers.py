"""The guest kernel's part of a differential run: what it answers to a system call is derived from the number alone.

Most numbers get a result and nothing else. Those of :class:`Action` make the kernel do what kernels do between two runs:
restart the call, look at or edit the FP state, change registers, map and unmap, interrupt, single-step.
"""

import enum
import struct
from typing import TYPE_CHECKING, Final

from systrap.arch import x86_64 as cpu
from tests.differential.encoder import RAX, RBX, RCX, RDI, RDX, RSI
from tests.differential.snippet import EDGE_SITE

if TYPE_CHECKING:
    from tests.differential.execution import Twin

_U64: Final = (1 << 64) - 1
RESTART_SYSCALL: Final = 219
VALUES: Final = (0, 1, -1, -4, -11, -38, -512, -513, -514, -515, -516, -4095, -4096, 1 << 63, 1 << 32, RESTART_SYSCALL)
"""Results with a number of their own: among them all that the host kernel could take for its own restart codes (P-041)."""
FIRST_VALUE: Final = 1000


class Action(enum.IntEnum):
    """System calls that make the kernel do more than answer."""

    RESTART = 1020
    RESTART_BLOCK = 1021
    SCRAMBLE = 1022
    EDIT_FP = 1023
    PULL = 1024
    PULL_AND_PUSH = 1025
    UNMAP = 1026
    PROTECT = 1027
    REMAP_CODE = 1028
    INTERRUPT = 1029
    FORK = 1030
    STEP = 1031
    SET_FS = 1032
    REDIRECT = 1033


FREE: Final = (cpu.RBX, cpu.RCX, cpu.RDX, cpu.RSI, cpu.RDI, cpu.R8, cpu.R9, cpu.R10, cpu.R11, cpu.R12, cpu.R14)
"""Registers that no unit relies on."""
FREE_NUMBERS: Final = (RAX, RBX, RCX, RDX, RSI, RDI, 8, 9, 10, 11, 12, 14)
"""The same and rax, as instructions number them."""
_CHANGEABLE_FLAGS: Final = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x400 | 0x800


def mix(*values: int) -> int:
    """Return 64 bits that look random and depend on all values."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state ^ value) * 0xBF58476D1CE4E5B9 & _U64
        state = (state ^ state >> 29) * 0x94D049BB133111EB & _U64
        state ^= state >> 32
    return state


def answer(twin: "Twin", number: int) -> None:
    """Do what the system call ``number`` asks for: set the result, and whatever else belongs to it."""
    times = twin.calls[number] = twin.calls.get(number, 0) + 1
    result = mix(number, twin.snippet.salt, times)
    regs = twin.context.regs
    if FIRST_VALUE <= number < FIRST_VALUE + len(VALUES):
        regs[cpu.RAX] = VALUES[number - FIRST_VALUE] & _U64
        return
    regs[cpu.RAX] = result
    if number in (Action.RESTART, Action.RESTART_BLOCK):
        if times & 1:
            regs[cpu.RAX] = number if number == Action.RESTART else RESTART_SYSCALL
            regs[cpu.RIP] = (regs[cpu.RIP] - 2) & _U64
    elif number in _ACTIONS:
        _ACTIONS[Action(number)](twin, result)


def _scramble(twin: "Twin", result: int) -> None:
    regs = twin.context.regs
    for index in FREE:
        regs[index] = result = mix(result, index)
    regs[cpu.EFLAGS] = regs[cpu.EFLAGS] & ~_CHANGEABLE_FLAGS | result & _CHANGEABLE_FLAGS


def _edit_fp(twin: "Twin", result: int) -> None:
    """Change xmm1, a bit of the rounding modes, and nothing else (P-063)."""
    context = twin.context
    context.pull_full_state()
    image = context.fp
    twin.masks.make_present(image)
    struct.pack_into("<QQ", image, 160 + 16, result, ~result & _U64)
    struct.pack_into("<H", image, 0, 0x037F | (result & 3) << 10)
    struct.pack_into("<I", image, 24, 0x1F80 | (result >> 2 & 3) << 13)
    context.full_state_changed()


def _pull_and_push(twin: "Twin", result: int) -> None:
    twin.context.pull_full_state()
    twin.context.full_state_changed()


def _fork(twin: "Twin", result: int) -> None:
    """Bracket what a fork would do (P-035)."""
    twin.memory.space.pre_fork()
    twin.memory.space.post_fork()


def _step(twin: "Twin", result: int) -> None:
    """Run one instruction only (P-048), but not the first of a site that may be patched: that one becomes a jump."""
    regs = twin.context.regs
    if not twin.layout.is_site(regs[cpu.RIP]):
        regs[cpu.EFLAGS] |= cpu.EFLAGS_TF


def _set_fs(twin: "Twin", result: int) -> None:
    twin.context.regs[cpu.FS_BASE] = twin.base + (result & 0x7F8)


def _redirect(twin: "Twin", result: int) -> None:
    """Go on at another call site, as the return from a signal handler may."""
    regs = twin.context.regs
    if twin.layout.is_start(regs[cpu.RIP]):
        regs[cpu.R15] = regs[cpu.RIP]
        regs[cpu.RIP] = EDGE_SITE


_ACTIONS: Final = {
    Action.SCRAMBLE: _scramble,
    Action.EDIT_FP: _edit_fp,
    Action.PULL: lambda twin, result: twin.context.pull_full_state(),
    Action.PULL_AND_PUSH: _pull_and_push,
    Action.UNMAP: lambda twin, result: twin.memory.unmap_lazy(twin.number),
    Action.PROTECT: lambda twin, result: twin.memory.protect_plain(twin.number),
    Action.REMAP_CODE: lambda twin, result: twin.memory.remap_code(),
    Action.INTERRUPT: lambda twin, result: twin.expect_interrupt(),
    Action.FORK: _fork,
    Action.STEP: _step,
    Action.SET_FS: _set_fs,
    Action.REDIRECT: _redirect,
}
