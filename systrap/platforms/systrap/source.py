"""The source: the first stub process, cloned from the sentry, from which all others are cloned (20-platform §3.4; P-010).

It is made early, while the sentry is small, by one call of machine code: no Python runs in the child. It holds nothing
but the stub image and its own syscall thread, and never runs guest code.
"""

import ctypes
import os
import signal
import struct
import threading
from typing import Final

from systrap.host import limits, mem, process
from systrap.host.bpf import sock_fprog
from systrap.host.sys import RSEQ_SIGNATURE, libc
from systrap.memory import MemoryFile
from systrap.platform import ContextError, PlatformError
from systrap.platforms.systrap import cpuid, filters
from systrap.platforms.systrap.broker import Broker, Watched
from systrap.platforms.systrap.machine_code import SentryCode
from systrap.platforms.systrap.stub import StubImage
from systrap.platforms.systrap.syscall_thread import MOVE_REQUEST, Call, SyscallThread, write_batch

_RSEQ_MIN_SIZE: Final = 32
_READ, _WRITE = mem.PROT_READ, mem.PROT_READ | mem.PROT_WRITE
_FIXED_SHARED: Final = mem.MAP_SHARED | mem.MAP_FIXED

BIRTH_FAILURES: Final = {
    110: "setsid failed", 111: "resetting signal handlers failed", 112: "installing signal handlers failed",
    113: "unregistering rseq failed", 114: "setting no_new_privs failed", 115: "installing the seccomp filter failed",
    120: "prctl(PR_SET_PDEATHSIG) failed", 121: "its parent was gone before it began",
}  # fmt: skip
"""Exit codes of a stub that could not begin (docs/images.md); 1 + index is a failed call of the birth batch."""


class Source:
    """The source process. ``clone_stub`` may be called from any thread.

    ``births`` is held from the clone of a stub until it was born: it begins with the request page of the source, where
    the next clone would be written.
    """

    def __init__(self, code: SentryCode, image: StubImage, memory: MemoryFile, broker: Broker) -> None:
        """Create the process. Raises PlatformError saying which step failed."""
        self.image = image
        self.births = threading.Lock()
        self._dead: process.Death | None = None
        self._gone = False
        place = image.layout
        page = place.page
        start = memory.allocate(2 * page)
        self._shared = memoryview(memory.data)[start : start + 2 * page]
        request, reply = self._shared[:page], self._shared[page:]
        base = mem.address_of(self._shared)
        birth = [
            Call("mmap", (place.area0 + page, page, _WRITE, _FIXED_SHARED, memory.fd, start + page)),
            Call("mmap", (place.area0, page, _READ, _FIXED_SHARED, memory.fd, start), MOVE_REQUEST),
        ]
        write_batch(request, birth)
        struct.pack_into("<I", request, 0, 1)
        self.channel = SyscallThread(
            request, base, reply, base + page, lambda: not self._gone, code.release32, code.acquire32
        )
        try:
            self.pid, pidfd = broker.call(lambda: self._clone(code, base))
        except PlatformError:
            # Nobody may hold the memory file, or it stays open.
            for view in (request, reply, self._shared):
                view.release()
            raise
        broker.group = self.pid
        broker.watch(Watched(self.pid, pidfd, {}, self._on_death, lambda: None))
        try:
            self.channel.await_birth()
            self._forget_the_sentry()
        except ContextError as error:
            raise PlatformError(f"the source stub was not born: {self._why()}") from error

    def _clone(self, code: SentryCode, request_address: int) -> tuple[int, int]:
        """Clone on the calling thread, which must be the broker's. Returns pid and pidfd."""
        sigaction = (ctypes.c_ubyte * 32).from_buffer_copy(self.image.sigaction)
        fprog = bytearray(sock_fprog(self.image.base_filter, 0))
        struct.pack_into("<Q", fprog, 8, mem.address_of(fprog) + 16)
        offset, length = _rseq_registration()
        params = (ctypes.c_uint64 * 9)(
            self.image.begin,
            request_address,
            os.getpid(),
            ctypes.addressof(sigaction),
            mem.address_of(fprog),
            offset & (1 << 64) - 1,
            length,
            RSEQ_SIGNATURE,
            int(cpuid.can_fault()),
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = code.clone_source(ctypes.addressof(params))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid < 0:
            raise PlatformError(f"cloning the source stub failed: {os.strerror(-pid)}")
        return pid, process.pidfd_open(pid)

    def _forget_the_sentry(self) -> None:
        """Unmap everything of the sentry's from the source: from here on it holds stub regions only (S-007, P-033)."""
        place = self.image.layout
        area_end = place.area0 + 2 * place.page
        low, high = (0, place.stub_start), (area_end, limits.task_size())
        reply = self.channel.run([Call("munmap", (s, e - s)) for s, e in (low, (place.ro_end, place.area0), high)])
        if reply.done < 3 or reply.ret < 0:
            self._unmap_piecemeal()

    def _unmap_piecemeal(self) -> None:
        """Unmap mapping by mapping: some kernels seal the vdso, and an munmap that meets a sealed page does nothing."""
        place = self.image.layout
        keep = [(place.stub_start, place.ro_end), (place.area0, place.area0 + 2 * place.page)]
        with open(f"/proc/{self.pid}/maps", encoding="ascii", errors="replace") as maps:
            ranges = [tuple(int(part, 16) for part in line.split(" ", 1)[0].split("-")) for line in maps]
        for start, end in ranges:
            if end <= limits.task_size() and not any(s <= start < e for s, e in keep):
                self.channel.run([Call("munmap", (start, end - start))])

    def clone_stub(self, rest: list[Call], request: "memoryview[int]") -> int:
        """Clone a stub that goes on with the calls ``rest`` (its birth batch), and return its pid.

        ``request`` is the sentry's view of the new stub's own request page; the batch is put there too, since the
        child changes over to it half-way. The caller holds ``births``. Raises ContextError when the source is dead,
        PlatformError when clone fails.
        """
        batch = [Call("clone", (filters.CLONE_PROCESS, 0, 0, 0, 0)), *rest]
        write_batch(request, batch)
        struct.pack_into("<I", request, 0, 1)
        reply = self.channel.run(batch)
        if reply.ret <= 0:
            raise PlatformError(f"cloning a stub process failed: {os.strerror(-reply.ret)}")
        return reply.ret

    def _on_death(self, death: process.Death) -> None:
        self._dead = death
        self._gone = True

    def _why(self) -> str:
        return explain_death(self._dead)


def explain_death(death: process.Death | None) -> str:
    """Say why a stub that was being born is dead, from its exit code."""
    if death is None:
        return "it does not answer"
    if death.signal:
        return f"it {death}"
    if death.status in BIRTH_FAILURES:
        return BIRTH_FAILURES[death.status]
    return f"call {death.status - 1} of its birth batch failed"


def _rseq_registration() -> tuple[int, int]:
    """Return the offset of glibc's rseq area from the thread pointer and its registered length; length 0: none (S-011)."""
    try:
        offset = ctypes.c_long.in_dll(libc, "__rseq_offset").value
        size = ctypes.c_uint.in_dll(libc, "__rseq_size").value
    except ValueError:
        return 0, 0
    # glibc before 2.40 says 32 (what it registered); later ones say how much is in use, and register at least 32.
    return offset, max(size, _RSEQ_MIN_SIZE) if size else 0
