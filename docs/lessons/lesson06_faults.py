"""Lesson 06: faults. An instruction that cannot be carried out is a question, and the answer may be "try again"."""

import mmap
import signal
from typing import Final

from lesson00_call import PAGE, make_call, require_this_machine
from lesson02_filter import GUEST
from lesson03_second_process import SENTRY, STUB
from lesson04_futex import hand_over, wait_until
from lesson05_registers import Sentry, Stub

MMAP: Final = 9
MAP_FIXED: Final = 0x10

REQUEST: Final = 40
"""The word where a system call begins that the stub itself shall make: number, six arguments, result."""
RESULT: Final = REQUEST + 7

WRITE, FETCH = 2, 16
"""Bits of the error word of a page fault: what kind of access it was."""


class MappingStub(Stub):
    """A stub that makes system calls for the sentry: memory is mapped by the process that shall have it."""

    def hand_over(self) -> None:
        """Serve requests until the guest may go on."""
        words = self.shared.words
        while True:
            words[REQUEST] = 0
            super().hand_over()
            if not words[REQUEST]:
                return
            words[RESULT] = make_call()(*words[REQUEST : REQUEST + 7]) % 2**64


class MappingSentry(Sentry):
    """A sentry with a stub that maps."""

    def __init__(self, code: bytes, stub: type[MappingStub] = MappingStub, pages: int = 1) -> None:
        super().__init__(code, stub, pages)

    def request(self, number: int, *arguments: int) -> int:
        """Let the stub make a system call. Returns its result, or −errno."""
        words = self.shared.words
        words[REQUEST : REQUEST + 7] = [number, *(a % 2**64 for a in arguments), *[0] * (6 - len(arguments))]
        hand_over(self.shared, STUB)
        wait_until(self.shared, SENTRY)
        return words[RESULT] - 2**64 if words[RESULT] >> 63 else words[RESULT]

    def map_page(self, address: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> None:
        """Map a page into the stub. Raises OSError."""
        result = self.request(MMAP, address, PAGE, protection, flags | MAP_FIXED, fd, offset)
        if result != address:
            raise OSError(-result, "the stub's mmap")


def explain(guest: Sentry, signo: int) -> str:
    """Return in words what a fault's registers say."""
    name = signal.Signals(signo).name
    where = f"at GUEST+{guest['rip'] - GUEST:#x}" if guest["rip"] >> 32 == GUEST >> 32 else f"at {guest['rip']:#x}"
    if guest["trapno"] != 14:
        return f"{name} {where}, trap {guest['trapno']}"
    kind = "write" if guest["err"] & WRITE else "fetch" if guest["err"] & FETCH else "read"
    return f"{name} {where}: {kind} of {guest['cr2']:#x}"


HEAP: Final = 0x10_0020_0000

GUEST_CODE: Final = bytes.fromhex(
    "48bb0000200010000000"  #  mov rbx, HEAP
    "8b03"  #                  mov eax, [rbx]     reads where nothing is
    "830301"  #                add dword [rbx], 1 writes where writing is not allowed
    "0f0b"  #                  ud2                no instruction
    "31c9"  #                  xor ecx, ecx
    "f7f1"  #                  div ecx            divides by zero
    "ff23"  #                  jmp [rbx]          goes where nothing is
)


def main() -> None:
    """Five faults. Two are mended and tried again, two are stepped over, the last is the end."""
    require_this_machine()
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with MappingSentry(GUEST_CODE) as guest:
        print(explain(guest, guest.resume()))
        guest.map_page(HEAP, mmap.PROT_READ, private)
        print(explain(guest, guest.resume()))
        guest.map_page(HEAP, mmap.PROT_READ | mmap.PROT_WRITE, private)
        print(explain(guest, guest.resume()))
        guest["rip"] += 2  # over ud2: the sentry decided that it means nothing
        print(explain(guest, guest.resume()))
        guest["rip"] += 2
        print(explain(guest, guest.resume()))
        print("the last one is the guest's own fault: a kernel would send it SIGSEGV")


if __name__ == "__main__":
    main()
