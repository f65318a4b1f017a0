"""Answer to lesson 03: a stub whose sentry is killed is gone, too. The pipe ends when the last process that holds it does."""

import os
import select
import signal
import time

from lesson00_call import require_this_machine
from lesson03_second_process import end, start


def sentry(writing: int) -> None:
    """Make a stub that would sleep for long, say that it is there, and wait to be killed."""
    start(lambda: time.sleep(1000))
    os.write(writing, b"x")
    time.sleep(1000)


if __name__ == "__main__":
    require_this_machine()
    reading, writing = os.pipe()
    child = start(lambda: sentry(writing))
    os.close(writing)
    os.read(reading, 1)
    print(f"the sentry died of {signal.Signals(-end(child)).name}")
    gone = select.select([reading], [], [], 30)[0] and os.read(reading, 1) == b""
    print(f"and the stub is gone: {bool(gone)}")
