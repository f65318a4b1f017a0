"""The guest's code as a platform reads and patches it (platform.GuestCode over a MemoryManager)."""

import os
from collections.abc import Iterator

import pytest

from systrap.platform import Access
from systrap.sentry.code import MemoryCode
from systrap.sentry.errors import SyscallError
from systrap.sentry.mm import MemoryManager
from systrap.sentry.mm_advice import MADV_DONTNEED
from systrap.sentry.mm_limits import RLIMIT_AS
from systrap.sentry.mm_map import MAP_ANONYMOUS, MAP_FIXED, MAP_GROWSDOWN, MAP_PRIVATE, MAP_SHARED
from systrap.sentry.mm_remap import MREMAP_FIXED, MREMAP_MAYMOVE
from systrap.sentry.pages import PageStore
from tests.sentry.fake_platform import PAGE, CheckedMemoryFile, FakePlatform, FakeSpace, page_bytes
from tests.sentry.test_mm import Limits
from tests.sentry.test_mm_model import HostContents, TestFile, guest_access

ANON = MAP_PRIVATE | MAP_ANONYMOUS
READ, WRITE, EXEC = 1, 2, 4
TABLE, TABLE_SIZE, NAME = 0x60000, 5 * PAGE, "[usertrap]"


@pytest.fixture
def platform() -> FakePlatform:
    return FakePlatform()


@pytest.fixture
def mm(platform: FakePlatform) -> Iterator[MemoryManager]:
    memory = CheckedMemoryFile(platform)
    manager = MemoryManager(platform, memory)
    yield manager
    if not manager.dead:
        manager.release()
    assert not memory.live
    memory.close()


def code(mm: MemoryManager) -> MemoryCode:
    assert isinstance(mm.space.code, MemoryCode)
    return mm.space.code


def shown(mm: MemoryManager, addr: int) -> tuple[bytes, Access] | None:
    """Return the page the guest has at an address now, without a fault."""
    assert isinstance(mm.space, FakeSpace)
    entry = mm.space.pages.get(addr & -PAGE)
    return None if entry is None else (page_bytes(entry[0], entry[1], PAGE), entry[2])


def guest_bytes(mm: MemoryManager, addr: int, length: int) -> bytes:
    return bytes(guest_access(mm, addr + i, None) for i in range(length))


def file_of(content: bytes) -> tuple[TestFile, HostContents]:
    host = HostContents(content)
    return TestFile(host), host


TEXT = bytes(i * 7 & 0xFF for i in range(2 * PAGE + 100))


# Who has one.


def test_every_memory_manager_has_code_of_its_own(mm: MemoryManager) -> None:
    """Also a forked one; a released one has none any more."""
    child = mm.fork()
    assert code(child) is not code(mm)
    addr = child.map(0, PAGE, READ | WRITE, ANON)
    child.write(addr, b"only here")
    assert code(child).read_code(addr, 9) == b"only here"
    assert code(mm).read_code(addr, 9) is None
    space = child.space
    child.release()
    assert space.code is None


# Reading.


@pytest.mark.parametrize("prot", [0, WRITE, EXEC, READ | EXEC])
@pytest.mark.parametrize("touched", [False, True])
def test_reads_whatever_the_protection_is(mm: MemoryManager, prot: int, touched: bool) -> None:
    file, _ = file_of(TEXT)
    addr = mm.map(0, 3 * PAGE, READ, MAP_PRIVATE, file)
    if touched:
        mm.read(addr, 3 * PAGE)
    mm.protect(addr, 3 * PAGE, prot)
    assert code(mm).read_code(addr + 5, PAGE) == TEXT[5 : 5 + PAGE]
    assert code(mm).read_code(addr + 2 * PAGE - 3, 7) == TEXT[2 * PAGE - 3 :][:7]


def test_reading_gives_nobody_a_right(mm: MemoryManager) -> None:
    """What was read is not readable for the sentry's other accesses, nor for the guest, and no page is put anywhere."""
    file, _ = file_of(TEXT)
    addr = mm.map(0, PAGE, 0, MAP_PRIVATE, file)
    anonymous = mm.map(0, PAGE, 0, ANON)
    assert code(mm).read_code(addr, 4) == TEXT[:4]
    assert code(mm).read_code(anonymous, 4) == bytes(4)
    for at in (addr, anonymous):
        with pytest.raises(SyscallError):
            mm.read(at, 4)
        assert mm.residency(at, PAGE) == b"\0"
        assert shown(mm, at) is None


def test_reading_leaves_what_is_known_of_pages(mm: MemoryManager) -> None:
    addr = mm.map(0, PAGE, READ | WRITE, ANON)
    mm.write(addr, b"data")
    known = dict(mm._readable), dict(mm._writable)
    assert known[1]
    assert code(mm).read_code(addr, 4) == b"data"
    assert code(mm).read_code(addr + PAGE - 4, 4) == bytes(4)
    assert (mm._readable, mm._writable) == known


def test_reads_nothing_where_something_is_not_mapped(mm: MemoryManager) -> None:
    addr = mm.map(0x100000, 2 * PAGE, READ, ANON | MAP_FIXED)
    assert code(mm).read_code(addr, 2 * PAGE) == bytes(2 * PAGE)
    assert code(mm).read_code(addr, 2 * PAGE + 1) is None
    assert code(mm).read_code(addr - 1, 2) is None
    assert code(mm).read_code((1 << 64) - 2, 7) is None
    assert code(mm).read_code(0, 1) is None


def test_reading_grows_no_stack(mm: MemoryManager) -> None:
    addr = mm.map(0x200000, PAGE, READ | WRITE, ANON | MAP_FIXED | MAP_GROWSDOWN)
    assert code(mm).read_code(addr - 8, 4) is None
    assert code(mm).write_code(addr - 8, b"\x90") is False
    assert mm.stack_size() == PAGE
    mm.handle_fault(addr - 8, Access.WRITE)
    assert code(mm).read_code(addr - 8, 4) == bytes(4)


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("flags", [MAP_PRIVATE, MAP_SHARED])
def test_the_end_of_a_file(mm: MemoryManager, flags: int, touched: bool) -> None:
    """Its last page continues with zeros, the pages behind it are not there."""
    file, _ = file_of(TEXT)
    addr = mm.map(0, 5 * PAGE, READ, flags, file)
    if touched:
        mm.read(addr, 3 * PAGE)
    assert code(mm).read_code(addr + 2 * PAGE + 90, 20) == TEXT[-10:] + bytes(10)
    assert code(mm).read_code(addr + 2 * PAGE + 500, 4) == bytes(4)
    assert code(mm).read_code(addr + 3 * PAGE - 2, 3) is None
    assert code(mm).read_code(addr + 3 * PAGE + 8, 4) is None


def test_a_file_of_whole_pages_has_nothing_behind_them(mm: MemoryManager) -> None:
    file, _ = file_of(TEXT[:PAGE])
    addr = mm.map(0, 2 * PAGE, READ, MAP_PRIVATE, file)
    assert code(mm).read_code(addr + PAGE - 4, 4) == TEXT[PAGE - 4 : PAGE]
    assert code(mm).read_code(addr + PAGE, 4) is None
    assert code(mm).read_code(addr + PAGE + 8, 4) is None


def test_a_file_that_cannot_be_read_is_no_error(mm: MemoryManager) -> None:
    """Neither before nor after its pages were mapped, nor when it was cut off meanwhile."""
    file, host = file_of(TEXT)
    addr = mm.map(0, 3 * PAGE, READ, MAP_PRIVATE, file)
    mm.read(addr, 1)
    os.ftruncate(host.fd, 10)
    assert code(mm).read_code(addr, 12) == TEXT[:10] + bytes(2)
    assert code(mm).read_code(addr + PAGE, 4) is None
    assert code(mm).may_write_code(addr + PAGE, 4) is False
    os.close(host.fd)
    assert code(mm).read_code(addr, 4) is None
    unread = mm.map(0, PAGE, READ, MAP_PRIVATE, file)
    assert code(mm).read_code(unread, 4) is None
    assert code(mm).write_code(unread, b"\x90") is False


def test_reads_pages_of_the_memory_file(mm: MemoryManager) -> None:
    store = PageStore(mm.memory)
    store.write(0, TEXT)
    addr = mm.map(0, 4 * PAGE, READ, MAP_SHARED, TestFile(store))
    assert code(mm).read_code(addr + PAGE - 2, 4) == TEXT[PAGE - 2 : PAGE + 2]
    mm.read(addr, 3 * PAGE)
    assert code(mm).read_code(addr + PAGE - 2, 4) == TEXT[PAGE - 2 : PAGE + 2]
    assert code(mm).read_code(addr + 3 * PAGE, 1) is None
    mm.unmap(addr, 4 * PAGE)
    store.release()


# Writing.


@pytest.mark.parametrize("touched", [False, True])
def test_patches_read_only_code_of_a_file(mm: MemoryManager, touched: bool) -> None:
    """S-091: the guest sees the patch, with the protection it had; the file does not change."""
    file, host = file_of(TEXT)
    addr = mm.map(0, 3 * PAGE, READ | EXEC, MAP_PRIVATE, file)
    if touched:
        mm.handle_fault(addr + PAGE, Access.EXECUTE)
    at = addr + PAGE + 17
    assert code(mm).may_write_code(at, 7)
    assert code(mm).write_code(at, b"patched")
    expected = TEXT[PAGE : PAGE + 17] + b"patched" + TEXT[PAGE + 24 : 2 * PAGE]
    assert shown(mm, at) == (expected, Access.READ | Access.EXECUTE)
    assert code(mm).read_code(at - 1, 9) == expected[16:25]
    assert mm.read(at, 7) == b"patched"
    assert os.pread(host.fd, len(TEXT), 0) == TEXT
    other = mm.map(0, PAGE, READ, MAP_SHARED, file, PAGE)
    assert guest_bytes(mm, other + 17, 7) == TEXT[PAGE + 17 : PAGE + 24]


def test_patches_across_pages_and_areas(mm: MemoryManager) -> None:
    file, host = file_of(TEXT)
    addr = mm.map(0, 3 * PAGE, READ | EXEC, MAP_PRIVATE, file)
    mm.protect(addr + PAGE, PAGE, EXEC)
    assert code(mm).write_code(addr + PAGE - 3, b"patched")
    assert guest_bytes(mm, addr + PAGE - 4, 9) == TEXT[PAGE - 4 : PAGE - 3] + b"patched" + TEXT[PAGE + 4 : PAGE + 5]
    assert os.pread(host.fd, len(TEXT), 0) == TEXT


def test_the_sentrys_accesses_see_the_patch(mm: MemoryManager) -> None:
    """Also where it remembers what a page led to before."""
    file, _ = file_of(TEXT)
    addr = mm.map(0, PAGE, READ | EXEC, MAP_PRIVATE, file)
    store = PageStore(mm.memory)
    store.write(0, TEXT)
    other = mm.map(0, PAGE, READ | EXEC, MAP_PRIVATE, TestFile(store))
    for at in (addr, other):
        assert mm.read(at, 4) == TEXT[:4]
        assert code(mm).write_code(at, b"new!")
        assert mm.read(at, 4) == b"new!"
        with pytest.raises(SyscallError):
            mm.write(at, b"no")
    assert store.read(0, 4) == TEXT[:4]
    mm.unmap(other, PAGE)
    store.release()


@pytest.mark.parametrize("patcher", ["parent", "child"])
def test_a_forks_other_side_keeps_its_code(mm: MemoryManager, patcher: str) -> None:
    """S-091 for memory that a fork shares, and for anonymous code (a JIT's)."""
    addr = mm.map(0, PAGE, READ | WRITE, ANON)
    mm.write(addr, b"original")
    mm.protect(addr, PAGE, READ | EXEC)
    child = mm.fork()
    who, other = (mm, child) if patcher == "parent" else (child, mm)
    assert code(who).write_code(addr, b"replaced")
    assert guest_bytes(who, addr, 8) == b"replaced"
    assert guest_bytes(other, addr, 8) == b"original"
    assert code(other).read_code(addr, 8) == b"original"
    child.release()


def test_a_patch_is_inherited(mm: MemoryManager) -> None:
    """S-088: a child has its parent's patches, and may be patched further without the parent seeing it."""
    file, _ = file_of(TEXT)
    addr = mm.map(0, PAGE, READ | EXEC, MAP_PRIVATE, file)
    assert code(mm).write_code(addr, b"first")
    child = mm.fork()
    assert guest_bytes(child, addr, 5) == b"first"
    assert code(child).write_code(addr + 8, b"second")
    assert guest_bytes(child, addr, 14) == b"first" + TEXT[5:8] + b"second"
    assert guest_bytes(mm, addr, 14) == b"first" + TEXT[5:14]
    child.release()


def test_refuses_shared_memory(mm: MemoryManager) -> None:
    """S-145: neither files nor anonymous memory that others have, however it may be accessed."""
    file, host = file_of(TEXT)
    for prot in (READ, READ | EXEC, READ | WRITE):
        addr = mm.map(0, PAGE, prot, MAP_SHARED, file)
        anonymous = mm.map(0, PAGE, prot, MAP_SHARED | MAP_ANONYMOUS)
        for at in (addr, anonymous):
            before = code(mm).read_code(at, 8)
            assert code(mm).may_write_code(at, 8) is False
            assert code(mm).write_code(at, b"patched!") is False
            assert code(mm).read_code(at, 8) == before
    assert os.pread(host.fd, len(TEXT), 0) == TEXT


def test_refuses_what_is_only_partly_writable_and_changes_none_of_it(mm: MemoryManager) -> None:
    file, _ = file_of(TEXT)
    addr = mm.map(0x100000, PAGE, READ | EXEC, MAP_PRIVATE | MAP_FIXED, file)
    assert code(mm).may_write_code(addr + PAGE - 4, 4)
    assert code(mm).write_code(addr + PAGE - 4, b"12345678") is False
    mm.map(addr + PAGE, PAGE, READ | EXEC, MAP_SHARED | MAP_FIXED, file)
    assert code(mm).may_write_code(addr + PAGE - 4, 8) is False
    assert code(mm).write_code(addr + PAGE - 4, b"12345678") is False
    mm.map(addr + PAGE, PAGE, READ | EXEC, MAP_PRIVATE | MAP_FIXED, file, 3 * PAGE)
    assert code(mm).may_write_code(addr + PAGE - 4, 8) is False
    assert code(mm).write_code(addr + PAGE - 4, b"12345678") is False
    assert guest_bytes(mm, addr + PAGE - 4, 4) == TEXT[PAGE - 4 : PAGE]
    assert code(mm).write_code((1 << 64) - 2, b"12345678") is False


def test_writes_without_access(mm: MemoryManager) -> None:
    """Memory without any access is patched and stays without."""
    addr = mm.map(0, PAGE, 0, ANON)
    assert code(mm).write_code(addr + 4, b"code")
    assert shown(mm, addr) is None
    assert code(mm).read_code(addr, 8) == bytes(4) + b"code"
    with pytest.raises(SyscallError):
        mm.read(addr, 1)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (3, 1), (6, 2), (4, 4), (8, 8), (1, 8), (5, 6), (16, 16), (0, PAGE)]
)
def test_writes_every_size(mm: MemoryManager, offset: int, length: int) -> None:
    """Aligned words, which go by one store, and everything else."""
    addr = mm.map(0, 2 * PAGE, READ | WRITE, ANON)
    mm.write(addr, b"\xee" * 2 * PAGE)
    mm.protect(addr, 2 * PAGE, READ | EXEC)
    data = bytes(range(1, 256)) * 17
    assert code(mm).write_code(addr + offset, data[:length])
    assert code(mm).read_code(addr, 2 * PAGE) == b"\xee" * offset + data[:length] + b"\xee" * (
        2 * PAGE - offset - length
    )


def test_no_memory_for_a_copy_is_a_refusal(mm: MemoryManager, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = file_of(TEXT)
    addr = mm.map(0, PAGE, READ | EXEC, MAP_PRIVATE, file)

    def full(length: int) -> int:
        raise SyscallError(12)

    monkeypatch.setattr(mm, "_allocate", full)
    assert code(mm).write_code(addr, b"patch") is False
    assert code(mm).read_code(addr, 5) == TEXT[:5]
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME) is False
    assert mm.vmas.is_free(TABLE, TABLE + TABLE_SIZE)


# The table.


def test_maps_a_table(mm: MemoryManager) -> None:
    """S-081: where it was asked for, named, R-X, all present."""
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME)
    assert mm.maps_text().decode().split() == ["00060000-00065000", "r-xp", "00000000", "00:00", "0", NAME]
    for page in range(TABLE, TABLE + TABLE_SIZE, PAGE):
        assert shown(mm, page) == (bytes(PAGE), Access.READ | Access.EXECUTE)
    assert code(mm).find_area(NAME, 0x60000, 0x70000) == (TABLE, 0)


def test_a_table_is_written_in_place_and_may_be_made_writable(mm: MemoryManager) -> None:
    """S-147 needs a guest that writes the header: the maximal protection is RWX."""
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME)
    assert isinstance(mm.space, FakeSpace)
    before = dict(mm.space.pages)
    assert code(mm).write_code(TABLE + 80, b"entry one")
    assert (
        mm.space.pages == before
    ), "its pages are its own from the start: nothing is mapped anew below running threads"
    mm.protect(TABLE, TABLE_SIZE, READ | WRITE | EXEC)
    guest_access(mm, TABLE, b"\xff")
    assert code(mm).read_code(TABLE, 1) == b"\xff"


def test_a_forked_table_is_private(mm: MemoryManager) -> None:
    """S-088: the child has the same table without mapping it; what either writes then, the other does not see."""
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME)
    assert code(mm).write_code(TABLE, b"\1")
    child = mm.fork()
    assert child.maps_text() == mm.maps_text()
    assert code(child).find_area(NAME, 0x60000, 0x70000) == (TABLE, 0)
    assert code(child).write_code(TABLE, b"\2")
    assert (guest_bytes(mm, TABLE, 1), guest_bytes(child, TABLE, 1)) == (b"\1", b"\2")
    mm.release()
    assert guest_bytes(child, TABLE, 1) == b"\2"
    child.release()


def test_never_maps_over_anything(mm: MemoryManager) -> None:
    """S-090's other half: what a guest has there stays."""
    addr = mm.map(TABLE + 4 * PAGE, PAGE, READ | WRITE, ANON | MAP_FIXED)
    mm.write(addr, b"guest's")
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME) is False
    assert code(mm).find_area(NAME, 0x60000, 0x70000) is None
    assert mm.read(addr, 7) == b"guest's"
    assert code(mm).map_code(TABLE - PAGE, TABLE_SIZE, NAME)


def test_keeps_off_addresses_that_guests_cannot_have(mm: MemoryManager, platform: FakePlatform) -> None:
    assert code(mm).map_code(platform.min_user_address() - PAGE, PAGE, NAME) is False
    assert code(mm).map_code(platform.max_user_address(), PAGE, NAME) is False
    assert code(mm).map_code(platform.min_user_address() + 1, PAGE, NAME) is False
    assert code(mm).map_code(platform.min_user_address(), PAGE, NAME)


def test_limits_count(mm: MemoryManager) -> None:
    mm.limits = Limits({RLIMIT_AS: 4 * PAGE})
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME) is False
    assert code(mm).map_code(TABLE, 4 * PAGE, NAME)


def test_finds_by_name_within_the_range_only(mm: MemoryManager) -> None:
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME)
    assert code(mm).find_area("[other]", 0x60000, 0x70000) is None
    assert code(mm).find_area(NAME, TABLE + PAGE, 0x70000) is None, "it begins before"
    assert code(mm).find_area(NAME, 0, TABLE) is None
    assert code(mm).find_area(NAME, TABLE, TABLE + 1) == (TABLE, 0)
    mm.remap(TABLE, TABLE_SIZE, TABLE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, 0x200000)
    assert code(mm).find_area(NAME, 0x60000, 0x70000) is None
    assert code(mm).find_area(NAME, 0x200000, 0x300000) == (0x200000, 0)


def test_a_table_without_its_beginning_says_so(mm: MemoryManager) -> None:
    """10-stub §6.1, "overmounted": the first entries are gone, so the header is somebody else's."""
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME)
    mm.map(TABLE, PAGE, READ | WRITE, ANON | MAP_FIXED)
    assert code(mm).find_area(NAME, 0x60000, 0x70000) == (TABLE + PAGE, PAGE)
    child = mm.fork()
    assert code(child).find_area(NAME, 0x60000, 0x70000) == (TABLE + PAGE, PAGE)
    child.release()


def test_a_table_that_was_dropped_is_zeros(mm: MemoryManager) -> None:
    """MADV_DONTNEED works as for any anonymous memory."""
    assert code(mm).map_code(TABLE, TABLE_SIZE, NAME)
    assert code(mm).write_code(TABLE, b"header")
    mm.advise(TABLE, PAGE, MADV_DONTNEED)
    assert code(mm).read_code(TABLE, 6) == bytes(6)
    assert guest_bytes(mm, TABLE, 6) == bytes(6)
    assert code(mm).write_code(TABLE, b"again!")
    assert guest_bytes(mm, TABLE, 6) == b"again!"
