"""Taking a flat image out of a linked ELF file, and refusing one that would not work as such.

Only what the build needs of ELF64 little-endian: section headers, the symbol table, program headers.
"""

from struct import Struct
from typing import Final, NamedTuple

IMAGE_SECTION: Final = ".blob"
EXPORT_PREFIX: Final = "__export_"

_HEADER: Final = Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = Struct("<IIQQQQIIQQ")
_SYMBOL: Final = Struct("<IBBHQQ")

_SHT_SYMTAB: Final = 2
_SHT_NOBITS: Final = 8
_SHF_WRITE: Final = 1
_SHF_ALLOC: Final = 2
_SHN_UNDEF: Final = 0

# Allocated sections that the linker adds to a position independent file by itself. They are no part of the image, and
# nothing in the image refers to them.
_LINKER_SECTIONS: Final = frozenset({".dynamic", ".dynsym", ".dynstr", ".hash", ".gnu.hash"})


class ElfError(Exception):
    """The file is not what an image can be made of; the text says why."""


class Section(NamedTuple):
    """One section header, with its name resolved."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class FlatImage(NamedTuple):
    """The bytes of the image section, and the offset of each export by its name without the prefix."""

    data: bytes
    exports: dict[str, int]


def _name(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode("ascii")


def sections_of(elf: bytes) -> list[Section]:
    """Return the section headers of a file. Raises ElfError."""
    header = _HEADER.unpack_from(elf)
    if header[0][:6] != b"\x7fELF\x02\x01":
        raise ElfError("not a 64-bit little-endian ELF file")
    table, entry_size, count, names_index = header[6], header[11], header[12], header[13]
    raw = [_SECTION.unpack_from(elf, table + i * entry_size) for i in range(count)]
    names_offset, names_size = raw[names_index][4], raw[names_index][5]
    names = elf[names_offset : names_offset + names_size]
    return [Section(_name(names, s[0]), s[1], s[2], s[3], s[4], s[5], s[6]) for s in raw]


def _check_sections(sections: list[Section]) -> Section:
    """Return the image section; raise ElfError if anything else would have to be in memory with it."""
    image = [s for s in sections if s.name == IMAGE_SECTION]
    if len(image) != 1:
        raise ElfError(f"{len(image)} sections {IMAGE_SECTION}")
    if image[0].address != 0 or image[0].kind == _SHT_NOBITS or image[0].flags & _SHF_WRITE:
        raise ElfError(f"{IMAGE_SECTION} is not a read-only section with contents, linked at 0")
    for section in sections:
        allocated = section.flags & _SHF_ALLOC and section.size
        if allocated and section is not image[0] and section.name not in _LINKER_SECTIONS:
            raise ElfError(f"section {section.name} ({section.size} bytes) is needed outside the image")
        if section.name.startswith((".rela", ".rel.")) and section.size:
            raise ElfError(f"relocations are left in {section.name}")
    return image[0]


def _exports(elf: bytes, sections: list[Section], image: Section) -> dict[str, int]:
    exports: dict[str, int] = {}
    for table in (s for s in sections if s.kind == _SHT_SYMTAB):
        strings = sections[table.link]
        names = elf[strings.offset : strings.offset + strings.size]
        for offset in range(table.offset, table.offset + table.size, _SYMBOL.size):
            name_offset, _, _, section_index, value, _ = _SYMBOL.unpack_from(elf, offset)
            name = _name(names, name_offset)
            if name and section_index == _SHN_UNDEF:
                raise ElfError(f"{name} is undefined")
            if name.startswith(EXPORT_PREFIX):
                if not 0 <= value < image.size:
                    raise ElfError(f"{name} is not in the image")
                exports[name.removeprefix(EXPORT_PREFIX)] = value
    return dict(sorted(exports.items()))


def flatten(elf: bytes) -> FlatImage:
    """Return the image in a linked file. Raises ElfError if it depends on anything but itself."""
    sections = sections_of(elf)
    image = _check_sections(sections)
    data = elf[image.offset : image.offset + image.size]
    return FlatImage(data, _exports(elf, sections, image))
