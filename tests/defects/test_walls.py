"""Defects in the stub's walls: regions that may overlap, and a filter that is open at the top (10-stub §1.2, §7.3)."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from systrap.host.bpf import IP, RET_ALLOW, Alternative, Condition, arg, evaluate, program
from systrap.host.sys import AUDIT_ARCH, NR
from systrap.platforms.systrap import filters, layout
from systrap.platforms.systrap.layout import Layout
from tests.defects.both_ways import both_ways, demand, verdict

PAGE = 4096
START = 0x7F1234560000
TOP = (1 << 64) - 1

Compute = Callable[[int, int, int, int, int, int], Layout]


def compute_without_gap(
    page: int, stub_start: int, gap: int, bootstrap_len: int, sysmsg_len: int, max_children: int
) -> Layout:
    """Lay out as upstream does: the spinning queue lies where it would without a gap, its neighbours do not."""
    shifted = layout.compute(page, stub_start, gap, bootstrap_len, sysmsg_len, max_children)
    fixed = layout.compute(page, stub_start, 0, bootstrap_len, sysmsg_len, max_children)
    return shifted._replace(spinning_queue=fixed.spinning_queue)


def regions(place: Layout) -> Iterator[tuple[int, int]]:
    """Yield start and end of every region that is mapped in a stub."""
    yield place.stub_start, place.ro_end
    yield place.area0, place.thread_area(place.max_children + 1)
    yield place.context_queue, place.context_queue + layout.QUEUE_SIZE
    yield place.spinning_queue, place.spinning_queue + place.page
    yield place.ready_ring, place.ready_ring + layout.RING_SIZE
    yield place.contexts, place.contexts + layout.CONTEXT_SLOT * layout.CONTEXT_SLOTS


def check_no_region_overlaps(compute: Compute) -> None:
    """Lay out with every small gap, and some large ones: no region lies on another, where MAP_FIXED would replace it."""
    for gap in [*range(300), 5000, 1 << 18]:
        place = compute(PAGE, START, gap * PAGE, 600, 6000, 3)
        for (_, end), (start, _) in pairwise(sorted(regions(place))):
            demand(end <= start, f"with a gap of {gap} pages two regions overlap at {start - place.stub_start:#x}")


@both_ways
def test_the_gap_shifts_every_region(original: bool) -> None:
    """SPIN-GAP; S-009."""
    with verdict(original):
        check_no_region_overlaps(compute_without_gap if original else layout.compute)


def thread_filter_without_top(place: Layout) -> bytes:
    """Return upstream's F1: its addresses are bounded from below only (10-stub §7.3)."""
    above = Condition(IP, place.sysmsg + 1, TOP)
    word = Condition(arg(0), place.sysmsg + 1, TOP)
    rest = (Condition(arg(3), 0), Condition(arg(4), 0), Condition(arg(5), 0))
    in_stub = Condition(IP, place.stub_start + 1, TOP)
    rules = {
        "futex": [
            Alternative((word, Condition(arg(1), filters.FUTEX_WAKE), Condition(arg(2), 1), *rest, above)),
            Alternative((word, Condition(arg(1), filters.FUTEX_WAIT), *rest, above)),
        ],
        "rt_sigreturn": [Alternative((above,))],
        "sched_yield": [Alternative((above,))],
        "arch_prctl": [
            Alternative((Condition(arg(0), filters.ARCH_SET_FS), in_stub)),
            Alternative((Condition(arg(0), filters.ARCH_GET_FS), in_stub)),
        ],
    }
    return program({NR[name]: found for name, found in rules.items()}, AUDIT_ARCH)


CALLS = [
    ("futex", (0, filters.FUTEX_WAKE, 1, 0, 0, 0)),
    ("futex", (0, filters.FUTEX_WAIT, 0, 0, 0, 0)),
    ("rt_sigreturn", ()),
    ("sched_yield", ()),
    ("arch_prctl", (filters.ARCH_SET_FS,)),
    ("arch_prctl", (filters.ARCH_GET_FS,)),
]
"""What the handler does; the address of a futex is put in."""


def allowed(thread_filter: bytes, place: Layout, ip: int, word: int) -> set[str]:
    """Return the calls that pass, made by the instruction in front of ``ip``, with ``word`` as futex."""
    return {
        name
        for name, args in CALLS
        if evaluate(thread_filter, NR[name], AUDIT_ARCH, ip, (word, *args[1:]) if name == "futex" else args)
        == RET_ALLOW
    }


def check_calls_from_outside_the_image(make_filter: Callable[[Layout], bytes]) -> None:
    """Demand that no call passes from behind the sysmsg image, nor on a word outside the stub."""
    place = layout.compute(PAGE, START, 7 * PAGE, 600, 6000, 3)
    made = make_filter(place)
    inside, word = place.sysmsg + 100, place.context_queue + 0x100
    assert allowed(made, place, inside, word) == {name for name, _ in CALLS}, "this is no filter for the handler"
    for ip in (place.sysmsg_rules + 2, place.area0 + 0x4002, place.contexts + 2, place.end + 2, TOP >> 17):
        passed = allowed(made, place, ip, word)
        demand(not passed, f"{sorted(passed)} pass from {ip:#x}, outside the image")
    for foreign in (place.end, place.end + PAGE, TOP >> 17):
        passed = allowed(made, place, inside, foreign) & {"futex"}
        demand(not passed, f"a futex at {foreign:#x}, outside the stub, passes")


@both_ways
def test_the_filter_has_a_top(original: bool) -> None:
    """F1-TOP; S-101, S-102, S-108."""
    with verdict(original):
        check_calls_from_outside_the_image(thread_filter_without_top if original else filters.thread_filter)


def test_both_holes_of_the_filter_are_seen() -> None:
    """The check above stops at the first; the other is a hole of its own."""
    place = layout.compute(PAGE, START, 7 * PAGE, 600, 6000, 3)
    made = thread_filter_without_top(place)
    assert "futex" in allowed(made, place, place.sysmsg + 100, place.end + PAGE)
    with pytest.raises(AssertionError, match="no filter"):
        check_calls_from_outside_the_image(lambda _: program({}, AUDIT_ARCH))
