"""``python3 -m conformance.assemble``: check that the code of case files is what their assembly says, or write it.

The hex is what a driver gets; the assembly beside it is for people. GNU as is asked, else clang; a machine without either
cannot check, and says so. ``--fill`` puts the code into the files, a line of hex for each line of assembly.
"""

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from conformance.case import CASES

_FIELD: Final = re.compile(r'^code = (""".*?"""|"[^"]*")$', re.MULTILINE | re.DOTALL)
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_SYMTAB: Final = 2
_TOLD: Final = 500
_WIDTH: Final = 96


class AssemblerError(Exception):
    """There is no assembler, or it does not take the source."""


class Assembled(NamedTuple):
    """Machine code, and where the labels are in it."""

    code: bytes
    labels: dict[str, int]


def assembler() -> list[str] | None:
    """Return the command line of what assembles on this machine, without the files; None when nothing does."""
    if shutil.which("as") is not None:
        return ["as", "--64"]
    if shutil.which("clang") is not None:
        return ["clang", "-c", "-x", "assembler", "--target=x86_64-linux-gnu"]
    return None


def assemble(source: str) -> Assembled:
    """Assemble Intel syntax. Raises AssemblerError."""
    command = assembler()
    if command is None:
        raise AssemblerError("neither as nor clang is here")
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder, "case.s"), Path(folder, "case.o")
        path.write_text(f".intel_syntax noprefix\n.text\n{_lines(source)}", encoding="utf-8")
        run = subprocess.run([*command, str(path), "-o", str(made)], capture_output=True, text=True, check=False)
        if run.returncode:
            raise AssemblerError(run.stderr.strip()[:_TOLD])
        return _read_object(made.read_bytes())


def _lines(source: str) -> str:
    return "".join(f"{line.strip()}\n" for line in source.replace(";", "\n").splitlines())


def _read_object(data: bytes) -> Assembled:
    """Return the text section of an ELF object, and the symbols in it. Raises AssemblerError when it wants relocating."""
    (table,) = struct.unpack_from("<Q", data, 40)
    count, names = struct.unpack_from("<HH", data, 60)
    sections = [_SECTION.unpack_from(data, table + i * _SECTION.size) for i in range(count)]
    by_name = {_text(data, sections[names][4] + section[0]): (i, section) for i, section in enumerate(sections)}
    index, text = by_name[".text"]
    if any(name.startswith((".rela.text", ".rel.text")) for name in by_name):
        raise AssemblerError("it names something that is not in it")
    labels: dict[str, int] = {}
    for section in sections:
        if section[1] == _SYMTAB:
            strings = sections[section[6]][4]
            for at in range(section[4], section[4] + section[5], _SYMBOL.size):
                name, _info, _other, where, value, _size = _SYMBOL.unpack_from(data, at)
                if where == index and name:
                    labels[_text(data, strings + name)] = value
    return Assembled(data[text[4] : text[4] + text[5]], labels)


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(0, at)].decode()


def hex_lines(source: str) -> str:
    """Return code in hex, a line for each line of its assembly that makes any. Raises AssemblerError."""
    lines = _units(_lines(source).splitlines())
    marked = "".join(f"line_{i}:\n{line}\n" for i, line in enumerate(lines))
    made = assemble(f"{marked}line_{len(lines)}:\n")
    places = [made.labels[f"line_{i}"] for i in range(len(lines) + 1)]
    pieces = [made.code[low:high].hex() for low, high in pairwise(places)]
    return "\n".join(piece[at : at + _WIDTH] for piece in pieces for at in range(0, len(piece), _WIDTH))


def _units(lines: Sequence[str]) -> list[str]:
    """Return the lines, with each .rept and what it repeats as one."""
    units: list[str] = []
    inside = False
    for line in lines:
        if inside:
            units[-1] += f"\n{line}"
        else:
            units.append(line)
        inside = line.startswith(".rept") or (inside and not line.startswith(".endr"))
    return units


def _check(path: Path, fill: bool) -> bool:
    """Compare a file's code with its assembly; with ``fill``, make it so. Raises AssemblerError."""
    text = path.read_text(encoding="utf-8")
    table = tomllib.loads(text)
    if assemble(table["asm"]).code == bytes.fromhex(table["code"]):
        return True
    if fill:
        code = f'code = """\n{hex_lines(table["asm"])}\n"""'
        path.write_text(_FIELD.sub(code, text, count=1), encoding="utf-8")
        sys.stdout.write(f"{path.name}: written\n")
    else:
        sys.stdout.write(f"{path.name}: the code is not what the assembly says\n")
    return fill


def main(arguments: Sequence[str]) -> int:
    """Carry out a command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m conformance.assemble", description=__doc__)
    parser.add_argument("--fill", action="store_true", help="write the code of files where it differs")
    parser.add_argument("files", nargs="*", type=Path, help="case files; without any, all for x86-64")
    options = parser.parse_args(arguments)
    files: list[Path] = options.files or sorted((CASES / "x86_64").glob("*.toml"))
    try:
        good = [_check(path, bool(options.fill)) for path in files]
    except AssemblerError as error:
        sys.stderr.write(f"conformance.assemble: {error}\n")
        return 2
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
