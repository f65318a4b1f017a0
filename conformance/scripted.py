"""A scripted stub: it does to the shared memory what a stub's threads would do, one step at a time (docs/halves.md).

No guest runs. The "stub threads" are processes that do nothing but count the SIGCHLDs they get, since a sentry interrupts a
stub thread by that signal. One step is done while the sentry waits, so plain stores will do.
"""

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from conformance import shared
from conformance.checks import Session, demand
from conformance.client import Message
from conformance.shared import Memory
from conformance.steps import FailedError, result_of

SIGCHLD: Final = 17
_STARTING: Final = 10.0
_POLL: Final = 0.001
_THREAD: Final = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
print("ready", flush=True)
while True:
    signal.sigwait([signal.SIGCHLD])
    print("x", flush=True)
"""


class Thread:
    """A process that stands for a stub thread. ``signals``: SIGCHLDs it got so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._process = subprocess.Popen([sys.executable, "-S", "-c", _THREAD], stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdout is not None
        self._output = self._process.stdout
        if not select.select([self._output], [], [], _STARTING)[0]:
            raise FailedError("the suite's own stub thread does not start")
        self._output.read(len("ready\n"))
        self._signals = 0

    @property
    def pid(self) -> int:
        """The process, which is its own only thread."""
        return self._process.pid

    def signals(self) -> int:
        """Count the signals up to now."""
        while select.select([self._output], [], [], 0)[0]:
            self._signals += self._output.read(4096).count(b"x")
        return self._signals

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self._output.close()


class Slot:
    """A context's slot, by the names of its words."""

    def __init__(self, memory: Memory, number: int) -> None:
        self.memory = memory
        self.number = number
        self.at = shared.CONTEXTS_AT + shared.SLOT * number

    def reg(self, name: str) -> int:
        """Read a register."""
        return self.memory.u64(self.at + shared.PTREGS + 8 * shared.REGISTERS.index(name))

    def set_regs(self, **values: int) -> None:
        """Write registers, as if the guest had changed them."""
        for name, value in values.items():
            self.memory.set64(self.at + shared.PTREGS + 8 * shared.REGISTERS.index(name), value)

    def word(self, offset: int) -> int:
        """Read a 32-bit word."""
        return self.memory.u32(self.at + offset)

    def set(self, offset: int, value: int) -> None:
        """Write a 32-bit word."""
        self.memory.set32(self.at + offset, value)

    def set_siginfo(self, signo: int, code: int = 0, addr: int = 0, syscall: int = 0) -> None:
        """Write what the kernel would have told the handler."""
        at = self.at + shared.SIGINFO
        self.memory.set32(at, signo)
        self.memory.set32(at + 8, code & 0xFFFFFFFF)
        self.memory.set64(at + 16, addr)
        self.memory.set32(at + 24, syscall)
        self.memory.set32(at + 28, 0xC000003E)
        self.memory.set64(self.at + shared.SIGNO, signo)


class ScriptedStub:
    """The stub's half of the hand-over, step by step."""

    def __init__(self, session: Session) -> None:
        """Make the memory. Nothing else is there before attach()."""
        self.session = session
        self.memory = Memory()
        self.threads: list[Thread] = []

    def attach(self, threads: int) -> None:
        """Make threads, and give all to the sentry under test."""
        for number in range(1, threads + 1):
            self.threads.append(Thread(number))
        places = {"queue": shared.QUEUE_AT, "contexts": shared.CONTEXTS_AT, "slots": shared.SLOTS}
        pids = [thread.pid for thread in self.threads]
        self.session.ask("half.attach", memory=self.memory.path, **places, threads=pids)

    def close(self) -> None:
        """End the threads."""
        for thread in self.threads:
            thread.end()
        self.memory.close()

    # The sentry's side of the talk.

    def new_context(self) -> Slot:
        """Have the sentry make a context, and return its slot."""
        number = self.session.ask("half.new_context")["context"]
        assert isinstance(number, int)
        demand(0 <= number < shared.SLOTS, f"context {number} is not one of the {shared.SLOTS} slots that there are")
        return Slot(self.memory, number)

    def switch(self, slot: Slot, **regs: int) -> int:
        """Let the sentry run a context; return the request."""
        values = {name: f"{value & shared.U64:#x}" for name, value in regs.items()}
        return self.session.driver.send("half.switch", context=slot.number, regs=values, timeout_ms=20_000)

    def event(self, request: int) -> Message:
        """Return the event of a switch."""
        reply = self.session.driver.wait(request, self.session.patience)
        event = reply.get("event")
        if not isinstance(event, dict):
            result_of(reply)
            raise FailedError(f"a switch was answered by {reply}")
        return {str(name): value for name, value in event.items()}

    # The stub's side.

    def await_(self, what: str, truth: Callable[[], bool]) -> None:
        """Wait until the sentry did something, for as long as an answer may take."""
        deadline = time.monotonic() + self.session.patience
        while not truth():
            if time.monotonic() > deadline:
                raise FailedError(f"{what}: not within {self.session.patience:g} s")
            time.sleep(_POLL)

    def word(self, offset: int) -> int:
        """Read a word of the queue."""
        return self.memory.u32(shared.QUEUE_AT + offset)

    def entry(self, index: int) -> int:
        """Read an entry of the queue's ring."""
        return self.memory.u64(shared.QUEUE_AT + shared.RING + 8 * (index % shared.ENTRIES))

    def await_queued(self, slot: Slot) -> int:
        """Wait until a context is in the queue, as the next one; return its index."""
        self.await_(f"context {slot.number} is queued", lambda: self.word(shared.START) != self.word(shared.END))
        start = self.word(shared.START)
        self.await_(
            f"the entry {start:#x} of context {slot.number} is written, with its index",
            lambda: self.entry(start) == start << 32 | slot.number,
        )
        return start

    def take(self, slot: Slot, thread: Thread) -> None:
        """Take the next context, which must be this one, from the queue, as a stub thread does (10-stub 4.2)."""
        start = self.await_queued(slot)
        self.memory.set64(shared.QUEUE_AT + shared.RING + 8 * (start % shared.ENTRIES), shared.INVALID_ID)
        self.memory.set32(shared.QUEUE_AT + shared.START, start + 1 & 0xFFFFFFFF)
        self.memory.set64(slot.at + shared.ACKED_TIME, 1)
        slot.set(shared.THREAD_ID, thread.number)

    def give_back(self, slot: Slot, thread: Thread, state: int, keep_thread: bool = False) -> None:
        """Give a context back (10-stub 4.1)."""
        active = self.word(shared.ACTIVE_CONTEXTS)
        self.memory.set32(shared.QUEUE_AT + shared.ACTIVE_CONTEXTS, active - 1 & 0xFFFFFFFF)
        slot.set(shared.LAST_THREAD_ID, thread.number)
        self.memory.set64(slot.at + shared.STATE_CHANGED_TIME, 2)
        if not keep_thread:
            slot.set(shared.THREAD_ID, shared.INVALID_ID)
        slot.set(shared.STATE, state)
        if slot.word(shared.SENTRY_FAST_PATH) == 0:
            self.memory.wake(slot.at + shared.STATE)

    def call(self, slot: Slot, thread: Thread, nr: int, **regs: int) -> None:
        """Give a context back with a system call."""
        slot.set_regs(**regs, orig_rax=nr, rax=-38)
        slot.set_siginfo(31, syscall=nr & 0xFFFFFFFF)
        slot.set(shared.ERR, 0)
        slot.set(shared.FPSTATE_CHANGED, 0)
        self.give_back(slot, thread, shared.SYSCALL)

    def fault(self, slot: Slot, thread: Thread, signo: int, code: int = 0, addr: int = 0, err: int = 0) -> None:
        """Give a context back with a fault."""
        slot.set_regs(orig_rax=-1)
        slot.set_siginfo(signo, code, addr)
        slot.set(shared.ERR, err)
        slot.set(shared.FPSTATE_CHANGED, 0)
        self.give_back(slot, thread, shared.FAULT)


@contextmanager
def attached(session: Session, threads: int = 2) -> Iterator[ScriptedStub]:
    """Attach a sentry to a scripted stub."""
    stub = ScriptedStub(session)
    try:
        stub.attach(threads)
        yield stub
    finally:
        stub.close()
