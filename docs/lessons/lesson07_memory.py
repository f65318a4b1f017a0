"""Lesson 07: memory from outside. A guest's memory is a file of the sentry's, mapped twice: nothing need be copied."""

import mmap
import signal
from typing import Final, NamedTuple

from lesson00_call import PAGE, require_this_machine
from lesson06_faults import MappingSentry, MappingStub

WRITE: Final = 1
EXIT: Final = 60
EFAULT: Final = 14

READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE


class Vma(NamedTuple):
    """A range of guest addresses that there is, whether or not anything is mapped there yet."""

    start: int
    end: int
    offset: int
    """Where in the memory file the range's bytes are."""


class FileSentry(MappingSentry):
    """A sentry that knows what the guest may have (vmas), and maps what it touches, page by page."""

    def __init__(self, code: bytes, vmas: tuple[Vma, ...], pages: int, stub: type[MappingStub] = MappingStub) -> None:
        super().__init__(code, stub, pages)
        self.vmas = vmas
        self.faults = 0

    def offset_of(self, address: int) -> int | None:
        """Return where a guest address is in the memory file, or None: the whole of a page table, in a line."""
        return next((v.offset + address - v.start for v in self.vmas if v.start <= address < v.end), None)

    def mend(self, address: int) -> bool:
        """Map the page of a fault, if the guest may have it."""
        page = address // PAGE * PAGE
        offset = self.offset_of(page)
        if offset is None:
            return False
        self.map_page(page, READ_WRITE, mmap.MAP_SHARED, self.shared.fd, offset)
        self.faults += 1
        return True

    def run(self) -> int:
        """Let the guest run until something happens that is no fault of ours."""
        while (signo := self.resume()) == signal.SIGSEGV and self["trapno"] == 14 and self.mend(self["cr2"]):
            pass
        return signo

    def read(self, address: int, length: int) -> bytes | None:
        """Return guest memory through the sentry's own mapping, or None where the guest has none."""
        found = bytearray()
        for at in range(address, address + length):
            offset = self.offset_of(at)
            if offset is None:
                return None
            found.append(self.shared.memory[offset])
        return bytes(found)


HEAP: Final = 0x10_0020_0000
VMAS: Final = (Vma(HEAP, HEAP + 2 * PAGE, PAGE),)

GUEST_CODE: Final = bytes.fromhex(
    "48be0000200010000000"  #  mov rsi, HEAP
    "48b868692c2067756573"  #  mov rax, "hi, gues"
    "488906"  #                mov [rsi], rax
    "66c746 08740a"  #         mov word [rsi+8], "t\\n"
    "bf01000000"  #            mov edi, 1
    "ba0a000000"  #            mov edx, 10
    "b801000000"  #            mov eax, 1 (write)
    "0f05"  #                  syscall
    "4881c6fc1f0000"  #        add rsi, 0x1ffc     four bytes before the end
    "b801000000"  #            mov eax, 1
    "0f05"  #                  syscall
    "89c7"  #                  mov edi, eax
    "b83c000000"  #            mov eax, 60 (exit)
    "0f05"  #                  syscall
)


def main() -> None:
    """Serve a guest that writes into memory it never asked to be mapped, and then asks us to write it out."""
    require_this_machine()
    with FileSentry(GUEST_CODE, VMAS, 3) as guest:
        while guest.run() == signal.SIGSYS and guest["rax"] != EXIT:
            text = guest.read(guest["rsi"], guest["rdx"])
            print(f"write({guest['rdi']}, {guest['rsi']:#x}, {guest['rdx']}): {text!r}")
            guest["rax"] = -EFAULT if text is None else len(text)
        status = guest["rdi"] - 2**32 if guest["rdi"] >> 31 else guest["rdi"]
        print(f"exit({status}); pages mapped because they were touched: {guest.faults}")
        print(f"the sentry's own view of the file: {guest.shared.memory[PAGE : PAGE + 10]!r}")


if __name__ == "__main__":
    main()
