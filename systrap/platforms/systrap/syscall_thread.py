"""The syscall thread: the main thread of a stub, which makes the sentry's system calls there (docs/images.md; 20-platform §3.6).

A request is a *batch* of calls in a page that the stub can only read. In notify mode the result comes back as the argument
of the call that the stub blocks in, where no guest can reach it; in futex mode it comes back in a page that guest code of
that stub can write, so it is believed only for what harms nobody else.
"""

import errno
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from systrap.host import futex, notify
from systrap.host.sys import NR
from systrap.platform import ContextError

MAX_BATCH: Final = 63
MAY_FAIL: Final = 1
ENTER_NOTIFY: Final = 2
MOVE_REQUEST: Final = 4

_CALL = struct.Struct("<8Q")
_FIRST_CALL: Final = 0x40
_REPLY_SEQ: Final = 12
_LIVENESS_INTERVAL: Final = 0.05
_PATIENCE: Final = 30.0
_U64: Final = (1 << 64) - 1


class Call(NamedTuple):
    """One system call of a batch."""

    name: str
    args: tuple[int, ...]
    flags: int = 0

    def pack(self) -> bytes:
        """Return the 64 bytes the bootstrap reads."""
        padded = [a & _U64 for a in (*self.args, 0, 0, 0, 0, 0, 0)[:6]]
        return _CALL.pack(NR[self.name], *padded, self.flags)


def write_batch(page: "memoryview[int]", calls: Sequence[Call]) -> None:
    """Put a batch into a request page, without its number: the stub does not look yet."""
    packed = b"".join(call.pack() for call in calls)
    page[_FIRST_CALL : _FIRST_CALL + len(packed)] = packed
    struct.pack_into("<I", page, 4, len(calls))


class Reply(NamedTuple):
    """The result of the last call that ran, as a signed number, and how many ran."""

    ret: int
    done: int


class SyscallThread:
    """The sentry's end of the channel. ``run`` may be called from any thread; batches are serialised.

    ``request`` and ``reply`` are the sentry's views of the two pages, ``*_address`` their addresses in the sentry,
    ``alive`` tells whether the stub lives, ``release_store(address, value)`` publishes a 32-bit word, ``acquire_load(address)``
    reads one so that what was published before it is seen.
    """

    def __init__(
        self,
        request: "memoryview[int]",
        request_address: int,
        reply: "memoryview[int]",
        reply_address: int,
        alive: Callable[[], bool],
        release_store: Callable[[int, int], int],
        acquire_load: Callable[[int], int],
    ) -> None:
        self._request = request
        self._request_address = request_address
        self._reply = reply
        self._reply_address = reply_address
        self._alive = alive
        self._release_store = release_store
        self._acquire_load = acquire_load
        self._lock = threading.Lock()
        self._seq = 1
        self.listener = -1
        self._pending: notify.Notification | None = None

    def await_birth(self) -> Reply:
        """Wait for the end of the birth batch. Raises ContextError when the stub dies instead."""
        return self._await_reply("being born")

    def use_listener(self, fd: int) -> None:
        """Go over to notify mode: ``fd`` is the listener the birth batch installed. Called once, before the first run()."""
        self.listener = fd
        notify.sync_wake_up(fd)

    def close(self) -> None:
        """Close the listener. The stub is dead, or dies of nothing else: its next doorbell fails."""
        if self.listener >= 0:
            os.close(self.listener)
            self.listener = -1

    def run(self, calls: Sequence[Call]) -> Reply:
        """Run up to MAX_BATCH calls in the stub, in order, up to the first that fails. Raises ContextError when it is dead."""
        with self._lock:
            if self.listener < 0:
                write_batch(self._request, calls)
                self._seq += 1
                self._release_store(self._request_address, self._seq)
                futex.wake(self._request_address)
                return self._await_reply("running a request")
            if self._pending is None:
                self._pending = self._next_notification()
            write_batch(self._request, calls)
            while not notify.answer(self.listener, self._pending.id):
                # The wait in the stub was broken off (freezer, ptrace) and begun anew, with a new number (S-130).
                self._pending = self._next_notification()
            self._pending = None
            self._pending = self._next_notification()
            return Reply(_signed(self._pending.args[0]), self._pending.args[1])

    def _next_notification(self) -> notify.Notification:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                found = notify.receive(self.listener, _LIVENESS_INTERVAL)
            except OSError as error:
                raise self._dead() from error
            if found is not None:
                return found
            self._check("the doorbell of its syscall thread", deadline)

    def _await_reply(self, doing: str) -> Reply:
        deadline = time.monotonic() + _PATIENCE
        while True:
            seq = self._acquire_load(self._reply_address + _REPLY_SEQ)
            if seq == self._seq:
                ret, done = struct.unpack_from("<qI", self._reply, 0)
                return Reply(ret, done)
            futex.wait(self._reply_address + _REPLY_SEQ, seq, _LIVENESS_INTERVAL)
            self._check(doing, deadline)

    def _check(self, doing: str, deadline: float) -> None:
        if not self._alive():
            raise self._dead()
        if time.monotonic() > deadline:
            raise ContextError(f"the stub did not answer for {_PATIENCE:.0f} s while {doing}", errno.ETIMEDOUT)

    @staticmethod
    def _dead() -> ContextError:
        return ContextError("the stub process died", errno.EPERM)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
