"""What is arm64 about tracing.

Guests are not resumed with PTRACE_SYSEMU: in that stop x7 is not the guest's, but says "before the call", and what a tracer
writes there is lost. The stub's filter answers every call of guest code with SIGSYS, and in the stop of that signal all registers
are the guest's, x0 included. So guests just run on (PTRACE_CONT) until a signal.

Calls from the stub page are the tracer's: the filter has them stop (RET_TRACE) instead of letting them through, or a guest that
jumps there could make them. An injection goes on after that stop; for a guest it is a system call like any other, not made.

Linux takes a first argument whose low half is one of the restart codes (−512…) for the result of the call that was not made, and
sets pc back before the stop. The signal tells where the call was, so pc is put right; with −516 a guest that is made to issue the
very same call again (Context restart) gets another number, restart_syscall's: the kernel's doing, and harmless (docs/limits.md).

Registers and the thread pointer are two register sets; the FP state has another order than the image of a context
(systrap.arch.arm_fp). ptrace does not show the syndrome of a fault, so its access is a guess.
"""

import signal
import struct
from typing import TYPE_CHECKING, Final

from systrap.arch import arm_fp
from systrap.arch.aarch64 import PC, PTREGS, X0, AArch64
from systrap.host import bpf, ptrace
from systrap.host.sys import check
from systrap.platform import SYSCALL_EVENT, Event, EventKind, SignalInfo
from systrap.platforms.ptrace.machine import Loadable, Machine
from systrap.platforms.x86_faults import LastFault

if TYPE_CHECKING:
    from systrap.platforms.ptrace.stub import Stub

_GENERAL_BYTES: Final = PTREGS * 8
_VECTORS: Final = 512
"""Bytes of v0…v31, which come first in the kernel's image, before fpsr and fpcr."""
_CONTROL: Final = 8
_SYS_SECCOMP: Final = 1
_SPIN_OFFSET: Final = 8
"""Where on the stub page ``b .`` is, behind ``svc #0; brk #0``."""
_U64: Final = (1 << 64) - 1
_CALL: Final = struct.Struct("<34Q")


class Registers:
    """The general registers of a guest and its thread pointer: two register sets, one buffer."""

    __slots__ = ("_general", "_pointer", "_regs", "_tls")

    def __init__(self, buffer: bytearray) -> None:
        self._regs = memoryview(buffer).cast("Q")
        self._general = ptrace.RegisterSet(ptrace.NT_PRSTATUS, buffer, _GENERAL_BYTES)
        pointer = bytearray(8)
        self._pointer = memoryview(pointer).cast("Q")
        self._tls = ptrace.RegisterSet(ptrace.NT_ARM_TLS, pointer)

    def read(self, tid: int) -> int:
        """Fill the buffer from a stopped thread. Returns 0 or −errno."""
        result = self._general.read(tid) or self._tls.read(tid)
        self._regs[PTREGS] = self._pointer[0]
        return result

    def write(self, tid: int) -> int:
        """Load the buffer into a stopped thread. Returns 0 or −errno."""
        self._pointer[0] = self._regs[PTREGS]
        return self._general.write(tid) or self._tls.write(tid)


class FpState:
    """A guest's FP state: the kernel's image beside the context's, which has fpsr and fpcr first."""

    __slots__ = ("_image", "_kernels", "_set")

    def __init__(self, kind: int, image: bytearray) -> None:
        self._image = image
        self._kernels = bytearray(arm_fp.SIZE)
        self._set = ptrace.RegisterSet(kind, self._kernels)

    def read(self, tid: int) -> int:
        """Fill the context's image from a stopped thread. Returns 0 or −errno."""
        result = self._set.read(tid)
        if not result:
            self._image[:_CONTROL] = self._kernels[_VECTORS : _VECTORS + _CONTROL]
            self._image[_CONTROL : arm_fp.USED] = self._kernels[:_VECTORS]
        return result

    def write(self, tid: int) -> int:
        """Load the context's image, made loadable, into a stopped thread. Returns 0 or −errno."""
        arm_fp.sanitize(self._image)
        self._kernels[:_VECTORS] = self._image[_CONTROL : arm_fp.USED]
        self._kernels[_VECTORS : _VECTORS + _CONTROL] = self._image[:_CONTROL]
        return self._set.write(tid)


class AArch64Machine(Machine):
    """See Machine."""

    stub_code = bytes.fromhex("010000d4 000020d4 00000014")
    syscall_len = 4
    resume = ptrace.CONT
    seize_options = ptrace.O_EXITKILL | ptrace.O_TRACESECCOMP
    stub_action = bpf.RET_TRACE
    call_bytes = _GENERAL_BYTES
    call_result = X0
    call_ip = PC

    def pack_call(self, buffer: bytearray, ip: int, nr: int, args: tuple[int, ...]) -> None:
        """See Machine."""
        a = [value & _U64 for value in args] + [0] * (8 - len(args))
        _CALL.pack_into(buffer, 0, *a, nr, *[0] * 23, ip, 0)

    def pack_pause(self, buffer: bytearray, code: int) -> None:
        """Spin, for the moment that it takes: a call would fail for want of a tracer."""
        self.pack_call(buffer, code + _SPIN_OFFSET, 0, ())

    def thread_pointer(self, tid: int) -> int:
        """Return tpidr_el0. Raises OSError."""
        buffer = bytearray(8)
        check(ptrace.RegisterSet(ptrace.NT_ARM_TLS, buffer).read(tid), "reading a stub's thread pointer")
        return int.from_bytes(buffer, "little")

    def register_buffer(self) -> bytearray:
        """See Machine."""
        return bytearray(AArch64.REG_COUNT * 8)

    def registers(self, buffer: bytearray) -> Loadable:
        """See Machine."""
        return Registers(buffer)

    def prepare(self, regs: "memoryview[int]") -> None:
        """Make PSTATE such as user mode can have."""
        AArch64.sanitize(regs)

    def probe_fp(self, tid: int) -> tuple[int, int]:
        """Return what every arm64 has; SVE is not kept (arm_fp)."""
        return ptrace.NT_FPREGSET, arm_fp.SIZE

    def initial_fp(self, size: int) -> bytearray:
        """See Machine."""
        return arm_fp.initial(size)

    def fp_state(self, kind: int, image: bytearray) -> Loadable:
        """See Machine."""
        return FpState(kind, image)

    def sanitize_fp(self, image: bytearray) -> None:
        """See Machine."""
        arm_fp.sanitize(image)

    def at_call(self, regs: "memoryview[int]", tid: int) -> None:
        """Nothing: there is no such stop."""

    def at_stub_call(self, tid: int) -> None:
        """Set the number to "none". Fails only when the thread was killed."""
        ptrace.RegisterSet(ptrace.NT_ARM_SYSTEM_CALL, bytearray(b"\xff\xff\xff\xff")).write(tid)

    def at_sigsys(self, regs: "memoryview[int]", info: ptrace.SignalStop) -> Event:
        """Report the system call that the filter caught; the signal's address is behind it."""
        if info.code != _SYS_SECCOMP:
            return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSYS), info.code, info.addr))
        regs[PC] = info.addr
        return SYSCALL_EVENT

    def at_segv(self, regs: "memoryview[int]", info: ptrace.SignalStop, last: LastFault, stub: "Stub") -> Event:
        """Guess what the access was: ptrace shows no syndrome."""
        access = last.guess(info.code, info.addr, regs[PC], stub.unmaps)
        return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSEGV), info.code, info.addr), access)
