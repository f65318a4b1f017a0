"""Lesson 01: catching SIGSYS in yourself. The kernel refuses a call and sends a signal instead; the handler answers it."""

import ctypes
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Final

from lesson00_call import check, libc, make_call, require_this_machine

SA_SIGINFO: Final = 4
PR_SET_SECCOMP: Final = 22
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_MODE_FILTER: Final = 2

GREGS: Final = 40
"""Where the registers begin in the ucontext that a handler is given."""
RAX: Final = 13

Handler = Callable[[int, int, int], None]
"""handler(signal number, address of siginfo, address of ucontext)"""

_C_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_alive: list[object] = []


def registers_at(address: int) -> "ctypes.Array[ctypes.c_uint64]":
    """Return the words of a signal frame as they lie there. rt_sigreturn loads them: what is changed here is changed."""
    return (ctypes.c_uint64 * 23).from_address(address)


def install_handler(signals: Sequence[int], handler: Handler) -> None:
    """Let ``handler`` be called, at once and in place, for these signals; every other signal waits meanwhile.

    Not signal.signal: Python would note the signal down, return to the code that was stopped, and call us later.
    Such a handler may only interrupt code that is not Python's, as here the page of machine code.
    """
    entry = _C_HANDLER(handler)
    _alive.append(entry)  # else Python would free it, and the kernel would call what is there then
    where = ctypes.cast(entry, ctypes.c_void_p).value
    action = struct.pack("Q128sixxxxQ", where, b"\xff" * 128, SA_SIGINFO, 0)  # glibc's struct sigaction
    for number in signals:
        check(libc.sigaction(int(number), action, None), "sigaction")


def install_filter(program: bytes) -> None:
    """Give a seccomp program to the kernel. There is no way back: it stays until this process ends."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "prctl(SECCOMP)")


TRAP_1000: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, 0),  #           load the number of the call
        (0x15, 0, 1, 1000),  #        1000? then go on, else skip one
        (0x06, 0, 0, 0x00030000),  #  SIGSYS instead of the call
        (0x06, 0, 0, 0x7FFF0000),  #  allowed
    )
)


def answer(number: int, siginfo: int, ucontext: int) -> None:
    """Be the kernel for call 1000: its result is twice its first argument."""
    _, _, code, at, call_number, _ = struct.unpack("iiixxxxQiI", ctypes.string_at(siginfo, 32))
    registers = registers_at(ucontext + GREGS)
    rdi = registers[8]
    print(f"  signal {number}, code {code}: call {call_number}, first argument {rdi}, from code at {at:#x}")
    registers[RAX] = 2 * rdi


def main() -> None:
    """Make the call that does not exist, before and after somebody is there to answer it."""
    require_this_machine()
    call = make_call()
    print(f"without anybody: call(1000, 21) is {call(1000, 21)}")
    install_handler([signal.SIGSYS], answer)
    install_filter(TRAP_1000)
    print("now it traps:")
    print(f"call(1000, 21) is {call(1000, 21)}")


if __name__ == "__main__":
    main()
