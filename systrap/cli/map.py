"""``systrap map``: a stub's address space drawn, for this host or any other page size and width of addresses."""

import os
import sys
from typing import Final

from systrap.cli.options import Option, Parsed, UsageError, describe, parse
from systrap.cli.stub_picture import HOLE, Region, example, regions
from systrap.host import limits
from systrap.host.sys import PAGE_SIZE
from systrap.platforms.systrap import blob, layout

_MACHINES: Final = {"x86_64": (4096,), "aarch64": (4096, 16384, 65536)}
_SIZES: Final = {"4k": 4096, "16k": 16384, "64k": 65536}
_MOST_THREADS: Final = 4096

OPTIONS: Final = (
    Option("--arch", "of this architecture", "ARCH", choices=tuple(_MACHINES)),
    Option("--page", "with pages of this size: 4k, 16k, 64k", "SIZE"),
    Option("--bits", "with addresses of so many bits: 39, 42, 47, 48, 52, 56", "N"),
    Option("--threads", "for so many sysmsg threads (a stub has at most as many as there are CPUs)", "N"),
    Option("--gap", "with so many bytes (a multiple of the page size) where a run has a random gap", "BYTES"),
    Option("--json", "for programs to read"),
    Option("--help", "show this text", short="-h"),
)

_HELP: Final = """\
Draw the address space of a stub, computed by the code that lays stubs out. A run begins at a random page, and has
random gaps; here the stub lies as low as it can, and the gaps are --gap.

usage: python3 -m systrap map [options]

{options}

Examples:
  python3 -m systrap map                                    as on this machine
  python3 -m systrap map --arch aarch64 --page 64k --bits 42
  python3 -m systrap map --bits 39 --arch aarch64 --json
"""


def main(arguments: list[str]) -> int:
    """Carry out ``systrap map``; return the exit status."""
    parsed = parse(OPTIONS, arguments)
    if parsed.given("--help"):
        sys.stdout.write(_HELP.format(options=describe(OPTIONS)))
        return 0
    if parsed.rest:
        raise UsageError(f"{parsed.rest[0]}: map takes options only")
    machine = parsed.one("--arch", os.uname().machine)
    if machine not in _MACHINES:
        raise UsageError(f"there are no stubs for {machine}; try --arch x86_64 or --arch aarch64")
    page = _page(parsed, machine)
    bits = _bits(parsed, machine)
    threads = _integer(parsed, "--threads", len(os.sched_getaffinity(0)), 1, _MOST_THREADS)
    gap = _integer(parsed, "--gap", 0, 0, 1 << 40)
    if gap % page:
        raise UsageError(f"--gap {gap}: it must be a multiple of the page size, {page}")
    try:
        place, size = example(machine, page, bits, threads, gap)
    except blob.BlobError as error:
        raise UsageError(str(error)) from None
    if place.end > size:
        raise UsageError(f"that does not fit: the stub would end at {place.end:#x}, addresses end at {size:#x}")
    low = max(limits.min_user_address(), page)
    found = regions(place, size, low)
    if parsed.given("--json"):
        _write_json(machine, page, bits, place, found)
    else:
        sys.stdout.write(f"{machine}, {page >> 10}K pages, {bits}-bit addresses, {threads} threads\n\n{draw(found)}")
    return 0


def _page(parsed: Parsed, machine: str) -> int:
    text = parsed.one("--page", "").lower()
    if not text:
        return PAGE_SIZE if machine == os.uname().machine else _MACHINES[machine][0]
    size = _SIZES.get(text) or (int(text) if text.isdigit() else 0)
    if size not in _MACHINES[machine]:
        known = ", ".join(f"{page >> 10}k" for page in _MACHINES[machine])
        raise UsageError(f"--page {text}: {machine} has pages of {known}")
    return size


def _bits(parsed: Parsed, machine: str) -> int:
    sizes = limits.AARCH64_SIZES if machine == "aarch64" else limits.X86_64_SIZES
    known = sorted((size + 4096).bit_length() - 1 if machine == "x86_64" else size.bit_length() - 1 for size in sizes)
    if not parsed.given("--bits"):
        if machine == os.uname().machine:
            return limits.task_size().bit_length() if machine == "x86_64" else limits.task_size().bit_length() - 1
        return 48 if machine == "aarch64" else 47
    bits = _integer(parsed, "--bits", 0, 1, 64)
    if bits not in known:
        raise UsageError(f"--bits {bits}: kernels for {machine} have {', '.join(map(str, known))}")
    return bits


def _integer(parsed: Parsed, name: str, default: int, low: int, high: int) -> int:
    text = parsed.one(name, str(default))
    try:
        value = int(text, 0)
    except ValueError:
        raise UsageError(f"{name} {text}: it takes a number") from None
    if not low <= value <= high:
        raise UsageError(f"{name} {text}: it takes a number from {low} to {high}")
    return value


def size_text(size: int) -> str:
    """Return a size in the largest unit that leaves a number of at most four digits."""
    for unit in ("", "K", "M", "G", "T"):
        if size < 10000 or unit == "T":
            return f"{size}{unit}"
        size = (size + 512) >> 10
    return str(size)


def draw(found: list[Region]) -> str:
    """Return the picture: the highest address on top, as in the kernel's own documents."""
    width = max(len(f"{region.end:x}") for region in found)
    name = max(len(region.name) for region in found)
    lines = []
    rule = f"{'':{width}} +{'-' * (name + 16)}+"
    for region in reversed(found):
        inside = f" {region.name:{name}} {size_text(region.end - region.start):>6} {region.access:>4}   "
        if region.kind == HOLE:
            inside = f" {'.' * 3:{name}} {size_text(region.end - region.start):>6} {'':>4}   "
        lines += [f"{region.end:{width}x} {rule[width + 1 :]}", f"{'':{width}} |{inside}| {region.backing}".rstrip()]
    lines.append(f"{found[0].start:{width}x} {rule[width + 1 :]}")
    return "\n".join(lines) + "\n"


def _write_json(machine: str, page: int, bits: int, place: layout.Layout, found: list[Region]) -> None:
    import json

    document = {
        "arch": machine,
        "page": page,
        "bits": bits,
        "threads": place.max_children - 1,
        "layout": place._asdict(),
        "regions": [region._asdict() for region in found],
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
