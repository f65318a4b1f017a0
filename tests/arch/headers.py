"""The kernel's own headers, asked by the compiler of the images: what C says of a structure or a constant of an architecture."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from blobs import build
from blobs.elf import sections_of

FOLDERS = {"x86_64": "x86-linux-any", "aarch64": "aarch64-linux-any"}


def _folders(machine: str) -> list[Path]:
    """Return where the headers are. Skips the test where there is no compiler that brings them."""
    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    spec = importlib.util.find_spec("ziglang")
    assert spec is not None
    assert spec.origin is not None
    base = Path(spec.origin).parent / "lib/libc/include"
    return [base / FOLDERS[machine], base / "any-linux-any"]


def header(machine: str, name: str) -> str:
    """Return the text of a header of the kernel's."""
    return (_folders(machine)[0] / name).read_text(encoding="utf-8")


def evaluate(machine: str, includes: Sequence[str], expressions: Sequence[str]) -> list[int]:
    """Return the values of constant C expressions on ``machine``."""
    lines = ["typedef unsigned long size_t;", "#define offsetof __builtin_offsetof"]
    lines += [f"#include <{name}>" for name in includes]
    words = ", ".join(f"(unsigned long)({expression})" for expression in expressions)
    lines.append(f'const unsigned long values[] __attribute__((section(".values"), used)) = {{ {words} }};')
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "values.o"
        paths = [f"-I{path}" for path in _folders(machine)]
        command = [sys.executable, "-m", "ziglang", "clang", f"--target={machine}-linux-gnu", "-nostdinc", *paths]
        subprocess.run([*command, "-c", "-xc", "-", "-o", target], input="\n".join(lines) + "\n", text=True, check=True)
        elf = target.read_bytes()
    (section,) = [found for found in sections_of(elf) if found.name == ".values"]
    return list(memoryview(elf[section.offset : section.offset + section.size]).cast("Q"))
