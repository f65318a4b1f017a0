"""The broker tells of each death once, whatever moment it comes at (P-103, S-131)."""

import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from systrap.host import process
from systrap.platforms.systrap.broker import Broker, Watched
from tests.platforms.kernel import eventually


class SlowEpoll:
    """An epoll instance in which registering takes its time: long enough for the broker to wake meanwhile."""

    def __init__(self, real: select.epoll, before: threading.Event) -> None:
        self._real = real
        self._before = before

    def register(self, fd: int, events: int) -> None:
        self._before.set()
        time.sleep(0.1)
        self._real.register(fd, events)

    def unregister(self, fd: int) -> None:
        self._real.unregister(fd)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        return self._real.poll(timeout)


def child() -> int:
    """Start a child in a process group of its own that does nothing."""
    return subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True).pid


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_stub_that_dies_while_it_is_being_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker wakes for another reason between the two halves of watch()."""
    broker = Broker()
    registering = threading.Event()
    monkeypatch.setattr(broker, "_epoll", SlowEpoll(broker._epoll, registering))
    broker.group = pid = child()
    deaths: list[process.Death] = []
    gone = threading.Event()

    def kill_and_wake() -> None:
        registering.wait(10)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        os.eventfd_write(broker._bell, 1)

    thread = threading.Thread(target=kill_and_wake)
    thread.start()
    broker.watch(Watched(pid, process.pidfd_open(pid), {}, deaths.append, gone.set))
    thread.join()
    assert eventually(gone.is_set)
    assert [death.signal for death in deaths] == [signal.SIGKILL]
    assert broker._thread.is_alive()
