"""The signal frame of x86-64: its layout, the alternate stack, and what frames of a guest's own making can do."""

import errno
import os
import struct

import pytest

from systrap.arch import x86_64 as r
from systrap.arch import x86_fp
from systrap.sentry import frames
from systrap.sentry import signals as s
from systrap.sentry.signals import Action, Info
from tests.sentry.test_signals import SIZE, STACK, U64, World

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="registers of x86-64; arm64: tests/arch/test_arm_frame.py"
)

HANDLER, RESTORER = 0x500000, 0x600000
ACTION = Action(HANDLER, s.SA_RESTORER, RESTORER, 0)
ON_ALTERNATE = Action(HANDLER, s.SA_RESTORER | s.SA_ONSTACK, RESTORER, 0)
UC, GREGS = 8, 48


@pytest.fixture
def world() -> World:
    world = World()
    for index in range(27):
        world.task.context.regs[index] = 0x1000 + index
    world.task.context.regs[r.RSP] = STACK + SIZE - 256
    world.task.context.regs[r.RIP] = 0x400123
    world.task.context.regs[r.EFLAGS] = 0x246 | r.EFLAGS_DF | r.EFLAGS_TF
    return world


def test_layout(world: World) -> None:
    """What a handler finds where Linux puts it."""
    regs, context = world.task.context.regs, world.task.context
    before = list(regs)
    context.fp[200:208] = b"FPSTATE!"
    info = Info(11, 1, addr=0xDEAD, trapno=14, err=6)
    assert frames.push(world.task, info, ACTION, 0xABC)
    sp = regs[r.RSP]
    assert (sp + 8) % 16 == 0
    assert (regs[r.RIP], regs[r.RDI], regs[r.RAX]) == (HANDLER, 11, 0)
    assert (regs[r.RSI], regs[r.RDX]) == (sp + 8 + 304, sp + 8)
    assert regs[r.EFLAGS] == 0x246
    frame = world.memory.read(sp, 8 + 304 + 128)
    assert struct.unpack_from("<Q", frame) == (RESTORER,)
    assert struct.unpack_from("<QQ", frame, UC) == (7, 0)
    saved = struct.unpack_from("<17Q", frame, GREGS)
    assert saved[:8] == tuple(before[index] for index in (r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15))
    assert saved[15:] == (before[r.RSP], before[r.RIP])
    eflags, selectors, err, trapno, old_mask, cr2, fp = struct.unpack_from("<7Q", frame, GREGS + 17 * 8)
    assert (eflags, err, trapno, old_mask, cr2) == (before[r.EFLAGS], 6, 14, 0xABC, 0xDEAD)
    assert (selectors & 0xFFFF, selectors >> 48) == (before[r.CS], before[r.SS])
    assert fp % 64 == 0
    image = world.memory.read(fp, 832 + 4)
    assert struct.unpack_from("<IIQI", image, 464) == (0x46505853, 836, x86_fp.FEATURES, 832)
    assert (image[200:208], image[832:]) == (b"FPSTATE!", struct.pack("<I", 0x46505845))
    assert fp + 836 <= before[r.RSP] - 128


def test_round_trip(world: World) -> None:
    """The way back restores everything but selectors, and bits of flags that are not the user's."""
    regs, context = world.task.context.regs, world.task.context
    context.fp[200:208] = b"FPSTATE!"
    before = list(regs)
    assert frames.push(world.task, Info(10), ACTION, 0)
    for index in range(27):
        if index != r.RSP:
            regs[index] = 1
    context.fp[:] = x86_fp.initial(832)
    regs[r.RSP] += 8
    assert frames.sigreturn(world.task)
    selectors = (r.CS, r.SS, r.DS, r.ES, r.FS, r.GS, r.FS_BASE, r.GS_BASE)
    kept = [index for index in range(27) if index not in (*selectors, r.ORIG_RAX)]
    assert [regs[index] for index in kept] == [before[index] for index in kept]
    assert regs[r.ORIG_RAX] == U64
    assert context.fp[200:208] == b"FPSTATE!"


def test_needs_a_restorer(world: World) -> None:
    assert not frames.push(world.task, Info(10), Action(HANDLER), 0)


def _frame(world: World) -> int:
    assert frames.push(world.task, Info(10), ACTION, 0)
    world.task.context.regs[r.RSP] += 8
    return int(world.task.context.regs[r.RSP])


def _poke(world: World, address: int, value: int) -> None:
    world.memory.write(address, struct.pack("<Q", value & U64))


FP_POINTER = GREGS - UC + 23 * 8


def test_bad_frames(world: World) -> None:
    """Unreadable, an instruction pointer in the kernel's half, an FP image that is not there or cannot be loaded."""
    for sp in (0, U64 - 7, 1 << 63):
        world.task.context.regs[r.RSP] = sp
        assert not frames.sigreturn(world.task)
    world.task.context.regs[r.RSP] = STACK + SIZE - 256
    uc = _frame(world)
    _poke(world, uc + 40 + 16 * 8, 0xFFFF_8000_0000_0000)
    assert not frames.sigreturn(world.task)
    world.task.context.regs[r.RSP] = STACK + SIZE - 256
    uc = _frame(world)
    _poke(world, uc + FP_POINTER, U64 - 3)
    assert not frames.sigreturn(world.task)
    world.task.context.regs[r.RSP] = STACK + SIZE - 256
    uc = _frame(world)
    (fp,) = struct.unpack("<Q", world.memory.read(uc + FP_POINTER, 8))
    world.memory.write(fp + 24, struct.pack("<I", 0xFFFFFFFF))
    assert not frames.sigreturn(world.task)


def test_hostile_frame_is_made_harmless(world: World) -> None:
    """Flags, the mask, and the header of the XSAVE image take only what a user may set."""
    uc = _frame(world)
    _poke(world, uc + 40 + 17 * 8, U64)
    _poke(world, uc + 296, U64)
    (fp,) = struct.unpack("<Q", world.memory.read(uc + FP_POINTER, 8))
    world.memory.write(fp + 512, b"\xff" * 64)
    assert frames.sigreturn(world.task)
    assert world.task.context.regs[r.EFLAGS] == 0x40DD5 | 0x202
    assert world.task.signal_mask == U64 & ~s.UNBLOCKABLE
    assert world.task.context.fp[512:576] == struct.pack("<Q", x86_fp.FEATURES) + bytes(56)


def test_frame_without_fp_state(world: World) -> None:
    """A NULL pointer asks for the initial state; without our magic only x87 and SSE count."""
    uc = _frame(world)
    _poke(world, uc + FP_POINTER, 0)
    world.task.context.fp[200:208] = b"FPSTATE!"
    assert frames.sigreturn(world.task)
    assert world.task.context.fp == x86_fp.initial(832)
    world.task.context.regs[r.RSP] = STACK + SIZE - 256
    uc = _frame(world)
    (fp,) = struct.unpack("<Q", world.memory.read(uc + FP_POINTER, 8))
    world.memory.write(fp + 464, bytes(4))
    world.memory.write(fp + 600, b"above")
    assert frames.sigreturn(world.task)
    assert struct.unpack_from("<Q", world.task.context.fp, 512) == (3,)
    assert world.task.context.fp[600:605] == bytes(5)


def test_denormals_are_zeros_survives(world: World) -> None:
    struct.pack_into("<I", world.task.context.fp, 24, 0x9FC0)
    _frame(world)
    assert frames.sigreturn(world.task)
    assert struct.unpack_from("<I", world.task.context.fp, 24) == (0x9FC0,)


def test_alternate_stack(world: World) -> None:
    """Used from its top when asked for and not in use; a handler on it stays on it."""
    task, regs = world.task, world.task.context.regs
    assert frames.set_altstack(task, STACK, 0, 0x4000) == 0
    assert frames.push(task, Info(10), ON_ALTERNATE, 0)
    assert STACK < regs[r.RSP] < STACK + 0x4000
    assert frames.on_altstack(task)
    assert frames.set_altstack(task, STACK, 0, 0x4000) == errno.EPERM
    first = regs[r.RSP]
    assert frames.push(task, Info(10), ON_ALTERNATE, 0)
    assert STACK < regs[r.RSP] < first


def test_alternate_stack_overflows(world: World) -> None:
    """A frame that would leave the alternate stack is not written (Linux 5.14: nor one that enters it)."""
    task = world.task
    assert frames.set_altstack(task, STACK + 0x8000, 0, 2048) == 0
    while frames.push(task, Info(10), ON_ALTERNATE, 0):
        assert frames.within_altstack(task, task.context.regs[r.RSP])
    assert world.memory.read(STACK, 0x8000) == bytes(0x8000)


def test_alternate_stack_that_disarms(world: World) -> None:
    task = world.task
    assert frames.set_altstack(task, STACK, frames.SS_AUTODISARM, 0x4000) == 0
    assert frames.push(task, Info(10), ON_ALTERNATE, 0)
    assert task.altstack == (0, frames.SS_DISABLE, 0)
    task.context.regs[r.RSP] += 8
    assert frames.sigreturn(task)
    assert task.altstack == (STACK, frames.SS_AUTODISARM, 0x4000)


@pytest.mark.parametrize(
    ("flags", "size", "result"),
    [(3, 8192, errno.EINVAL), (8, 8192, errno.EINVAL), (0, 2047, errno.ENOMEM), (1, 2048, 0), (2, 0, 0)],
)
def test_set_alternate_stack(world: World, flags: int, size: int, result: int) -> None:
    assert frames.set_altstack(world.task, STACK, flags, size) == result
