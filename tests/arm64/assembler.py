"""Assembling guest code for arm64 with the compiler of the images."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from blobs.elf import sections_of


def assemble(assembly: str) -> bytes:
    """Return the machine code of assembly, whose lines are separated by semicolons."""
    return assemble_all({"code": assembly})["code"]


def assemble_all(sources: Mapping[str, str]) -> dict[str, bytes]:
    """Return the machine code of many pieces by name: one start of the compiler for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, assembly in sources.items():
            Path(folder, f"{name}.s").write_text(assembly.replace(";", "\n") + "\n", encoding="utf-8")
        files = [f"{name}.s" for name in sources]
        command = [sys.executable, "-m", "ziglang", "clang", "--target=aarch64-linux-gnu", "-c", *files]
        subprocess.run(command, cwd=folder, check=True)
        return {name: _text_of(Path(folder, f"{name}.o").read_bytes()) for name in sources}


def _text_of(elf: bytes) -> bytes:
    (text,) = [section for section in sections_of(elf) if section.name == ".text"]
    return elf[text.offset : text.offset + text.size]
