"""The sentry image, made callable: the few primitives that Python has no honest way to do (docs/images.md, "The sentry image").

Arguments are what makes a ctypes call dear (performance.md §2), so the two calls of the hot path take none: their
parameters lie in the *dispatch block*, which Python reads and writes as plain words.
"""

import ctypes
from collections.abc import Callable
from typing import Final

from systrap.host import mem
from systrap.host.sys import PAGE_SIZE
from systrap.platforms.systrap.blob import BlobError, Image
from systrap.platforms.systrap.fast_path import NOMINAL_HZ
from systrap.platforms.systrap.layout import round_up

BLOCK_SIZE: Final = 3 * 4096

# Offsets in the dispatch block.
QUEUE: Final = 0x000
CONTEXT: Final = 0x008
CONTEXT_ID: Final = 0x010
MAX_THREADS: Final = 0x014
THREADS: Final = 0x018
NOTIFY: Final = 0x01C
READY_SPACE: Final = 0x020
READY_CONTEXT: Final = 0x024
NR_SPACES: Final = 0x028
NEXT_SPACE: Final = 0x02C
SPIN: Final = 0x030
DEADLINE_SEC: Final = 0x038
DEADLINE_NSEC: Final = 0x040
WAKE: Final = 0x048
WAKE_SEEN: Final = 0x04C
POLL_NS: Final = 0x050
STUB_SPIN_OFF: Final = 0x058
SPIN_LIMIT: Final = 0x05C
OUTSTANDING: Final = 0x060
USED_SPIN: Final = 0x064
THREAD_SPACE: Final = 0x068
KICKS: Final = 0x06C
PERIOD: Final = 0x070
HANDSHAKE: Final = 0x090
RDPID: Final = 0x09C
NUMBER: Final = 0x0A0
SPACES: Final = 0x0C0
SPACE_SIZE: Final = 40
STUB_LATENCY: Final = 0x20C0
SENTRY_LATENCY: Final = 0x2200
LATENCY_BUCKETS: Final = 80
MAX_SPACES: Final = 127

_RDPID_BIT: Final = 1 << 22
"""CPUID leaf 7, ecx."""

_NoArguments = Callable[[], int]
_OneAddress = Callable[[int], int]
_AddressValue = Callable[[int, int], int]
_Swap = Callable[[int, int, int], int]


class SentryCode:
    """One instance of the sentry image with its dispatch block.

    ``submit`` and the atomics keep the GIL (they take nanoseconds); ``next_ready`` and ``answer`` release it (they sleep).
    ``counter`` reads the clock of the contexts' time stamps; ``counter_frequency``: its ticks in a second.
    """

    def __init__(self, image: Image) -> None:
        """Map the image executable. Raises OSError where the host forbids executable anonymous memory."""
        self.block_address = mem.mmap(
            0, round_up(BLOCK_SIZE, PAGE_SIZE), mem.PROT_READ | mem.PROT_WRITE, mem.MAP_PRIVATE | mem.MAP_ANONYMOUS
        )
        block = mem.view(self.block_address, BLOCK_SIZE)
        self.u32 = block.cast("I")
        self.u64 = block.cast("Q")
        self.i64 = block.cast("q")
        code = image.patched({"dispatch_block": self.block_address})
        length = round_up(len(code), PAGE_SIZE)
        base = mem.mmap(0, length, mem.PROT_READ | mem.PROT_WRITE, mem.MAP_PRIVATE | mem.MAP_ANONYMOUS)
        mem.view(base, len(code))[:] = code
        mem.mprotect(base, length, mem.PROT_READ | mem.PROT_EXEC)
        self._mappings: tuple[tuple[int, int], ...] = (
            (self.block_address, round_up(BLOCK_SIZE, PAGE_SIZE)),
            (base, length),
        )

        c_int, c_u32, c_void = ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64
        keeps_gil = ctypes.PYFUNCTYPE
        at = {name: base + image.offset(name) for name in image.exports}
        self.submit: _NoArguments = keeps_gil(c_int)(at["submit"])
        self.next_ready: _NoArguments = ctypes.CFUNCTYPE(c_int)(at["next_ready"])
        self.answer: _NoArguments = ctypes.CFUNCTYPE(c_int)(at["answer"])
        self.clone_source: _OneAddress = keeps_gil(c_int, c_void)(at["clone_source"])
        cpuid = at.get("cpuid")
        self.cpuid: _OneAddress | None = keeps_gil(c_int, c_void)(cpuid) if cpuid is not None else None
        self.has_rdpid = cpuid is not None and bool(read_cpuid(self, 7, 0)[2] & _RDPID_BIT)
        self.u32[RDPID >> 2] = self.has_rdpid
        self.add32: _AddressValue = keeps_gil(c_u32, c_void, c_u32)(at["atomic_add32"])
        self.exchange32: _AddressValue = keeps_gil(c_u32, c_void, c_u32)(at["atomic_xchg32"])
        self.compare_exchange32: _Swap = keeps_gil(c_u32, c_void, c_u32, c_u32)(at["atomic_cas32"])
        self.acquire32: _OneAddress = keeps_gil(c_u32, c_void)(at["load_acquire32"])
        self.acquire64: _OneAddress = keeps_gil(c_void, c_void)(at["load_acquire64"])
        self.release32: _AddressValue = keeps_gil(c_int, c_void, c_u32)(at["store_release32"])
        self.counter: _NoArguments = keeps_gil(c_void)(at["counter"])
        tells = at.get("counter_frequency")
        self.counter_frequency: int = keeps_gil(c_void)(tells)() if tells is not None else NOMINAL_HZ

    def unmap(self) -> None:
        """Give the memory back. Nothing of this object may be used any more, by any thread."""
        del self.u32, self.u64, self.i64
        for address, length in self._mappings:
            mem.munmap(address, length)
        self._mappings = ()


def read_cpuid(code: SentryCode, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """Execute CPUID and return eax, ebx, ecx, edx. Raises BlobError where the CPU has no such instruction."""
    if code.cpuid is None:
        raise BlobError("the sentry image of this CPU has no CPUID")
    words = (ctypes.c_uint32 * 4)(leaf, 0, subleaf, 0)
    code.cpuid(ctypes.addressof(words))
    return words[0], words[1], words[2], words[3]
