"""The machine this runs on: the one place of the ptrace platform that chooses between CPUs.

Only the module that is needed is imported. Raises arch.UnsupportedArchitectureError elsewhere.
"""

from typing import Final

from systrap import arch
from systrap.arch.aarch64 import AArch64
from systrap.platforms.ptrace.machine import Machine


def _choose() -> Machine:
    if arch.host() is AArch64:
        from systrap.platforms.ptrace.aarch64 import AArch64Machine

        return AArch64Machine()
    from systrap.platforms.ptrace.x86_64 import X86Machine

    return X86Machine()


MACHINE: Final = _choose()
