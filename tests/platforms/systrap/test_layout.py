"""Where the stub lives: arithmetic only."""

from hypothesis import given
from hypothesis import strategies as st

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
