"""Where the stub lives in its process: pure arithmetic (10-stub §1).

::

    MaxUser ≤ stub_start ─ bootstrap image                    R-X   ┐
                           sysmsg image                       R-X   │ one mapping, sealed,
                           seccomp program F1                 R     │ inherited by every stub
                           seccomp program FN                 R     ┘
              ro_end     ─ guard page, never mapped
              + gap      ─ thread areas, one per stack id     see below
                           context queue                      RW, memfd
              + gap        spinning queue                     RW, private
                           ready ring (ours)                  RW, memfd
                           thread contexts, 4096 × 4096       RW, memfd
    end ≤ TaskSize

The thread area of a sysmsg thread: guard, private stack, guard, shared part (signal stack; the last page holds the sysmsg
structure). The area of id 0 belongs to the syscall thread: request page, reply page, thread records (docs/images.md).
"""

from typing import Final, NamedTuple

CONTEXT_SLOT: Final = 4096
CONTEXT_SLOTS: Final = 4096
QUEUE_SIZE: Final = 0x180 + 4096 * 8
RING_SIZE: Final = 0x100 + 4096 * 8
THREAD_RECORD: Final = 64
RULES_PAGES: Final = 2


def round_up(value: int, unit: int) -> int:
    """Return the smallest multiple of ``unit`` that is at least ``value``."""
    return -(-value // unit) * unit


class AreaShape(NamedTuple):
    """Offsets inside the area of a sysmsg thread (10-stub §1.3), in bytes."""

    size: int
    private: int
    private_size: int
    shared: int
    shared_size: int
    sysmsg: int

    @property
    def private_top(self) -> int:
        """Where the syshandler's stack starts growing down."""
        return self.private + self.private_size

    @property
    def signal_stack_size(self) -> int:
        """The part of the shared pages below the sysmsg page."""
        return self.sysmsg - self.shared


def area_shape(page: int) -> AreaShape:
    """Return the shape for a page size: eight pages, or five where pages are 64K."""
    if page >= 0x10000:
        return AreaShape(5 * page, page, page, 3 * page, 2 * page, 4 * page)
    return AreaShape(8 * page, page, 2 * page, 4 * page, 4 * page, 7 * page)


class Layout(NamedTuple):
    """Addresses of one host's stub, the same in every stub process of a platform."""

    page: int
    stub_start: int
    sysmsg: int
    sysmsg_rules: int
    notify_rules: int
    ro_end: int
    area0: int
    max_children: int
    context_queue: int
    spinning_queue: int
    ready_ring: int
    contexts: int
    end: int

    @property
    def area(self) -> AreaShape:
        """The shape of a thread area."""
        return area_shape(self.page)

    @property
    def record_pages_size(self) -> int:
        """Bytes of the thread records, in whole pages."""
        return round_up((self.max_children + 1) * THREAD_RECORD, self.page)

    def thread_area(self, stack_id: int) -> int:
        """Return the start of a thread area. ``stack_id``: 0 is the syscall thread, sysmsg threads have 1…max_children."""
        return self.area0 + stack_id * self.area.size

    def thread_record(self, stack_id: int) -> int:
        """Return where the stub finds the record of a sysmsg thread."""
        return self.area0 + 2 * self.page + stack_id * THREAD_RECORD


def compute(page: int, stub_start: int, gap: int, bootstrap_len: int, sysmsg_len: int, max_children: int) -> Layout:
    """Lay the stub out from ``stub_start``, with ``gap`` bytes (a page multiple) between its parts (S-004, S-006, S-009).

    ``max_children`` is the number of stack ids above 0 (S-012: MCT; one extra area absorbs the alignment).
    """
    area = area_shape(page)
    sysmsg = stub_start + round_up(bootstrap_len, page)
    sysmsg_rules = sysmsg + round_up(sysmsg_len, page)
    notify_rules = sysmsg_rules + RULES_PAGES * page
    ro_end = notify_rules + page
    area0 = round_up(ro_end + page + gap, area.size)
    context_queue = round_up(ro_end + page + gap, page) + (max_children + 2) * area.size + gap
    spinning_queue = context_queue + round_up(QUEUE_SIZE, page) + gap
    ready_ring = spinning_queue + page
    contexts = round_up(ready_ring + round_up(RING_SIZE, page), CONTEXT_SLOT) + gap
    end = contexts + round_up(CONTEXT_SLOT * CONTEXT_SLOTS, page)
    return Layout(
        page, stub_start, sysmsg, sysmsg_rules, notify_rules, ro_end, area0, max_children,
        context_queue, spinning_queue, ready_ring, contexts, end,
    )  # fmt: skip


GAPS: Final = 4
"""How often ``gap`` is added on the way from ``ro_end`` to ``end``."""


class SlotLayout(NamedTuple):
    """Offsets of one stub's shared pages inside its slot of the platform's memory file."""

    request: int
    reply: int
    records: int
    context_queue: int
    ready_ring: int
    areas: int
    contexts: int
    size: int


def slot_layout(layout: Layout) -> SlotLayout:
    """Return where a stub's shared regions lie in its slot of the memory file."""
    page = layout.page
    records = 2 * page
    context_queue = records + layout.record_pages_size
    ready_ring = context_queue + round_up(QUEUE_SIZE, page)
    areas = ready_ring + round_up(RING_SIZE, page)
    contexts = round_up(areas + (layout.max_children + 1) * layout.area.shared_size, CONTEXT_SLOT)
    size = round_up(contexts + CONTEXT_SLOT * CONTEXT_SLOTS, page)
    return SlotLayout(0, page, records, context_queue, ready_ring, areas, contexts, size)
