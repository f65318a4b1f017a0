"""ELF64 images, read with suspicion: headers to segments, or an error that says what is wrong."""

import errno
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from systrap import arch
from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError

MAGIC: Final = b"\x7fELF"
HEADER_SIZE: Final = 64
SEGMENT_HEADER_SIZE: Final = 56
PATH_MAX: Final = 4096

_ELFCLASS64: Final = 2
_ELFDATA2LSB: Final = 1
_ET_EXEC: Final = 2
_ET_DYN: Final = 3
_PT_LOAD: Final = 1
_PT_INTERP: Final = 3
_PT_GNU_STACK: Final = 0x6474E551
_PF_EXEC: Final = 1
_PF_WRITE: Final = 2
_PF_READ: Final = 4
_MAX_HEADERS_SIZE: Final = 65536

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")

_MACHINES: Final = {
    2: "SPARC", 3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S390", 40: "ARM", 42: "SuperH", 43: "SPARC64",
    50: "IA-64", 62: "x86-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip

ReadAt = Callable[[int, int], bytes]
"""Read ``count`` bytes of the file at ``offset``: ``read(offset, count)``; short at the end."""


class ImageError(SyscallError):
    """A program cannot be started: ``errno`` for the caller of execve, ``reason`` for people."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number)
        self.reason = reason


class Segment(NamedTuple):
    """A part of the file to load: ``memory_size`` bytes at ``address``, the first ``file_size`` from ``offset``."""

    address: int
    memory_size: int
    offset: int
    file_size: int
    prot: int
    align: int


class Image(NamedTuple):
    """What the headers say. ``headers_address`` is where the program headers will be, relative like all addresses."""

    fixed: bool
    entry: int
    segments: tuple[Segment, ...]
    interpreter: str | None
    executable_stack: bool
    headers_address: int
    headers_count: int
    low: int
    high: int
    align: int


def parse(read: ReadAt, max_address: int) -> Image:
    """Read the headers of an image. ``max_address``: the first address that no part of it may touch. Raises ImageError."""
    header = read(0, HEADER_SIZE)
    if header[:4] != MAGIC:
        raise ImageError(errno.ENOEXEC, "not an ELF file")
    if len(header) < HEADER_SIZE:
        raise ImageError(errno.ENOEXEC, "the ELF header is cut off")
    ident, kind, machine, _, entry, table, _, _, _, entry_size, count, *_ = _HEADER.unpack(header)
    _check_machine(ident, machine)
    if kind not in (_ET_EXEC, _ET_DYN):
        raise ImageError(errno.ENOEXEC, f"not an executable (ELF type {kind})")
    if entry_size != SEGMENT_HEADER_SIZE or not 0 < count * entry_size <= _MAX_HEADERS_SIZE:
        raise ImageError(errno.ENOEXEC, f"bad program headers ({count} of {entry_size} bytes)")
    if table >= 1 << 62:
        raise ImageError(errno.ENOEXEC, "the program headers lie outside the file")
    data = read(table, count * entry_size)
    if len(data) < count * entry_size:
        raise ImageError(errno.ENOEXEC, "the program headers are cut off")
    return _collect(read, kind == _ET_EXEC, entry, table, count, data, max_address)


def _check_machine(ident: bytes, machine: int) -> None:
    if ident[4] != _ELFCLASS64:
        raise ImageError(errno.ENOEXEC, "a 32-bit program: only 64-bit ones run here")
    if machine != arch.current().ELF_MACHINE or ident[5] != _ELFDATA2LSB:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise ImageError(errno.ENOEXEC, f"a program for {name}, this is {arch.current().NAME}")


def _collect(read: ReadAt, fixed: bool, entry: int, table: int, count: int, data: bytes, max_address: int) -> Image:
    """Gather what the program headers say."""
    segments: list[Segment] = []
    interpreter: str | None = None
    executable_stack = False
    headers_address = 0
    align = PAGE_SIZE
    for kind, flags, offset, address, _, file_size, memory_size, alignment in _SEGMENT.iter_unpack(data):
        if kind == _PT_LOAD:
            segment = Segment(address, memory_size, offset, file_size, _prot(flags), alignment)
            _check_segment(segment, max_address)
            if memory_size:
                segments.append(segment)
            if offset <= table < offset + file_size:
                headers_address = address + table - offset
            if alignment & (alignment - 1) == 0:
                align = max(align, alignment)
        elif kind == _PT_INTERP and interpreter is None:
            interpreter = _read_interpreter(read, offset, file_size)
        elif kind == _PT_GNU_STACK:
            executable_stack = flags & _PF_EXEC != 0
    if not segments:
        raise ImageError(errno.ENOEXEC, "nothing to load")
    low = min(s.address for s in segments) & ~(PAGE_SIZE - 1)
    high = max(s.address + s.memory_size for s in segments)
    if high - low > max_address or align > max_address:
        raise ImageError(errno.ENOMEM, "it does not fit into the address space")
    return Image(
        fixed, entry, tuple(segments), interpreter, executable_stack, headers_address, count, low, high, align
    )  # fmt: skip


def _prot(flags: int) -> int:
    return (1 if flags & _PF_READ else 0) | (2 if flags & _PF_WRITE else 0) | (4 if flags & _PF_EXEC else 0)


def _check_segment(segment: Segment, max_address: int) -> None:
    if segment.file_size > segment.memory_size:
        raise ImageError(errno.EINVAL, "a segment has more bytes in the file than in memory")
    if segment.address > max_address or segment.memory_size > max_address - segment.address:
        raise ImageError(errno.ENOMEM, "a segment lies outside the address space")
    if segment.offset + segment.file_size >= 1 << 62:
        raise ImageError(errno.EINVAL, "a segment lies outside the file")
    if (segment.address - segment.offset) % PAGE_SIZE:
        raise ImageError(errno.EINVAL, "a segment's address and offset do not fit together")


def _read_interpreter(read: ReadAt, offset: int, size: int) -> str:
    if not 2 <= size <= PATH_MAX or offset >= 1 << 62:
        raise ImageError(errno.ENOEXEC, "the interpreter's name has a strange size")
    name = read(offset, size)
    if len(name) < size or name[-1] != 0:
        raise ImageError(errno.ENOEXEC, "the interpreter's name is cut off")
    return name[: name.index(0)].decode("utf-8", "surrogateescape")
