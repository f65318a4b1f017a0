"""Assembling guest code for arm64 with the compiler of the images."""

import subprocess
import sys
import tempfile
from pathlib import Path

from blobs.elf import sections_of


def assemble(assembly: str) -> bytes:
    """Return the machine code of assembly, whose lines are separated by semicolons."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "code.o"
        command = [
            sys.executable,
            "-m",
            "ziglang",
            "clang",
            "--target=aarch64-linux-gnu",
            "-c",
            "-xassembler",
            "-",
            "-o",
        ]
        subprocess.run([*command, str(target)], input=assembly.replace(";", "\n") + "\n", text=True, check=True)
        elf = target.read_bytes()
    (text,) = [section for section in sections_of(elf) if section.name == ".text"]
    return elf[text.offset : text.offset + text.size]
