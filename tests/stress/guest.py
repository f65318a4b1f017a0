"""The guest of the stress runs: a page of short routines, and what each of them brings back.

A context is sent into one routine at a time. r12…r15, rbp and rsp are canaries: no routine touches them. xmm3 (and the upper half
of ymm5, where the CPU has one) is the canary of the FP state: SET loads it from rdi, CHECK brings it back in rdi and rsi.
"""

import enum
from pathlib import Path
from typing import Final, NamedTuple

from systrap.platform import EventKind
from tests.differential import encoder as x86
from tests.differential.encoder import R10, RAX, RDI, RDX, RSI, Instr, raw

CODE: Final = 0x10000000
SLOT: Final = 64
SITES: Final = 8
"""Call sites of the form that can be patched, besides those at the end of other routines."""
FIRST_NUMBER: Final = 100


class Routine(enum.IntEnum):
    """What a context can be sent to do."""

    SITE = 0
    PLAIN = SITES
    GATE = 9
    LOAD = 10
    STORE = 11
    ILLEGAL = 12
    BREAKPOINT = 13
    DIVIDE = 14
    PRIVILEGED = 15
    SET = 16
    CHECK = 17
    SPIN = 18
    WORK = 19


class Outcome(NamedTuple):
    """How a routine ends: the event, the signal or the number, and where the instruction pointer is."""

    kind: EventKind
    value: int
    ip: int


SIGILL, SIGTRAP, SIGFPE, SIGSEGV = 4, 5, 8, 11
_FOREIGN: Final = 0x86000000
_MOVQ_TO_XMM3: Final = raw("66480f6edf", "movq xmm3,rdi")
_MOVQ_FROM_XMM3: Final = raw("66480f7edf", "movq rdi,xmm3")
_SPREAD: Final = raw("c4e27d59eb", "vpbroadcastq ymm5,xmm3")
_UPPER: Final = raw("c4e37d39ee01", "vextracti128 xmm6,ymm5,0x1")
_MOVQ_FROM_XMM6: Final = raw("66480f7ef6", "movq rsi,xmm6")
_LOOP: Final = raw("49ffc2ebfb", "1: inc r10; jmp 1b")
_WORK: Final = raw("b920000000ffc975fc", "mov ecx,32; 1: dec ecx; jnz 1b")


def has_avx2() -> bool:
    """Tell whether the CPU has what SET and CHECK use of AVX."""
    return any(
        "avx2" in line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
    )


def _routines(wide: bool) -> dict[int, tuple[tuple[Instr, ...], EventKind, int, int]]:
    """Return instructions, event, signal or number, and the index of the instruction that the ip is at."""
    call, signal = EventKind.SYSCALL, EventKind.SIGNAL

    def calling(routine: int, *before: Instr) -> tuple[tuple[Instr, ...], EventKind, int, int]:
        number = FIRST_NUMBER + routine
        instrs = (*before, x86.mov_imm32(RAX, number), x86.SYSCALL, x86.UD2)
        return instrs, call, number, len(before) + 2

    number = FIRST_NUMBER + Routine.PLAIN
    via = (x86.mov_imm32(RDX, number), x86.mov32(RAX, RDX))
    table = {site: calling(site) for site in range(SITES)}
    table |= {
        Routine.PLAIN: ((*via, x86.SYSCALL, x86.UD2), call, number, 3),
        Routine.GATE: ((*via, x86.INT80, x86.UD2), call, _FOREIGN + number, 3),
        Routine.LOAD: calling(Routine.LOAD, x86.load(R10, RDI, 0)),
        Routine.STORE: calling(Routine.STORE, x86.store(RDI, 0, RSI)),
        Routine.ILLEGAL: ((x86.UD2,), signal, SIGILL, 0),
        Routine.BREAKPOINT: ((x86.INT3, x86.UD2), signal, SIGTRAP, 1),
        Routine.DIVIDE: ((x86.mov_imm32(RDX, 0), x86.div(RDX)), signal, SIGFPE, 1),
        Routine.PRIVILEGED: ((x86.HLT,), signal, SIGSEGV, 0),
        Routine.SET: calling(Routine.SET, _MOVQ_TO_XMM3, *([_SPREAD] if wide else [])),
        Routine.CHECK: calling(
            Routine.CHECK, *([_UPPER, _MOVQ_FROM_XMM6] if wide else [x86.mov_imm32(RSI, 0)]), _MOVQ_FROM_XMM3
        ),
        Routine.SPIN: ((_LOOP,), EventKind.INTERRUPTED, 0, 0),
        Routine.WORK: calling(Routine.WORK, _WORK),
    }
    return table


class Guest:
    """The page of code, where each routine begins, and how it ends."""

    def __init__(self) -> None:
        """Lay the routines out, one in each slot."""
        self.wide = has_avx2()
        page = bytearray(4096)
        self.outcomes: dict[int, Outcome] = {}
        for routine, (instrs, kind, value, at) in _routines(self.wide).items():
            code = b"".join(instr.code for instr in instrs)
            page[routine * SLOT : routine * SLOT + len(code)] = code
            ip = self.start(routine) + sum(len(instr.code) for instr in instrs[:at])
            self.outcomes[routine] = Outcome(kind, value, ip)
        self.page = bytes(page)

    @staticmethod
    def start(routine: int) -> int:
        """Return where a routine begins."""
        return CODE + routine * SLOT
