"""Seeded bugs of memory: mappings, protection, and what host and guest see of each other."""

from typing import Final

from tests.conformance.seeded.mutation import Edit, Mutant
from tests.conformance.seeded.platform_bugs import SPACE

MEMORY: Final = "systrap/cli/driver_memory.py"
FILE: Final = "systrap/memory.py"


def _bug(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    return Mutant(identity, what, (Edit(file, ours, seeded),))


_MMAP: Final = '    return Call("mmap", (request.addr, request.length, prot, flags, fd, request.start))\n'
_UNMAP: Final = '        return Call("munmap", (request.addr, request.length))\n'

MUTANTS: Final = (
    _bug(
        "map-executable", "what can be read can be executed", SPACE, _MMAP, "    prot |= 4 if prot & 1 else 0\n" + _MMAP
    ),
    _bug(
        "map-writable",
        "what can be executed can be written",
        SPACE,
        _MMAP,
        "    prot |= 2 if prot & 4 else 0\n" + _MMAP,
    ),
    _bug(
        "map-not-writable",
        "what is mapped rwx cannot be written",
        SPACE,
        _MMAP,
        "    prot &= ~2 if prot == 7 else 7\n" + _MMAP,
    ),
    _bug(
        "map-private",
        "mappings are private copies",
        SPACE,
        "    flags = mem.MAP_SHARED | mem.MAP_FIXED",
        "    flags = mem.MAP_PRIVATE | mem.MAP_FIXED",
    ),
    _bug(
        "map-offset",
        "an object is mapped one page too far, unless from its start",
        SPACE,
        _MMAP,
        _MMAP.replace(
            "request.start)", "request.start + (4096 if request.start > 4096 and request.start < 1 << 20 else 0))"
        ),
    ),
    _bug(
        "map-offset-2g",
        "offsets of mappings are cut to 28 bits",
        SPACE,
        _MMAP,
        _MMAP.replace("request.start)", "request.start & 0xFFFFFFF)"),
    ),
    _bug(
        "map-short",
        "the last page of a mapping of many is missing",
        SPACE,
        _MMAP,
        _MMAP.replace("request.length,", "request.length - 4096 * (request.length > 1 << 15),"),
    ),
    _bug(
        "map-long",
        "a mapping is a page too long",
        SPACE,
        _MMAP,
        _MMAP.replace("request.length,", "request.length + 4096,"),
    ),
    _bug(
        "unmap-ignored",
        "unmapping is accepted, and nothing happens",
        SPACE,
        _UNMAP,
        '        return Call("munmap", (request.addr & ~0xFFF | 0x7FF000000000, 4096))\n',
    ),
    _bug(
        "unmap-first-page",
        "unmapping takes the first page only",
        SPACE,
        _UNMAP,
        '        return Call("munmap", (request.addr, 4096))\n',
    ),
    _bug(
        "unmap-too-much",
        "unmapping takes a page too much",
        SPACE,
        _UNMAP,
        '        return Call("munmap", (request.addr, min(request.length + 4096, 1 << 46)))\n',
    ),
    _bug(
        "protect-ignored",
        "protect is accepted, and nothing happens",
        MEMORY,
        ("        self._forget(addr, end)\n" "        self._show(parts)\n"),
        "        self._forget(addr, end)\n",
    ),
    _bug(
        "protect-first",
        "protect over several mappings changes the first",
        MEMORY,
        "        self._show(parts)\n",
        "        self._show(parts[:1])\n",
    ),
    _bug(
        "protect-gap",
        "protect over a gap is accepted",
        MEMORY,
        "        if sum(part.end - part.start for part in parts) != length:\n",
        "        if not parts:\n",
    ),
    _bug(
        "memory-dirty",
        "memory that is given back is not cleared",
        FILE,
        ("        self.clear(start, length)\n" "        self.used -= length\n"),
        "        self.used -= length\n",
    ),
    _bug(
        "cut-offset",
        "the rest of a mapping that was split shows the wrong pages",
        MEMORY,
        "offset=self.offset + start - self.start)",
        "offset=self.offset)",
    ),
    _bug(
        "forget-none",
        "what was replaced is still read by the host",
        MEMORY,
        ("        self._forget(segment.start, segment.end)\n" "        self._show([segment])\n"),
        "        self._show([segment])\n",
    ),
    _bug(
        "read-first-segment",
        "a transfer over two mappings stops at the first",
        MEMORY,
        ("            addr = part.end\n" "        return parts"),
        "            break\n        return parts",
    ),
    _bug(
        "write-off-by-one",
        "the host's writes over two mappings put the second part one byte too far",
        MEMORY,
        "            done += size\n",
        "            done += size - 1 if size < len(data) else size\n",
    ),
    _bug(
        "object-size",
        "an object ends at half its size",
        "systrap/cli/driver_ops.py",
        "_OBJECT_SIZE: Final = 1 << 30",
        "_OBJECT_SIZE: Final = 1 << 29",
    ),
    _bug(
        "object-by-space",
        "objects of the same name are different ones",
        "systrap/cli/driver_ops.py",
        "        if name not in self._objects:\n",
        ("        name = f'{name}{len(self._objects)}'\n" "        if name not in self._objects:\n"),
    ),
)
