"""The function an address of an ELF file lies in, for crash reports. Files are the guest's: nothing in them is believed."""

import struct
from typing import Final

from systrap.sentry.elf import HEADER_SIZE, MAGIC, SEGMENT_HEADER_SIZE, ReadAt
from systrap.sentry.errors import SyscallError

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SHT_SYMTAB: Final = 2
_SHT_DYNSYM: Final = 11
_PT_LOAD: Final = 1
_CODE_TYPES: Final = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_MOST: Final = 64 << 20


def nearest(read: ReadAt, offset: int) -> str:
    """Return "name+0x12" for the code at a file offset, "" when nothing is known."""
    try:
        address = _address_of(read, offset)
        if address is None:
            return ""
        for kind in (_SHT_SYMTAB, _SHT_DYNSYM):
            found = _search(read, kind, address)
            if found:
                return found
    except (SyscallError, OSError, struct.error, ValueError, OverflowError):
        return ""
    return ""


def _address_of(read: ReadAt, offset: int) -> int | None:
    """Turn a file offset into an address as the file counts them."""
    header = read(0, HEADER_SIZE)
    if len(header) < HEADER_SIZE or header[:4] != MAGIC:
        return None
    table, count = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
    data = read(table, count * SEGMENT_HEADER_SIZE)
    for kind, _, start, address, _, size, _, _ in _SEGMENT.iter_unpack(data[: len(data) // 56 * 56]):
        if kind == _PT_LOAD and start <= offset < start + size:
            return int(address + offset - start)
    return None


def _search(read: ReadAt, wanted: int, address: int) -> str:
    """Search the symbol tables of one kind for the last function that begins at or before ``address``."""
    header = read(0, HEADER_SIZE)
    table, size, count = struct.unpack_from("<Q", header, 40)[0], *struct.unpack_from("<HH", header, 58)
    if size != _SECTION.size:
        return ""
    data = read(table, count * size)
    sections = list(_SECTION.iter_unpack(data[: len(data) // size * size]))
    for section in sections:
        if section[1] != wanted or section[5] > _MOST or section[6] >= len(sections):
            continue
        symbols = read(section[4], section[5])
        best, name, length = -1, 0, 0
        for at, info, _, shndx, value, extent in _SYMBOL.iter_unpack(symbols[: len(symbols) // 24 * 24]):
            if info & 15 in _CODE_TYPES and shndx and best < value <= address:
                best, name, length = value, at, extent
        if best >= 0 and (not length or address < best + length):
            text = read(sections[section[6]][4] + name, 256).partition(b"\0")[0]
            return f"{text.decode('ascii', 'replace')}+{address - best:#x}"
    return ""
