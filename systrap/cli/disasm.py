"""``systrap disasm``: the machine code of an image, from the listing that its build wrote, with what each routine is for.

No disassembler is needed: the listings are kept beside the images (``blobs/listing``), and belong to them byte for byte.
"""

import os
import sys
from typing import Final, NamedTuple

from systrap.cli.options import Option, UsageError, describe, did_you_mean, parse
from systrap.host.sys import PAGE_SIZE
from systrap.platforms.systrap import blob
from systrap.platforms.systrap.routines import PURPOSES, ROUTINES, Routine

ARCHITECTURES: Final = ("x86_64", "aarch64-4k", "aarch64-16k", "aarch64-64k")

OPTIONS: Final = (
    Option("--arch", "show this architecture's images instead of this machine's", "ARCH", choices=ARCHITECTURES),
    Option("--list", "only the routines, without their instructions", short="-l"),
    Option("--json", "for programs to read"),
    Option("--help", "show this text", short="-h"),
)

_HELP: Final = """\
Show the machine code that runs in stubs and in the sentry: each routine with its purpose, its registers, and the
statements of the specification that it keeps (docs/spec.md).

usage: python3 -m systrap disasm [options] [IMAGE | ROUTINE]

{options}

Images: {images}.

Examples:
  python3 -m systrap disasm                      what there is
  python3 -m systrap disasm sysmsg               the image with the signal handler
  python3 -m systrap disasm give_back            one routine
  python3 -m systrap disasm --arch aarch64-64k --list bootstrap
"""


class Part(NamedTuple):
    """A routine or a variable, as the listing has it: ``lines`` are its instructions."""

    image: str
    name: str
    offset: int
    exported: bool
    lines: list[str]
    note: Routine | None


class MissingListingError(Exception):
    """There is no listing, or it belongs to another image; the text says why."""


def main(arguments: list[str]) -> int:
    """Carry out ``systrap disasm``; return the exit status."""
    parsed = parse(OPTIONS, arguments)
    if parsed.given("--help"):
        images = "; ".join(f"{name} ({purpose})" for name, purpose in PURPOSES.items())
        sys.stdout.write(_HELP.format(options=describe(OPTIONS), images=images))
        return 0
    if len(parsed.rest) > 1:
        raise UsageError(f"one image or routine at a time, not {' '.join(parsed.rest)}")
    arch = parsed.one("--arch", "") or blob.host_images(os.uname().machine, PAGE_SIZE)
    wanted = parsed.rest[0] if parsed.rest else ""
    try:
        parts = [part for image in PURPOSES for part in read(arch, image)]
    except (MissingListingError, blob.BlobError) as error:
        sys.stderr.write(f"systrap disasm: {error}\n")
        return 1
    chosen = [part for part in parts if wanted in ("", part.image, part.name)]
    if not chosen:
        known = [*PURPOSES, *sorted({part.name for part in parts})]
        raise UsageError(f"there is no image and no routine {wanted}{did_you_mean(wanted, known)}")
    if parsed.given("--json"):
        _write_json(arch, chosen)
    else:
        sys.stdout.write(text(arch, chosen, parsed.given("--list") or not wanted))
    return 0


def read(arch: str, image: str) -> list[Part]:
    """Return the parts of an image, in order. Raises MissingListingError, BlobError."""
    code = blob.load(image, arch)
    path = os.path.join(blob.images_folder(), "listing", f"{arch}-{image}.lst")
    try:
        with open(path, encoding="ascii") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise MissingListingError(
            f"{path}: {error.strerror}. Listings come with the source tree and the wheel; python -m blobs.build writes "
            "them where llvm-objdump is installed"
        ) from None
    if lines[0].split()[-1] != blob.digest(code.data):
        raise MissingListingError(f"{path} is the listing of another build: python -m blobs.build brings it up to date")
    parts: list[Part] = []
    for line in lines[1:]:
        if line.endswith(">:"):
            offset, _, symbol = line.partition(" ")
            symbol = symbol.strip("<>:")
            name = symbol.removeprefix(blob.EXPORT_PREFIX)
            parts.append(Part(image, name, int(offset, 16), name != symbol, [], ROUTINES[image].get(name)))
        elif line and parts:
            parts[-1].lines.append(line)
    return parts


def text(arch: str, parts: list[Part], short: bool) -> str:
    """Return parts as text; ``short``: without their instructions."""
    out: list[str] = []
    image = ""
    for part in parts:
        if part.image != image:
            image = part.image
            out += ["" if not out else "\n", f"{arch} {image}: {PURPOSES[image]}", ""]
        out += _part(arch, part, short)
    return "\n".join(out).strip("\n") + "\n"


def _part(arch: str, part: Part, short: bool) -> list[str]:
    note = part.note
    export = " (exported)" if part.exported else ""
    if short:
        return [f"  {part.offset:5x}  {part.name:28}{note.purpose if note is not None else ''}"]
    out = [f"{part.offset:x} {part.name}{export}"]
    if note is not None:
        out.append(f"  # {note.purpose}")
        if note.registers:
            out.append(f"  # registers: {note.registers}")
        if note.statements:
            out.append(f"  # keeps: {', '.join(note.statements)}")
        out.append(f"  # source: blobs/src/{note.source.replace('{arch}', arch.split('-')[0])}")
    lines = [line.rstrip() for line in part.lines]
    padding = 0
    while lines and lines[-1].split()[-1] == "int3":
        lines.pop()
        padding += 1
    return [*out, *lines, *([f"  # {padding} bytes of padding (int3)"] if padding else []), ""]


def _write_json(arch: str, parts: list[Part]) -> None:
    import json

    document = [
        {
            "arch": arch,
            "image": part.image,
            "name": part.name,
            "offset": part.offset,
            "exported": part.exported,
            "purpose": part.note.purpose if part.note is not None else None,
            "registers": part.note.registers if part.note is not None else None,
            "statements": list(part.note.statements) if part.note is not None else [],
            "instructions": [line.strip() for line in part.lines],
        }
        for part in parts
    ]
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
