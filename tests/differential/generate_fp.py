"""Recipes for the FP state: patterns in x87, SSE, AVX and AVX-512 registers, computed on, stored, and kept over events."""

from random import Random
from typing import Final

from tests.differential import encoder as x86
from tests.differential import snippet as s
from tests.differential.answers import Action
from tests.differential.encoder import R13, RAX, RBX, RCX, RDX, WRITE, Instr, fp_memory, raw

Instrs = tuple[Instr, ...]

_SYSCALLS: Final = (*range(4), int(Action.PULL), int(Action.PULL_AND_PUSH), int(Action.EDIT_FP))
_SOURCES: Final = s.READ_ONLY
_TARGETS: Final = s.PLAIN


def _call(random: Random) -> Instrs:
    """Return a system call that keeps the FP state, or edits it, or nothing at all."""
    number = random.choice((*_SYSCALLS, None))
    return () if number is None else s.call(number)


def _source(random: Random, size: int) -> int:
    return _SOURCES + random.randrange(s.PAGE - size)


def _target(random: Random, size: int) -> int:
    return _TARGETS + random.randrange(s.PAGE - size)


def legacy(random: Random) -> Instrs:
    """x87 and MMX: load, compute, store."""
    loads = (
        fp_memory("dd", "fld QWORD PTR", 0, R13, _source(random, 8)),
        fp_memory("db", "fld TBYTE PTR", 5, R13, _source(random, 10)),
        fp_memory("df", "fild QWORD PTR", 5, R13, _source(random, 8)),
        raw("d9e8", "fld1"),
        raw("d9eb", "fldpi"),
        fp_memory("0f6f", "movq mm", random.randrange(8), R13, _source(random, 8)),
    )
    work = (
        raw("dec1", "faddp st(1),st"), raw("dec9", "fmulp st(1),st"), raw("def9", "fdivp st(1),st"), raw("d9fa", "fsqrt"),
        raw("d9c9", "fxch st(1)"), raw("d9f6", "fdecstp"), raw("0f77", "emms"), raw("dbe2", "fnclex"), raw("dbe3", "fninit"),
        raw("ddd8", "fstp st(0)"),
    )  # fmt: skip
    stores = (
        fp_memory("dd", "fstp QWORD PTR", 3, R13, _target(random, 8), WRITE),
        fp_memory("db", "fstp TBYTE PTR", 7, R13, _target(random, 10), WRITE),
        fp_memory("0f7f", "movq mm", random.randrange(8), R13, _target(random, 8), WRITE),
        raw("dfe0", "fnstsw ax"),
    )
    return (
        *random.choices(loads, k=random.randint(1, 3)), *random.choices(work, k=random.randint(0, 2)), *_call(random),
        *random.choices(stores, k=random.randint(0, 2)),
    )  # fmt: skip


def sse(random: Random) -> Instrs:
    """Patterns in xmm registers, over a call, and back to memory."""
    loads = [x86.sse_load(random.randrange(16), R13, _source(random, 16)) for _ in range(random.randint(1, 3))]
    a, b = random.randrange(16), random.randrange(16)
    work = random.choice((
        x86.sse_binary("66", 0xD4, "paddq", a, b), x86.sse_binary("66", 0xEF, "pxor", a, b),
        x86.sse_binary("66", 0x58, "addpd", a, b), x86.sse_binary("66", 0x5E, "divpd", a, b),
    ))  # fmt: skip
    stored = x86.sse_store(R13, _target(random, 16), random.randrange(16))
    return (*loads, work, *_call(random), stored)


def avx(random: Random) -> Instrs:
    """Make the same in ymm registers, whose upper halves are a component of their own."""
    loads = [x86.avx_load(random.randrange(16), R13, _source(random, 32)) for _ in range(random.randint(1, 2))]
    a, b, c = (random.randrange(16) for _ in range(3))
    work = random.choice((
        x86.avx_binary(0x57, "vxorps", a, b, c), x86.avx_binary(0x54, "vandps", a, b, c),
        raw("c5f877", "vzeroupper"), raw("c5fc77", "vzeroall"),
    ))  # fmt: skip
    stored = x86.avx_store(R13, _target(random, 32), random.randrange(16))
    return (*loads, work, *_call(random), stored)


def avx512(random: Random) -> Instrs:
    """Make the same in zmm and mask registers: three more components."""
    loads = [x86.avx512_load(random.randrange(32), R13, _source(random, 64)) for _ in range(random.randint(1, 2))]
    masks = (x86.mask_load(random.randrange(8), random.choice((RAX, RCX, RDX, RBX))),)
    stores = (
        x86.avx512_store(R13, _target(random, 64), random.randrange(32)),
        x86.mask_store(random.choice((RCX, RDX, RBX)), random.randrange(8)),
    )
    return (*loads, *masks, *_call(random), *stores)


def control(random: Random) -> Instrs:
    """Make the control words: rounding modes and masks, set from memory and stored to it."""
    mxcsr = 0x1F80 | random.randrange(4) << 13 | random.randrange(64)
    fcw = 0x037F & ~(random.randrange(4) << 8) | random.randrange(4) << 10
    where = s.PLAIN + 64
    words = (x86.mov_imm64(RDX, fcw << 32 | mxcsr), x86.store(R13, where, RDX))
    loads = (fp_memory("0fae", "ldmxcsr", 2, R13, where), fp_memory("d9", "fldcw", 5, R13, where + 4))
    stores = (
        fp_memory("0fae", "stmxcsr", 3, R13, where + 8, WRITE),
        fp_memory("d9", "fnstcw", 7, R13, where + 12, WRITE),
    )
    return (*words, *loads, *_call(random), *stores)


def exception(random: Random) -> Instrs:
    """Make an unmasked exception: SIGFPE, from x87 or SSE; and all masked again."""
    where = s.PLAIN + 128
    if random.random() < 0.5:
        words = (x86.mov_imm64(RDX, 0x1F80 & ~0x200), x86.store(R13, where, RDX))
        compute = (
            x86.sse_binary("66", 0xEF, "pxor", 2, 2), fp_memory("0fae", "ldmxcsr", 2, R13, where),
            x86.sse_binary("66", 0x5E, "divpd", 1, 2),
        )  # fmt: skip
        again = (x86.mov_imm64(RDX, 0x1F80), x86.store(R13, where, RDX), fp_memory("0fae", "ldmxcsr", 2, R13, where))
        return (*words, *compute, *_call(random), *again)
    words = (x86.mov_imm64(RDX, 0x037F & ~4), x86.store(R13, where, RDX))
    divide = (
        raw("dbe3", "fninit"), fp_memory("d9", "fldcw", 5, R13, where), raw("d9e8", "fld1"), raw("d9ee", "fldz"),
        raw("def9", "fdivp st(1),st"),
    )  # fmt: skip
    return (*words, *divide, *_call(random), raw("9b", "fwait"), raw("dbe3", "fninit"))
