"""Lesson 03: a second process and a shared page. Who answers a system call need not live where it was made."""

import ctypes
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

from lesson00_call import CODE, DEADLINE, PAGE, check, code_page, function, libc, require_this_machine
from lesson01_sigsys import GREGS, RAX, install_filter, install_handler, registers_at
from lesson02_filter import GUEST, by_address

PR_SET_PDEATHSIG: Final = 1

TURN: Final = 0
"""The word that says whose page this is just now."""
STUB, SENTRY, END = 1, 2, 3

REGISTERS: Final = 8
"""The word where the guest's 23 registers begin."""


class Shared:
    """A memory file that two processes see: what one writes, the other reads. It has no name, and goes with them."""

    def __init__(self, pages: int = 1) -> None:
        self.fd = os.memfd_create("lesson")
        os.ftruncate(self.fd, pages * PAGE)
        self.memory = mmap.mmap(self.fd, pages * PAGE)
        self.words = (ctypes.c_uint64 * (pages * PAGE // 8)).from_buffer(self.memory)
        self.address = ctypes.addressof(self.words)


def wait_by_looking(shared: Shared, *, until: int) -> None:
    """Look until the turn is ours or the lesson is over. Either it is late, or it costs a CPU: lesson 04 mends that."""
    deadline = time.monotonic() + DEADLINE
    while shared.words[TURN] not in (until, END):
        if time.monotonic() > deadline:
            raise TimeoutError("the other side is silent")
        time.sleep(0.001)


def start(body: Callable[[], None]) -> int:
    """Run ``body`` in a process of its own that does not outlive this one. Returns its id."""
    parent = os.getpid()
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        check(libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl")
        if os.getppid() != parent:  # it died before we had asked
            os._exit(1)
        signal.alarm(DEADLINE)
        body()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def end(child: int) -> int:
    """End a process in any case, collect it, and return its status (negative: the signal it died of)."""
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stub(shared: Shared) -> None:
    """Be the second process: guest code, and a handler that asks the sentry."""

    def ask(_number: int, _siginfo: int, ucontext: int) -> None:
        frame = registers_at(ucontext + GREGS)
        shared.words[REGISTERS : REGISTERS + 23] = [*frame]
        shared.words[TURN] = SENTRY  # last: from here on the page is not ours
        wait_by_looking(shared, until=STUB)
        frame[RAX] = shared.words[REGISTERS + RAX]

    install_handler([signal.SIGSYS], ask)
    guest = function(code_page(CODE, GUEST))
    install_filter(by_address())
    results = [guest(number, 0, 0, 0, 0, 0, 0) for number in (39, 102, 1000)]
    shared.words[REGISTERS] = sum(results)
    shared.words[TURN] = END


def main() -> None:
    """Be the sentry: another process that never runs guest code, and decides what its calls are."""
    require_this_machine()
    shared = Shared()
    child = start(lambda: stub(shared))
    try:
        while True:
            wait_by_looking(shared, until=SENTRY)
            if shared.words[TURN] == END:
                break
            number = shared.words[REGISTERS + RAX]
            print(f"sentry: the guest calls {number}; its answer shall be {number + 1}")
            shared.words[REGISTERS + RAX] = number + 1
            shared.words[TURN] = STUB
        print(f"sentry: the guest is done; its three answers add up to {shared.words[REGISTERS]}")
    finally:
        end(child)


if __name__ == "__main__":
    main()
