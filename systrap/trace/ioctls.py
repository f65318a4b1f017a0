"""Decoders of ioctl: the request's name, and what the argument is for those that programs use every day."""

import struct
from typing import Final

from systrap.trace import constants_more as m
from systrap.trace.call import Call, Decoder, address, signed32
from systrap.trace.decode import structure, word

_DIRECTIONS: Final = {0: "_IOC_NONE", 1: "_IOC_WRITE", 2: "_IOC_READ", 3: "_IOC_READ|_IOC_WRITE"}
_SPEEDS: Final = "B0 B50 B75 B110 B134 B150 B200 B300 B600 B1200 B1800 B2400 B4800 B9600 B19200 B38400".split()
_MODES: Final = (
    (1, ((0o1, "opost"),)),
    (3, ((0o1, "isig"), (0o2, "icanon"), (0o10, "echo"))),
)


def request(call: Call, value: int) -> str:
    """Write the request: its name, or what its number is made of."""
    value &= 0xFFFFFFFF
    found = m.IOCTL.get(value)
    if found is not None:
        return found
    return f"_IOC({_DIRECTIONS[value >> 30]}, {value >> 8 & 0xFF:#x}, {value & 0xFF:#x}, {value >> 16 & 0x3FFF:#x})"


def _termios(call: Call, f: tuple[int, ...]) -> str:
    """Return the settings of a terminal in stty's words: the few that matter."""
    speed = f[2] & 0o17 if not f[2] & 0o10000 else 0
    words = [_SPEEDS[speed]]
    for field, bits in _MODES:
        words += [name if f[field] & bit else f"-{name}" for bit, name in bits]
    return f"{{{' '.join(words)} ...}}"


_termios_at: Final = structure(struct.Struct("<IIII"), _termios)
_window: Final = structure(
    struct.Struct("<HHHH"),
    lambda call, f: f"{{ws_row={f[0]}, ws_col={f[1]}, ws_xpixel={f[2]}, ws_ypixel={f[3]}}}",
)
_word: Final = word("<i")
_READS: Final[dict[int, Decoder]] = {
    0x5401: _termios_at, 0x802C542A: _termios_at, 0x5413: _window, 0x540F: _word, 0x5411: _word, 0x541B: _word, 0x5429: _word,
    0x80045430: word("<I"), 0x5424: _word, 0x80045439: _word, 0x80045438: _word, 0x8905: _word,
}  # fmt: skip
"""Requests that write where the argument points to."""
_WRITES: Final[dict[int, Decoder]] = {
    0x5402: _termios_at, 0x5403: _termios_at, 0x5404: _termios_at, 0x402C542B: _termios_at, 0x402C542C: _termios_at,
    0x402C542D: _termios_at, 0x5414: _window, 0x5410: _word, 0x5421: _word, 0x5452: _word, 0x5423: _word, 0x40045431: _word,
    0x5420: _word,
}  # fmt: skip
"""Requests that read what the argument points to."""
_NUMBERS: Final = frozenset((0x5409, 0x540A, 0x540B, 0x540E, 0x5425, 0x40049409))
_NO_ARGUMENT: Final = frozenset((0x5450, 0x5451, 0x5422, 0x540C, 0x540D, 0x5427, 0x5428, 0x5437))


def argument(call: Call, value: int) -> str | None:
    """Write the argument, as far as the request is known; else its address. Some requests have none."""
    kind = call.args[1] & 0xFFFFFFFF
    if kind in _NO_ARGUMENT:
        return None
    if kind in _NUMBERS:
        return str(signed32(value))
    if kind in _WRITES:
        return _WRITES[kind](call, value)
    if kind in _READS and not call.error:
        return _READS[kind](call, value)
    return address(value)
