"""Steps through the platform's interface, without a guest kernel.

``python3 -m systrap.bench.platform_steps PLATFORM WHAT COUNT`` prints ``WHAT COUNT NANOSECONDS``, as the guest's steps do.
The guest code is a few instructions in a page of memory.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Final

from systrap import arch
from systrap.memory import MemoryFile
from systrap.platform import Access, AddressSpace, Context, EventKind, Options, Platform, PlatformError, lookup

_CODE: Final = {
    "x86_64": (bytes.fromhex("b827000000 0f05 ebf7"), bytes.fromhex("ebfe")),
    "aarch64": (bytes.fromhex("881580d2 010000d4 feffff17"), bytes.fromhex("00000014")),
}
"""For each CPU: "getpid for ever" (mov $39, %eax; syscall; jmp), and "compute for ever" (jmp .)."""
_START: Final = 0x10000000
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_WAIT: Final = 30.0


class Bench:
    """A platform with a page of guest code, and what is done with them."""

    def __init__(self, name: str) -> None:
        """Start the platform. Raises PlatformError where it does not work."""
        self.platform: Platform = lookup(name).new(Options())
        self.machine = arch.host()
        self.memory = MemoryFile("bench")
        self.start = self.memory.allocate(2 * _PAGE)
        for index, code in enumerate(_CODE[self.machine.NAME]):
            at = self.start + index * _PAGE
            self.memory.data[at : at + len(code)] = code

    def space(self) -> AddressSpace:
        """Return a new address space with both programs: calls at _START, computing in the page behind."""
        space = self.platform.new_address_space()
        space.map_file(_START, self.memory, self.start, 2 * _PAGE, Access.READ | Access.EXECUTE)
        return space

    def context(self, page: int = 0) -> Context:
        """Return a context that begins in one of the two pages."""
        context = self.platform.new_context()
        context.regs[self.machine.IP] = _START + page * _PAGE
        return context

    def next(self) -> Context:
        """Return the next context that came back. Raises PlatformError when none does, or with what ended it."""
        context = self.platform.next_ready(time.monotonic() + _WAIT)
        if context is None:
            raise PlatformError(f"nothing came back within {_WAIT:.0f} s")
        if context.event.kind is EventKind.DEATH:
            raise PlatformError(f"the guest died: {context.event.error}")
        return context

    # The steps; each answers nanoseconds.

    def round_trips(self, contexts: int, count: int) -> int:
        """Let so many contexts of one space call, ``count`` times together."""
        space = self.space()
        for _ in range(contexts):
            self.platform.submit(self.context(), space)
        for _ in range(20 * contexts):
            self.platform.submit(self.next(), space)
        begin = time.perf_counter_ns()
        for _ in range(count):
            self.platform.submit(self.next(), space)
        return time.perf_counter_ns() - begin

    def fresh_spaces(self, count: int) -> int:
        """Make address spaces and keep them, so that each is a new one."""
        begin = time.perf_counter_ns()
        spaces = [self.platform.new_address_space() for _ in range(count)]
        taken = time.perf_counter_ns() - begin
        for space in spaces:
            space.release()
        return taken

    def pooled_spaces(self, count: int) -> int:
        """Make one, run its first call, and give it back, again and again."""
        taken = 0
        for _ in range(count + 1):
            begin = time.perf_counter_ns()
            space, context = self.space(), self.context()
            self.platform.submit(context, space)
            self.next()
            taken += time.perf_counter_ns() - begin if _ else 0
            context.release()
            space.release()
        return taken

    def interrupts(self, count: int) -> int:
        """Interrupt a context that computes, and wait for it."""
        space, context = self.space(), self.context(1)
        taken = 0
        for _ in range(count):
            self.platform.submit(context, space)
            time.sleep(0.0005)
            begin = time.perf_counter_ns()
            context.interrupt()
            self.next()
            taken += time.perf_counter_ns() - begin
        return taken

    def idle(self, count: int) -> int:
        """Answer the CPU time, of us and of stubs, while a stub is parked and we wait; per second."""
        space, context = self.space(), self.context()
        self.platform.submit(context, space)
        self.next()
        context.prepare_sleep()
        time.sleep(0.1)
        begin = time.process_time_ns()
        self.platform.next_ready(time.monotonic() + count)
        return time.process_time_ns() - begin

    def close(self) -> None:
        """End the guests."""
        self.platform.close()
        self.memory.close()


def main(arguments: list[str]) -> int:
    """Run one step; return the exit status."""
    name, what, count = arguments[0], arguments[1], int(arguments[2])
    bench = Bench(name)
    steps: dict[str, Callable[[int], int]] = {
        "space-fresh": bench.fresh_spaces,
        "space-pooled": bench.pooled_spaces,
        "interrupt": bench.interrupts,
        "idle": bench.idle,
    }
    for contexts in (1, 2, 8, 64):
        steps[f"contexts-{contexts}"] = lambda count, contexts=contexts: bench.round_trips(contexts, count)  # type: ignore[misc]
    try:
        taken = steps[what](count)
    finally:
        bench.close()
    sys.stdout.write(f"{what} {count} {taken}\n")
    return 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main(sys.argv[1:]))
