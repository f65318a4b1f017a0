"""Lesson 09: FP state. The frame holds a second set of registers, and whoever swaps guests must swap both."""

import ctypes
import struct
from typing import Final

from lesson00_call import require_this_machine
from lesson01_sigsys import GREGS, registers_at
from lesson02_filter import GUEST
from lesson03_second_process import REGISTERS
from lesson05_registers import NAMES, SIGMASK, Sentry, Stub

FPREGS: Final = 224
"""Where in a ucontext the address of the FP registers is: they lie elsewhere on the signal stack."""
FP_WORDS: Final = 52
"""Control words, x87, xmm0…15. Behind them the kernel has a note to itself, and then AVX: see the exercises."""

Context = list[int]
"""All that a guest is while it does not run: 23 words, and 52."""
CONTEXT_WORDS: Final = 23 + FP_WORDS
XMM: Final = 23 + 20
"""The word of a context where xmm0 begins; each register has two."""
RSP: Final = NAMES.index("rsp")


def fp_of(ucontext: int) -> "ctypes.Array[ctypes.c_uint64]":
    """Return the FP registers of a signal frame, as words."""
    where = registers_at(ucontext + FPREGS)[0]
    return (ctypes.c_uint64 * FP_WORDS).from_address(where)


def context_of(ucontext: int) -> Context:
    """Copy a guest out of the frame."""
    return [*registers_at(ucontext + GREGS), *fp_of(ucontext)]


def become(ucontext: int, context: Context) -> None:
    """Put a guest into the frame. These guests have no stack of their own: the thread's stays."""
    frame = registers_at(ucontext + GREGS)
    stack = frame[RSP]
    frame[:] = [*context[:23]]
    frame[RSP] = stack
    fp_of(ucontext)[:] = [*context[23:]]
    registers_at(ucontext + SIGMASK)[0] = 0


def fresh(rip: int, **registers: int) -> Context:
    """Return a guest that has not run yet. Nothing is left to chance, and so nothing of who ran before is left over."""
    start = {"rip": rip, "eflags": 0x202, "selectors": 0x2B << 48 | 0x33, **registers}
    context = [start.get(name, 0) for name in NAMES] + [0] * FP_WORDS
    context[23], context[23 + 3] = 0x37F, 0x1F80  # the control words of x87 and SSE
    return context


class FpStub(Stub):
    """A stub that hands over FP registers as well."""

    def save(self, ucontext: int) -> None:
        """Copy both sets out of the frame."""
        self.shared.words[REGISTERS : REGISTERS + CONTEXT_WORDS] = [*context_of(ucontext)]

    def restore(self, ucontext: int) -> None:
        """Copy both sets into the frame."""
        become(ucontext, self.shared.words[REGISTERS : REGISTERS + CONTEXT_WORDS])


class ForgetfulStub(FpStub):
    """Lets the sentry see the FP registers, and forgets to load those it is given."""

    def restore(self, ucontext: int) -> None:
        """Copy one set into the frame."""
        given = self.shared.words[REGISTERS : REGISTERS + 23]
        become(ucontext, [*given, *fp_of(ucontext)])


def as_double(word: int) -> float:
    """Return the number that the lower word of an xmm register means."""
    value: float = struct.unpack("d", struct.pack("Q", word))[0]
    return value


GUEST_CODE: Final = bytes.fromhex("f2480f2acb f20f58c1 0f05 ebf3")
"""Again: cvtsi2sd xmm1, rbx · addsd xmm0, xmm1 · syscall · jmp Again"""


def alternate(stub: type[Stub], steps: tuple[int, ...] = (1, 100), rounds: int = 3) -> list[float]:
    """Run several guests in turn on one thread, each adding its own step to its own sum; return the sums."""
    contexts = [fresh(GUEST, rbx=step) for step in steps]
    with Sentry(GUEST_CODE, stub) as guest:
        for _ in range(rounds):
            for number, context in enumerate(contexts):
                guest.shared.words[REGISTERS : REGISTERS + CONTEXT_WORDS] = [*context]
                guest.resume()
                contexts[number] = guest.shared.words[REGISTERS : REGISTERS + CONTEXT_WORDS]
    return [as_double(context[XMM]) for context in contexts]


def main() -> None:
    """Two guests on one thread, with their FP registers and without."""
    require_this_machine()
    print("two guests in turn; one adds 1 to xmm0 three times, the other 100")
    print(f"both sets of registers swapped:  {alternate(FpStub)}")
    print(f"only the general registers:      {alternate(ForgetfulStub)}")


if __name__ == "__main__":
    main()
