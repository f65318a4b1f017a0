"""The one helper thread: what happens to host descriptors and host signals becomes work of the kernel's loop.

The thread sleeps in epoll, computes nothing, and touches nothing of the kernel's: it puts what happened into a queue and
wakes the loop. Callbacks run in the loop, on the kernel's thread.
"""

import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from systrap.host import signalfd
from systrap.platform import Platform

HANDLED: Final = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH,
    signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip


class HostEvents:
    """Watches host descriptors and signals. All methods belong to the kernel's thread."""

    def __init__(self, platform: Platform) -> None:
        """Block the signals; the thread starts when there is something to watch."""
        self._platform = platform
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._epoll: select.epoll | None = None
        self._signals = -1
        self._stop = -1
        self._thread: threading.Thread | None = None
        self._old_mask: set[signal.Signals] | set[int] | None = None
        self._on_signal: Callable[[int], None] = lambda signo: None
        self.ready: deque[tuple[int, int]] = deque()

    def start(self, on_signal: Callable[[int], None]) -> None:
        """Take over this process's signals: ``on_signal`` is called in the loop for each of HANDLED."""
        self._on_signal = on_signal
        self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        self._epoll = select.epoll()
        self._signals = signalfd.create(HANDLED)
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._signals, select.EPOLLIN | select.EPOLLONESHOT)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="systrap-host-events", daemon=True)
        self._thread.start()

    def watch(self, fd: int, callback: Callable[[int], None], events: int) -> bool:
        """Call ``callback(events)`` once in the loop when a descriptor is ready for any of ``events`` (EPOLL… bits).

        Returns False for what epoll does not take (regular files): it is always ready.
        """
        if self._epoll is None:
            raise RuntimeError("host events are watched from start() on")
        mask = events | select.EPOLLONESHOT
        try:
            if fd in self._callbacks:
                self._epoll.modify(fd, mask)
            else:
                self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)
        except PermissionError:
            return False
        self._callbacks[fd] = callback
        return True

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor, if it is watched."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def drain(self) -> None:
        """Run the callbacks of everything that happened. In the loop."""
        while self.ready:
            fd, events = self.ready.popleft()
            if fd == self._signals:
                for signo in signalfd.read(fd):
                    self._on_signal(signo)
                if self._epoll is not None:
                    self._epoll.modify(fd, select.EPOLLIN | select.EPOLLONESHOT)
            else:
                callback = self._callbacks.get(fd)
                if callback is not None:
                    callback(events)

    def _run(self) -> None:
        """Sleep, note, wake: the thread's whole life."""
        epoll = self._epoll
        while epoll is not None:
            for fd, events in epoll.poll():
                if fd == self._stop:
                    return
                self.ready.append((fd, events))
            self._platform.wake()

    def close(self) -> None:
        """End the thread, close descriptors, give the signals back. Idempotent."""
        if self._thread is None or self._epoll is None:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._thread = None
        self._epoll.close()
        self._epoll = None
        os.close(self._signals)
        os.close(self._stop)
        if self._old_mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
