"""The memory manager against a model: a dict of bytes per process, under random operations."""

# ruff: noqa: PT017 - either outcome is right, the model says which

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from systrap.platform import Access
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import O_RDWR, OpenFile
from systrap.sentry.mappable import Backing, Mappable
from systrap.sentry.mm import SIGBUS, MemoryManager, SegvError
from systrap.sentry.mm_map import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED
from systrap.sentry.mm_remap import MREMAP_FIXED, MREMAP_MAYMOVE
from systrap.sentry.pages import PageStore
from tests.sentry.fake_platform import PAGE, CheckedMemoryFile, FakePlatform, FakeSpace, page_bytes, page_write

BASE = 0x100000
PAGES = 24


class HostContents(Mappable):
    """A read-only host file."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.fd = os.memfd_create("host")
        os.write(self.fd, content)
        self.size = len(content)

    def data_fd(self, start: int, length: int) -> int:
        return self.fd

    def translate(self, offset: int, length: int, write: bool) -> Backing:
        limit = -(-self.size // PAGE) * PAGE
        if offset >= limit:
            raise SyscallError(14)
        return Backing(self, offset, min(length, limit - offset), False)

    def read_page_bytes(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)


class TestFile(OpenFile):
    """A file with any mappable behind it."""

    __test__ = False

    def __init__(self, contents: Mappable) -> None:
        super().__init__(O_RDWR)
        self.contents = contents
        self.refs = 1

    def mappable(self) -> Mappable:
        return self.contents

    def describe(self) -> str:
        return "/test"


def guest_access(mm: MemoryManager, addr: int, data: bytes | None) -> int:
    """Read the byte at an address as a guest, or write one, faulting as often as it takes."""
    access = Access.READ if data is None else Access.WRITE
    space = mm.space
    assert isinstance(space, FakeSpace)
    for _ in range(4):
        entry = space.pages.get(addr & -PAGE)
        if entry is not None and entry[2] & access:
            file, offset, _ = entry
            if data is None:
                return page_bytes(file, offset + addr % PAGE, 1)[0]
            page_write(file, offset + addr % PAGE, data)
            return data[0]
        mm.handle_fault(addr, access)
    raise AssertionError("the fault does not help")


class Area:
    """The model's page: protection, and where its bytes are."""

    def __init__(self, prot: int, data: bytearray, shared: bool, source: tuple[str, int] | None) -> None:
        self.prot = prot
        self.data = data
        self.shared = shared
        self.source = source


offsets = st.integers(0, PAGES - 1)
counts = st.integers(1, 6)
prots = st.sampled_from([0, 1, 3, 3, 3, 5, 7])
picks = st.integers(0, 100)


class MemoryModel(RuleBasedStateMachine):
    """Operations on some processes, each mirrored in dicts of pages."""

    def __init__(self) -> None:
        super().__init__()
        self.platform = FakePlatform()
        self.memory = CheckedMemoryFile(self.platform)
        self.content = bytes(range(256)) * (PAGE * 5 // 256) + b"tail"
        self.host = HostContents(self.content)
        self.file = TestFile(self.host)
        self.store = PageStore(self.memory)
        self.store.write(0, self.content)
        self.store_file = TestFile(self.store)
        self.store_pages = [bytearray(self.content[i * PAGE : (i + 1) * PAGE].ljust(PAGE, b"\0")) for i in range(6)]
        self.processes: list[tuple[MemoryManager, dict[int, Area]]] = [
            (MemoryManager(self.platform, self.memory), {})
        ]  # fmt: skip

    def pick(self, number: int) -> tuple[MemoryManager, dict[int, Area]]:
        return self.processes[number % len(self.processes)]

    @rule(who=picks, at=offsets, n=counts, prot=prots, kind=st.integers(0, 4), page=st.integers(0, 3))
    def map(self, who: int, at: int, n: int, prot: int, kind: int, page: int) -> None:
        mm, model = self.pick(who)
        addr = BASE + at * PAGE
        shared = kind in (1, 4)
        flags = MAP_FIXED | (MAP_SHARED if shared else MAP_PRIVATE)
        if kind < 2:
            mm.map(addr, n * PAGE, prot, flags | MAP_ANONYMOUS)
            for i in range(n):
                model[addr + i * PAGE] = Area(prot, bytearray(PAGE), shared, None)
            return
        mm.map(addr, n * PAGE - 5, prot, flags, self.file if kind == 2 else self.store_file, page * PAGE)
        for i in range(n):
            p = page + i
            if p >= 6:
                area = Area(prot, bytearray(), shared, ("beyond", p))
            elif kind == 2:
                area = Area(prot, bytearray(self.content[p * PAGE : (p + 1) * PAGE].ljust(PAGE, b"\0")), shared, None)
            else:
                area = Area(prot, self.store_pages[p], shared, ("store", p))
            model[addr + i * PAGE] = area

    @rule(who=picks, at=offsets, n=counts)
    def unmap(self, who: int, at: int, n: int) -> None:
        mm, model = self.pick(who)
        mm.unmap(BASE + at * PAGE, n * PAGE)
        for i in range(n):
            model.pop(BASE + (at + i) * PAGE, None)

    @rule(who=picks, at=offsets, n=counts, prot=prots)
    def protect(self, who: int, at: int, n: int, prot: int) -> None:
        mm, model = self.pick(who)
        addrs = [BASE + (at + i) * PAGE for i in range(n)]
        try:
            mm.protect(addrs[0], n * PAGE, prot)
            assert all(a in model for a in addrs)
        except SyscallError as error:
            assert error.errno == 12
            assert not all(a in model for a in addrs)
        for a in addrs:
            if a not in model:
                break
            old = model[a]
            model[a] = Area(prot, old.data, old.shared, old.source)

    @rule(who=picks, at=offsets, byte=st.integers(0, PAGE - 1), value=st.integers(0, 255), sentry=st.booleans())
    def write(self, who: int, at: int, byte: int, value: int, sentry: bool) -> None:
        mm, model = self.pick(who)
        addr = BASE + at * PAGE
        area = model.get(addr)
        allowed = area is not None and area.prot & 2 and not (area.source and area.source[0] == "beyond")
        try:
            if sentry:
                mm.write(addr + byte, bytes([value]))
            else:
                guest_access(mm, addr + byte, bytes([value]))
            assert allowed
        except SyscallError as error:
            assert error.errno == 14
            assert not allowed
        except SegvError as error:
            assert not allowed
            assert (error.signo == SIGBUS) == (area is not None and area.prot & 2 != 0)
        if allowed:
            assert area is not None
            if area.source and area.source[0] == "store" and not area.shared:
                area.data = bytearray(area.data)
                area.source = None
            area.data[byte] = value

    @rule(who=picks, at=offsets, byte=st.integers(0, PAGE - 1), sentry=st.booleans())
    def read(self, who: int, at: int, byte: int, sentry: bool) -> None:
        mm, model = self.pick(who)
        addr = BASE + at * PAGE
        area = model.get(addr)
        try:
            value = mm.read(addr + byte, 1)[0] if sentry else guest_access(mm, addr + byte, None)
            assert area is not None
            assert value == area.data[byte]
            assert area.prot
        except (SyscallError, SegvError):
            assert area is None or not area.prot or (area.source and area.source[0] == "beyond")

    @rule(who=picks, at=offsets, n=counts)
    def dontneed(self, who: int, at: int, n: int) -> None:
        mm, model = self.pick(who)
        addrs = [BASE + (at + i) * PAGE for i in range(n)]
        if any(a in model and not model[a].shared and model[a].source is None for a in addrs) and any(
            vma.mappable is not None and not vma.shared for vma in mm.vmas.overlapping(addrs[0], addrs[-1] + PAGE)
        ):
            return  # what a private copy goes back to is not in the model
        try:
            mm.advise(addrs[0], n * PAGE, 4)
        except SyscallError as error:
            assert error.errno == 12
        for a in addrs:
            area = model.get(a)
            if area is not None and not area.shared and area.source is None:
                area.data = bytearray(PAGE)

    @rule(who=picks, at=offsets, n=counts, m=counts, to=offsets)
    def remap(self, who: int, at: int, n: int, m: int, to: int) -> None:
        mm, model = self.pick(who)
        addr, target = BASE + at * PAGE, BASE + to * PAGE
        area = mm.vmas.find(addr)
        if area is None or area.end < addr + n * PAGE or (addr + n * PAGE > target and target + m * PAGE > addr):
            return
        mm.remap(addr, n * PAGE, m * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target)
        areas = [model.pop(addr + i * PAGE) for i in range(n)]
        for i in range(m):
            model.pop(target + i * PAGE, None)
            if i < n:
                model[target + i * PAGE] = areas[i]
        if m > n:
            # What grew is fresh, or more of the file: take it out of the model's sight.
            mm.unmap(target + n * PAGE, (m - n) * PAGE)

    @rule(who=picks)
    def fork(self, who: int) -> None:
        if len(self.processes) > 4:
            return
        mm, model = self.pick(who)
        copy = {}
        for addr, area in model.items():
            data = area.data if area.shared or area.source else bytearray(area.data)
            copy[addr] = Area(area.prot, data, area.shared, area.source)
        self.processes.append((mm.fork(), copy))

    @rule(who=picks)
    def exit(self, who: int) -> None:
        if len(self.processes) > 1:
            mm, _ = self.processes.pop(who % len(self.processes))
            mm.release()

    @invariant()
    def sizes_agree(self) -> None:
        for mm, model in self.processes:
            assert mm.vmas.size == len(model) * PAGE
            for run, after in zip(mm.runs.items, mm.runs.items[1:], strict=False):
                assert run.end <= after.start

    def teardown(self) -> None:
        for mm, _ in self.processes:
            mm.release()
        assert not self.store.users
        assert not self.file.contents.users
        assert self.file.refs == 1
        assert self.store_file.refs == 1
        self.store.release()
        assert not self.memory.live
        os.close(self.host.fd)
        self.memory.close()


TestMemoryModel = MemoryModel.TestCase
TestMemoryModel.settings = settings(max_examples=500, stateful_step_count=40, deadline=None)
