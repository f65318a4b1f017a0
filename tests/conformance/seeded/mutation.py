"""What a seeded bug is, and how the real platform gets it.

A mutant is a list of edits of the sources, of the Python modules and of the machine code's C alike. Nothing on disk is
changed: modules are compiled from their edited text as they are imported, images are built from an edited copy of blobs/src.
Each edit must find its text exactly once. When a source changes so that it does not, the mutant must be written anew: it says
so, instead of passing for found.
"""

import hashlib
import importlib.abc
import importlib.machinery
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final, NamedTuple

from blobs import build
from blobs.elf import FlatImage

ROOT: Final = Path(__file__).parents[3]

_BLOB_SOURCES: Final = "blobs/src/"
_SOURCES: Final = build.SOURCES


class StaleError(Exception):
    """An edit does not find its text: the source changed, so must the mutant."""


class Edit(NamedTuple):
    """A replacement in one source file, named from the root of the repository."""

    file: str
    ours: str
    seeded: str


class Mutant(NamedTuple):
    """A seeded bug.

    ``caught_by``: cases that fail because of it, each of them, every time (expected.py). ``control``: cases that pass all the
    same, so that a mutant which breaks everything counts as nothing. ``switches``: the driver's.
    ``chance``: whether it shows depends on timing; delays at chosen points are among its edits, and it must be found in ten
    runs out of ten. ``half``: it is run in the driver of the sentry alone.
    """

    id: str
    what: str
    edits: tuple[Edit, ...]
    caught_by: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    control: tuple[str, ...] = ("SMOKE-CALL-001",)
    chance: bool = False
    half: bool = False

    @property
    def image_edits(self) -> tuple[Edit, ...]:
        """The edits of the machine code's sources."""
        return tuple(edit for edit in self.edits if edit.file.startswith(_BLOB_SOURCES))

    @property
    def module_edits(self) -> dict[str, list[Edit]]:
        """The edits of Python modules, by module."""
        found: dict[str, list[Edit]] = {}
        for edit in self.edits:
            if not edit.file.startswith(_BLOB_SOURCES):
                found.setdefault(edit.file.removesuffix(".py").replace("/", "."), []).append(edit)
        return found


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return a source with its edits. Raises StaleError."""
    for edit in edits:
        count = text.count(edit.ours)
        if count != 1:
            raise StaleError(f"{edit.file} has {edit.ours!r} {count} times, not once: it changed, so must the mutant")
        text = text.replace(edit.ours, edit.seeded)
    return text


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads one module from its edited text; no compiled file is read or written."""

    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        text = edited(Path(self.path).read_text(encoding="utf-8"), self._edits)
        code = compile(text, self.path, "exec", dont_inherit=True)
        assert isinstance(code, CodeType)
        return code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that have edits, before anybody else does."""

    def __init__(self, edits: dict[str, list[Edit]]) -> None:
        self._edits = edits

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._edits:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._edits[fullname])
        return spec


def seed_modules(mutant: Mutant) -> None:
    """Let this process import the mutant's modules. None of them may have been imported before. Raises StaleError."""
    early = sorted(mutant.module_edits.keys() & sys.modules.keys())
    if early:
        raise StaleError(f"{early[0]} is imported already")
    sys.meta_path.insert(0, _Finder(mutant.module_edits))


# Images.


def image_name(file: str) -> str:
    """Return the image that a source of the machine code belongs to."""
    within = file.removeprefix(_BLOB_SOURCES)
    for image in build.IMAGES:
        if within in image.sources(build.ARCHES[0]):
            return image.name
    raise StaleError(f"{file} is a source of no image")


def image_file(mutant: Mutant, folder: Path) -> Path:
    """Return where the mutant's image is kept in a folder."""
    digest = hashlib.sha256(repr(mutant.image_edits).encode()).hexdigest()[:24]
    return folder / f"{image_name(mutant.image_edits[0].file)}-{digest}.bin"


def build_image(mutant: Mutant, folder: Path) -> Path:
    """Build the mutant's image, unless it is in the folder. Its manifest lies beside it: a line for each export.

    Raises StaleError; blobs.build.BuildError where the compiler is missing.
    """
    target = image_file(mutant, folder)
    if target.exists():
        return target
    build.check_compiler()
    name = image_name(mutant.image_edits[0].file)
    sources = next(image for image in build.IMAGES if image.name == name)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "src"
        shutil.copytree(_SOURCES, copy)
        for edit in mutant.image_edits:
            path = copy / edit.file.removeprefix(_BLOB_SOURCES)
            path.write_text(edited(path.read_text(), [edit]))
        flat = _compile(sources, copy, Path(scratch))
    target.with_suffix(".txt").write_text("".join(f"{name} {at}\n" for name, at in flat.exports.items()))
    part = target.with_suffix(".part")
    part.write_bytes(flat.data)
    part.rename(target)
    return target


_compiling = threading.Lock()


def _compile(image: build.ImageSources, sources: Path, scratch: Path) -> FlatImage:
    """Build an image from a copy of its sources. What a bug leaves unused is no error."""
    with _compiling:
        before = {name: getattr(build, name) for name in ("SOURCES", "COMPILE_FLAGS")}
        vars(build).update(SOURCES=sources, COMPILE_FLAGS=tuple(f for f in build.COMPILE_FLAGS if f != "-Werror"))
        try:
            return build.build_image(build.ARCHES[0], image, scratch)[0]
        finally:
            vars(build).update(before)


def seed_image(mutant: Mutant, path: Path) -> None:
    """Let this process use an image that build_image() made in the place of ours."""
    from systrap.platforms.systrap import blob

    name, load = path.name.partition("-")[0], blob.load
    lines = (line.split() for line in path.with_suffix(".txt").read_text().splitlines())
    exports = {export: int(at) for export, at in lines}
    ours = load(name)
    data = path.read_bytes()
    if data == ours.data:
        raise StaleError(f"mutant {mutant.id} is the very image that we have")
    image = blob.Image(name, data, exports, ours.parameters)

    def seeded(wanted: str, arch: str | None = None, folder: str | None = None) -> blob.Image:
        return image if wanted == name else load(wanted, arch, folder)

    vars(blob)["load"] = seeded
