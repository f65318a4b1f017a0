"""Answer to lesson 01: an error is a small negative number, and nothing else."""

import errno
import signal

from lesson00_call import make_call, require_this_machine
from lesson01_sigsys import GREGS, RAX, TRAP_1000, install_filter, install_handler, registers_at


def refuse(_number: int, _siginfo: int, ucontext: int) -> None:
    """Answer −EPERM, as a 64-bit word."""
    registers_at(ucontext + GREGS)[RAX] = -errno.EPERM % 2**64


if __name__ == "__main__":
    require_this_machine()
    install_handler([signal.SIGSYS], refuse)
    install_filter(TRAP_1000)
    print(make_call()(1000, 0, 0, 0, 0, 0, 0) == -errno.EPERM)
