"""ptrace(2) and wait4(2) as typed functions, and the raw clone of a child that can be traced from its first instruction on.

A ptrace request works only from the OS thread that attached to the tracee, and only while the tracee is stopped. Functions
that are called once per event return 0 or −errno; the rest raise OSError.
"""

import ctypes
import os
import signal
import struct
from typing import Final, NamedTuple

from systrap.host.mem import address_of
from systrap.host.sys import NR, RSEQ_SIGNATURE, check, libc, syscall

CONT: Final = 7
SINGLESTEP: Final = 9
DETACH: Final = 17
SYSEMU: Final = 31
SETOPTIONS: Final = 0x4200
GETSIGINFO: Final = 0x4202
GETREGSET: Final = 0x4204
SETREGSET: Final = 0x4205
SEIZE: Final = 0x4206
INTERRUPT: Final = 0x4207
SETSIGMASK: Final = 0x420B
GET_SYSCALL_INFO: Final = 0x420E
GET_RSEQ_CONFIGURATION: Final = 0x420F

O_TRACESYSGOOD: Final = 0x00000001
O_TRACESECCOMP: Final = 0x00000080
O_EXITKILL: Final = 0x00100000

NT_PRSTATUS: Final = 1
"""Register set: general registers (x86: struct user_regs_struct)."""
NT_FPREGSET: Final = 2
"""Register set: FP registers; on x86 the 512 bytes of FXSAVE, on arm64 v0…v31, fpsr, fpcr."""
NT_X86_XSTATE: Final = 0x202
"""Register set: the whole FP state, in the standard XSAVE format."""
NT_ARM_TLS: Final = 0x401
"""Register set: the thread pointer, tpidr_el0."""
NT_ARM_SYSTEM_CALL: Final = 0x404
"""Register set: the number of the system call that is about to be made, 32 bits; −1 is none."""

SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
"""What stop_signal() gives at a system call, under O_TRACESYSGOOD."""
EVENT_SECCOMP: Final = 7
"""The event of a stop at a system call, under O_TRACESECCOMP, where a filter says RET_TRACE."""
EVENT_STOP: Final = 128
"""The event of a stop by INTERRUPT, and of the first stop of a thread that was attached when it was cloned."""

WNOHANG: Final = 1
WNOTHREAD: Final = 0x20000000
"""wait4: only children and tracees of the calling thread."""
WALL: Final = 0x40000000
"""wait4: whatever their exit signal."""

CLONE_VM: Final = 0x100
CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_SIGHAND: Final = 0x800
CLONE_PTRACE: Final = 0x2000
CLONE_PARENT: Final = 0x8000
CLONE_THREAD: Final = 0x10000
CLONE_SYSVSEM: Final = 0x40000

_ptrace = libc.ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_size_t, ctypes.c_size_t)
_ptrace.restype = ctypes.c_long
_wait4 = libc.wait4
_wait4.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t)
_clone = libc.clone
_clone.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t)

_IOVEC: Final = struct.Struct("NN")
_CHILD_STACK: Final = 65536
_SIGINFO: Final = struct.Struct("<iii4xQQI")
_SIGACTION: Final = struct.Struct("<4Q")
"""The kernel's struct sigaction: handler, flags, restorer, mask."""
_SA_NOCLDSTOP: Final = 1
_SYSCALL_INSTRUCTION: Final = b"\x01\x00\x00\xd4" if os.uname().machine == "aarch64" else b"\x0f\x05"


def request(what: int, tid: int, addr: int = 0, data: int = 0) -> int:
    """Make a ptrace request. Returns 0 (of a few requests: a size), or −errno; −ESRCH when ``tid`` is not stopped, or dead."""
    result: int = _ptrace(what, tid, addr, data)
    return -ctypes.get_errno() if result == -1 else result


def demand(what: int, tid: int, addr: int = 0, data: int = 0) -> int:
    """Make a ptrace request that has no reason to fail. Raises OSError."""
    return check(request(what, tid, addr, data), f"ptrace({what:#x}) of thread {tid}")


class RegisterSet:
    """A buffer for one register set, and the requests that fill or load it.

    ``request(GETREGSET, tid, set.kind, set.address)`` is what read() does, for callers that count nanoseconds.
    """

    __slots__ = ("_buffer", "_iovec", "address", "kind")

    def __init__(self, kind: int, buffer: bytearray, length: int | None = None) -> None:
        """Bind a set (NT_…) to the first ``length`` bytes of a buffer that is never resized."""
        self.kind = kind
        self._buffer = buffer
        self._iovec = bytearray(_IOVEC.pack(address_of(buffer), len(buffer) if length is None else length))
        self.address = address_of(self._iovec)

    def read(self, tid: int) -> int:
        """Fill the buffer from a stopped thread. Returns 0 or −errno. The kernel notes the set's size: see size()."""
        return request(GETREGSET, tid, self.kind, self.address)

    def write(self, tid: int) -> int:
        """Load the buffer into a stopped thread. Returns 0 or −errno."""
        return request(SETREGSET, tid, self.kind, self.address)

    def size(self) -> int:
        """Return how many bytes the last transfer moved."""
        return int(_IOVEC.unpack(self._iovec)[1])


class SignalStop(NamedTuple):
    """What GETSIGINFO tells of a signal: addresses and ids overlap, as in siginfo_t.

    ``addr`` is the fault's address; for SIGSYS the address behind the call. ``pid`` is the sender where code ≤ 0.
    """

    signo: int
    code: int
    addr: int

    @property
    def pid(self) -> int:
        """Return the sender's process id; meaningful only for signals that a process sent."""
        return self.addr & 0xFFFFFFFF


_siginfo_size: Final = 128


def siginfo(tid: int) -> SignalStop | None:
    """Return what is known of the signal a thread is stopped with; None when the thread is gone or not so stopped."""
    buffer = ctypes.create_string_buffer(_siginfo_size)
    if request(GETSIGINFO, tid, 0, ctypes.addressof(buffer)) < 0:
        return None
    signo, _errno, code, addr, _second, _third = _SIGINFO.unpack_from(buffer)
    return SignalStop(signo, code, addr)


def syscall_arch(tid: int) -> int | None:
    """Return the AUDIT_ARCH_… of the system call a thread is stopped at, or None (kernel < 5.3, or not at a call)."""
    buffer = bytearray(88)
    address = address_of(buffer)
    if request(GET_SYSCALL_INFO, tid, len(buffer), address) < 8 or buffer[0] == 0:
        return None
    return int.from_bytes(buffer[4:8], "little")


def set_signal_mask(tid: int, mask: int) -> None:
    """Set the signals a stopped thread blocks: bit n−1 for signal n. Raises OSError."""
    buffer = ctypes.c_uint64(mask)
    demand(SETSIGMASK, tid, 8, ctypes.addressof(buffer))


class RestartableSequences(NamedTuple):
    """A thread's rseq registration: what unregistering it takes."""

    address: int
    size: int
    signature: int


def rseq(tid: int, thread_pointer: int) -> RestartableSequences | None:
    """Return the rseq registration of a stopped thread of this program, or None when it has none.

    Kernels before 5.13 do not tell; there it is where this glibc says that it put it.
    """
    buffer = bytearray(24)
    address = address_of(buffer)
    if request(GET_RSEQ_CONFIGURATION, tid, len(buffer), address) >= 0:
        found = RestartableSequences(*struct.unpack_from("<QII", buffer))
        return found if found.address else None
    try:
        offset = ctypes.c_ssize_t.in_dll(libc, "__rseq_offset").value
        size = ctypes.c_uint.in_dll(libc, "__rseq_size").value
    except ValueError:
        return None
    return RestartableSequences(thread_pointer + offset, max(size, 32), RSEQ_SIGNATURE) if size else None


class Waiter:
    """wait4 with a place for the status. One per thread."""

    __slots__ = ("_address", "_status", "status")

    def __init__(self) -> None:
        self._status = ctypes.c_int()
        self._address = ctypes.addressof(self._status)
        self.status = 0

    def wait(self, pid: int, options: int) -> int:
        """Wait for a change of ``pid`` (negative: of the process group −pid). Returns the thread's id, 0 or −errno.

        ``status`` holds the wait status. Not restarted after a signal: −EINTR.
        """
        result: int = _wait4(pid, self._address, options, 0)
        if result == -1:
            return -ctypes.get_errno()
        self.status = self._status.value
        return result


def is_stopped(status: int) -> bool:
    """Tell whether a wait status is a stop; otherwise the thread is gone."""
    return status & 0xFF == 0x7F


def stop_signal(status: int) -> int:
    """Return the signal of a stop (0x80 added at system calls)."""
    return (status >> 8) & 0xFF


def stop_event(status: int) -> int:
    """Return the ptrace event of a stop (EVENT_…), or 0."""
    return status >> 16


def is_zombie(pid: int) -> bool:
    """Tell whether a process's main thread is dead, or gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def silence_stops() -> None:
    """Have the kernel send this process no SIGCHLD when a child or tracee merely stops: with tracees, that is at each event.

    Only a flag of the signal's action changes (SA_NOCLDSTOP). Raises OSError.
    """
    action = bytearray(_SIGACTION.size)
    address = address_of(action)
    check(syscall(NR["rt_sigaction"], signal.SIGCHLD, 0, address, 8), "reading the action of SIGCHLD")
    handler, flags, restorer, mask = _SIGACTION.unpack(action)
    _SIGACTION.pack_into(action, 0, handler, flags | _SA_NOCLDSTOP, restorer, mask)
    check(syscall(NR["rt_sigaction"], signal.SIGCHLD, address, 0, 8), "setting the action of SIGCHLD")


def clone_sleeper(flags: int, seconds: int) -> int:
    """Start a child process whose only code is libc's sleep(), and return its id: nothing of Python runs in it.

    libc's clone() calls a C function in the child; sleep is one. A child that is not seized soon ends itself. All signals
    should be blocked by the caller: the child inherits its mask and its handlers. Raises OSError.
    """
    stack = ctypes.create_string_buffer(_CHILD_STACK)
    top = (ctypes.addressof(stack) + _CHILD_STACK) & ~15
    entry = ctypes.cast(libc.sleep, ctypes.c_void_p)
    pid: int = _clone(entry, top, flags | signal.SIGCHLD, seconds)
    if pid == -1:
        check(-ctypes.get_errno(), "clone of a stub process")
    return pid


def libc_syscall_instruction() -> int:
    """Return the address of a system call instruction of libc's."""
    start = ctypes.cast(libc.syscall, ctypes.c_void_p).value
    if start is None:
        raise OSError("this libc has no syscall()")
    code = ctypes.string_at(start, 64)
    offset = code.find(_SYSCALL_INSTRUCTION)
    if offset < 0:
        raise OSError("no system call instruction at the start of libc's syscall()")
    return start + offset
