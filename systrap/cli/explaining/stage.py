"""The stage on which a round trip is played: a platform, one address space, one context, a stub that can be made to stand still.

Nobody spins here (the fast path is off), so that what happens is one thing after the other and the same each time: a stub thread
with nothing to do parks, the sentry wakes it with a futex.
"""

import os
import signal
import struct
import time
from collections.abc import Callable
from typing import Final

from systrap.arch import x86_64
from systrap.cli.driver_memory import GuestMemory
from systrap.cli.explaining import words
from systrap.memory import MemoryFile
from systrap.platform import Access, Event, Options, PlatformError, lookup
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.platform import SystrapPlatform
from systrap.platforms.systrap.subprocess import Subprocess

CODE_PAGE: Final = 0x10000000
CODE: Final = CODE_PAGE + 0x40
"""Not at the start of its page: the stub looks at the byte in front of a call site."""
DATA: Final = 0x10001000
NOWHERE: Final = 0x20000000
STACK_TOP: Final = 0x10002000
PAGE: Final = 4096
LIMIT: Final = 10.0
"""Seconds that any step may take."""

# Where the general registers lie in a signal frame (struct ucontext, x86-64), in 64-bit words from rsp on.
_FRAME_WORDS: Final = ("rsp", "rip", "eflags", "selectors", "err", "trapno", "oldmask", "cr2")


class Stage:
    """One guest with one thread. Not thread-safe. Call close()."""

    def __init__(self, code: bytes, trap: str, patching: bool) -> None:
        """Put the guest at ``code``; ``trap``: how its calls are caught, ``patching``: its call sites may be.

        Raises PlatformError, RequirementError.
        """
        platform = lookup("systrap").new(Options(not patching, disable_fast_path=True, syscall_trap=trap))
        if not isinstance(platform, SystrapPlatform):
            raise PlatformError("explain looks into the systrap platform and no other")
        self.platform = platform
        self._file = MemoryFile("explain")
        space = platform.new_address_space()
        context = platform.new_context()
        if not isinstance(space, Subprocess) or not isinstance(context, SystrapContext):
            raise PlatformError("explain looks into the systrap platform and no other")
        self.space, self.context = space, context
        self.memory = GuestMemory(space, self._file)
        self.memory.map_anonymous(CODE_PAGE, PAGE, Access.READ | Access.EXECUTE, "code")
        self.memory.map_anonymous(DATA, PAGE, Access.READ | Access.WRITE, "data")
        self.memory.write(CODE, code)
        context.regs[x86_64.RIP] = CODE
        context.regs[x86_64.RSP] = STACK_TOP
        context.regs[x86_64.EFLAGS] = 0x202

    # Going on and standing still.

    def submit(self) -> None:
        """Let the context run."""
        self.platform.submit(self.context, self.space)

    def event(self) -> Event:
        """Wait for the context's event. Raises PlatformError."""
        if self.platform.next_ready(time.monotonic() + LIMIT) is None:
            raise PlatformError("the guest did not come back")
        return self.context.event

    def freeze(self) -> None:
        """Stop the stub's threads that run guests: each is a process for the kernel. The syscall thread goes on."""
        for thread in self.space.stub.threads.values():
            os.kill(thread, signal.SIGSTOP)
        self._await("the stub did not stop", self._is_stopped)

    def thaw(self) -> None:
        """Let it go on."""
        for thread in self.space.stub.threads.values():
            os.kill(thread, signal.SIGCONT)

    def until_given_back(self) -> None:
        """Wait until the stub has given the context back, and its thread is parked."""
        slot = self.context.slot
        self._await(
            "the context was not given back", lambda: slot is not None and slot.state() != abi.ContextState.NONE
        )
        self._await("the stub thread did not park", lambda: self.space.stub.queue[abi.QUEUE_ACTIVE_THREADS >> 2] == 0)

    def until_taken(self) -> None:
        """Wait until a stub thread has taken the context."""
        slot = self.context.slot
        self._await("the context was not taken", lambda: slot is not None and slot.thread_id() != abi.INVALID_ID)

    def _is_stopped(self) -> bool:
        for thread in self.space.stub.threads.values():
            with open(f"/proc/{thread}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] != "T":
                    return False
        return True

    @staticmethod
    def _await(trouble: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > deadline:
                raise PlatformError(trouble)
            time.sleep(0.0005)

    # Looking.

    def look(self) -> words.Snapshot:
        """Read all shared words."""
        slot = self.context.slot
        return words.take(self.space, slot.stub_id if slot is not None else 0)

    def code(self, addr: int, length: int) -> bytes:
        """Read guest code."""
        return self.memory.read_code(addr, length) or b""

    def frame(self) -> dict[str, int] | None:
        """Find the signal frame on the stub thread's signal stack; its words by name, None when there is none for this guest.

        The general registers in it are recognised by the guest's rsp and rip, which lie side by side.
        """
        place = self.space.environment.image.layout
        top = place.thread_area(1) + place.area.sysmsg
        low = place.thread_area(1) + place.area.shared
        with open(f"/proc/{self.space.stub.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(low)
            stack = memory.read(top - low)
        regs = self.context.regs
        at = stack.rfind(struct.pack("<QQ", regs[x86_64.RSP], regs[x86_64.RIP]))
        if at < 0:
            return None
        values = struct.unpack_from("<8Q", stack, at)
        rax, rcx = struct.unpack_from("<QQ", stack, at - 16)
        found = {"rax": rax, "rcx": rcx, **dict(zip(_FRAME_WORDS, values, strict=True))}
        (found["fpregs"],) = struct.unpack_from("<Q", stack, at + 64)
        (found["sigmask"],) = struct.unpack_from("<Q", stack, at + 64 + 8 * 9)
        return found

    def close(self) -> None:
        """End the guest, also one that stands still: SIGKILL does not wait for it to go on."""
        self.platform.close()
        self._file.close()
