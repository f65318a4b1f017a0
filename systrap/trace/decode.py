"""Decoders of plain arguments: numbers, names, flags, strings, buffers, paths, descriptors, arrays."""

import struct
from collections.abc import Callable, Iterable
from typing import Final

from systrap.trace.call import Call, Decoder, UnreadableError, address, signed32, signed64
from systrap.trace.constants import AT_FDCWD
from systrap.trace.names import Flags, Names

PATH_MAX: Final = 4096
RESULT: Final = -1
"""In place of an argument's position: the call's result."""
_MOST_BYTES: Final = 1 << 20
_U32: Final = 0xFFFFFFFF
_ESCAPES: Final = {9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_PLAIN: Final = frozenset(range(32, 127)) - {34, 92}
_DIGITS: Final = frozenset(b"0123456789")


# Text of bytes.


def quote(data: bytes, hexadecimal: int = 0) -> str:
    r"""Return a C string literal: printable ASCII as it is, the rest as \n or in octal; see Style.hexadecimal."""
    if hexadecimal and (hexadecimal > 1 or any(b not in _PLAIN and b not in _ESCAPES for b in data)):
        return '"' + "".join(f"\\x{b:02x}" for b in data) + '"'
    if data.isascii():
        text = data.decode("ascii")
        if text.isprintable() and '"' not in text and "\\" not in text:
            return f'"{text}"'
    pieces = ['"']
    for i, byte in enumerate(data):
        if byte in _PLAIN:
            pieces.append(chr(byte))
        elif byte in _ESCAPES:
            pieces.append(_ESCAPES[byte])
        else:
            # Three digits where a digit follows that would be taken for one of these.
            pieces.append(f"\\{byte:03o}" if i + 1 < len(data) and data[i + 1] in _DIGITS else f"\\{byte:o}")
    pieces.append('"')
    return "".join(pieces)


def memory_text(call: Call, addr: int, length: int, force_hex: bool = False) -> str:
    """Return a buffer of guest memory as a string of at most Style.limit bytes."""
    if not addr:
        return "NULL"
    limit = call.style.limit
    try:
        found = call.memory.read(addr, min(length, limit, _MOST_BYTES)) if length > 0 else b""
    except UnreadableError:
        return address(addr)
    return quote(found, 2 if force_hex else call.style.hexadecimal) + ("..." if length > limit else "")


def string_text(call: Call, addr: int, limit: int) -> str:
    """Return a NUL-terminated string of guest memory; "..." stands behind one that is longer than ``limit``."""
    if not addr:
        return "NULL"
    try:
        found = call.memory.read_string(addr, limit + 1)
        if found is None:
            return quote(call.memory.read(addr, limit), call.style.hexadecimal) + "..."
    except UnreadableError:
        return address(addr)
    return quote(found, call.style.hexadecimal)


# Numbers.


def integer(call: Call, value: int) -> str:
    """Write a signed 32-bit number."""
    return str(signed32(value))


def unsigned(call: Call, value: int) -> str:
    """Write an unsigned 32-bit number."""
    return str(value & _U32)


def long(call: Call, value: int) -> str:
    """Write a signed 64-bit number."""
    return str(signed64(value))


def size(call: Call, value: int) -> str:
    """Write an unsigned 64-bit number."""
    return str(value)


def hexadecimal(call: Call, value: int) -> str:
    """Write a number in hexadecimal; 0 is 0."""
    return hex(value) if value else "0"


def hexadecimal32(call: Call, value: int) -> str:
    """Write a 32-bit number in hexadecimal."""
    return hexadecimal(call, value & _U32)


def pointer(call: Call, value: int) -> str:
    """Write an address that is not looked behind."""
    return address(value)


def mode_text(value: int) -> str:
    """Write permission bits in octal, with at least three characters."""
    return f"0{value:o}" if value > 0o77 else f"0{value:02o}"


def mode(call: Call, value: int) -> str:
    """Permission bits."""
    return mode_text(value & 0xFFFF)


def identity(call: Call, value: int) -> str:
    """Write a user or group id; -1 leaves one as it is."""
    value &= _U32
    return "-1" if value == _U32 else str(value)


def names(table: Names, signed: bool = False) -> Decoder:
    """Return the decoder of a 32-bit value with a name."""
    return lambda call, value: table.text(signed32(value) if signed else value & _U32)


def flags(table: Flags, wide: bool = False) -> Decoder:
    """Return the decoder of a set of bits, of 32 bits unless ``wide``."""
    return lambda call, value: table.text(value if wide else value & _U32)


# Descriptors and paths.


def fd_text(call: Call, number: int) -> str:
    """Return a descriptor, with -y with what it refers to."""
    if not call.style.paths or number < 0:
        return str(number)
    found = call.files.describe(number)
    return str(number) if found is None else f"{number}<{found}>"


def fd(call: Call, value: int) -> str:
    """Write a descriptor."""
    return fd_text(call, signed32(value))


def directory(call: Call, value: int) -> str:
    """Write a descriptor of a directory, or AT_FDCWD."""
    number = signed32(value)
    if number != AT_FDCWD:
        return fd_text(call, number)
    return f"AT_FDCWD<{call.files.directory()}>" if call.style.paths else "AT_FDCWD"


def path(call: Call, value: int) -> str:
    """Write the address of a path: shown whole."""
    return string_text(call, value, PATH_MAX)


def string(call: Call, value: int) -> str:
    """Write the address of a string: shown up to the limit."""
    return string_text(call, value, call.style.limit)


# What lies in memory.


def length_of(call: Call, where: int) -> int:
    """Return the length that stands in an argument, or is the result (RESULT)."""
    return call.result if where == RESULT else call.args[where]


def data(where: int, force_hex: bool = False) -> Decoder:
    """Return the decoder of a buffer whose length is the argument at ``where``, or the result."""
    return lambda call, value: memory_text(call, value, length_of(call, where), force_hex)


def structure(form: struct.Struct, write: Callable[[Call, tuple[int, ...]], str]) -> Decoder:
    """Return the decoder of a structure in memory; ``write`` makes its text from its fields."""

    def decode(call: Call, value: int) -> str:
        if not value:
            return "NULL"
        try:
            fields = form.unpack(call.memory.read(value, form.size))
        except UnreadableError:
            return address(value)
        return write(call, fields)

    return decode


def record(form: str, prefix: str, names: str, **writers: Callable[[int], str]) -> Decoder:
    """Return the decoder of a structure of numbers, in the order of ``names``, each with the prefix; "-": not shown.

    ``writers``, by name, write those that are no plain numbers.
    """
    fields = [(name, writers.get(name, str)) for name in names.split()]

    def write(call: Call, values: tuple[int, ...]) -> str:
        shown = zip(fields, values, strict=False)
        return "{" + ", ".join(f"{prefix}{name}={as_text(v)}" for (name, as_text), v in shown if name != "-") + "}"

    return structure(struct.Struct(form), write)


def array(form: struct.Struct, where: int, write: Callable[[Call, tuple[int, ...]], str]) -> Decoder:
    """Return the decoder of an array with a length in the argument at ``where``. At most Style.limit elements are shown."""

    def decode(call: Call, value: int) -> str:
        if not value:
            return "NULL"
        count = length_of(call, where)
        if count <= 0:
            return "[]"
        shown = min(count, count if call.style.verbose else call.style.limit, _MOST_BYTES // form.size)
        found = call.memory.read_partial(value, shown * form.size)
        found = found[: len(found) // form.size * form.size]
        if not found:
            return address(value)
        texts = [write(call, fields) for fields in form.iter_unpack(found)]
        if len(texts) < shown:
            texts.append(f"... /* {value + len(found):#x} */")
        elif shown < count:
            texts.append("...")
        return bracketed(texts)

    return decode


def bracketed(texts: Iterable[str]) -> str:
    """Write an array."""
    return f"[{', '.join(texts)}]"


def word(form: str, write: Callable[[int], str] = str) -> Decoder:
    """Return the decoder of one number in memory, written as ``[5]``."""
    return structure(struct.Struct(form), lambda call, fields: f"[{write(fields[0])}]")


def strings(call: Call, value: int) -> str:
    """Write the address of an array of strings that ends with NULL (argv)."""
    if not value:
        return "NULL"
    texts: list[str] = []
    limit = PATH_MAX if call.style.verbose else call.style.limit
    while True:
        try:
            (found,) = struct.unpack("<Q", call.memory.read(value + 8 * len(texts), 8))
        except UnreadableError:
            if not texts:
                return address(value)
            texts.append(f"... /* {value + 8 * len(texts):#x} */")
            break
        if not found:
            break
        if len(texts) >= limit:
            texts.append("...")
            break
        texts.append(string_text(call, found, call.style.limit))
    return bracketed(texts)


def environment(call: Call, value: int) -> str:
    """Write the address of an environment: only how much there is, unless everything is to be shown."""
    if call.style.verbose or not value:
        return strings(call, value)
    count = 0
    try:
        while count < 1 << 16 and any(call.memory.read(value + 8 * count, 8)):
            count += 1
    except UnreadableError:
        return address(value) if not count else f"{value:#x} /* {count} vars, unterminated */"
    return f"{value:#x} /* {count} var{'' if count == 1 else 's'} */"
