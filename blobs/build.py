"""Builds the images from blobs/src: ``python -m blobs.build``, or ``--check`` to compare with what is in git.

The compiler is one exact version of clang, out of the package ziglang, so that everybody gets the same bytes. (Its hidden
subcommands ``clang`` and ``ld.lld`` are used: ``zig cc`` accepts -mgeneral-regs-only and ignores it.) Using systrap never
builds anything; this runs when a source changes, and in a test that rebuilds and compares.

Where llvm-objdump is installed, ``blobs/listing/`` is brought up to date too: the images as assembly, for readers. A listing
begins with the hash of its image, by which a test finds one that is out of date.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from blobs.elf import IMAGE_SECTION, ElfError, FlatImage, flatten

FORMAT: Final = 1
ZIG_VERSION: Final = "0.15.2"

HERE: Final = Path(__file__).resolve().parent
SOURCES: Final = HERE / "src"

COMPILE_FLAGS: Final = (
    *("-nostdinc", "-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib"),
    *("-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-fno-common", "-fno-ident"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-jump-tables", "-fomit-frame-pointer"),
    *("-ffunction-sections", "-fno-strict-aliasing", "-fno-delete-null-pointer-checks", "-mgeneral-regs-only"),
)
LINK_FLAGS: Final = (
    *("-pie", "--no-dynamic-linker", "-z", "text", "--no-undefined", "--build-id=none"),
    *("--orphan-handling=error", "-e", "0", "--fatal-warnings"),
)


class Arch(NamedTuple):
    """One CPU, and one page size where it has several: ``name`` is what images and manifests are called by.

    ``parameters`` become -D options. ``own`` are each image's sources in the CPU's own folder.
    """

    name: str
    cpu: str
    flags: tuple[str, ...]
    emulation: str
    parameters: dict[str, int]
    own: dict[str, tuple[str, ...]]


class ImageSources(NamedTuple):
    """One image: its sources for every CPU. Those of the CPU come behind them, or before those in ``last``."""

    name: str
    shared: tuple[str, ...]
    last: tuple[str, ...] = ()

    def sources(self, arch: Arch) -> tuple[str, ...]:
        """Return the sources for a CPU, in the order in which they are linked."""
        return (*self.shared, *(f"{arch.cpu}/{name}" for name in arch.own.get(self.name, ())), *self.last)


def _arm64(page: int, area_pages: int) -> Arch:
    """Return the build for one of the three page sizes of arm64 kernels (10-stub §1.3 for the size of a thread area)."""
    return Arch(
        f"aarch64-{page // 1024}k",
        "aarch64",
        ("-mno-outline-atomics", "-mbranch-protection=none"),
        "aarch64elf",
        {"PAGE_SIZE": page, "THREAD_AREA_SIZE": area_pages * page},
        {
            "bootstrap": ("bootstrap.S",),
            "sysmsg": ("entries.S", "sighandler.c", "switch.c"),
            "sentry": ("frequency.c",),
        },
    )


ARCHES: Final = (
    Arch(
        "x86_64",
        "x86_64",
        ("-mno-red-zone", "-fcf-protection=none"),
        "elf_x86_64",
        {"PAGE_SIZE": 4096, "THREAD_AREA_SIZE": 8 * 4096},
        {
            "bootstrap": ("bootstrap.S",),
            "sysmsg": ("signal.S", "syshandler.S", "syshandler.c", "sighandler.c", "switch.c"),
            "sentry": ("cpuid.c",),
        },
    ),
    _arm64(4096, 8),
    _arm64(16384, 8),
    _arm64(65536, 5),
)

IMAGES: Final = (
    ImageSources("bootstrap", ()),
    ImageSources("sysmsg", ("context_queue.c", "give_back.c", "spinning_queue.c", "panic.c"), ("config.S",)),
    ImageSources(
        "sentry",
        ("submit.c", "kick.c", "next_ready.c", "atomics.c", "dispatch_config.S", "clone_source.c"),
    ),
)


LADDER_FLAGS: Final = ("-fno-pic",)
LADDER_LINK_FLAGS: Final = (
    *("-static", "--build-id=none", "-e", "_start", "-s", "-z", "noseparate-code", "-z", "norelro", "-z", "nognustack"),
    *("--orphan-handling=warn", "--fatal-warnings"),
)
"""The guest of ``systrap bench`` is an ordinary static program, not an image: one for each CPU. (Of two
options about the kind of code, the later one counts.)"""


class BuildError(Exception):
    """The build cannot go on; the text is for the developer."""


def check_compiler() -> None:
    """Raise BuildError unless exactly the pinned compiler is there."""
    advice = f"run: {sys.executable} -m pip install ziglang=={ZIG_VERSION}"
    try:
        version = _zig("version").strip()
    except BuildError as error:
        raise BuildError(f"the images need the package ziglang, which does not run ({error}); {advice}") from error
    if version != ZIG_VERSION:
        raise BuildError(f"ziglang is {version}; the images are built with {ZIG_VERSION} and no other; {advice}")


def _zig(*arguments: str) -> str:
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SOURCES)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(arguments)}\n{done.stderr.strip()}")
    return done.stdout


def compile_flags(arch: Arch) -> list[str]:
    """Return the compiler's options for this CPU, without paths."""
    parameters = [f"-D{name}={value}" for name, value in sorted(arch.parameters.items())]
    return [f"--target={arch.cpu}-linux-gnu", *COMPILE_FLAGS, *arch.flags, *parameters]


def build_image(arch: Arch, image: ImageSources, scratch: Path) -> tuple[FlatImage, Path]:
    """Compile and link one image; answers it flat, and the linked file."""
    objects: list[str] = []
    for source in image.sources(arch):
        target = scratch / f"{arch.name}-{image.name}-{source.replace('/', '-')}.o"
        _zig("clang", *compile_flags(arch), "-I.", f"-I{arch.cpu}", "-c", source, "-o", str(target))
        objects.append(str(target))
    linked = scratch / f"{arch.name}-{image.name}.elf"
    _zig("ld.lld", "-m", arch.emulation, *LINK_FLAGS, "-T", "image.ld", *objects, "-o", str(linked))
    try:
        return flatten(linked.read_bytes()), linked
    except ElfError as error:
        raise BuildError(f"{arch.name} {image.name}: {error}") from error


def build_ladder(arch: Arch, scratch: Path) -> bytes:
    """Compile and link the benchmark's guest for this CPU; answers the ELF file."""
    object_file, program = scratch / f"{arch.cpu}-ladder.o", scratch / f"{arch.cpu}-ladder.elf"
    _zig("clang", *compile_flags(arch), *LADDER_FLAGS, "-I.", f"-I{arch.cpu}", "-c", "ladder.c", "-o", str(object_file))
    _zig("ld.lld", "-m", arch.emulation, *LADDER_LINK_FLAGS, str(object_file), "-o", str(program))
    return program.read_bytes()


def image_entry(file: str, flat: FlatImage) -> dict[str, object]:
    """Return what manifest.json says of one image."""
    return {
        "file": file,
        "size": len(flat.data),
        "sha256": sha256(flat.data).hexdigest(),
        "exports": flat.exports,
    }


def runtime_manifest(arch: Arch, image: ImageSources, file: str, flat: FlatImage) -> str:
    """Return what manifest.txt says of one image: what loading needs, for a start-up without the json module."""
    lines = [f"image {arch.name} {image.name} {file} {len(flat.data)} {sha256(flat.data).hexdigest()}"]
    lines += [f"parameter {name} {value}" for name, value in sorted(arch.parameters.items())]
    lines += [f"export {name} {offset}" for name, offset in flat.exports.items()]
    return "\n".join(lines) + "\n"


def listing(file: str, flat: FlatImage, linked: Path) -> str | None:
    """Return the image as assembly, or None where there is no disassembler."""
    tool = shutil.which("llvm-objdump")
    if tool is None:
        return None
    command = [tool, "--disassemble", "--no-show-raw-insn", f"--section={IMAGE_SECTION}", str(linked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    body = done.stdout.partition(f"section {IMAGE_SECTION}:\n")[2]
    lines = [line.expandtabs(8).rstrip() for line in body.splitlines()]
    return f"{file} {sha256(flat.data).hexdigest()}\n" + "\n".join(lines) + "\n"


def build(output: Path) -> list[str]:
    """Build everything into ``output``; answers the names of the files that must be the same everywhere."""
    check_compiler()
    arches: dict[str, dict[str, object]] = {}
    runtime = f"format {FORMAT}\n"
    names: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for arch in ARCHES:
            images: dict[str, dict[str, object]] = {}
            for image in IMAGES:
                flat, linked = build_image(arch, image, Path(folder))
                name = f"{arch.name}-{image.name}.bin"
                (output / name).write_bytes(flat.data)
                text = listing(name, flat, linked)
                if text is not None:
                    (output / "listing").mkdir(exist_ok=True)
                    (output / "listing" / f"{arch.name}-{image.name}.lst").write_text(text)
                images[image.name] = image_entry(name, flat)
                runtime += runtime_manifest(arch, image, name, flat)
                names.append(name)
            ladder = f"{arch.cpu}-ladder.elf"
            if ladder not in names:
                (output / ladder).write_bytes(build_ladder(arch, Path(folder)))
                names.append(ladder)
            arches[arch.name] = {
                "compile": compile_flags(arch),
                "link": list(LINK_FLAGS),
                "parameters": arch.parameters,
                "images": images,
            }
    manifest = {"format": FORMAT, "compiler": f"ziglang {ZIG_VERSION}", "architectures": arches}
    (output / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    (output / "manifest.txt").write_text(runtime)
    return [*names, "manifest.json", "manifest.txt"]


def check() -> list[str]:
    """Build into a temporary folder; answers what differs from the files here, one line each."""
    differences: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in build(Path(folder)):
            here = HERE / name
            if not here.exists():
                differences.append(f"{name} is missing")
            elif here.read_bytes() != (Path(folder) / name).read_bytes():
                differences.append(f"{name} is not what the sources give")
    return differences


def main(arguments: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m blobs.build", description="Build the images from blobs/src.")
    parser.add_argument("--check", action="store_true", help="compare with the files here instead of writing them")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            differences = check()
            for line in differences:
                print(f"{line}: run python -m blobs.build", file=sys.stderr)
            return 1 if differences else 0
        print("\n".join(build(HERE)))
    except BuildError as error:
        print(f"blobs.build: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
