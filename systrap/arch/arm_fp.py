"""The arm64 FP state that a context keeps: fpsr, fpcr, then v0…v31 of 16 bytes each (10-stub §2.2).

520 bytes are used; the image has 528, the size that the kernel gives its record in signal frames. SVE and SME registers are
not kept, and guests are not told of them.
"""

import struct
from typing import Final

SIZE: Final = 528
USED: Final = 520

_CONTROL = struct.Struct("<II")
_STATUS_MASK: Final = 0xF800009F
"""fpsr: flags of AArch32 (31…28), QC (27), and the cumulative exceptions."""
_CONTROL_MASK: Final = 0x07FF9F07
"""fpcr: AHP, DN, FZ, rounding mode, half-precision FZ, strides, traps, and the newer FIZ, AH, NEP."""


def initial(size: int = SIZE) -> bytearray:
    """Return the image a program starts with: all zero."""
    return bytearray(size)


def sanitize(image: bytearray) -> None:
    """Clear what no CPU keeps in an image from an untrusted source: reserved bits of fpsr and fpcr, and the unused end.

    The kernel would take the bits as they come; a CPU ignores them, or keeps them for something to come.
    """
    status, control = _CONTROL.unpack_from(image)
    _CONTROL.pack_into(image, 0, status & _STATUS_MASK, control & _CONTROL_MASK)
    image[USED:] = bytes(len(image) - USED)
