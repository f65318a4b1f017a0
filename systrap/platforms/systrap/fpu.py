"""How big the FP state of a context is, and how the stub saves it (10-stub §2.6; S-023, S-024)."""

from collections.abc import Callable
from typing import Final, NamedTuple

from systrap.platform import RequirementError
from systrap.platforms.systrap.abi import FPSTATE_SIZE

FXSAVE: Final = 0
XSAVE: Final = 1
XSAVEOPT: Final = 2

_XSAVE_BIT: Final = 1 << 26
_OSXSAVE_BIT: Final = 1 << 27
_FSGSBASE_BIT: Final = 1
_HWCAP2_FSGSBASE: Final = 2

Cpuid = Callable[[int, int], tuple[int, int, int, int]]


class ArchState(NamedTuple):
    """The blob's ``arch_state`` export: three 32-bit words."""

    xsave_mode: int
    fp_len: int
    fsgsbase: int


def probe(cpuid: Cpuid, hwcap2: int) -> ArchState:
    """Work out the state for this CPU. Raises RequirementError when its FP state does not fit a context slot (S-023).

    AMX tile data is left out of the size: it is never saved. fsgsbase needs the kernel's word besides the CPU's (S-024).
    """
    _, _, features, _ = cpuid(1, 0)
    fsgsbase = int(bool(cpuid(7, 0)[1] & _FSGSBASE_BIT and hwcap2 & _HWCAP2_FSGSBASE))
    if not (features & _XSAVE_BIT and features & _OSXSAVE_BIT):
        return ArchState(FXSAVE, 512, fsgsbase)
    size = cpuid(0xD, 0)[1]
    # Tile data comes last; the size for the *enabled* components reaches over it only where the kernel enabled it.
    tile_data, tile_offset, _, _ = cpuid(0xD, 18)
    fp_len = size - tile_data if tile_data and size >= tile_offset + tile_data else size
    if fp_len + 4 > FPSTATE_SIZE:
        raise RequirementError(
            f"this CPU's FP state takes {fp_len} bytes, and a context slot holds {FPSTATE_SIZE - 4}; "
            "systrap cannot run guests here"
        )
    return ArchState(XSAVEOPT if cpuid(0xD, 1)[0] & 1 else XSAVE, fp_len, fsgsbase)
