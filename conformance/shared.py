"""The memory that a sentry shares with a stub, for the sentry half (docs/halves.md): layout, words, futexes. x86-64.

The numbers are those of docs/spec.md's ABI (S-020), written down once more: what a sentry under test writes is compared with
them, so they must not come from that sentry.
"""

import ctypes
import mmap
import os
import struct
from typing import Final

PAGE: Final = 4096
INVALID_ID: Final = 0xFEFEFEFE
ENTRIES: Final = 4096
SLOT: Final = 4096
SLOTS: Final = 16
U64: Final = (1 << 64) - 1

REGISTERS: Final = tuple(
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs".split()
)

# struct thread_context
FPSTATE_CHANGED: Final = 0xE00
PTREGS: Final = 0xE08
SIGINFO: Final = 0xEE0
SIGNO: Final = 0xF60
STATE: Final = 0xF68
INTERRUPT: Final = 0xF6C
THREAD_ID: Final = 0xF70
LAST_THREAD_ID: Final = 0xF74
SENTRY_FAST_PATH: Final = 0xF78
ACKED_TIME: Final = 0xF80
STATE_CHANGED_TIME: Final = 0xF88
ERR: Final = 0xFA0

# struct context_queue
END: Final = 0x000
START: Final = 0x040
FAST_PATH_DISABLED: Final = 0x080
ACTIVE_THREADS: Final = 0x0C0
SPINNING_THREADS: Final = 0x0C4
THREADS_TO_WAKEUP: Final = 0x100
ACTIVE_CONTEXTS: Final = 0x140
RING: Final = 0x180
QUEUE_SIZE: Final = RING + 8 * ENTRIES

QUEUE_AT: Final = 0
CONTEXTS_AT: Final = -(-QUEUE_SIZE // PAGE) * PAGE
SIZE: Final = CONTEXTS_AT + SLOT * SLOTS

# Values of state.
NONE: Final = 0
SYSCALL: Final = 1
FAULT: Final = 2

_FUTEX: Final = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAKE: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Memory:
    """A memfd of SIZE bytes, mapped here; the sentry under test maps it by the path in /proc."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("conformance-half")
        os.ftruncate(self.fd, SIZE)
        self._map = mmap.mmap(self.fd, SIZE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        # What is there before is not zero, so that a sentry which initialises nothing is found out.
        self._map[:CONTEXTS_AT] = b"\xa5" * CONTEXTS_AT

    @property
    def path(self) -> str:
        """How another process of this user opens the file."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def u32(self, at: int) -> int:
        """Read a 32-bit word."""
        return int(struct.unpack_from("<I", self._map, at)[0])

    def u64(self, at: int) -> int:
        """Read a 64-bit word."""
        return int(struct.unpack_from("<Q", self._map, at)[0])

    def set32(self, at: int, value: int) -> None:
        """Write a 32-bit word; one store."""
        ctypes.c_uint32.from_address(self._address + at).value = value

    def set64(self, at: int, value: int) -> None:
        """Write a 64-bit word; one store."""
        ctypes.c_uint64.from_address(self._address + at).value = value & U64

    def bytes(self, at: int, length: int) -> bytes:
        """Copy bytes out."""
        return self._map[at : at + length]

    def wake(self, at: int) -> int:
        """Wake who sleeps on a word; return how many did."""
        number = _FUTEX[os.uname().machine]
        return int(_libc.syscall(number, ctypes.c_void_p(self._address + at), _FUTEX_WAKE, 1 << 30, None, None, 0))

    def close(self) -> None:
        """Close the file. The mapping goes with this object."""
        os.close(self.fd)
