"""What a fault of arm64 was about: from its syndrome, the register ESR_EL1 as the kernel shows it in signal frames."""

from typing import Final

from systrap.platform import Access

_CLASS_SHIFT: Final = 26
_CLASS_MASK: Final = 0x3F
_INSTRUCTION_ABORT: Final = 0x20
"""An instruction abort from user mode."""
_DATA_ABORT: Final = 0x24
"""A data abort from user mode."""
_WRITE_NOT_READ: Final = 1 << 6
_CACHE_MAINTENANCE: Final = 1 << 8


def access_of_syndrome(esr: int) -> Access:
    """Decode a syndrome (10-stub §3.2; S-053). 0, the word of a fault without one, is no memory access; nor is a trap.

    Cache maintenance says "write" of itself, also where it only needs to read: "dc cvau" of a page that may be read.
    """
    kind = esr >> _CLASS_SHIFT & _CLASS_MASK
    if kind == _INSTRUCTION_ABORT:
        return Access.EXECUTE
    if kind != _DATA_ABORT:
        return Access.NONE
    return Access.WRITE if esr & _WRITE_NOT_READ and not esr & _CACHE_MAINTENANCE else Access.READ
