"""System calls injected into stopped stub threads: how everything but guest code gets done in a stub."""

import os
import time
from abc import ABC, abstractmethod
from typing import Final

from systrap.host import ptrace
from systrap.platforms.ptrace.here import MACHINE
from systrap.platforms.ptrace.stub import Stub, StubDiedError, Tracee

OWN: Final = ptrace.WALL | ptrace.WNOTHREAD
"""Options of every wait: what this thread traces, whatever it is."""

_STEP_STATUS: Final = 0x057F
_EINTR: Final = 4
_SPINS: Final = 50
_POLLS: Final = 50
_POLL_PAUSE: Final = 0.0002
# Results with which the kernel asks itself to make a call again: an injected call was cut short by a signal.
_RESTART: Final = frozenset((-512, -513, -514, -516))
_U63: Final = 1 << 63
_U64: Final = 1 << 64


class Injector(ABC):
    """The stub threads that one OS thread traces, as far as they do the sentry's work. All of it runs on that thread."""

    def __init__(self, ident: int) -> None:
        """Work on the OS thread ``ident``."""
        self.ident = ident
        self.tracees: dict[int, Tracee] = {}
        self._waiter = ptrace.Waiter()
        self._spins = _SPINS if len(os.sched_getaffinity(0)) > 1 else 0
        self._call_buffer = bytearray(MACHINE.call_bytes)
        self._call_regs = memoryview(self._call_buffer).cast("Q")
        self._call_set = ptrace.RegisterSet(ptrace.NT_PRSTATUS, self._call_buffer)

    @abstractmethod
    def bury(self, tracee: Tracee, status: int | None) -> None:
        """Note that a thread does not exist any more. ``status`` is what the wait said, None when it knew nothing."""

    def adopt(self, tracee: Tracee) -> None:
        """Wait for the first stop of a thread that was just attached, and trace it from now on. Raises StubDiedError."""
        self.tracees[tracee.tid] = tracee
        self._wait_stop(tracee)

    def inject(self, tracee: Tracee, nr: int, *args: int) -> int:
        """Make a stopped thread call the host kernel. Returns the result, or −errno. Raises StubDiedError.

        The thread steps over the one system call instruction of the stub page. Its registers are lost, its FP state not.
        """
        tid = tracee.tid
        ip = tracee.stub.code
        behind = ip + MACHINE.syscall_len
        regs = self._call_regs
        while True:
            MACHINE.pack_call(self._call_buffer, ip, nr, args)
            error = self._call_set.write(tid)
            while not error:
                error = ptrace.request(ptrace.SINGLESTEP, tid)
                status = 0 if error else self._wait_stop(tracee)
                if status == _STEP_STATUS:
                    error = self._call_set.read(tid)
                    if not error and regs[MACHINE.call_ip] == behind:
                        break
            if error:
                # It was killed; the next wait says how.
                self._wait_death(tracee)
            result = regs[MACHINE.call_result]
            if result >= _U63:
                result -= _U64
            if result not in _RESTART:
                return result

    def _wait_stop(self, tracee: Tracee) -> int:
        """Wait until one thread stops, and return its status; polls first, as sleep() does. Raises StubDiedError."""
        spins = self._spins
        patient = not tracee.stub.lent or tracee is not tracee.stub.leader
        while True:
            spins -= 1
            tid = self._waiter.wait(tracee.tid, OWN if spins <= 0 and patient else OWN | ptrace.WNOHANG)
            if tid in (0, -_EINTR):
                if spins <= -_POLLS:
                    self._check_alive(tracee.stub)
                continue
            status = self._waiter.status
            if tid > 0 and ptrace.is_stopped(status):
                return status
            self.bury(tracee, status if tid > 0 else None)
            raise StubDiedError(tracee.stub.death)

    @staticmethod
    def _check_alive(stub: Stub) -> None:
        """Pause between polls for a leader. Raises StubDiedError when it is dead.

        A dead leader shows in no wait until the other threads of its process were reaped. If the server traces some of them, and
        is waiting for this thread, that is never.
        """
        if ptrace.is_zombie(stub.pid):
            stub.death = stub.death or "it was killed"
            raise StubDiedError(stub.death)
        time.sleep(_POLL_PAUSE)

    def _wait_death(self, tracee: Tracee) -> None:
        """Kill a stub that does not do as it is told, and wait for this thread's end. Raises StubDiedError."""
        tracee.stub.kill()
        while True:
            self._wait_stop(tracee)

    def reap(self, stub: Stub) -> None:
        """Collect this tracer's threads of a killed stub, the leader last. Waits for them to die."""
        mine = [tracee for tracee in self.tracees.values() if tracee.stub is stub]
        for tracee in sorted(mine, key=lambda tracee: tracee is stub.leader):
            try:
                self._wait_death(tracee)
            except StubDiedError:
                continue
