"""The guest's CPU: register set, system call convention, FP state, signal frames, one module per architecture.

Guests always have the host's architecture. ``current()`` returns its description, and ``current().LINUX`` what Linux's own
interface has different there (linux.py). Nobody else asks: what needs to know takes it from these.
"""

import os

from systrap.arch.aarch64 import AArch64
from systrap.arch.x86_64 import X86_64

Machine = type[X86_64] | type[AArch64]
"""A description of an architecture."""


class UnsupportedArchitectureError(RuntimeError):
    """There is no module for this machine."""


def host() -> Machine:
    """Return the description of the host's architecture. Raises UnsupportedArchitectureError where there is none."""
    machine = os.uname().machine
    if machine == AArch64.NAME:
        return AArch64
    if machine == X86_64.NAME:
        return X86_64
    raise UnsupportedArchitectureError(f"systrap does not know {machine} (only x86_64 and aarch64)")


def current() -> Machine:
    """Return the description of the guests' architecture: the host's, for guest code runs natively. Raises as host() does."""
    return host()
