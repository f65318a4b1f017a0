"""A stub thread held at one instruction: ptrace with a hardware breakpoint.

Requests work only from the OS thread that made the tracer. The tracee goes on when it is released.
"""

import ctypes
import errno
import os
import signal
import struct
import time
from types import TracebackType

import pytest

from systrap.arch import x86_64
from systrap.host import ptrace
from systrap.host.sys import NR

_POKEUSER = 6
_DEBUG_REGISTERS = 848
"""offsetof(struct user, u_debugreg)"""
_DR7 = _DEBUG_REGISTERS + 7 * 8
_EXECUTE_DR0_OR_DR1 = 1 | 4
_FLAGS_MOVED = (b"\x9c", b"\x9d")
"""pushfq, popfq"""
MANY = 20_000


LIMIT = 5.0
"""Seconds until a thread has come where it is to come, or will not."""


class Tracer:
    """Stops a thread, and lets it go on instruction by instruction, or up to one instruction."""

    def __init__(self, tid: int) -> None:
        """Stop the thread. Skips where ptrace is not allowed."""
        self._tid = tid
        self._buffer = bytearray(8 * x86_64.X86_64.REG_COUNT)
        self._set = ptrace.RegisterSet(ptrace.NT_PRSTATUS, self._buffer)
        if ptrace.request(ptrace.SEIZE, tid) != 0:
            pytest.skip("ptrace is not allowed here")
        ptrace.demand(ptrace.INTERRUPT, tid)
        self._wait()

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ptrace.request(ptrace.DETACH, self._tid)

    def _wait(self) -> int:
        """Wait for a stop; answers the signal, 0 for a trap of our own."""
        status = self._status(LIMIT)
        assert status is not None, "the thread does not stop"
        assert os.WIFSTOPPED(status), f"the thread ended with {status:#x}"
        found = os.WSTOPSIG(status)
        return 0 if found == signal.SIGTRAP else found

    def _status(self, seconds: float) -> int | None:
        """Wait for a change of state, not for ever."""
        deadline = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(self._tid, ptrace.WALL | os.WNOHANG)
            if found:
                return status
            if time.monotonic() > deadline:
                return None
            time.sleep(0.0002)

    def _register(self, name: str) -> int:
        assert self._set.read(self._tid) == 0
        return int(struct.unpack_from("<Q", self._buffer, 8 * x86_64.X86_64.REG_NAMES.index(name))[0])

    @property
    def rip(self) -> int:
        """Where it stands."""
        return self._register("rip")

    @property
    def rsp(self) -> int:
        """Where its stack ends."""
        return self._register("rsp")

    @property
    def first_argument(self) -> int:
        """What a function that begins here was called with: the signal, for a handler."""
        return self._register("rdi")

    def step(self, deliver: int) -> int:
        """Execute one instruction, or enter the handler of ``deliver``; answers a signal that is to be delivered next."""
        ptrace.demand(ptrace.SINGLESTEP, self._tid, 0, deliver)
        return self._wait()

    def run_to(self, address: int, or_else: int = 0) -> bool:
        """Go on until the thread is about to execute the instruction at ``address``; signals are delivered on the way.

        Answers False if it came to ``or_else`` first, or to neither: it is parked when a late signal took it another way.
        """
        if self.rip == address:
            return True
        for number, where in enumerate((address, or_else)):
            if ptrace.request(_POKEUSER, self._tid, _DEBUG_REGISTERS + 8 * number, where) == -errno.EINVAL:
                pytest.skip("no breakpoints here")
        ptrace.demand(_POKEUSER, self._tid, _DR7, _EXECUTE_DR0_OR_DR1)
        deliver = 0
        while True:
            ptrace.demand(ptrace.CONT, self._tid, 0, deliver)
            status = self._status(LIMIT)
            if status is None:
                ptrace.demand(ptrace.INTERRUPT, self._tid)
                self._wait()
                ptrace.demand(_POKEUSER, self._tid, _DR7, 0)
                return False
            assert os.WIFSTOPPED(status), f"the thread ended with {status:#x}"
            deliver = os.WSTOPSIG(status)
            if deliver == signal.SIGTRAP:
                break
        ptrace.demand(_POKEUSER, self._tid, _DR7, 0)
        assert self.rip in (address, or_else)
        return self.rip == address

    def path_to(self, last: int, code_start: int) -> list[int]:
        """Go on to ``last`` step by step; answers the addresses on the way, each once.

        From ``code_start`` on this process has the same code at the same place.
        """
        seen: dict[int, None] = {}
        deliver = 0
        for _ in range(MANY):
            here = self.rip
            seen[here] = None
            if here == last:
                return list(seen)
            if here >= code_start and ctypes.string_at(here, 1) in _FLAGS_MOVED:
                # Stepped over, these would mistake the step's TF for the guest's.
                self.run_to(here + 1)
            else:
                deliver = self.step(deliver)
        raise AssertionError(f"the thread does not come to {last:#x}, it is at {self.rip:#x}")

    def signal(self, signo: int) -> None:
        """Let a signal come before the instruction it stands at: it is pending, and the thread has not moved."""
        ctypes.CDLL(None).syscall(NR["tgkill"], self._tid, self._tid, signo)
