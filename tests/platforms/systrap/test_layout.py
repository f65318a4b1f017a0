"""Where the stub lives: arithmetic only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.host import limits
from systrap.platforms.systrap import layout

PAGES = st.sampled_from([0x1000, 0x4000, 0x10000])
PAGE_COUNTS = st.integers(0, 300)


@given(PAGES, st.integers(1, 1 << 20), PAGE_COUNTS, st.integers(1, 40_000), st.integers(1, 40_000), st.integers(1, 300))
def test_regions_never_overlap(page: int, start: int, gap: int, bootstrap: int, sysmsg: int, children: int) -> None:
    """S-004, S-006, S-009, S-012: order, guard page, aligned areas, for any page size, gap and number of threads."""
    place = layout.compute(page, start * page, gap * page, bootstrap, sysmsg, children)
    area = place.area
    assert place.stub_start + bootstrap <= place.sysmsg
    assert place.sysmsg + sysmsg <= place.sysmsg_rules
    assert place.ro_end + page <= place.area0
    assert place.area0 % area.size == 0
    assert place.thread_area(children) + area.size <= place.context_queue
    assert place.context_queue + layout.QUEUE_SIZE <= place.spinning_queue
    assert place.spinning_queue + page <= place.ready_ring
    assert place.ready_ring + layout.RING_SIZE <= place.contexts
    assert place.contexts % layout.CONTEXT_SLOT == 0
    assert place.contexts + layout.CONTEXT_SLOT * layout.CONTEXT_SLOTS <= place.end
    for address in (
        place.sysmsg,
        place.sysmsg_rules,
        place.ro_end,
        place.context_queue,
        place.spinning_queue,
        place.ready_ring,
    ):
        assert address % page == 0


@given(PAGES, PAGE_COUNTS, st.integers(1, 300))
def test_the_gap_is_added_so_often(page: int, gap: int, children: int) -> None:
    """The chooser of the gap divides the room by GAPS: the end moves by no more."""
    without = layout.compute(page, page, 0, 3000, 9000, children)
    shifted = layout.compute(page, page, gap * page, 3000, 9000, children)
    assert shifted.end - without.end <= layout.GAPS * gap * page + without.area.size


@given(PAGES)
def test_a_thread_area_has_guards(page: int) -> None:
    """S-004: unmapped pages below the private stack and below the signal stack; sysmsg in the last page."""
    area = layout.area_shape(page)
    assert area.private >= page
    assert area.private_top + page <= area.shared
    assert area.sysmsg == area.size - page
    assert area.shared + area.shared_size == area.size


@given(PAGES, st.integers(1, 300))
def test_slot_regions_never_overlap(page: int, children: int) -> None:
    """S-008: a stub's shared pages in the memory file, each in a place of its own, contexts aligned (S-025)."""
    place = layout.compute(page, page, 0, 3000, 9000, children)
    slot = layout.slot_layout(place)
    starts = [
        slot.request,
        slot.reply,
        slot.records,
        slot.context_queue,
        slot.ready_ring,
        slot.areas,
        slot.contexts,
        slot.size,
    ]
    assert starts == sorted(set(starts))
    assert slot.contexts - slot.areas >= children * place.area.shared_size
    assert slot.contexts % layout.CONTEXT_SLOT == 0
    assert slot.size % page == 0


ADDRESS_BITS = st.sampled_from([39, 42, 47, 48, 52])


@given(PAGES, ADDRESS_BITS, st.integers(1, 1024), st.data())
def test_a_stub_fits_above_the_guests(page: int, bits: int, children: int, data: st.DataObject) -> None:
    """S-001, S-002, S-004: for any page size, size of the address space and number of CPUs (10-stub §1.1, §1.4).

    The stub lies between the guests' last address and the end, wherever chance puts it and however large the gap.
    """
    size = 1 << bits
    low = size - size // 128 // page * page
    total = layout.compute(page, low, 0, 832, 4096, children + 1).end - low
    assert total < size - low, "the stub is larger than its range"
    start = low + data.draw(st.integers(0, (size - low - total) // page)) * page
    gap = data.draw(st.integers(0, (size - start - total) // layout.GAPS // page)) * page
    place = layout.compute(page, start, gap, 832, 4096, children + 1)
    assert low <= place.stub_start < place.end <= size
    assert place.thread_area(0) % place.area.size == 0
    assert place.contexts % layout.CONTEXT_SLOT == 0


@pytest.mark.parametrize(
    ("page", "size", "private_top", "stack", "sysmsg"),
    [
        (0x1000, 0x8000, 0x3000, (0x4000, 0x3000), 0x7000),
        (0x4000, 0x20000, 0xC000, (0x10000, 0xC000), 0x1C000),
        (0x10000, 0x50000, 0x20000, (0x30000, 0x10000), 0x40000),
    ],
)
def test_thread_areas_of_each_page_size(
    page: int, size: int, private_top: int, stack: tuple[int, int], sysmsg: int
) -> None:
    """10-stub §1.3: the table for 4K and 64K pages; 16K pages are like 4K ones (upstream does not say otherwise)."""
    area = layout.area_shape(page)
    assert (area.size, area.private_top, area.sysmsg) == (size, private_top, sysmsg)
    assert (area.shared, area.signal_stack_size) == stack


@pytest.mark.parametrize(
    ("bits", "page", "span", "limit"),
    [
        (52, 0x10000, 0x200000000000, 0xFE00000000000),
        (48, 0x1000, 0x20000000000, 0xFE0000000000),
        (42, 0x10000, 1 << 35, (1 << 42) - (1 << 35)),
        (39, 0x1000, 0x100000000, 0x7F00000000),
    ],
)
def test_arm64_address_spaces(monkeypatch: pytest.MonkeyPatch, bits: int, page: int, span: int, limit: int) -> None:
    """S-001, P-006: the largest size that the host knows is found among those that kernels are built for; the rest follows."""
    size = 1 << bits
    monkeypatch.setattr(limits, "_CANDIDATES", limits.AARCH64_SIZES)
    monkeypatch.setattr(limits, "PAGE_SIZE", page)
    # The probe asks for what ends at address + 512, misaligned: ENOMEM beyond the end, else EINVAL.
    monkeypatch.setattr(limits, "mmap_result", lambda addr, length, *_: -12 if addr + length > size else -22)
    limits.task_size.cache_clear()
    try:
        assert limits.task_size() == size
        assert limits.max_user_address() == limit == size - span
    finally:
        limits.task_size.cache_clear()
