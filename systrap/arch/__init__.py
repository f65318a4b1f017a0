"""The guest's CPU: register set, system call convention, FP state, signal frames, one module per architecture.

Guests always have the host's architecture. ``current()`` returns its description for everything that needs a guest kernel;
``host()`` the same for platforms, which know arm64 already.
"""

import os

from systrap.arch.aarch64 import AArch64
from systrap.arch.x86_64 import X86_64


class UnsupportedArchitectureError(RuntimeError):
    """There is no module for this machine."""


def host() -> type[X86_64] | type[AArch64]:
    """Return the description of the host's architecture. Raises UnsupportedArchitectureError where there is none."""
    machine = os.uname().machine
    if machine == AArch64.NAME:
        return AArch64
    if machine == X86_64.NAME:
        return X86_64
    raise UnsupportedArchitectureError(f"systrap does not know {machine} (only x86_64 and aarch64)")


def current() -> type[X86_64]:
    """Return the description of the host's architecture, where the guest kernel runs. Raises UnsupportedArchitectureError."""
    found = host()
    if found is not X86_64:
        raise UnsupportedArchitectureError(f"systrap does not run on {found.NAME} yet (only on x86_64)")
    return X86_64
