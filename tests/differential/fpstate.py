"""FP images in a form that can be compared: what the registers hold, however the image says it.

An XSAVE image may say of a component that it is in its initial state (a clear bit of XSTATE_BV) or spell it out; CPUs and
kernels are free to do either. So each component's bytes are taken where the bit is set, and initial ones where it is not.
"""

import struct
from collections.abc import Callable
from typing import Final

from systrap.arch import x86_fp
from systrap.platforms.systrap import blob
from systrap.platforms.systrap.machine_code import SentryCode, read_cpuid

_LEAF: Final = 0xD
_XSTATE_BV: Final = 512
_X87, _SSE = 1, 2
_MXCSR: Final = slice(24, 28)
_LEGACY: Final = {_X87: (slice(0, 24), slice(32, 160)), _SSE: (slice(160, 416),)}

Cpuid = Callable[[int, int], tuple[int, int, int, int]]


class FpFormat:
    """Where the components of this CPU's images are, and how to read an image."""

    def __init__(self, cpuid: Cpuid | None = None) -> None:
        """Ask the CPU where its components are."""
        if cpuid is None:
            code = SentryCode(blob.load("sentry"))
            cpuid = lambda leaf, subleaf: read_cpuid(code, leaf, subleaf)  # noqa: E731 - the parameter's default
        self.components: dict[int, tuple[slice, ...]] = dict(_LEGACY)
        for number in range(2, x86_fp.FEATURES.bit_length()):
            size, offset, _, _ = cpuid(_LEAF, number)
            if x86_fp.FEATURES >> number & 1 and size:
                self.components[1 << number] = (slice(offset, offset + size),)

    def normal(self, image: bytes) -> bytes:
        """Return the image with every component spelled out, and nothing besides components and MXCSR."""
        out = x86_fp.initial(len(image))
        out[_MXCSR] = image[_MXCSR]
        present = self._present(image)
        for bit, slices in self.components.items():
            if present & bit:
                for where in slices:
                    out[where] = image[where]
        return bytes(out)

    def make_present(self, image: bytearray) -> None:
        """Spell the x87 and SSE components out, so that they can be edited."""
        present = self._present(image)
        fresh = x86_fp.initial(len(image))
        for bit in (_X87, _SSE):
            if not present & bit:
                for where in self.components[bit]:
                    image[where] = fresh[where]
        if len(image) > _XSTATE_BV:
            struct.pack_into("<Q", image, _XSTATE_BV, present | _X87 | _SSE)

    @staticmethod
    def _present(image: bytes | bytearray) -> int:
        """Return XSTATE_BV; an image without one has both legacy components."""
        if len(image) <= _XSTATE_BV:
            return _X87 | _SSE
        return int(struct.unpack_from("<Q", image, _XSTATE_BV)[0])

    def name(self, offset: int) -> str:
        """Say what a byte of an image belongs to."""
        for bit, slices in self.components.items():
            if any(where.start <= offset < where.stop for where in slices):
                return f"component {bit:#x} at {offset}"
        return f"MXCSR at {offset}"
