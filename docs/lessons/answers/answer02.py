"""Answer to lesson 02: both questions in one filter. Trapped is what is getuid and comes from guest code."""

import os
import signal

from lesson00_call import CODE, code_page, function, make_call, require_this_machine
from lesson01_sigsys import install_filter, install_handler
from lesson02_filter import ALLOW, EQUAL, GETPPID, GETUID, GUEST, LOAD, RETURN, TRAP, answer, assemble

BOTH = assemble(
    (LOAD, 0, 0, 12),
    (EQUAL, 0, 3, GUEST >> 32),
    (LOAD, 0, 0, 0),
    (EQUAL, 0, 1, GETUID),
    (RETURN, 0, 0, TRAP),
    (RETURN, 0, 0, ALLOW),
)

if __name__ == "__main__":
    require_this_machine()
    guest = function(code_page(CODE, GUEST))
    install_handler([signal.SIGSYS], answer)
    install_filter(BOTH)
    print(guest(GETUID, 0, 0, 0, 0, 0, 0), guest(GETPPID, 0, 0, 0, 0, 0, 0) == os.getppid())
    print(make_call()(GETUID, 0, 0, 0, 0, 0, 0) == os.getuid())
