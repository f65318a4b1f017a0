"""A stub's address space as a list of regions: computed by the code that lays stubs out (platforms/systrap/layout.py)."""

import os
from typing import Final, NamedTuple

from systrap.host import limits
from systrap.host.sys import PAGE_SIZE
from systrap.platform import Platform
from systrap.platforms.systrap import blob, layout
from systrap.platforms.systrap.layout import Layout, round_up

GUEST: Final = "guest"
STUB: Final = "stub"
HOLE: Final = "hole"


class Region(NamedTuple):
    """A range of addresses. ``kind``: whose it is; ``access`` as ls shows it; ``backing``: what is behind it."""

    start: int
    end: int
    kind: str
    name: str
    access: str
    backing: str


def user_limit(task_size: int, page: int) -> int:
    """Return the first address that guests may not use: the top 128th is not theirs (S-001)."""
    return task_size - task_size // 128 // page * page


def example(machine: str, page: int, bits: int, threads: int, gap: int) -> tuple[Layout, int]:
    """Return a layout as a host with these properties would have it, from the lowest possible start on, and its TaskSize.

    Raises BlobError when there are no images for this machine and page size.
    """
    size = (1 << bits) - (4096 if machine == "x86_64" else 0)
    images = blob.host_images(machine, page)
    lengths = [blob.load(name, images).size for name in ("bootstrap", "sysmsg")]
    place = layout.compute(page, user_limit(size, page), gap, lengths[0], lengths[1], threads + 1)
    return place, size


def regions(place: Layout, task_size: int, low: int) -> list[Region]:
    """Return the regions of a stub from address 0 to the end, holes included; ``low``: the lowest address of guests."""
    page, area = place.page, place.area
    limit = user_limit(task_size, page)
    found = [
        Region(low, limit, GUEST, "guest memory", "rwx", "the platform's memory file, as the guest maps it"),
        Region(place.stub_start, place.sysmsg, STUB, "bootstrap image", "r-x", "inherited from the source, sealed"),
        Region(place.sysmsg, place.sysmsg_rules, STUB, "sysmsg image", "r-x", "inherited from the source, sealed"),
        Region(place.sysmsg_rules, place.notify_rules, STUB, "seccomp program of sysmsg threads", "r--", "inherited, sealed"),
        Region(place.notify_rules, place.ro_end, STUB, "seccomp program of the doorbell", "r--", "inherited, sealed"),
        Region(place.area0, place.area0 + page, STUB, "request page", "r--", "memory file: the sentry writes"),
        Region(place.area0 + page, place.area0 + 2 * page, STUB, "reply page", "rw-", "memory file"),
        Region(place.area0 + 2 * page, place.area0 + 2 * page + place.record_pages_size, STUB, "thread records", "r--",
               "memory file: the sentry writes"),
    ]  # fmt: skip
    for stack_id in range(1, place.max_children):
        start = place.thread_area(stack_id)
        shared = start + area.shared
        found += [
            Region(start + area.private, start + area.private_top, STUB, f"thread {stack_id}: stack of syshandler", "rw-",
                   "private"),
            Region(shared, start + area.sysmsg, STUB, f"thread {stack_id}: signal stack", "rw-", "memory file"),
            Region(start + area.sysmsg, start + area.size, STUB, f"thread {stack_id}: struct sysmsg", "rw-", "memory file"),
        ]  # fmt: skip
    queue_end = place.context_queue + round_up(layout.QUEUE_SIZE, page)
    found += [
        Region(place.context_queue, queue_end, STUB, "context queue", "rw-", "memory file"),
        Region(place.spinning_queue, place.spinning_queue + page, STUB, "spinning queue", "rw-", "private"),
        Region(
            place.ready_ring,
            place.ready_ring + round_up(layout.RING_SIZE, page),
            STUB,
            "ready ring",
            "rw-",
            "memory file",
        ),
        Region(place.contexts, place.end, STUB, f"{layout.CONTEXT_SLOTS} contexts", "rw-", "memory file"),
    ]
    return _with_holes(found, task_size)


def _with_holes(found: list[Region], task_size: int) -> list[Region]:
    """Put what is not mapped in between."""
    result: list[Region] = []
    at = 0
    for region in sorted(found):
        if region.start > at:
            result.append(Region(at, region.start, HOLE, "nothing", "---", ""))
        result.append(region)
        at = region.end
    if at < task_size:
        result.append(Region(at, task_size, HOLE, "nothing", "---", ""))
    return result


def regions_of(platform: Platform) -> list[Region]:
    """Return the regions of the stubs of a running platform; of one like this host's where the platform has other stubs."""
    place = platform.stub_layout() if hasattr(platform, "stub_layout") else None
    if not isinstance(place, Layout):
        place, _ = example(
            os.uname().machine, PAGE_SIZE, limits.task_size().bit_length(), len(os.sched_getaffinity(0)), 0
        )
    return regions(place, limits.task_size(), limits.min_user_address())
