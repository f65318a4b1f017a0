"""A guest on the real platform whose call sites may be patched: code in anonymous memory, and looks at what became of it."""

import struct
import time
from collections.abc import Iterator

import pytest

from systrap.cli.driver_memory import GuestMemory
from systrap.memory import MemoryFile
from systrap.platform import DISPATCH, SECCOMP, Context, Event, Options
from systrap.platforms.systrap.abi import ContextState
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.subprocess import Subprocess
from systrap.platforms.systrap.usertrap import PATCH_AFTER, TABLE_HIGH, TABLE_LOW, TABLE_NAME, TABLE_SIZE, CallSites
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, DATA, MACHINE, PAGE, STACK_TOP, Kernel, R, W, X, is_syscall, reg, set_reg

GETPID = 39
START = CODE + 16
"""Where the guest's code begins. The stub looks at the byte in front of a site, so none is at the start of memory (S-043)."""
SITE = bytes.fromhex("b8270000000f05")
"""mov $39, %eax; syscall"""
LOOP = SITE + bytes.fromhex("ebf7")
"""1: mov $39, %eax; syscall; jmp 1b"""


ELSEWHERE = CODE + 0x100000 + 16
"""A place for more code, in a page of its own."""


class SlowMemory(GuestMemory):
    """Guest memory whose code is written so slowly that guests run into every stage of a patch."""

    def write_code(self, addr: int, data: bytes) -> bool:
        done = super().write_code(addr, data)
        if addr >= CODE:
            time.sleep(0.0001)
        return done


class PatchedGuest:
    """One space with code at START, data at DATA and a stack, run by ``kernel``."""

    def __init__(self, kernel: Kernel, code: bytes = LOOP, memory: type[GuestMemory] = GuestMemory) -> None:
        self.kernel = kernel
        self.platform = kernel.platform
        space = kernel.platform.new_address_space()
        assert isinstance(space, Subprocess)
        self.space = space
        self.file = MemoryFile("patched", 1 << 28)
        self.memory = memory(space, self.file)
        self.memory.map_anonymous(CODE, PAGE, R | X)
        self.memory.write(CODE, b"\x90" * 16 + code)
        self.memory.map_anonymous(DATA, PAGE, R | W)
        self.memory.map_anonymous(STACK_TOP - PAGE, PAGE, R | W)

    @property
    def sites(self) -> CallSites:
        """What was patched here."""
        assert self.space.sites is not None
        return self.space.sites

    def context(self, ip: int = START, **registers: int) -> Context:
        """Return a context that starts at ``ip``."""
        return self.kernel.context(ip, **registers)

    def run(self, context: Context) -> Event:
        """Run a context until its next event."""
        return self.kernel.run(context, self.space)

    def call(self, context: Context, number: int = GETPID, result: int = 0) -> None:
        """Run a context until its next system call, which must be this one, and answer it."""
        event = self.run(context)
        assert is_syscall(event), event
        assert reg(context, "orig_rax") == reg(context, "rax") == number
        set_reg(context, "rax", result)

    def patch(self, context: Context, number: int = GETPID) -> None:
        """Let the site a context loops over be patched; its next call is the first patched one."""
        before = self.sites.patched
        for _ in range(PATCH_AFTER):
            self.call(context, number)
        assert self.sites.patched == before + 1

    def at(self, addr: int, length: int) -> bytes:
        """Return bytes of the guest's memory."""
        return self.memory.read(addr, length)

    def is_patched(self, site: int = START) -> bool:
        """Tell whether a site is a jump through the table."""
        found = self.at(site, 7)
        return found[:3] == b"\xff\x24\x25" and found[5:] == b"\x06\x00"

    def entry(self, site: int = START) -> int:
        """Return the address of a patched site's entry."""
        assert self.is_patched(site)
        return int(struct.unpack("<I", self.at(site + 3, 4))[0])

    def table(self) -> int:
        """Return where the table is."""
        found = self.memory.find_area(TABLE_NAME, TABLE_LOW, TABLE_HIGH + TABLE_SIZE)
        assert found is not None
        return found[0]

    def close(self) -> None:
        """End everything."""
        self.kernel.close()
        self.file.close()


def came_by_trampoline(context: Context) -> bool:
    """Tell whether the last call of a context came through a patched site."""
    assert isinstance(context, SystrapContext)
    assert context.slot is not None
    return context.slot.state() == ContextState.SYSCALL_TRAP


def all_registers(context: Context) -> dict[str, int]:
    """Return a context's registers by name."""
    return dict(zip(MACHINE.REG_NAMES, context.regs, strict=True))


def kernels(path: str) -> Iterator[Kernel]:
    """Yield a kernel on a platform that patches, skipping where this host has not got what the trap needs."""
    way, _, trap = path.partition("-")
    platform = create("systrap", Options(syscall_trap=trap))
    kernel = Kernel(platform, way)
    yield kernel
    kernel.close()


WAYS = [f"{way}-{trap}" for way in ("switch", "submit") for trap in (SECCOMP, DISPATCH)]
"""How contexts are run, and how their calls are caught."""


@pytest.fixture(params=WAYS)
def guest(request: pytest.FixtureRequest) -> Iterator[PatchedGuest]:
    """Return a guest that loops over one call, for each way of running it."""
    for kernel in kernels(str(request.param)):
        found = PatchedGuest(kernel)
        yield found
        found.file.close()
