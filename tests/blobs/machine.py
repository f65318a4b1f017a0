"""The sentry image mapped into this process, and the structures it works on, for tests that call its functions."""

import ctypes
import struct
from collections.abc import Callable

from systrap.host import mem
from systrap.host.sys import PAGE_SIZE
from systrap.platforms.systrap import abi, blob
from systrap.platforms.systrap.layout import QUEUE_SIZE, RING_SIZE, round_up

RW = mem.PROT_READ | mem.PROT_WRITE
ANONYMOUS = mem.MAP_PRIVATE | mem.MAP_ANONYMOUS


def map_code(code: bytes) -> int:
    """Map an image executable; answers its address. It stays for the life of the process."""
    length = round_up(len(code), PAGE_SIZE)
    base = mem.mmap(0, length, RW, ANONYMOUS)
    mem.view(base, len(code))[:] = code
    mem.mprotect(base, length, mem.PROT_READ | mem.PROT_EXEC)
    return base


class Words:
    """Shared memory as 32-bit and 64-bit words at byte offsets."""

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.bytes = mem.view(address, length)
        self._u32 = self.bytes.cast("I")
        self._u64 = self.bytes.cast("Q")

    @classmethod
    def shared(cls, length: int) -> "Words":
        """Fresh zeroed memory that a forked child shares."""
        length = round_up(length, PAGE_SIZE)
        return cls(mem.mmap(0, length, RW, mem.MAP_SHARED | mem.MAP_ANONYMOUS), length)

    def u32(self, offset: int) -> int:
        return self._u32[offset >> 2]

    def u64(self, offset: int) -> int:
        return self._u64[offset >> 3]

    def set32(self, offset: int, value: int) -> None:
        self._u32[offset >> 2] = value

    def set64(self, offset: int, value: int) -> None:
        self._u64[offset >> 3] = value


class Block:
    """Offsets of the dispatch block, as docs/images.md has them."""

    QUEUE = 0x000
    CONTEXT = 0x008
    CONTEXT_ID = 0x010
    MAX_THREADS = 0x014
    THREADS = 0x018
    NOTIFY = 0x01C
    READY_SPACE = 0x020
    READY_CONTEXT = 0x024
    NR_SPACES = 0x028
    NEXT_SPACE = 0x02C
    SPIN = 0x030
    DEADLINE_SEC = 0x038
    DEADLINE_NSEC = 0x040
    WAKE = 0x048
    WAKE_SEEN = 0x04C
    POLL_NS = 0x050
    STUB_SPIN_OFF = 0x058
    SPIN_LIMIT = 0x05C
    OUTSTANDING = 0x060
    USED_SPIN = 0x064
    THREAD_SPACE = 0x068
    KICKS = 0x06C
    PERIOD = 0x070
    HANDSHAKE = 0x090
    SPACES = 0x0C0
    SPACE_SIZE = 40
    HEAD = 24
    STUB_LATENCY = 0x20C0
    SENTRY_LATENCY = 0x2200


NO_DEADLINE = (1 << 64) - 1


Word = ctypes.c_int | ctypes.c_uint32 | ctypes.c_uint64


class Machine:
    """One instance of the sentry image and its dispatch block."""

    def __init__(self) -> None:
        image = blob.load("sentry")
        self.block = Words.shared(3 * 4096)
        self.base = map_code(image.patched({"dispatch_block": self.block.address}))
        self.image = image
        self.unused: Ring | None = None
        self.block.set64(Block.DEADLINE_SEC, NO_DEADLINE)
        self.block.set32(Block.SPIN_LIMIT, 1 << 30)
        self.submit = self.function("submit", ctypes.c_int)
        self.next_ready = self.function("next_ready", ctypes.c_int)

    def function(self, name: str, result: "type[Word] | None", *arguments: "type[Word]") -> Callable[..., int]:
        """Return one of the image's functions. The GIL is released while it runs."""
        return ctypes.CFUNCTYPE(result, *arguments)(self.base + self.image.offset(name))

    def set_spaces(self, rings: "list[Ring]") -> None:
        """Let next_ready look at these rings; the spaces' queues and contexts are empty ones of their own."""
        self.idle = [(Queue(), ring) for ring in rings]
        self.block.set32(Block.NR_SPACES, len(rings))
        for index, (queue, ring) in enumerate(self.idle):
            self.set_space(index, ring.words.address, queue.words.address, queue.context.address, ring.head)

    def set_space(self, index: int, ring: int, queue: int, contexts: int, head: int = 0) -> None:
        """Fill an entry of the table of spaces with addresses in this process."""
        entry = Block.SPACES + Block.SPACE_SIZE * index
        self.block.set64(entry, ring)
        self.block.set64(entry + 8, queue)
        self.block.set64(entry + 16, contexts)
        self.block.set32(entry + Block.HEAD, head)
        # As many threads as it could ever have: next_ready asks for no more.
        self.block.set32(entry + Block.HEAD + 4, 0xFFFFFFFF)

    def head(self, index: int = 0) -> int:
        """Return the index of the slot that next_ready reads next in the ring of a space."""
        return self.block.u32(Block.SPACES + Block.SPACE_SIZE * index + Block.HEAD)

    def ready(self) -> tuple[int, int]:
        """Space and context of the last next_ready that answered 1."""
        return self.block.u32(Block.READY_SPACE), self.block.u32(Block.READY_CONTEXT)


class Ring:
    """A ready ring, and the stub's side of it in Python. One producer at a time."""

    def __init__(self, first: int = 0) -> None:
        self.words = Words.shared(RING_SIZE)
        self.head = first
        self.words.set32(abi.RING_TAIL, first)
        # A ring begins at 0 and all zero. One that begins later looks as if it had come so far.
        for index in range(max(first - abi.QUEUE_ENTRIES, 0), first):
            self.words.set64(abi.RING_SLOTS + 8 * (index % abi.QUEUE_ENTRIES), (index + 1) << 32)

    def put(self, context_id: int) -> None:
        """Write an entry, without a word to a sentry that sleeps."""
        tail = self.words.u32(abi.RING_TAIL)
        self.words.set32(abi.RING_TAIL, (tail + 1) & 0xFFFFFFFF)
        value = ((tail + 1) & 0xFFFFFFFF) << 32 | context_id
        self.words.set64(abi.RING_SLOTS + 8 * (tail % abi.QUEUE_ENTRIES), value)


class Queue:
    """A context queue in its initial state, with slots for all contexts beside it; ``context`` is the first of them."""

    def __init__(self) -> None:
        self.words = Words.shared(QUEUE_SIZE)
        abi.init_queue(self.words.bytes)
        self.context = Words.shared(abi.CONTEXT_SIZE * abi.QUEUE_ENTRIES)

    def entry(self, index: int) -> int:
        return self.words.u64(abi.QUEUE_RING + 8 * (index % abi.QUEUE_ENTRIES))


def pack_words(*values: int) -> bytes:
    """64-bit words, modulo 2^64."""
    return struct.pack(f"<{len(values)}Q", *(value & NO_DEADLINE for value in values))
