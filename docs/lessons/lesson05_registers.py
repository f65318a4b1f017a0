"""Lesson 05: registers from the signal frame. The sentry sees them all, and a guest begins, goes on and ends as it says."""

import signal
from typing import Final, Self

from lesson00_call import Code, code_page, function, require_this_machine
from lesson01_sigsys import GREGS, install_filter, install_handler, registers_at
from lesson02_filter import GUEST, by_address
from lesson03_second_process import END, REGISTERS, SENTRY, STUB, Shared, end, start
from lesson04_futex import hand_over, wait_until

NAMES: Final = (
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp",
    "rip", "eflags", "selectors", "err", "trapno", "oldmask", "cr2",
)  # fmt: skip
"""The words of a signal frame, in the kernel's order."""

SIGMASK: Final = 296
"""Where the mask of blocked signals is in a ucontext: the one that rt_sigreturn sets."""

SIGNO: Final = 1
"""The word that says which signal it was."""

SIGNALS: Final = (signal.SIGSYS, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGCHLD)

HLT: Final = bytes.fromhex("f4")
"""An instruction that user code may not execute: the fault by which a stub asks for its first guest."""


class Stub:
    """The second process. Whatever signal comes: registers to the sentry, wait, registers from the sentry."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def save(self, ucontext: int) -> None:
        """Copy what belongs to the guest out of the frame."""
        self.shared.words[REGISTERS : REGISTERS + 23] = [*registers_at(ucontext + GREGS)]

    def restore(self, ucontext: int) -> None:
        """Copy it into the frame. It can be another guest's: the frame does not know whose registers it holds."""
        registers_at(ucontext + GREGS)[:] = [*self.shared.words[REGISTERS : REGISTERS + 23]]
        registers_at(ucontext + SIGMASK)[0] = 0

    def ask(self, number: int, _siginfo: int, ucontext: int) -> None:
        """Be the handler of all signals."""
        self.save(ucontext)
        self.shared.words[SIGNO] = number
        self.hand_over()
        self.restore(ucontext)

    def hand_over(self) -> None:
        """Let the sentry decide; return when it has."""
        hand_over(self.shared, SENTRY)
        wait_until(self.shared, STUB)

    def prepare(self, code: bytes) -> Code:
        """Put the guest's code where the filter looks, and return the function that asks for work."""
        begin = function(code_page(HLT))
        code_page(code, GUEST)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        install_handler(SIGNALS, self.ask)
        install_filter(by_address())
        return begin

    def run(self, code: bytes) -> None:
        """Begin. Does not return: the sentry ends us."""
        self.prepare(code)(0, 0, 0, 0, 0, 0, 0)


class Sentry:
    """The first process: what it knows of the guest are words in a page. For a ``with`` statement."""

    def __init__(self, code: bytes, stub: type[Stub] = Stub, pages: int = 1) -> None:
        self.shared = Shared(pages)
        self.child = start(lambda: stub(self.shared).run(code))
        wait_until(self.shared, SENTRY)
        self["rip"] = GUEST

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shared.words[0] = END
        end(self.child)

    def __getitem__(self, name: str) -> int:
        return self.shared.words[REGISTERS + NAMES.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self.shared.words[REGISTERS + NAMES.index(name)] = value % 2**64

    def resume(self) -> int:
        """Let the guest go on, and return the signal that ended its run."""
        hand_over(self.shared, STUB)
        wait_until(self.shared, SENTRY)
        return self.shared.words[SIGNO]


GUEST_CODE: Final = bytes.fromhex("b827000000 bb07000000 0f05 01d8 0f05")
"""mov eax, 39 · mov ebx, 7 · syscall · add eax, ebx · syscall"""


def main() -> None:
    """Run a guest of four instructions, and send it round twice."""
    require_this_machine()
    with Sentry(GUEST_CODE) as guest:
        for answer in (100, 0, 1000):
            signo = guest.resume()
            told = " ".join(f"{name}={guest[name]:#x}" for name in ("rax", "rbx", "rcx", "rip"))
            print(f"{signal.Signals(signo).name}: {told}")
            guest["rax"] = answer
            if answer == 0:
                guest["rip"] = GUEST + 5
                print("  sentry: once more, from the second instruction")


if __name__ == "__main__":
    main()
