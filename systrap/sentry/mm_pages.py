"""The lowest layer of a memory manager: pages behind addresses, put there when they are needed, and faults.

Layers, each a class that extends the one below: ``GuestPages`` (here), ``GuestMemory`` (mm_io.py: the sentry reads and
writes), ``Mappings`` (mm_map.py: mmap and its relatives), ``MemoryManager`` (mm.py: fork, advice, reports).

Rule of order everywhere: what an address space maps is unmapped from it before its pages are given up (P-024).
"""

import errno
import os
from typing import Final

from systrap import arch
from systrap.host.sys import PAGE_SIZE
from systrap.memory import MemoryFile, OutOfMemoryFileError
from systrap.platform import Access, AddressSpace, MapError, MapRequest, Platform, UnmapRequest
from systrap.sentry.errors import SyscallError
from systrap.sentry.intervals import IntervalSet
from systrap.sentry.mappable import Mappable
from systrap.sentry.mm_limits import RLIMIT_AS, RLIMIT_STACK, DefaultLimits, MemoryLimits
from systrap.sentry.pma import Frames, Run, RunSet
from systrap.sentry.vma import STACK_GUARD_GAP, VM_GROWSDOWN, VM_SHARED, Vma, VmaSet

SIGBUS: Final = 7
SIGSEGV: Final = 11
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
BUS_ADRERR: Final = 2

PAGE_MASK: Final = PAGE_SIZE - 1
READ: Final = int(Access.READ)
WRITE: Final = int(Access.WRITE)

# Anonymous memory is sparse: a big window costs nothing but offsets, and saves a fault per window.
_WINDOW: Final = 2 << 20
_BIG_WINDOW: Final = 32 << 20
# Copying costs: small enough to stay below the price of the fault itself.
_COPY_WINDOW: Final = 64 << 10
_AHEAD: Final = 1 << 20
_SHOWN_AT_ONCE: Final = 64
_STACK_STEP: Final = 128 << 10

ACCESS: Final = tuple(Access(bits) for bits in range(8))


class SegvError(Exception):
    """A guest access that must not succeed: the signal to force, its code, and the address."""

    def __init__(self, signo: int, code: int, addr: int = 0) -> None:
        super().__init__(f"signal {signo} (code {code}) at {addr:#x}")
        self.signo = signo
        self.code = code
        self.addr = addr


def guest_top(platform: Platform) -> int:
    """Return the first address that guests may not use: the platform's limit, or where programs expect the end to be."""
    return min(platform.max_user_address(), arch.current().GUEST_TOP)


class GuestPages:
    """Areas, the runs of pages behind them, and the platform address space that shows them to the guest."""

    def __init__(self, platform: Platform, memory: MemoryFile, frames: Frames | None = None) -> None:
        """Make an empty address space. ``frames`` of a parent, if its pages will be shared. Raises PlatformError."""
        self.platform = platform
        self.memory = memory
        self.frames = Frames(memory) if frames is None else frames
        self.limits: MemoryLimits = DefaultLimits()
        self.min_address = platform.min_user_address()
        self.max_address = guest_top(platform)
        self.vmas = VmaSet(self)
        self.runs: RunSet = IntervalSet()
        self.space: AddressSpace = platform.new_address_space()
        self.dead = False
        # A forked child has runs, but nothing is mapped yet.
        self._unshown = False
        # While a batch is open: the requests to carry out at its end, and the frames to give up after that.
        self._batch: list[MapRequest | UnmapRequest] | None = None
        self._doomed: list[tuple[int, int]] = []
        self._doomed_areas: list[Vma] = []
        self._map_error: MapError | None = None
        # Pages that the sentry accessed, until something changes: page number to the end of the range that may be read
        # (written) around it, and what to add to an address for its offset in the MemoryFile.
        self._readable: dict[int, tuple[int, int]] = {}
        self._writable: dict[int, tuple[int, int]] = {}

    # Changing the platform's address space.

    def begin_batch(self) -> None:
        """Collect changes of the address space until end_batch(). The guest must not run meanwhile."""
        if self._batch is None:
            self._batch = []

    def end_batch(self) -> None:
        """Carry out what was collected."""
        requests, self._batch = self._batch, None
        if requests:
            self._apply(_without_covered(requests))
        self._drop_doomed()

    def _drop_doomed(self) -> None:
        """Give up what was removed during a batch."""
        doomed, self._doomed = self._doomed, []
        if doomed:
            self.frames.drop(doomed)
        areas, self._doomed_areas = self._doomed_areas, []
        if areas:
            self.vmas.let_go(areas)

    def _apply(self, requests: "list[MapRequest | UnmapRequest]") -> None:
        """Carry out requests now, or with the batch. A range whose mapping fails is unmapped: its next fault tries again."""
        if self._batch is not None:
            self._batch += requests
            return
        if self.dead or not requests:
            return
        try:
            self.space.apply(requests)
        except MapError as error:
            self._map_error = error
            self.space.apply([UnmapRequest(r.addr, r.length) for r in requests])

    def _give_up(self, runs: list[Run]) -> None:
        """Give up the pages of runs that were cut and unmapped (or will be, at the end of the batch)."""
        ranges = [(run.offset, run.offset + run.end - run.start) for run in runs if run.owned]
        if not ranges:
            return
        if self._batch is not None:
            self._doomed += ranges
        else:
            self.frames.drop(ranges)

    def _let_go(self, areas: list[Vma]) -> None:
        """Give up the references of areas that were cut, and whose pages are unmapped now (or with the batch)."""
        if self._batch is not None:
            self._doomed_areas += areas
        else:
            self.vmas.let_go(areas)

    def _forget_hits(self) -> None:
        """Invalidate what is known of pages: something about areas or runs changes."""
        if self._readable:
            self._readable.clear()
            self._writable.clear()

    def _discard_pages(self, start: int, end: int) -> None:
        """Take away the pages behind a range: the next access finds fresh ones."""
        runs = self.runs.cut(start, end)
        if runs:
            self._forget_hits()
            self._apply([UnmapRequest(start, end - start)])
            self._give_up(runs)

    def _map_request(self, vma: Vma, run: Run) -> MapRequest | None:
        """Return the request that shows ``run`` to the guest as far as ``vma`` allows, None when it allows nothing."""
        access = vma.access if run.writable else vma.access & ~WRITE
        if not access:
            return None
        start = max(run.start, vma.start)
        end = min(run.end, vma.end)
        return MapRequest(start, end - start, run.file, run.offset + start - run.start, ACCESS[access])

    def _show(self, vma: Vma, run: Run) -> None:
        request = self._map_request(vma, run)
        if request is not None:
            self._apply([request])

    def _show_all(self) -> None:
        """Show a forked child what it has, if that is little: one batch instead of a fault for each run."""
        self._unshown = False
        runs = self.runs.items
        if len(runs) > _SHOWN_AT_ONCE:
            return
        requests: list[MapRequest | UnmapRequest] = []
        for run in runs:
            for vma in self.vmas.overlapping(run.start, run.end):
                request = self._map_request(vma, run)
                if request is not None:
                    requests.append(request)
        self._apply(requests)

    # Putting pages behind addresses.

    def commit(self, vma: Vma, page: int, write: bool) -> Run:
        """Return the run behind ``page``, made so that it can be read (written). The guest sees any change at once.

        Raises SyscallError (EFAULT: nothing there, beyond the end of a file; ENOMEM), also OSError from a file.
        """
        run = self.runs.find(page)
        if run is None:
            return self._fill(vma, page, write)
        if write and not run.writable:
            return self._make_writable(vma, run, page)
        return run

    def _fill(self, vma: Vma, page: int, write: bool) -> Run:
        """Put pages where there are none, as many around ``page`` as is sensible."""
        self._forget_hits()
        low, high = self.runs.gap_around(page, vma.start, vma.end)
        if vma.mappable is None:
            run = self._fill_anonymous(vma, page, low, high)
        elif vma.flags & VM_SHARED:
            run = self._fill_from(vma, vma.mappable, page, low, high, bool(vma.prot & WRITE))
        elif write:
            low, high = self._window(page, low, high, _COPY_WINDOW)
            source = self._fill_from(vma, vma.mappable, page, low, high, False, add=False)
            run = self._copy(source)
        else:
            run = self._fill_from(vma, vma.mappable, page, low, high, False)
        run = self.runs.add(run)
        self._show(vma, run)
        return run

    def _fill_anonymous(self, vma: Vma, page: int, low: int, high: int) -> Run:
        if high == vma.end:
            # Memory that is reserved without access (an arena of malloc) gets its pages with its neighbour: when it is
            # opened, step by step, they are there.
            after = self.vmas.find(high)
            if after is not None and not after.prot and after.mappable is None and not after.flags:
                high = self.runs.gap_around(page, low, min(after.end, high + _AHEAD))[1]
        low, high = self._window(page, low, high, _BIG_WINDOW if vma.end - vma.start > _BIG_WINDOW else _WINDOW)
        return Run(low, high, self.memory, self._allocate(high - low), True, True, True)

    def _fill_from(
        self, vma: Vma, mappable: Mappable, page: int, low: int, high: int, write: bool, add: bool = True
    ) -> Run:
        """Return a run of a mappable's own pages that contains ``page``: from ``low`` if it gives that much at once."""
        backing = mappable.translate(vma.offset + low - vma.start, high - low, write)
        if low + backing.length <= page:
            low = page
            backing = mappable.translate(vma.offset + low - vma.start, high - low, write)
        return Run(low, low + backing.length, backing.file, backing.start, backing.in_memory_file, False, write)

    def _allocate(self, length: int) -> int:
        try:
            return self.frames.allocate(length)
        except OutOfMemoryFileError:
            raise SyscallError(errno.ENOMEM) from None

    @staticmethod
    def _window(page: int, low: int, high: int, size: int) -> tuple[int, int]:
        """Clip ``[low, high)`` to the aligned window of ``size`` bytes around ``page``; all of it if it is hardly more."""
        if high - low <= size:
            return low, high
        base = page & ~(size - 1)
        return max(low, base), min(high, base + size)

    def _make_writable(self, vma: Vma, run: Run, page: int) -> Run:
        """Make the pages around ``page`` in ``run`` writable: by asking for them again, by being the last owner, by copying."""
        self._forget_hits()
        low, high = max(run.start, vma.start), min(run.end, vma.end)
        new: Run | None = None
        if vma.mappable is not None and vma.flags & VM_SHARED:
            new = self._fill_from(vma, vma.mappable, page, low, high, True)
        elif run.owned:
            delta = run.offset - run.start
            alone = self.frames.exclusive_around(page + delta, low + delta, high + delta)
            if alone is not None:
                new = run.part(alone[0] - delta, alone[1] - delta).with_writable(True)
                self.runs.cut(new.start, new.end)
                new = self.runs.add(new)
                self._show(vma, new)
                return new
        if new is None:
            low, high = self._window(page, low, high, _COPY_WINDOW)
            new = self._copy(run.part(low, high))
        old = self.runs.cut(new.start, new.end)
        new = self.runs.add(new)
        self._show(vma, new)
        self._give_up(old)
        return new

    def _copy(self, source: Run) -> Run:
        """Return a private, writable copy of a run's pages."""
        length = source.end - source.start
        at = self._allocate(length)
        # pwrite fills fresh pages faster than stores, which would fault each of them into the sentry's mapping.
        fd = self.memory.fd
        if source.memory:
            with memoryview(self.memory.data) as data, data[source.offset : source.offset + length] as pages:
                done = os.pwrite(fd, pages, at)
        else:
            content = self._pread(source, source.offset, length)
            length = len(content)
            done = os.pwrite(fd, content, at)
        if done < length:
            self.frames.drop([(at, at + source.end - source.start)])
            raise SyscallError(errno.ENOMEM)
        return Run(source.start, source.end, self.memory, at, True, True, True)

    @staticmethod
    def _pread(run: Run, offset: int, length: int) -> bytes:
        """Read pages that are not the MemoryFile's. Short where the file is: its last page continues with zeros."""
        try:
            return os.pread(run.file.data_fd(offset, length), length, offset)
        except OSError:
            raise SyscallError(errno.EFAULT) from None

    # Faults.

    def handle_fault(self, addr: int, access: Access) -> None:
        """Do for a guest's access what makes it succeed. Raises SegvError when it must not."""
        vma = self.vmas.find(addr)
        if vma is None:
            vma = self._grow_stack(addr)
            if vma is None:
                raise SegvError(SIGSEGV, SEGV_MAPERR, addr)
        bits = int(access)
        if bits & ~vma.access:
            raise SegvError(SIGSEGV, SEGV_ACCERR, addr)
        page = addr & ~PAGE_MASK
        write = bits & WRITE != 0
        self._map_error = None
        if self._unshown:
            self._show_all()
        try:
            run = self.runs.find(page)
            if run is not None and (run.writable or not write):
                self._show(vma, run)
            else:
                self.commit(vma, page, write)
        except SyscallError as error:
            if error.errno == errno.EACCES:
                raise SegvError(SIGSEGV, SEGV_ACCERR, addr) from None
            raise SegvError(SIGBUS, BUS_ADRERR, addr) from None
        if self._map_error is not None:
            raise SegvError(SIGBUS, BUS_ADRERR, addr) from None

    def _grow_stack(self, addr: int) -> Vma | None:
        """Extend the area that grows down to ``addr``, if there is one above it, and limits and neighbours allow it."""
        vmas = self.vmas
        index = vmas.index_from(addr)
        if index == len(vmas.items) or addr < self.min_address:
            return None
        vma = vmas.items[index]
        if not vma.flags & VM_GROWSDOWN or not vma.access:
            return None
        limit = self.limits.soft(RLIMIT_STACK)
        floor = max(self.min_address, vma.end - limit if limit < vma.end else 0)
        floor = floor + PAGE_MASK & ~PAGE_MASK
        if index:
            below = vmas.items[index - 1]
            gap = 0 if below.flags & VM_GROWSDOWN or not below.access else STACK_GUARD_GAP
            floor = max(floor, below.end + gap)
        start = addr & ~PAGE_MASK
        if start < floor:
            return None
        start = max(floor, min(start, vma.start - _STACK_STEP))
        if vmas.size + vma.start - start > self.limits.soft(RLIMIT_AS):
            return None
        self._forget_hits()
        vmas.cut(vma.start, vma.end)
        return vmas.add(vma.moved(start, vma.end, 0))

    def invalidate(self, mappable: Mappable, offset: int, length: int) -> None:
        """Drop the translations of a range of ``mappable`` (see mappable.MappingUser). Private copies stay."""
        end = offset + length
        requests: list[MapRequest | UnmapRequest] = []
        for vma in self.vmas.items:
            if vma.mappable is not mappable:
                continue
            low = max(vma.start, vma.start + offset - vma.offset)
            high = min(vma.end, vma.start + end - vma.offset)
            if low >= high:
                continue
            for run in self.runs.overlapping(low, high):
                if not run.owned:
                    start, stop = max(run.start, low), min(run.end, high)
                    self.runs.cut(start, stop)
                    requests.append(UnmapRequest(start, stop - start))
        if requests:
            self._forget_hits()
            # Not with a batch: the pages go away when this returns.
            batch, self._batch = self._batch, None
            if batch:
                self._apply(batch)
            self._apply(requests)
            if batch is not None:
                self._batch = []


def _without_covered(requests: "list[MapRequest | UnmapRequest]") -> "list[MapRequest | UnmapRequest]":
    """Leave out unmaps whose range the next request maps anyway."""
    kept: list[MapRequest | UnmapRequest] = []
    for index, request in enumerate(requests, 1):
        if isinstance(request, UnmapRequest) and index < len(requests):
            following = requests[index]
            if (
                isinstance(following, MapRequest)
                and following.addr <= request.addr
                and request.addr + request.length <= following.addr + following.length
            ):
                continue
        kept.append(request)
    return kept
