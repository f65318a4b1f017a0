"""The memory manager's answers to particular requests: errors, limits, growth, keys, text."""

import errno
from collections.abc import Callable, Iterator

import pytest

from systrap import arch
from systrap.platform import Access
from systrap.sentry.errors import SyscallError
from systrap.sentry.mm import BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGSEGV, MemoryManager, SegvError
from systrap.sentry.mm_map import (
    MAP_32BIT,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_PRIVATE,
    MAP_SHARED,
)
from systrap.sentry.mm_remap import MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE
from systrap.sentry.vma import VM_GROWSDOWN, Vma
from tests.sentry.fake_platform import PAGE, CheckedMemoryFile, FakePlatform, FakeSpace
from tests.sentry.test_mm_model import HostContents, TestFile, guest_access

ANON = MAP_PRIVATE | MAP_ANONYMOUS
RW = 3
HUGE = (1 << 64) - 4096


class Limits:
    """Limits by number; others are none."""

    def __init__(self, limits: dict[int, int]) -> None:
        self.limits = limits

    def soft(self, resource: int) -> int:
        return self.limits.get(resource, (1 << 64) - 1)


@pytest.fixture
def mm() -> Iterator[MemoryManager]:
    platform = FakePlatform()
    memory = CheckedMemoryFile(platform)
    manager = MemoryManager(platform, memory)
    yield manager
    if not manager.dead:
        manager.release()
    assert not memory.live
    memory.close()


def fails(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(SyscallError) as caught:
        call()
    assert caught.value.errno == number


def faults(mm: MemoryManager, addr: int, access: Access) -> tuple[int, int]:
    with pytest.raises(SegvError) as caught:
        mm.handle_fault(addr, access)
    assert caught.value.addr == addr
    return caught.value.signo, caught.value.code


def space(mm: MemoryManager) -> FakeSpace:
    assert isinstance(mm.space, FakeSpace)
    return mm.space


def test_mmap_errors(mm: MemoryManager) -> None:
    fails(errno.EINVAL, lambda: mm.map(0, 0, RW, ANON))
    fails(errno.EINVAL, lambda: mm.map(0, PAGE, RW, MAP_ANONYMOUS))
    fails(errno.EINVAL, lambda: mm.map(0, PAGE, RW, ANON, None, 5))
    fails(errno.EINVAL, lambda: mm.map(5, PAGE, RW, ANON | MAP_FIXED))
    fails(errno.ENOMEM, lambda: mm.map(0, HUGE, RW, ANON))
    fails(errno.ENOMEM, lambda: mm.map(0, (1 << 64) - 1, RW, ANON))
    fails(errno.ENOMEM, lambda: mm.map(mm.max_address, PAGE, RW, ANON | MAP_FIXED))
    fails(errno.ENOMEM, lambda: mm.map(HUGE, PAGE, RW, ANON | MAP_FIXED))
    fails(errno.EPERM, lambda: mm.map(0, PAGE, RW, ANON | MAP_FIXED))
    fails(errno.ENOMEM, lambda: mm.map(0, 1 << 46, RW, ANON))
    assert mm.map(0, 1 << 40, 0, ANON)
    assert len(mm.vmas) == 1


def test_mmap_places(mm: MemoryManager) -> None:
    first = mm.map(0, 3 * PAGE, RW, ANON)
    assert first + 3 * PAGE == mm.mmap_base
    second = mm.map(0, PAGE, 1, ANON)
    assert second + PAGE == first
    assert mm.map(0x10001, PAGE, RW, ANON) == 0x11000
    assert mm.map(0x11000, PAGE, 1, ANON) == second - PAGE, "a hint that is taken is no more than a hint"
    fails(errno.EEXIST, lambda: mm.map(0x11000, PAGE, RW, ANON | MAP_FIXED_NOREPLACE))
    assert mm.map(0x13000, PAGE, RW, ANON | MAP_FIXED_NOREPLACE) == 0x13000
    assert mm.map(0, PAGE, RW, ANON | MAP_32BIT) < 1 << 31
    mm.unmap(first, PAGE)
    assert mm.map(0, PAGE, RW, ANON) == first, "the highest gap that fits"


def test_file_permissions(mm: MemoryManager) -> None:
    file = TestFile(HostContents(b"x" * 100))
    file.flags = 0
    fails(errno.EACCES, lambda: mm.map(0, PAGE, RW, MAP_SHARED, file))
    addr = mm.map(0, PAGE, 1, MAP_SHARED, file)
    fails(errno.EACCES, lambda: mm.protect(addr, PAGE, RW))
    mm.map(0, PAGE, RW, MAP_PRIVATE, file)
    file.flags = 1
    fails(errno.EACCES, lambda: mm.map(0, PAGE, 1, MAP_PRIVATE, file))
    fails(errno.EOVERFLOW, lambda: mm.map(0, PAGE, RW, MAP_PRIVATE, file, (1 << 63) - PAGE))


def test_faults(mm: MemoryManager) -> None:
    """P-047 for the end of a file; SEGV codes for the rest."""
    assert faults(mm, 0, Access.READ) == (SIGSEGV, SEGV_MAPERR)
    assert faults(mm, (1 << 64) - 1, Access.READ) == (SIGSEGV, SEGV_MAPERR)
    addr = mm.map(0, PAGE, 1, ANON)
    assert faults(mm, addr, Access.WRITE) == (SIGSEGV, SEGV_ACCERR)
    assert faults(mm, addr, Access.EXECUTE) == (SIGSEGV, SEGV_ACCERR)
    mm.protect(addr, PAGE, 2)
    mm.handle_fault(addr, Access.READ)
    mm.protect(addr, PAGE, 0)
    assert faults(mm, addr, Access.READ) == (SIGSEGV, SEGV_ACCERR)
    assert not space(mm).pages
    end = mm.map(0, 2 * PAGE, RW, MAP_PRIVATE, TestFile(HostContents(b"tail")))
    assert guest_access(mm, end + 1, None) == ord("a")
    assert guest_access(mm, end + 4, None) == 0
    assert faults(mm, end + PAGE, Access.READ) == (SIGBUS, BUS_ADRERR)
    assert faults(mm, end + PAGE, Access.WRITE) == (SIGBUS, BUS_ADRERR)
    fails(errno.EFAULT, lambda: mm.read(end, PAGE + 1))
    assert mm.read_partial(end, 2 * PAGE) == b"tail".ljust(PAGE, b"\0")


def test_stack_grows(mm: MemoryManager) -> None:
    top = mm.mmap_base + (64 << 20)
    mm.limits = Limits({3: 8 << 20})
    mm.place(Vma(top - 0x20000, top, RW, VM_GROWSDOWN, name="[stack]"))
    mm.handle_fault(top - (1 << 20), Access.WRITE)
    assert mm.read(top - (2 << 20), 8) == bytes(8)
    assert faults(mm, top - (8 << 20) - 1, Access.WRITE) == (SIGSEGV, SEGV_MAPERR)
    mm.handle_fault(top - (8 << 20), Access.WRITE)
    assert mm.vmas.find(top - 1).start == top - (8 << 20)  # type: ignore[union-attr] # it is there


def test_stack_guard_gap(mm: MemoryManager) -> None:
    low = mm.map(0x10000000, PAGE, RW, ANON | MAP_FIXED)
    stack = mm.map(0x10200000, PAGE, RW, ANON | MAP_FIXED | MAP_GROWSDOWN)
    mm.handle_fault(stack - 1, Access.WRITE)
    assert faults(mm, low + 200 * PAGE, Access.WRITE) == (SIGSEGV, SEGV_MAPERR)


def test_brk(mm: MemoryManager) -> None:
    mm.brk_start = mm.brk_end = 0x400000
    assert mm.brk(0) == 0x400000
    assert mm.brk(0x400010) == 0x400010
    mm.write(0x400000, b"x" * 16)
    assert mm.brk(0x500000) == 0x500000
    assert len(mm.vmas) == 1
    assert mm.brk(0x400000) == 0x400000
    assert len(mm.vmas) == 0
    mm.brk(0x401000)
    assert mm.read(0x400000, 16) == bytes(16)
    mm.map(0x403000, PAGE, RW, ANON | MAP_FIXED)
    assert mm.brk(0x404000) == 0x401000
    assert mm.brk(HUGE) == 0x401000
    mm.limits = Limits({2: PAGE})
    assert mm.brk(0x401001) == 0x401000


def test_unmap_errors(mm: MemoryManager) -> None:
    fails(errno.EINVAL, lambda: mm.unmap(0, 0))
    fails(errno.EINVAL, lambda: mm.unmap(1, PAGE))
    fails(errno.EINVAL, lambda: mm.unmap(0, HUGE))
    fails(errno.EINVAL, lambda: mm.unmap(HUGE, PAGE))
    mm.unmap(0x10000, PAGE)
    mm.unmap(0, mm.max_address)


def test_protect_errors(mm: MemoryManager) -> None:
    addr = mm.map(0, 4 * PAGE, RW, ANON)
    mm.unmap(addr + 2 * PAGE, PAGE)
    fails(errno.EINVAL, lambda: mm.protect(addr + 1, PAGE, 1))
    fails(errno.EINVAL, lambda: mm.protect(addr, PAGE, 64))
    fails(errno.ENOMEM, lambda: mm.protect(addr, (1 << 64) - 1, 1))
    fails(errno.ENOMEM, lambda: mm.protect(addr, 4 * PAGE, 1))
    assert [v.prot for v in mm.vmas.items] == [1, 3]
    mm.protect(addr, 0, 7)


def test_remap(mm: MemoryManager) -> None:
    addr = mm.map(0, 2 * PAGE, RW, ANON)
    mm.write(addr + PAGE, b"second")
    fails(errno.EINVAL, lambda: mm.remap(addr + 1, PAGE, PAGE, 0))
    fails(errno.EINVAL, lambda: mm.remap(addr, PAGE, 0, 0))
    fails(errno.EINVAL, lambda: mm.remap(addr, PAGE, PAGE, 8))
    fails(errno.EINVAL, lambda: mm.remap(addr, PAGE, PAGE, MREMAP_FIXED, 0x10000))
    fails(errno.EINVAL, lambda: mm.remap(addr, 0, PAGE, MREMAP_MAYMOVE))
    fails(errno.EFAULT, lambda: mm.remap(0x10000, PAGE, 2 * PAGE, MREMAP_MAYMOVE))
    fails(errno.EFAULT, lambda: mm.remap(addr, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE))
    blocker = mm.map(addr + 2 * PAGE, PAGE, 1, ANON | MAP_FIXED)
    fails(errno.ENOMEM, lambda: mm.remap(addr, 2 * PAGE, 4 * PAGE, 0))
    moved = mm.remap(addr, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE)
    assert moved != addr
    assert mm.read(moved + PAGE, 6) == b"second"
    assert mm.read(moved + 3 * PAGE, 6) == bytes(6)
    fails(errno.EFAULT, lambda: mm.read(addr, 1))
    assert mm.remap(moved, 4 * PAGE, PAGE, 0) == moved
    mm.unmap(blocker, PAGE)
    assert mm.remap(moved, PAGE, 2 * PAGE, 0) == moved
    mm.write(moved, b"old")
    copy = mm.remap(moved, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP)
    assert mm.read(copy, 3) == b"old"
    assert mm.read(moved, 3) == bytes(3)
    shared = mm.map(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS)
    twin = mm.remap(shared, 0, PAGE, MREMAP_MAYMOVE)
    mm.write(shared, b"both")
    assert mm.read(twin, 4) == b"both"


def test_limits(mm: MemoryManager) -> None:
    mm.limits = Limits({9: 16 * PAGE})
    addr = mm.map(0, 16 * PAGE, RW, ANON)
    fails(errno.ENOMEM, lambda: mm.map(0, PAGE, RW, ANON))
    mm.map(addr, PAGE, RW, ANON | MAP_FIXED)
    mm.limits = Limits({2: 16 * PAGE})
    fails(errno.ENOMEM, lambda: mm.map(0, PAGE, RW, ANON))
    mm.map(0, PAGE, 1, ANON)


def test_futex_keys(mm: MemoryManager) -> None:
    private = mm.map(0, PAGE, RW, ANON)
    shared = mm.map(0, 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS)
    assert mm.futex_key(private, True) == (mm, private)
    assert mm.futex_key(private, False) == (mm, private)
    child = mm.fork()
    assert mm.futex_key(shared + 8, False) == child.futex_key(shared + 8, False)
    assert mm.futex_key(shared + 8, False)[1] == 8
    assert mm.futex_key(shared + 8, True) != child.futex_key(shared + 8, True)
    fails(errno.EFAULT, lambda: mm.futex_key(0x10000, False))
    child.release()


def test_fork_writes_in_place_when_alone(mm: MemoryManager) -> None:
    addr = mm.map(0, 64 * PAGE, RW, ANON)
    mm.write(addr, b"parent")
    used = mm.memory.used
    child = mm.fork()
    assert guest_access(child, addr, b"c") == ord("c")
    assert mm.memory.used > used
    assert mm.read(addr, 1) == b"p"
    child.release()
    assert mm.memory.used == used
    guest_access(mm, addr + 40 * PAGE, b"x")
    assert mm.memory.used == used


def test_last_user_releases(mm: MemoryManager) -> None:
    mm.map(0, PAGE, RW, ANON)
    assert mm.retain() is mm
    mm.release()
    assert not space(mm).released
    mm.release()
    assert mm.users == 0
    assert space(mm).released


def test_io(mm: MemoryManager) -> None:
    addr = mm.map(0, 2 * PAGE, RW, ANON)
    mm.write_u32(addr, 0x1_2345_6789)
    assert mm.read_u32(addr) == 0x23456789
    assert mm.read_u64(addr) == 0x23456789
    mm.write_u64(addr + 8, 1 << 63)
    assert mm.read_u64(addr + 8) == 1 << 63
    assert mm.compare_exchange_u32(addr, 0x23456789, 7) == 0x23456789
    assert mm.compare_exchange_u32(addr, 0x23456789, 8) == 7
    assert mm.read_u32(addr) == 7
    mm.write(addr + 2 * PAGE - 4, b"last")
    assert mm.read_partial(addr + 2 * PAGE - 4, 100) == b"last"
    assert mm.write_partial(addr + 2 * PAGE - 2, b"abcd") == 2
    fails(errno.EFAULT, lambda: mm.read(addr + 2 * PAGE - 4, 5))
    fails(errno.EFAULT, lambda: mm.write(addr + 2 * PAGE - 4, b"12345"))
    fails(errno.EFAULT, lambda: mm.read(HUGE, 1 << 62))
    assert mm.read(0, 0) == b""
    mm.write(0, b"")
    mm.write(addr + PAGE - 3, b"string\0")
    assert mm.read_string(addr + PAGE - 3) == b"string"
    mm.write(addr, b"x" * 5000)
    fails(errno.ENAMETOOLONG, lambda: mm.read_string(addr, 4096))
    fails(errno.EFAULT, lambda: mm.read_string(addr + 2 * PAGE - 2))
    mm.protect(addr, PAGE, 1)
    fails(errno.EFAULT, lambda: mm.write(addr, b"x"))
    fails(errno.EFAULT, lambda: mm.write_u32(addr, 1))


def test_iovec(mm: MemoryManager) -> None:
    addr = mm.map(0, PAGE, RW, ANON)
    mm.write(addr, b"".join(n.to_bytes(8, "little") for n in (addr, 5, addr, 1 << 62, 0, 0)))
    assert mm.read_iovec(addr, 1) == [(addr, 5)]
    assert mm.read_iovec(addr, 0) == []
    fails(errno.EINVAL, lambda: mm.read_iovec(addr, 1025))
    fails(errno.EINVAL, lambda: mm.read_iovec(addr, -1))
    assert sum(n for _, n in mm.read_iovec(addr, 3)) == 0x7FFFF000


def test_advice(mm: MemoryManager) -> None:
    addr = mm.map(0, 4 * PAGE, RW, ANON)
    mm.write(addr, b"a" * 4 * PAGE)
    mm.advise(addr + PAGE, PAGE, 4)
    assert mm.read(addr, 4 * PAGE).count(0) == PAGE
    fails(errno.EINVAL, lambda: mm.advise(addr, PAGE, 99))
    fails(errno.EINVAL, lambda: mm.advise(addr + 1, PAGE, 4))
    fails(errno.ENOMEM, lambda: mm.advise(addr, 5 * PAGE, 4))
    mm.advise(addr, PAGE, 10)
    mm.advise(addr + PAGE, PAGE, 18)
    mm.write(addr, b"a" * 4 * PAGE)
    child = mm.fork()
    fails(errno.EFAULT, lambda: child.read(addr, 1))
    assert child.read(addr + PAGE, PAGE) == bytes(PAGE)
    assert child.read(addr + 2 * PAGE, PAGE) == b"a" * PAGE
    assert mm.read(addr, 4 * PAGE) == b"a" * 4 * PAGE
    child.release()
    shared = mm.map(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS)
    mm.write(shared, b"gone")
    mm.advise(shared, PAGE, 4)
    assert mm.read(shared, 4) == b"gone"
    mm.advise(shared, PAGE, 9)
    assert mm.read(shared, 4) == bytes(4)


def test_locks(mm: MemoryManager) -> None:
    addr = mm.map(0, 4 * PAGE, RW, ANON)
    mm.limits = Limits({8: 2 * PAGE})
    mm.lock(addr, 2 * PAGE, True, False)
    fails(errno.ENOMEM, lambda: mm.lock(addr, 3 * PAGE, True, False))
    assert mm.locked_size() == 2 * PAGE
    fails(errno.EINVAL, lambda: mm.advise(addr, PAGE, 4))
    mm.unlock_all()
    assert mm.locked_size() == 0
    fails(errno.ENOMEM, lambda: mm.unlock(addr, 5 * PAGE))
    fails(errno.EINVAL, lambda: mm.lock_all(0, True))


def test_residency_and_sync(mm: MemoryManager) -> None:
    addr = mm.map(0, 4 * PAGE, 1, ANON)
    assert mm.residency(addr, 4 * PAGE) == bytes(4)
    mm.read(addr, 1)
    assert mm.residency(addr, 3 * PAGE + 1)[0] == 1
    fails(errno.ENOMEM, lambda: mm.residency(addr, 5 * PAGE))
    fails(errno.EINVAL, lambda: mm.sync(addr, PAGE, 5))
    fails(errno.ENOMEM, lambda: mm.sync(addr, 5 * PAGE, 4))
    mm.sync(addr, PAGE, 4)


def test_text(mm: MemoryManager) -> None:
    addr = mm.map(0x20000, PAGE, 5, ANON | MAP_FIXED, name="[vdso]")
    assert mm.maps_text() == b"00020000-00021000 r-xp 00000000 00:00 0 ".ljust(73) + b"[vdso]\n"
    assert mm.describe(addr + 16) == "[vdso]+0x10 (r-xp)"
    assert mm.describe(0) == "not mapped"
    assert mm.statistics().size == PAGE


def test_fork_with_many_runs(mm: MemoryManager) -> None:
    first = 0x10000000
    for n in range(100):
        mm.map(first + n * 3 * PAGE, PAGE, RW, ANON | MAP_FIXED)
        mm.write(first + n * 3 * PAGE, bytes([n]))
    child = mm.fork()
    assert not space(mm).pages
    for n in range(100):
        guest_access(mm, first + n * 3 * PAGE, b"x")
        assert guest_access(child, first + n * 3 * PAGE, None) == n
    child.release()


def test_shared_host_file(mm: MemoryManager) -> None:
    """Pages of a host file that may be written: the guest maps them, the sentry goes through the descriptor."""
    contents = HostContents(b"host file")
    addr = mm.map(0, 2 * PAGE, RW, MAP_SHARED, TestFile(contents))
    mm.write(addr, b"HOST")
    assert guest_access(mm, addr + 5, b"F") == ord("F")
    assert mm.read(addr, 9) == b"HOST File"
    assert contents.read_page_bytes(0, 9) == b"HOST File"
    mm.write_u32(addr + 16, 9)
    assert mm.compare_exchange_u32(addr + 16, 9, 10) == 9
    assert mm.read_string(addr) == b"HOST File"
    fails(errno.EFAULT, lambda: mm.write(addr + PAGE, b"x"))


def test_invalidation(mm: MemoryManager) -> None:
    contents = HostContents(b"a" * 64 * PAGE)
    addr = mm.map(0x10000000, 64 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, TestFile(contents))
    mm.write(addr, b"copy")
    guest_access(mm, addr + 40 * PAGE, None)
    contents.size = PAGE
    contents.invalidate(PAGE, 63 * PAGE)
    assert mm.read(addr, 5) == b"copya"
    assert addr + 40 * PAGE not in space(mm).pages
    assert faults(mm, addr + 40 * PAGE, Access.READ) == (SIGBUS, BUS_ADRERR)


@pytest.mark.parametrize(
    ("host", "guest"), [((1 << 56) - 4096, arch.current().GUEST_TOP), (1 << 46, 1 << 46)], ids=["57 bits", "47 bits"]
)
def test_guests_end_where_programs_expect_it(monkeypatch: pytest.MonkeyPatch, host: int, guest: int) -> None:
    """On a host with 57-bit addresses a program still gets 47: many keep something in the bits above."""
    platform = FakePlatform()
    monkeypatch.setattr(platform, "max_user_address", lambda: host)
    memory = CheckedMemoryFile(platform)
    mm = MemoryManager(platform, memory)
    assert mm.max_address == guest
    assert mm.map(0, PAGE, RW, ANON) + PAGE <= guest
    with pytest.raises(SyscallError):
        mm.map(guest, PAGE, RW, ANON | MAP_FIXED)
    mm.release()
    memory.close()
