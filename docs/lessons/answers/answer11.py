"""Answer to lesson 11: the thread id in a slot may be forged. tgkill asks for the process, too, and that we know ourselves."""

import errno
import os
import signal

from lesson00_call import make_call, require_this_machine
from lesson05_registers import GUEST_CODE, Sentry
from lesson10_contexts import TGKILL

if __name__ == "__main__":
    require_this_machine()
    with Sentry(GUEST_CODE) as guest:
        forged = os.getpid()  # the sentry's own main thread
        result = make_call()(TGKILL, guest.child, forged, signal.SIGCHLD, 0, 0, 0)
        print(f"a signal for somebody else's thread: -{errno.errorcode[-result]}")
