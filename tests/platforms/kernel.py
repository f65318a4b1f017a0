"""A driver that plays guest kernel on a platform: a memory file, spaces with code in them, and running contexts."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from systrap import arch
from systrap.host.sys import PAGE_SIZE
from systrap.memory import MemoryFile
from systrap.platform import Access, AddressSpace, Context, Event, EventKind, Platform

PAGE: Final = PAGE_SIZE
CODE: Final = 0x10000000
DATA: Final = 0x20000000
STACK_TOP: Final = 0x30000000 + PAGE
R, W, X = Access.READ, Access.WRITE, Access.EXECUTE
MACHINE: Final = arch.host()
PATIENCE: Final = 20.0

SWITCH: Final = "switch"
SUBMIT: Final = "submit"


class Kernel:
    """What a test needs of a guest kernel. ``path`` says whether contexts run by switch() or by submit() and next_ready()."""

    def __init__(self, platform: Platform, path: str) -> None:
        self.platform = platform
        self.path = path
        self.file = MemoryFile("guest", 1 << 30)
        self.contexts: list[Context] = []

    def page(self, content: bytes = b"") -> int:
        """Return the offset of fresh pages of the memory file with this content."""
        offset = self.file.allocate(max(-(-len(content) // PAGE), 1) * PAGE)
        self.file.data[offset : offset + len(content)] = content
        return offset

    def space(self, code: bytes) -> AddressSpace:
        """Return a space with code at CODE."""
        space = self.platform.new_address_space()
        space.map_file(CODE, self.file, self.page(code), PAGE, R | X)
        return space

    def map(self, space: AddressSpace, addr: int, content: bytes = b"", access: Access = R | W) -> int:
        """Map a fresh page, and return its offset."""
        offset = self.page(content)
        space.map_file(addr, self.file, offset, PAGE, access)
        return offset

    def context(self, ip: int = CODE, sp: int = STACK_TOP, **registers: int) -> Context:
        """Return a context that starts at ``ip``, with these registers besides."""
        context = self.platform.new_context()
        MACHINE.start_regs(context.regs, ip, sp)
        for name, value in registers.items():
            set_reg(context, name, value)
        self.contexts.append(context)
        return context

    def run(self, context: Context, space: AddressSpace) -> Event:
        """Run a context until its next event."""
        if self.path == SWITCH:
            return context.switch(space)
        self.platform.submit(context, space)
        ready = self.wait()
        assert ready is context
        return ready.event

    def wait(self) -> Context:
        """Return the next ready context. Fails if there is none for long."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            ready = self.platform.next_ready(deadline)
            if ready is not None:
                return ready
        raise AssertionError("no context became ready")

    def run_all(self, runs: "list[tuple[Context, AddressSpace]]") -> None:
        """Run several contexts at once until each has an event."""
        if self.path == SUBMIT:
            for context, space in runs:
                self.platform.submit(context, space)
            ready = {id(self.wait()) for _ in runs}
            assert ready == {id(context) for context, _ in runs}
            return
        from threading import Thread

        threads = [Thread(target=context.switch, args=(space,), daemon=True) for context, space in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def read(self, offset: int, length: int = 8) -> bytes:
        """Return bytes of the memory file."""
        return self.file.data[offset : offset + length]

    def word(self, offset: int) -> int:
        """Return a 64-bit word of the memory file."""
        return int.from_bytes(self.read(offset), "little")

    def close(self) -> None:
        """End the platform and the file."""
        self.platform.close()
        self.file.close()


def reg(context: Context, name: str) -> int:
    """Return a register by name."""
    return context.regs[MACHINE.REG_NAMES.index(name)]


def set_reg(context: Context, name: str, value: int) -> None:
    """Set a register by name."""
    context.regs[MACHINE.REG_NAMES.index(name)] = value


def is_syscall(event: Event) -> bool:
    """Tell whether an event is a plain system call: no info, no access, no error (P-040)."""
    return event == Event(EventKind.SYSCALL)


def signo(event: Event) -> int:
    """Return the signal of a SIGNAL event; fails for others."""
    assert event.kind == EventKind.SIGNAL, event
    assert event.info is not None
    return event.info.signo


def addr(event: Event) -> int:
    """Return the fault address of a SIGNAL event."""
    assert event.info is not None, event
    return event.info.addr


def children() -> set[int]:
    """Return the process ids of this process's children, of all its threads."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:
            continue  # That thread ended meanwhile.
    return found


def stubs() -> set[int]:
    """Return the children that are stub processes: those that share no executable with anybody."""
    found = set()
    for pid in children():
        try:
            Path(f"/proc/{pid}/exe").readlink()
        except OSError:
            found.add(pid)
        else:
            if Path(f"/proc/{pid}/maps").read_text(errors="replace").count("\n") < 100:
                found.add(pid)
    return found


def threads(pid: int) -> set[int]:
    """Return the thread ids of a process."""
    return {int(name) for name in os.listdir(f"/proc/{pid}/task")}


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds. Returns whether it ever did."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.002)
    return condition()
