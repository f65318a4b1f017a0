"""What differs between CPUs in tracing, as an interface: x86_64.py and aarch64.py implement it, here.py chooses.

A system call of a guest makes its thread stop. How differs: on x86-64 it is the stop before the call (PTRACE_SYSEMU), on arm64
the signal that the stub's filter answers with. Both show the guest's registers.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from systrap.host import ptrace
from systrap.platform import Event
from systrap.platforms.x86_faults import LastFault

if TYPE_CHECKING:
    from systrap.platforms.ptrace.stub import Stub


class Loadable(Protocol):
    """State of a stopped thread, bound to a buffer: ptrace.RegisterSet is one. Both return 0 or −errno."""

    def read(self, tid: int) -> int:
        """Fill the buffer from a thread."""

    def write(self, tid: int) -> int:
        """Load the buffer into a thread."""


class Machine(ABC):
    """A CPU, as far as tracers care. ``regs`` are a context's registers, in the order of systrap.arch."""

    stub_code: bytes
    """The content of the stub page: a system call, and behind it what nothing should reach, or the place of pack_pause()."""
    syscall_len: int
    resume: int
    """The ptrace request that lets a guest run until its next system call or signal."""
    seize_options: int
    """Options (O_…) for every stub thread."""
    stub_action: int
    """What the filter does with the calls that may be injected, made from the stub page (RET_…)."""
    call_bytes: int
    """The size of the register set that an injection writes."""
    call_result: int
    call_ip: int

    @abstractmethod
    def pack_call(self, buffer: bytearray, ip: int, nr: int, args: tuple[int, ...]) -> None:
        """Write the registers that make system call ``nr`` at ``ip``, without a stack."""

    @abstractmethod
    def pack_pause(self, buffer: bytearray, code: int) -> None:
        """Write the registers with which a thread that nobody traces waits, on the stub page at ``code``, for a tracer."""

    @abstractmethod
    def thread_pointer(self, tid: int) -> int:
        """Return the thread pointer of a stopped thread. Raises OSError."""

    @abstractmethod
    def register_buffer(self) -> bytearray:
        """Return a buffer for a context's registers, all zero."""

    @abstractmethod
    def registers(self, buffer: bytearray) -> Loadable:
        """Return what transfers a guest's registers between a thread and such a buffer."""

    @abstractmethod
    def prepare(self, regs: "memoryview[int]") -> None:
        """Make a guest's registers loadable, whatever is in them."""

    @abstractmethod
    def probe_fp(self, tid: int) -> tuple[int, int]:
        """Return the kind of register set that holds the whole FP state, and the size of a context's image of it."""

    @abstractmethod
    def initial_fp(self, size: int) -> bytearray:
        """Return the FP image a program starts with."""

    @abstractmethod
    def fp_state(self, kind: int, image: bytearray) -> Loadable:
        """Return what transfers a guest's FP state between a thread and its image."""

    @abstractmethod
    def sanitize_fp(self, image: bytearray) -> None:
        """Make an image from an untrusted source loadable."""

    @abstractmethod
    def at_call(self, regs: "memoryview[int]", tid: int) -> None:
        """Complete the registers of a thread that has the stop before a system call."""

    @abstractmethod
    def at_stub_call(self, tid: int) -> None:
        """Prevent a call that a guest makes from the stub page, where that has a stop of its own (EVENT_SECCOMP)."""

    @abstractmethod
    def at_sigsys(self, regs: "memoryview[int]", info: ptrace.SignalStop) -> Event:
        """Turn a SIGSYS that the kernel sent into an event."""

    @abstractmethod
    def at_segv(self, regs: "memoryview[int]", info: ptrace.SignalStop, last: LastFault, stub: "Stub") -> Event:
        """Turn a SIGSEGV that the kernel sent into an event."""
