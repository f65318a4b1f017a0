"""What tests of the sysmsg image do to a stub: put guest code there, patch it, wait for its threads."""

import time

from systrap.platforms.systrap import abi
from tests.blobs import guest
from tests.blobs.stub import Context, Stub
from tests.blobs.world import GUEST, PAGE, START, TABLE

SYSCALL, FAULT, TRAP, NEED_TRAP = 1, 2, 3, 4
ENOSYS = -38 & (1 << 64) - 1
NO_NUMBER = (1 << 64) - 1
DATA = GUEST + PAGE
SITE = START + 64
UNMAPPED = 0x30000000


def load(stub: Stub, *code: bytes, at: int = START) -> None:
    program = b"".join(code)
    stub.code.bytes[at - GUEST : at - GUEST + len(program)] = program


def peek(stub: Stub, address: int, length: int) -> bytes:
    return bytes(stub.code.bytes[address - GUEST : address - GUEST + length])


def patch(stub: Stub, entry: int, site: int, number: int) -> None:
    """Patch a site, as the sentry would."""
    world = stub.world
    at = world.table + entry - TABLE
    world.file.bytes[at : at + 80] = guest.trampoline(entry, number, site + 7)
    load(stub, guest.patched_site(entry), at=site)


def wait_running(stub: Stub, context: Context, thread_id: int = 1) -> None:
    """Wait until a thread runs the context's guest code."""
    deadline = time.monotonic() + 10
    while context.words.u32(abi.THREAD_ID) != thread_id or stub.sysmsg(thread_id).u32(0x2C) != 0:
        assert time.monotonic() < deadline, "the context does not run"


def wait_parked(stub: Stub, thread_id: int = 1) -> None:
    deadline = time.monotonic() + 10
    while stub.sysmsg(thread_id).u32(0x2C) != 3:
        assert time.monotonic() < deadline, "the thread does not park"
