"""Looking into a systrap platform that runs: its stubs' maps and status in /proc, and the memory it shares with them."""

from pathlib import Path
from typing import NamedTuple

from systrap.platform import AddressSpace, Context, ContextError, Event, EventKind, Platform
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.abi import ContextSlot
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.environment import Environment
from systrap.platforms.systrap.layout import Layout
from systrap.platforms.systrap.platform import SystrapPlatform
from systrap.platforms.systrap.stub_process import StubProcess
from systrap.platforms.systrap.subprocess import Subprocess
from tests.platforms.kernel import Kernel, eventually


class Mapping(NamedTuple):
    """A line of /proc/PID/maps."""

    start: int
    end: int
    prot: str
    offset: int
    inode: int
    name: str


def maps(pid: int) -> list[Mapping]:
    """Return the mappings of a process."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        span, prot, offset, _, inode, *name = line.split(None, 5)
        start, end = (int(part, 16) for part in span.split("-"))
        found.append(Mapping(start, end, prot, int(offset, 16), int(inode), name[0].strip() if name else ""))
    return found


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def environment(platform: Platform) -> Environment:
    """Return what all spaces of a systrap platform share."""
    assert isinstance(platform, SystrapPlatform)
    return platform._pool.environment


def place(platform: Platform) -> Layout:
    """Return where the stub image lies."""
    return environment(platform).image.layout


def stub(space: AddressSpace) -> StubProcess:
    """Return the stub process behind a space of the systrap platform."""
    assert isinstance(space, Subprocess)
    return space.stub


def slot(context: Context) -> ContextSlot:
    """Return the slot that a context has at the moment."""
    assert isinstance(context, SystrapContext)
    assert context.slot is not None
    return context.slot


def words(context: Context) -> "memoryview[int]":
    """Return a context's slot as 32-bit words."""
    return slot(context)._u32


def sysmsg(space: AddressSpace, stack_id: int = 1) -> "memoryview[int]":
    """Return the sentry's view of a sysmsg thread's structure."""
    one = stub(space)
    area, slots = one.environment.image.layout.area, one.environment.slots
    return one._view(slots.areas + (stack_id - 1) * area.shared_size + area.sysmsg - area.shared, abi.SYSMSG_SIZE)


def thread_id(context: Context) -> int:
    """Return the stack id of the thread that runs a context, or INVALID_ID."""
    return slot(context).thread_id()


def start(kernel: Kernel, context: Context, space: AddressSpace) -> None:
    """Submit a context, and wait until a stub thread runs it."""
    kernel.platform.submit(context, space)
    assert eventually(lambda: thread_id(context) != abi.INVALID_ID)
    stack_id = thread_id(context)
    assert eventually(lambda: sysmsg(space, stack_id).cast("I")[abi.SYSMSG_STATE >> 2] == abi.ThreadState.NONE)


def gone(pid: int) -> bool:
    """Tell whether a process is no more, but perhaps for its zombie."""
    try:
        return status(pid)["State"][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def died_of(event: Event) -> tuple[int, str]:
    """Return errno and text of a death."""
    assert event.kind == EventKind.DEATH, event
    assert isinstance(event.error, ContextError)
    return event.error.errno, str(event.error)
