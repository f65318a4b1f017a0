"""The guest's CPU: register set, system call convention, FP state, signal frames, one module per architecture.

``current()`` returns the module of the machine this runs on. Guests always have the host's architecture.
"""

import os

from systrap.arch import x86_64


class UnsupportedArchitectureError(RuntimeError):
    """There is no module for this machine."""


def current() -> "type[x86_64.X86_64]":
    """Return the description of the host's architecture. Raises UnsupportedArchitectureError on others."""
    machine = os.uname().machine
    if machine != "x86_64":
        raise UnsupportedArchitectureError(f"systrap does not run on {machine} yet (only on x86_64)")
    return x86_64.X86_64
