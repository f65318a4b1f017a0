"""Signal frames, what they have in common: what goes into one, what comes out, and how a module of an architecture is asked.

x86_frame.py and arm_frame.py know the bytes. They touch registers and images only; which stack is used, and whether memory
can be read or written there, is the caller's business (sentry/frames.py).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

Read = Callable[[int, int], bytes]
"""Reads guest memory: address and length. What it raises passes through."""


class BadFrameError(Exception):
    """A frame that no kernel made: rt_sigreturn answers it with SIGSEGV."""


class Delivery(NamedTuple):
    """What a handler is to find: besides the registers, which go into the frame as they are.

    ``code``, ``trapno``, ``err`` and ``addr`` are the fault's; ``err`` 0 where there was none. ``altstack`` is address,
    flags, size. ``wants_info``: the handler was set with SA_SIGINFO.
    """

    signo: int
    siginfo: bytes
    wants_info: bool
    handler: int
    restorer: int
    mask: int
    altstack: tuple[int, int, int]
    code: int = 0
    trapno: int = 0
    err: int = 0
    addr: int = 0


class Frame(NamedTuple):
    """A frame to be written: the stack pointer then, pieces of memory (address, bytes), and registers by index."""

    sp: int
    pieces: tuple[tuple[int, bytes], ...]
    registers: dict[int, int]


class Restored(NamedTuple):
    """What a frame holds besides registers: signal mask, alternate stack, FP image."""

    mask: int
    altstack: tuple[int, int, int]
    fp: bytearray


class FrameFormat(Protocol):
    """What a module of an architecture offers."""

    def build(self, regs: "memoryview[int]", fp: bytearray, top: int, delivery: Delivery) -> Frame | None:
        """Return the frame below ``top``, or None when that is too low for one. Changes nothing."""

    def restore(self, regs: "memoryview[int]", fp_size: int, read: Read) -> Restored:
        """Set the registers from the frame that the stack pointer points to. Raises BadFrameError, and what ``read`` raises."""


def signed32(value: int) -> int:
    """Return a 32-bit word as a signed number, for fields that are declared so."""
    return value - (1 << 32) if value >> 31 else value
