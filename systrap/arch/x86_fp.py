"""The x86 FP state: images in the standard (non-compacted) XSAVE format, as signal frames and ptrace show them.

Offsets: legacy area 0…511 (FCW @0, MXCSR @24, MXCSR_MASK @28), XSAVE header 512…575 (XSTATE_BV @512, XCOMP_BV @520, the
rest reserved), then the components. Without XSAVE the image is the 512 bytes of FXSAVE. (10-stub §3.5)
"""

import struct
from typing import Final

LEGACY_SIZE: Final = 512
HEADER_END: Final = 576
FEATURES: Final = 0xE7
"""Components that are saved and restored: x87, SSE, AVX, AVX-512 (three). Never PKRU, MPX or AMX (S-047)."""

_MXCSR: Final = 24
_SOFTWARE_AREA: Final = 464
_DEFAULT_FCW: Final = 0x037F
_DEFAULT_MXCSR: Final = 0x1F80
_MXCSR_MASK: Final = 0xFFFF
_OLD_MXCSR_MASK: Final = 0xFFBF


def initial(size: int) -> bytearray:
    """Return the image a program starts with: everything in its initial state, all exceptions masked."""
    image = bytearray(size)
    struct.pack_into("<H", image, 0, _DEFAULT_FCW)
    struct.pack_into("<I", image, _MXCSR, _DEFAULT_MXCSR)
    return image


def mxcsr_mask(size: int) -> int:
    """Return the bits of MXCSR that may be set in an image of this size: every CPU with XSAVE has denormals-are-zeros.

    The image's own MXCSR_MASK is not asked: a guest may have written it.
    """
    return _MXCSR_MASK if size >= HEADER_END else _OLD_MXCSR_MASK


def sanitize(image: bytearray) -> None:
    """Make an image from an untrusted source loadable: reserved bits of MXCSR and of the header cleared (D25, §10.2 item 4).

    The software area, which the kernel reads in signal frames, is cleared too.
    """
    (mxcsr,) = struct.unpack_from("<I", image, _MXCSR)
    struct.pack_into("<I", image, _MXCSR, mxcsr & mxcsr_mask(len(image)))
    image[_SOFTWARE_AREA:LEGACY_SIZE] = bytes(LEGACY_SIZE - _SOFTWARE_AREA)
    if len(image) >= HEADER_END:
        (components,) = struct.unpack_from("<Q", image, LEGACY_SIZE)
        struct.pack_into("<Q", image, LEGACY_SIZE, components & FEATURES)
        image[LEGACY_SIZE + 8 : HEADER_END] = bytes(HEADER_END - LEGACY_SIZE - 8)
