"""Lesson 00: a system call by hand. No libc, no os module: bytes in a page, and the CPU's own instruction."""

import ctypes
import errno
import functools
import mmap
import os
import platform
import signal
import sys
from typing import Final, Protocol

PAGE: Final = 4096
DEADLINE: Final = 60
"""Seconds after which a lesson that hangs is ended by the kernel (SIGALRM)."""

WRITE: Final = 1
GETPID: Final = 39

CODE: Final = bytes.fromhex(
    "4889f8"  #      mov rax, rdi      C's first argument is the number of the call ...
    "4889f7"  #      mov rdi, rsi      ... and what follows moves up by one place
    "4889d6"  #      mov rsi, rdx
    "4889ca"  #      mov rdx, rcx
    "4d89c2"  #      mov r10, r8       r10, since the instruction itself overwrites rcx
    "4d89c8"  #      mov r8, r9
    "4c8b4c2408"  #  mov r9, [rsp+8]   C's seventh argument is on the stack
    "0f05"  #        syscall
    "c3"  #          ret               the result is in rax, where C looks for it
)

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Code(Protocol):
    """Machine code as a function of integers."""

    def __call__(self, *words: int) -> int:
        """Jump there, and return what rax is afterwards."""


def require_this_machine() -> None:
    """Say it clearly when this is no x86-64 Linux: all the machine code here is that CPU's. Set the deadline, too."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        sys.exit(f"the lessons need 64-bit Linux on x86-64; this is {sys.platform} on {platform.machine()}")
    signal.alarm(DEADLINE)


def check(result: int, what: str) -> int:
    """Return a result of libc's, or raise OSError when it is −1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def code_page(code: bytes, address: int = 0) -> int:
    """Put machine code into a page of its own (at ``address``, or anywhere) and return where it is.

    First writable, then executable, never both at once: a habit, and some kernels insist on it.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (0x100000 if address else 0)  # MAP_FIXED_NOREPLACE
    found = libc.mmap(address or None, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if found == 2**64 - 1 or (address and found != address):
        raise OSError(ctypes.get_errno(), "no page for the code")
    ctypes.memmove(found, code, len(code))
    check(libc.mprotect(found, PAGE, mmap.PROT_READ | mmap.PROT_EXEC), "mprotect")
    return int(found)


def function(address: int) -> Code:
    """Return the code at ``address`` as a function of seven integers."""
    made: Code = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 7)(address)
    return made


@functools.cache
def make_call() -> Code:
    """Return call(number, argument, ...): a system call, made by our own code. Errors are −errno, as the kernel says."""
    code = function(code_page(CODE))
    return lambda *words: code(*words, *[0] * (7 - len(words)))


def main() -> None:
    """Three calls: one that works, one with an effect, one that does not exist."""
    require_this_machine()
    call = make_call()
    print(f"getpid says {call(GETPID)}, and Python's os.getpid agrees: {call(GETPID) == os.getpid()}", flush=True)

    text = b"these bytes went to the kernel without libc\n"
    buffer = ctypes.create_string_buffer(text)
    written = call(WRITE, 1, ctypes.addressof(buffer), len(text))
    print(f"write says {written}: as many bytes as there were: {written == len(text)}")

    result = call(1000)
    print(f"call number 1000 says {result}, which is -{errno.errorcode[-result]}")


if __name__ == "__main__":
    main()
