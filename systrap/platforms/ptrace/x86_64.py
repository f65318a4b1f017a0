"""What is x86-64 about tracing: the injected call, the registers of a resumed guest, and what a stop means.

The system call instruction is ``syscall``; a traced thread is at the address behind it when it stops at a call.
"""

import errno
import signal
import struct
from typing import TYPE_CHECKING, Final

from systrap.arch import x86_fp
from systrap.arch.x86_64 import (
    CS,
    DS,
    EFLAGS_IF,
    EFLAGS_RESERVED_ONE,
    ES,
    FS,
    FS_BASE,
    GS,
    ORIG_RAX,
    RAX,
    RCX,
    RIP,
    RSP,
    SS,
    USER_CS,
    USER_SS,
)  # fmt: skip
from systrap.host import bpf, ptrace
from systrap.host.sys import AUDIT_ARCH, NR, check
from systrap.platform import Access, Event, EventKind, SignalInfo
from systrap.platforms.ptrace.machine import Loadable, Machine
from systrap.platforms.x86_faults import SEGV_MAPERR, LastFault

if TYPE_CHECKING:
    from systrap.platforms.ptrace.stub import Stub

_CALL_BYTES: Final = 21 * 8
"""How much of the register set an injection writes: up to ss. The bases behind it stay as the guest has them."""
_REGISTER_BYTES: Final = 27 * 8

_FOREIGN_OFFSET: Final = 0x86000000
"""Added to the number of a system call of another convention (int 0x80): no such call exists (P-050)."""
_VSYSCALL: Final = (0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000)

_XSTATE_MAX: Final = 64 * 1024
_FXSAVE_SIZE: Final = 512
_SI_KERNEL: Final = 0x80
_SYS_SECCOMP: Final = 1
_U64: Final = (1 << 64) - 1
_CALL: Final = struct.Struct("<21Q")


class Registers(ptrace.RegisterSet):
    """All registers of a guest."""

    __slots__ = ("_without_bases",)

    def __init__(self, buffer: bytearray) -> None:
        super().__init__(ptrace.NT_PRSTATUS, buffer)
        self._without_bases = ptrace.RegisterSet(ptrace.NT_PRSTATUS, buffer, _CALL_BYTES)

    def write(self, tid: int) -> int:
        """Load the buffer into a stopped thread. Returns 0 or −errno."""
        result = super().write(tid)
        if result == -errno.EIO:
            # A base that the guest set itself, beyond what ptrace accepts. The thread still has it.
            return self._without_bases.write(tid)
        return result


class X86Machine(Machine):
    """See Machine."""

    stub_code = b"\x0f\x05\xcc"
    syscall_len = 2
    resume = ptrace.SYSEMU
    seize_options = ptrace.O_EXITKILL | ptrace.O_TRACESYSGOOD
    stub_action = bpf.RET_ALLOW
    call_bytes = _CALL_BYTES
    call_result = RAX
    call_ip = RIP

    def pack_call(self, buffer: bytearray, ip: int, nr: int, args: tuple[int, ...]) -> None:
        """See Machine. orig_rax says "not in a system call", or the kernel could restart a call of the guest's instead."""
        a = [value & _U64 for value in args] + [0] * (6 - len(args))
        flags = EFLAGS_IF | EFLAGS_RESERVED_ONE
        _CALL.pack_into(
            buffer, 0, 0, 0, 0, 0, 0, 0, 0, a[3], a[5], a[4], nr, 0, a[2], a[1], a[0], _U64, ip, USER_CS, flags, 0, USER_SS
        )  # fmt: skip

    def pack_pause(self, buffer: bytearray, code: int) -> None:
        """Wait in a call."""
        self.pack_call(buffer, code, NR["ppoll"], ())

    def thread_pointer(self, tid: int) -> int:
        """Return the FS base. Raises OSError."""
        buffer = bytearray(_REGISTER_BYTES)
        check(ptrace.RegisterSet(ptrace.NT_PRSTATUS, buffer).read(tid), "reading a stub's registers")
        return memoryview(buffer).cast("Q")[FS_BASE]

    def register_buffer(self) -> bytearray:
        """See Machine."""
        return bytearray(_REGISTER_BYTES)

    def registers(self, buffer: bytearray) -> Loadable:
        """See Machine."""
        return Registers(buffer)

    def prepare(self, regs: "memoryview[int]") -> None:
        """Set the host's selectors (P-042), and "not in a system call"."""
        regs[ORIG_RAX] = _U64
        regs[CS] = USER_CS
        regs[SS] = USER_SS
        regs[DS] = regs[ES] = regs[FS] = regs[GS] = 0

    def probe_fp(self, tid: int) -> tuple[int, int]:
        """Ask the host for the size of its XSAVE image."""
        whole = ptrace.RegisterSet(ptrace.NT_X86_XSTATE, bytearray(_XSTATE_MAX))
        if whole.read(tid) == 0:
            return ptrace.NT_X86_XSTATE, whole.size()
        return ptrace.NT_FPREGSET, _FXSAVE_SIZE

    def initial_fp(self, size: int) -> bytearray:
        """See Machine."""
        return x86_fp.initial(size)

    def fp_state(self, kind: int, image: bytearray) -> Loadable:
        """Use the image as it is: it is the kernel's."""
        return ptrace.RegisterSet(kind, image)

    def sanitize_fp(self, image: bytearray) -> None:
        """See Machine."""
        x86_fp.sanitize(image)

    def at_call(self, regs: "memoryview[int]", tid: int) -> None:
        """Set the number, which is neither native nor valid when the call came through the 32-bit gate (P-050).

        Asking costs a request, so it is asked only where the registers are not as ``syscall`` leaves them: rcx = rip. A guest
        can make ``int 0x80`` look so. It then gets its call taken for a native one, which harms nobody else.
        """
        number = regs[ORIG_RAX]
        if regs[RCX] != regs[RIP] and ptrace.syscall_arch(tid) not in (None, AUDIT_ARCH):
            number = regs[ORIG_RAX] = (number & 0xFFFFFFFF) + _FOREIGN_OFFSET
        regs[RAX] = number

    def at_stub_call(self, tid: int) -> None:
        """Nothing: a guest has the stop before the call there, too."""

    def at_sigsys(self, regs: "memoryview[int]", info: ptrace.SignalStop) -> Event:
        """Turn what the filter caught into the fault it would be without a vsyscall page (P-049).

        The host kernel emulates calls into the page without a system call stop, so only the filter sees them. Its return is
        taken back.
        """
        low, high = _VSYSCALL
        if info.code != _SYS_SECCOMP or not low <= info.addr < high:
            return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSYS), info.code, info.addr))
        regs[RIP] = info.addr
        regs[RSP] = (regs[RSP] - 8) & _U64
        return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSEGV), SEGV_MAPERR, info.addr), Access.EXECUTE)

    def at_segv(self, regs: "memoryview[int]", info: ptrace.SignalStop, last: LastFault, stub: "Stub") -> Event:
        """Guess what the access was. Of a jump into the vsyscall page beside its entries the kernel tells no address."""
        ip = regs[RIP]
        code, addr = info.code, info.addr
        if code == _SI_KERNEL and _VSYSCALL[0] <= ip < _VSYSCALL[1]:
            code, addr = SEGV_MAPERR, ip
        access = last.guess(code, addr, ip, stub.unmaps)
        return Event(EventKind.SIGNAL, SignalInfo(int(signal.SIGSEGV), code, addr), access)
