"""Answer to lesson 08: five interrupts that nobody has seen yet are one. A signal that is pending cannot be more so."""

import os
import signal

from lesson00_call import require_this_machine
from lesson05_registers import Sentry
from lesson08_interrupt import BEHIND, GUEST_CODE

if __name__ == "__main__":
    require_this_machine()
    with Sentry(GUEST_CODE) as guest:
        guest["rip"] = BEHIND
        for _ in range(5):
            os.kill(guest.child, signal.SIGCHLD)
        print([signal.Signals(guest.resume()).name for _ in range(2)])
