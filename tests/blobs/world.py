"""A stub made of nothing but the three images, for tests of the machine code: no platform code is involved.

The sentry's side is as plain as it can be: one memory file, one stub process cloned from a source, requests in futex mode,
guest code from bytes.
"""

import ctypes
import os
import signal
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from systrap.host import futex, mem
from systrap.host.bpf import sock_fprog
from systrap.host.sys import NR, libc
from systrap.platforms.systrap import blob, filters, layout
from tests.blobs.machine import NO_DEADLINE, RW, Machine, Words, pack_words

PAGE = 4096
GUEST = 0x10000000
"""Where guest code lies, one page; data follows in the next."""
START = GUEST + 64
"""Where guests begin. (In front of a page's first bytes there may be nothing to read.)"""
GUEST_PAGES = 16
TABLE = 0x60000
"""Where trampolines lie, one page."""

MAY_FAIL, ENTER_NOTIFY, MOVE_REQUEST = 1, 2, 4
SHARED, FIXED = mem.MAP_SHARED, mem.MAP_FIXED
READ, EXEC = mem.PROT_READ, mem.PROT_EXEC
FIRST_SEQ = 1
CS, SS = 0x33, 0x2B
BIRTH_MASK = 0xFFFFFFFFFFFFFFFF & ~(1 << 10)
"""All signals but SIGSEGV, with which a sysmsg thread begins."""


class Call(NamedTuple):
    """A system call of a batch."""

    name: str
    args: tuple[int, ...] = ()
    flags: int = 0


class Reply(NamedTuple):
    """What a batch came to."""

    ret: int
    done: int


def batch_bytes(calls: Sequence[Call], seq: int, count: int | None = None) -> bytes:
    """Pack a request page."""
    page = struct.pack("<II56x", seq, len(calls) if count is None else count)
    for call in calls:
        args = (*call.args, 0, 0, 0, 0, 0, 0)[:6]
        page += pack_words(NR[call.name], *args, call.flags)
    return page


def rseq_registration() -> tuple[int, int]:
    """Return offset and length of glibc's rseq area; length 0: there is none."""
    try:
        offset = ctypes.c_long.in_dll(libc, "__rseq_offset").value
        return offset, 32 if ctypes.c_uint.in_dll(libc, "__rseq_size").value else 0
    except ValueError:
        return 0, 0


class Channel:
    """Request and reply page of one syscall thread, futex mode."""

    def __init__(self, pages: Words) -> None:
        self.pages = pages
        self.seq = FIRST_SEQ

    def write(self, calls: Sequence[Call], seq: int, count: int | None = None) -> None:
        """Put a batch into the request page, its number last."""
        page = batch_bytes(calls, seq, count)
        self.pages.bytes[4 : len(page)] = page[4:]
        self.pages.set32(0, seq)

    def send(self, calls: Sequence[Call], count: int | None = None) -> None:
        self.seq += 1
        self.write(calls, self.seq, count)
        futex.wake(self.pages.address)

    def reply(self, timeout: float = 10.0) -> Reply:
        """Wait for the reply to the last batch."""
        deadline = time.monotonic() + timeout
        while (seq := self.pages.u32(PAGE + 12)) != self.seq:
            assert time.monotonic() < deadline, "the syscall thread does not answer"
            futex.wait(self.pages.address + PAGE + 12, seq, 0.1)
        ret, done = struct.unpack_from("<qI", self.pages.bytes, PAGE)
        return Reply(ret, done)

    def run(self, *calls: Call) -> Reply:
        self.send(calls)
        return self.reply()


class World:
    """The read-only part of every stub, mapped in this process, and the memory file."""

    def __init__(
        self, patching: bool = True, ring: bool = True, fsgsbase: bool = True, user_resume: bool = False
    ) -> None:
        self.machine = Machine()
        bootstrap, sysmsg = blob.load("bootstrap"), blob.load("sysmsg")
        self.place = self._place(bootstrap, sysmsg)
        place = self.place
        self.fp_len = self._fp_len()
        use_fsgsbase = int(fsgsbase and bool(_hwcap2() & 2))
        image = sysmsg.patched(
            {
                "deep_sleep_timeout": 40000,
                "context_region": place.contexts,
                "stub_start": place.stub_start,
                "arch_state": (self._xsave_mode(), self.fp_len, use_fsgsbase),
                "context_queue_addr": place.context_queue,
                "spinning_queue_addr": place.spinning_queue,
                "disable_syscall_patching": int(not patching),
                "ready_ring": place.ready_ring if ring else 0,
                "user_resume": int(user_resume),
            }
        )
        code = mem.view(place.stub_start, place.ro_end - place.stub_start)
        code[: bootstrap.size] = bootstrap.data
        self._store(code, place.sysmsg, image)
        self._store(code, place.sysmsg_rules, sock_fprog(filters.thread_filter(place), place.sysmsg_rules))
        self._store(code, place.notify_rules, sock_fprog(filters.notify_filter(), place.notify_rules))
        mem.mprotect(place.stub_start, place.sysmsg_rules - place.stub_start, READ | EXEC)
        mem.mprotect(place.sysmsg_rules, place.ro_end - place.sysmsg_rules, READ)
        self.begin = place.stub_start + bootstrap.offset("begin")
        self.syshandler = place.sysmsg + sysmsg.offset("syshandler")
        self.handler = struct.pack(
            "<4Q",
            place.sysmsg + sysmsg.offset("sighandler"),
            0x4C000004 if user_resume else 0x0C000004,
            place.sysmsg + sysmsg.offset("restore_rt"),
            0 if user_resume else 0x40010000,
        )
        self.fd = os.memfd_create("stub-test")
        self.slots = layout.slot_layout(place)
        self.source_pages = self.slots.size
        self.guest = self.source_pages + 2 * PAGE
        self.table = self.guest + GUEST_PAGES * PAGE
        size = self.table + PAGE
        os.ftruncate(self.fd, size)
        self.file = Words(mem.mmap(0, size, RW, SHARED, self.fd), size)

    def close(self) -> None:
        """Unmap what later worlds need room for."""
        os.close(self.fd)
        mem.munmap(self.place.stub_start, self.place.ro_end - self.place.stub_start)

    def _place(self, bootstrap: blob.Image, sysmsg: blob.Image) -> layout.Layout:
        for start in range(0x7E0000000000, 0x7F0000000000, 0x1000000000):
            place = layout.compute(PAGE, start, 3 * PAGE, bootstrap.size, sysmsg.size, 3)
            flags = mem.MAP_PRIVATE | mem.MAP_ANONYMOUS | mem.MAP_FIXED_NOREPLACE
            if mem.mmap_result(start, place.ro_end - start, RW, flags) == start:
                return place
        raise AssertionError("no place for a stub")

    def _store(self, code: "memoryview[int]", address: int, data: bytes) -> None:
        offset = address - self.place.stub_start
        code[offset : offset + len(data)] = data

    def _cpuid(self, leaf: int, subleaf: int) -> tuple[int, ...]:
        regs = (ctypes.c_uint32 * 4)(leaf, 0, subleaf, 0)
        self.machine.function("cpuid", ctypes.c_int, ctypes.c_uint64)(ctypes.addressof(regs))
        return tuple(regs)

    def _fp_len(self) -> int:
        tile = self._cpuid(0xD, 18)
        size = self._cpuid(0xD, 0)[1]
        return size - tile[0] if tile[0] and size >= tile[0] + tile[1] else size

    def _xsave_mode(self) -> int:
        return 2 if self._cpuid(0xD, 1)[0] & 1 else 1

    def clone_source(
        self, birth: Sequence[Call], *, ppid: int | None = None, filter_at: int | None = None, count: int | None = None
    ) -> tuple[int, Channel]:
        """Clone a source that runs ``birth``; answers its pid and its channel."""
        pages = Words(self.file.address + self.source_pages, 2 * PAGE)
        channel = Channel(pages)
        channel.write(birth, FIRST_SEQ, count)
        handler = (ctypes.c_ubyte * 32).from_buffer_copy(self.handler)
        program = bytearray(sock_fprog(filters.base_filter(self.place), 0))
        struct.pack_into("<Q", program, 8, mem.address_of(program) + 16)
        offset, length = rseq_registration()
        params = (ctypes.c_uint64 * 9)(
            self.begin,
            pages.address,
            os.getpid() if ppid is None else ppid,
            ctypes.addressof(handler),
            mem.address_of(program) if filter_at is None else filter_at,
            offset & NO_DEADLINE,
            length,
            0x53053053,
            0,
        )
        clone = self.machine.function("clone_source", ctypes.c_int, ctypes.c_uint64)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = clone(ctypes.addressof(params))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert pid > 0, os.strerror(-pid)
        return pid, channel

    def map_shared(self, address: int, length: int, offset: int, prot: int, flags: int = 0) -> Call:
        """Map part of the memory file at a fixed address of the stub."""
        return Call("mmap", (address, length, prot, SHARED | FIXED, self.fd, offset), flags)

    def map_private(self, address: int, length: int) -> Call:
        return Call("mmap", (address, length, RW, mem.MAP_PRIVATE | mem.MAP_ANONYMOUS | FIXED, NO_DEADLINE, 0))

    def source_birth(self) -> list[Call]:
        """Answer the birth batch of a source."""
        area0 = self.place.area0
        return [
            self.map_shared(area0 + PAGE, PAGE, self.source_pages + PAGE, RW),
            self.map_shared(area0, PAGE, self.source_pages, READ, MOVE_REQUEST),
        ]

    def stub_birth(self) -> list[Call]:
        """Answer the clone of a stub and its birth batch: everything but the thread areas."""
        place, slots = self.place, self.slots
        return [
            Call("clone", (filters.CLONE_PROCESS,)),
            self.map_shared(place.area0 + PAGE, PAGE, slots.reply, RW),
            self.map_shared(place.area0 + 2 * PAGE, place.record_pages_size, slots.records, READ),
            self.map_shared(place.context_queue, layout.round_up(layout.QUEUE_SIZE, PAGE), slots.context_queue, RW),
            self.map_private(place.spinning_queue, PAGE),
            self.map_shared(place.ready_ring, layout.round_up(layout.RING_SIZE, PAGE), slots.ready_ring, RW),
            self.map_shared(place.contexts, 4096 * 4096, slots.contexts, RW),
            self.map_shared(GUEST, GUEST_PAGES * PAGE, self.guest, RW | EXEC),
            self.map_shared(TABLE, PAGE, self.table, READ | EXEC),
            self.map_shared(place.area0, PAGE, slots.request, READ, MOVE_REQUEST),
        ]


def _hwcap2() -> int:
    libc.getauxval.restype = ctypes.c_ulong
    return int(libc.getauxval(26))
