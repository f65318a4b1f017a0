"""What Linux's system call interface has different on each architecture: flags, structures, sizes of signal frames, layout.

Numbers of system calls are a table of their own (sentry/syscalls/numbers.py), signal frames two modules (x86_frame.py,
arm_frame.py). What is not here is the same on both: both are 64-bit, little-endian, and follow asm-generic elsewhere.
"""

import struct
from typing import Final, NamedTuple

from systrap.arch import arm_hwcap


class Structure(NamedTuple):
    """A structure of the kernel's: its layout, and the names of its fields in their order."""

    layout: struct.Struct
    fields: tuple[str, ...]


class Capabilities(NamedTuple):
    """What of AT_HWCAP and AT_HWCAP2 guests are told, as masks; and names in /proc/cpuinfo that go with what they are not."""

    hwcap: int
    hwcap2: int
    hidden: frozenset[bytes]


class Linux(NamedTuple):
    """One architecture's side of the table. Sizes in bytes; ``…_random`` in bits of pages."""

    o_direct: int
    o_largefile: int
    o_directory: int
    o_nofollow: int
    stat: Structure
    """struct stat without its times, which follow the last field as three pairs of seconds and nanoseconds."""
    epoll_event: struct.Struct
    """events, data."""
    red_zone: int
    """What a function may use below the stack pointer: signal frames go below it."""
    keeps_to_altstack: bool
    """Whether a signal frame that would leave the alternate stack is refused."""
    min_altstack: int
    """MINSIGSTKSZ: what sigaltstack asks for at least."""
    signal_frame: int | None
    """AT_MINSIGSTKSZ; None: what the host says, for it depends on the CPU's state."""
    sigreturn: bytes
    """Code that handlers return to where the program names none (SA_RESTORER); there it stands in the vDSO. May be empty."""
    sigreturn_entry: int
    """Where in that code they return to."""
    pie_base: int | None
    """Where programs that can be anywhere are loaded, less a random distance; None: at two thirds of the address space."""
    stack_random: int
    mmap_random: int
    map_32bit: int
    """The flag of mmap that asks for an address below 2 GiB; 0: there is none."""
    capabilities: Capabilities


_TIMES: Final = "6q"
_ALL: Final = (1 << 64) - 1

X86_64: Final = Linux(
    o_direct=0o40000,
    o_largefile=0o100000,
    o_directory=0o200000,
    o_nofollow=0o400000,
    stat=Structure(
        struct.Struct(f"<QQQIII4xQqqq{_TIMES}24x"),
        ("dev", "ino", "nlink", "mode", "uid", "gid", "rdev", "size", "blksize", "blocks"),
    ),
    epoll_event=struct.Struct("<IQ"),
    red_zone=128,
    keeps_to_altstack=True,
    min_altstack=2048,
    signal_frame=None,
    sigreturn=b"",
    sigreturn_entry=0,
    pie_base=0x555555554000,
    stack_random=22,
    mmap_random=28,
    map_32bit=0x40,
    capabilities=Capabilities(_ALL, _ALL, frozenset()),
)

AARCH64: Final = Linux(
    o_direct=0o200000,
    o_largefile=0o400000,
    o_directory=0o40000,
    o_nofollow=0o100000,
    stat=Structure(
        struct.Struct(f"<QQIIIIQ8xqi4xq{_TIMES}8x"),
        ("dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"),
    ),
    epoll_event=struct.Struct("<I4xQ"),
    red_zone=0,
    keeps_to_altstack=False,
    min_altstack=5120,
    # struct rt_sigframe, the frame record above it, and what alignment may take.
    signal_frame=4688 + 16 + 16,
    # nop; mov x8, #139; svc #0. Unwinders look for the last two; the first is there since they look one byte before.
    sigreturn=struct.pack("<3I", 0xD503201F, 0xD2801168, 0xD4000001),
    sigreturn_entry=4,
    pie_base=None,
    stack_random=18,
    mmap_random=18,
    map_32bit=0,
    capabilities=Capabilities(arm_hwcap.SHOWN, arm_hwcap.SHOWN2, arm_hwcap.HIDDEN_NAMES),
)
