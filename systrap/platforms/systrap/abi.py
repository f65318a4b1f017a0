"""The structures shared between sentry and stub, byte by byte, and the accessors that read them (10-stub §2, 20-platform App. A).

Guest code can write every byte of these structures. So nothing here is believed: an accessor reads a word once, the caller
checks the copy. Words that both sides change are changed by the sentry image's atomics only.
"""

import enum
import os
import struct
from typing import Final, NamedTuple

from systrap.platform import SignalInfo
from systrap.platforms import arm_faults, x86_faults

INVALID_ID: Final = 0xFEFEFEFE
MAX_CONTEXTS: Final = 4095


class ContextState(enum.IntEnum):
    """Who has a context, and why it came back (S-143: others are corruption)."""

    NONE = 0
    SYSCALL = 1
    FAULT = 2
    SYSCALL_TRAP = 3
    SYSCALL_NEED_TRAP = 4
    UNEXPECTED_DEATH = 5
    INVALID = 6


class ThreadState(enum.IntEnum):
    """What a sysmsg thread is doing. The sentry writes INITIALIZING and reads none of them for decisions."""

    NONE = 0
    DONE = 1
    PREP = 2
    ASLEEP = 3
    INITIALIZING = 4


class StubError(enum.IntEnum):
    """What a stub thread reports before it gives up (10-stub §9)."""

    BAD_SYSMSG = 0x0BAD0000
    BAD_THREAD_STATE = 0x0BAD0001
    SPINNING_QUEUE_DECREF = 0x0BAD0002
    ARCH_PRCTL = 0x0BAD0003
    FUTEX = 0x0BAD0004
    BAD_CONTEXT_ID = 0x0BAD0005
    FPSTATE_BAD_HEADER = 0x0BAD0006


STUB_ERROR_TEXT: Final = {
    StubError.BAD_SYSMSG: "its sysmsg structure names another address as its own",
    StubError.BAD_THREAD_STATE: "the syshandler was entered by a thread that is not in PREP",
    StubError.SPINNING_QUEUE_DECREF: "the spinning queue lost an entry",
    StubError.ARCH_PRCTL: "reading or writing the FS base failed",
    StubError.FUTEX: "waking the sentry failed",
    StubError.BAD_CONTEXT_ID: "the context queue held an impossible context id",
    StubError.FPSTATE_BAD_HEADER: "the signal frame's FP record has an unknown header",
}

# struct sysmsg, 88 bytes, one per sysmsg thread.
SYSMSG_SELF: Final = 0x00
SYSMSG_RET_ADDR: Final = 0x08
SYSMSG_SYSHANDLER: Final = 0x10
SYSMSG_SYSHANDLER_STACK: Final = 0x18
SYSMSG_APP_STACK: Final = 0x20
SYSMSG_STATE: Final = 0x2C
SYSMSG_CONTEXT: Final = 0x30
SYSMSG_ERR: Final = 0x3C
SYSMSG_ERR_ADDITIONAL: Final = 0x40
SYSMSG_ERR_LINE: Final = 0x44
SYSMSG_THREAD_ID: Final = 0x50
SYSMSG_SIZE: Final = 88

# struct thread_context, one 4096-byte slot per context. Floating point state and general registers come first, and what lies
# behind the registers lies the further back, the more of them a CPU has.
CONTEXT_SIZE: Final = 4096
FPSTATE_SIZE: Final = 3584
FPSTATE_CHANGED: Final = 0xE00
PTREGS: Final = 0xE08
SIGINFO_SIZE: Final = 128


class ContextShape(NamedTuple):
    """Offsets in thread_context that depend on the CPU (10-stub §2.2)."""

    ptregs_size: int
    siginfo: int
    signo: int
    state: int
    interrupt: int
    thread_id: int
    last_thread_id: int
    sentry_fast_path: int
    acked_time: int
    state_changed_time: int
    tls: int
    debug: int
    err: int
    size: int


def context_shape(registers: int) -> ContextShape:
    """Return the offsets for a CPU whose struct ptregs has so many 64-bit words."""
    tail = PTREGS + 8 * registers
    offsets = (0x80, 0x88, 0x8C, 0x90, 0x94, 0x98, 0xA0, 0xA8, 0xB0, 0xB8, 0xC0, 0xC8)
    return ContextShape(8 * registers, tail, *(tail + offset for offset in offsets))


X86_64_SHAPE: Final = context_shape(27)
AARCH64_SHAPE: Final = context_shape(34)
_IS_AARCH64: Final = os.uname().machine == "aarch64"
_HERE: Final = AARCH64_SHAPE if _IS_AARCH64 else X86_64_SHAPE

PTREGS_SIZE: Final = _HERE.ptregs_size
SIGINFO: Final = _HERE.siginfo
SIGNO: Final = _HERE.signo
STATE: Final = _HERE.state
INTERRUPT: Final = _HERE.interrupt
THREAD_ID: Final = _HERE.thread_id
LAST_THREAD_ID: Final = _HERE.last_thread_id
SENTRY_FAST_PATH: Final = _HERE.sentry_fast_path
ACKED_TIME: Final = _HERE.acked_time
STATE_CHANGED_TIME: Final = _HERE.state_changed_time
TLS: Final = _HERE.tls
"""The guest's thread pointer, where it is none of ptregs (arm64: tpidr_el0); unused on x86-64."""
DEBUG: Final = _HERE.debug
ERR: Final = _HERE.err

# struct context_queue, one per stub process: u32 words, then the ring of u64.
QUEUE_END: Final = 0x000
QUEUE_START: Final = 0x040
QUEUE_FAST_PATH_DISABLED: Final = 0x080
QUEUE_AWAKE_CONTEXTS: Final = 0x084
QUEUE_SENTRY_CPU: Final = 0x088
"""Ours: the CPU the sentry ran on last, plus one; 0 from a sentry that does not tell. Upstream leaves these bytes unused."""
QUEUE_ACTIVE_THREADS: Final = 0x0C0
QUEUE_SPINNING_THREADS: Final = 0x0C4
QUEUE_THREADS_TO_WAKEUP: Final = 0x100
QUEUE_ACTIVE_CONTEXTS: Final = 0x140
QUEUE_USED_FAST_PATH: Final = 0x144
QUEUE_RING: Final = 0x180
QUEUE_ENTRIES: Final = 4096
QUEUE_FIRST_INDEX: Final = 0xFFFFFFFF - 4 * QUEUE_ENTRIES
"""Where the indices start: their wrap is met early, so that a bug there is too."""

# The ready ring (docs/images.md).
RING_TAIL: Final = 0x000
RING_BELL: Final = 0x040
RING_WAITING: Final = 0x080
RING_SLOTS: Final = 0x100

# sentry_fast_path: how a context's return is announced.
NOTIFY_FUTEX: Final = 0
NOTIFY_NONE: Final = 1
NOTIFY_RING: Final = 2

SIGNALS: Final = (4, 5, 7, 8, 11, 17, 31)
"""The signals stubs handle: ILL, TRAP, BUS, FPE, SEGV, CHLD, SYS (S-030)."""

SIGILL: Final = 4
SIGTRAP: Final = 5
SIGCHLD: Final = 17
SIGSEGV: Final = 11
VSYSCALL_START: Final = 0xFFFFFFFFFF600000
VSYSCALL_END: Final = 0xFFFFFFFFFF601000

_SIGINFO = struct.Struct("<iii4xQ")
_TRAP_PAGE_FAULT: Final = 0 if _IS_AARCH64 else x86_faults.TRAP_PAGE_FAULT

access_of_fault: Final = arm_faults.access_of_syndrome if _IS_AARCH64 else x86_faults.access_of_error
"""Decodes the word that tells of a fault (thread_context.err) of this CPU."""


class ContextSlot:
    """The sentry's view of one thread_context: windows into shared memory. Each read is one load."""

    __slots__ = ("_bytes", "_u32", "_u64", "address", "fpstate", "regs", "stub_id")

    def __init__(self, memory: "memoryview[int]", address: int, context_id: int) -> None:
        """Take the slot's 4096 bytes, their address in the sentry, and the id it has in its space."""
        self._bytes = memory
        self._u32 = memory.cast("I")
        self._u64 = memory.cast("Q")
        self.address = address
        self.stub_id = context_id
        self.regs: memoryview[int] = memory[PTREGS : PTREGS + PTREGS_SIZE].cast("Q")
        self.fpstate = memory[:FPSTATE_SIZE]

    def reset(self) -> None:
        """Make the slot a new context's: everything a previous owner left is gone (S-026, and the [H] of 20-platform §6.1)."""
        self._bytes[FPSTATE_CHANGED:] = bytes(CONTEXT_SIZE - FPSTATE_CHANGED)
        self._u32[FPSTATE_CHANGED >> 2] = 1
        self._u32[THREAD_ID >> 2] = INVALID_ID
        self._u32[LAST_THREAD_ID >> 2] = INVALID_ID

    def word(self, offset: int) -> int:
        """Read any 32-bit word; offsets are those above."""
        return self._u32[offset >> 2]

    def long(self, offset: int) -> int:
        """Read any 64-bit word."""
        return self._u64[offset >> 3]

    def state(self) -> int:
        """Read the state: any 32-bit value."""
        return self._u32[STATE >> 2]

    def thread_id(self) -> int:
        """Read which thread says it runs this context: INVALID_ID, a stack id, or anything."""
        return self._u32[THREAD_ID >> 2]

    def last_thread_id(self) -> int:
        """Read which thread says it was the last to run this context."""
        return self._u32[LAST_THREAD_ID >> 2]

    def stamps(self) -> tuple[int, int]:
        """Read when a stub thread took this context, and when it gave it back: ticks of the counter, or anything."""
        return self._u64[ACKED_TIME >> 3], self._u64[STATE_CHANGED_TIME >> 3]

    def acked(self) -> bool:
        """Tell whether a stub thread took this context off the queue since the last submit."""
        return self._u32[ACKED_TIME >> 2] != 0 or self._u32[(ACKED_TIME >> 2) + 1] != 0

    def clear_interrupt(self) -> None:
        """Forget an interrupt that came too late."""
        self._u32[INTERRUPT >> 2] = 0

    def fault_word(self) -> int:
        """Read the fault detail: the page fault's error code or syndrome, or 0."""
        return self._u32[ERR >> 2]

    def tls(self) -> int:
        """Read the guest's thread pointer, on CPUs that keep it outside of the general registers (S-052)."""
        return self._u64[TLS >> 3]

    def set_tls(self, value: int) -> None:
        """Set the thread pointer that the guest is to have when it runs next."""
        self._u64[TLS >> 3] = value

    def siginfo(self) -> SignalInfo:
        """Copy the signal's facts out. Believed by nobody but the guest they describe."""
        signo, _, code, addr = _SIGINFO.unpack_from(self._bytes, SIGINFO)
        err = self.fault_word()
        return SignalInfo(signo, code, addr, _TRAP_PAGE_FAULT if err else 0, err)

    def si_addr(self) -> int:
        """Read the address field of the siginfo alone."""
        (address,) = struct.unpack_from("<Q", self._bytes, SIGINFO + 16)
        return int(address)

    def load_fp(self, image: bytearray) -> None:
        """Put an FP image into the slot and mark it, so that the stub loads it before running (S-046)."""
        self.fpstate[: len(image)] = image
        self._u32[FPSTATE_CHANGED >> 2] = 1


def init_sysmsg(
    memory: "memoryview[int]", self_address: int, syshandler: int, syshandler_stack: int, thread_id: int
) -> None:
    """Fill a new thread's sysmsg structure (10-stub §8.2 step 9); ``memory`` is its page, the addresses are the stub's."""
    memory[:SYSMSG_SIZE] = bytes(SYSMSG_SIZE)
    struct.pack_into("<Q", memory, SYSMSG_SELF, self_address)
    struct.pack_into("<Q", memory, SYSMSG_SYSHANDLER, syshandler)
    struct.pack_into("<Q", memory, SYSMSG_SYSHANDLER_STACK, syshandler_stack)
    struct.pack_into("<I", memory, SYSMSG_STATE, ThreadState.INITIALIZING)
    struct.pack_into("<i", memory, SYSMSG_ERR_LINE, -1)
    struct.pack_into("<I", memory, SYSMSG_THREAD_ID, thread_id)


def sysmsg_constants(memory: "memoryview[int]") -> tuple[int, int, int, int]:
    """Read what init_sysmsg() wrote once and for all: own address, syshandler, its stack, and the thread's id."""
    (own,) = struct.unpack_from("<Q", memory, SYSMSG_SELF)
    syshandler, stack = struct.unpack_from("<QQ", memory, SYSMSG_SYSHANDLER)
    (thread_id,) = struct.unpack_from("<I", memory, SYSMSG_THREAD_ID)
    return int(own), int(syshandler), int(stack), int(thread_id)


def stub_report(memory: "memoryview[int]") -> str | None:
    """Return what a thread's sysmsg structure says about its failure, in words; None when it says nothing (S-140)."""
    err, additional, line = struct.unpack_from("<iii", memory, SYSMSG_ERR)
    if err == 0:
        return None
    code = err & 0xFFFFFFFF
    try:
        text = STUB_ERROR_TEXT[StubError(code)]
    except ValueError:
        return f"unknown stub error {code:#x} (additional {additional:#x}, line {line}): its memory may be corrupted"
    return f"{StubError(code).name}: {text} (additional {additional:#x}, line {line})"


def init_queue(memory: "memoryview[int]") -> None:
    """Write a context queue's initial values (10-stub §2.4, S-021)."""
    words = memory.cast("I")
    words[: QUEUE_RING >> 2] = memoryview(bytes(QUEUE_RING)).cast("I")
    words[QUEUE_END >> 2] = QUEUE_FIRST_INDEX
    words[QUEUE_START >> 2] = QUEUE_FIRST_INDEX
    words[QUEUE_FAST_PATH_DISABLED >> 2] = 1
    empty = struct.pack("<Q", INVALID_ID) * QUEUE_ENTRIES
    memory[QUEUE_RING : QUEUE_RING + len(empty)] = empty
