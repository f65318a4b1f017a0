"""Stub images of other makes: the tests' own small one, and ours without its ready ring."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from blobs import build as images
from blobs.elf import EXPORT_PREFIX, flatten
from systrap.platforms.systrap import blob

HERE: Final = Path(__file__).parent

_FLAGS: Final = (
    *("--target=x86_64-linux-gnu", "-nostdinc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding"),
    *("-fPIC", "-fno-stack-protector", "-mgeneral-regs-only", "-mno-red-zone", "-fcf-protection=none", "-fno-builtin"),
    *("-fno-asynchronous-unwind-tables", "-fno-strict-aliasing"),
)
_LINK_FLAGS: Final = ("-m", "elf_x86_64", "-pie", "--no-dynamic-linker", "-z", "text", "--no-undefined", "-e", "0")


class Files(NamedTuple):
    """An image and its manifest, as the options of ``run`` want them."""

    blob: Path
    manifest: Path

    @property
    def options(self) -> list[str]:
        """The command line's options."""
        return ["--stub-blob", str(self.blob), "--stub-manifest", str(self.manifest)]


def small_image(folder: Path) -> Files:
    """Build stub.c and entry.S. Skips the test where the compiler is not there."""
    try:
        images.check_compiler()
    except images.BuildError as error:
        pytest.skip(str(error))
    objects = []
    for source in ("entry.S", "stub.c"):
        target = folder / f"{source}.o"
        _zig("clang", *_FLAGS, "-c", source, "-o", str(target))
        objects.append(str(target))
    linked = folder / "stub.elf"
    _zig("ld.lld", *_LINK_FLAGS, "-T", "image.ld", *objects, "-o", str(linked))
    flat = flatten(linked.read_bytes())
    return _write(folder, flat.data, flat.exports)


def our_image_without_ring(folder: Path) -> Files:
    """Return our own image with a manifest that names upstream's exports only, as if it came from there."""
    image = blob.load("sysmsg")
    exports = {name: offset for name, offset in image.exports.items() if name != "ready_ring"}
    return _write(folder, image.data, exports)


def _write(folder: Path, data: bytes, exports: dict[str, int]) -> Files:
    files = Files(folder / "image.bin", folder / "image.json")
    files.blob.write_bytes(data)
    files.manifest.write_text(json.dumps({EXPORT_PREFIX + name: offset for name, offset in exports.items()}))
    return files


def _zig(*arguments: str) -> None:
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
