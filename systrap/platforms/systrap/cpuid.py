"""CPUID in guests, where the host's kernel can make it fault (10-stub §7.7, 20-platform §5.1; S-110, P-051…P-053).

The source asked for it before it became a stub, and every stub inherits it: the instruction ends in a general protection
fault, and a SIGSEGV without an error word arrives here. The answer is computed, the context goes on behind the instruction,
and nobody above hears of it. Elsewhere guests execute CPUID themselves and see the host's CPU.
"""

from typing import Final

from systrap.arch import x86_64
from systrap.arch.x86_cpuid import VirtualCpuid
from systrap.host.sys import NR, syscall
from systrap.platform import GuestCode
from systrap.platforms.systrap.filters import ARCH_SET_CPUID
from systrap.platforms.systrap.machine_code import SentryCode, read_cpuid

INSTRUCTION: Final = b"\x0f\xa2"

_ALLOW: Final = 1
_U32: Final = 0xFFFFFFFF
_U64: Final = (1 << 64) - 1


def can_fault() -> bool:
    """Tell whether this host can make CPUID fault: allowing it, as it is anyway, is ENODEV elsewhere."""
    return "arch_prctl" in NR and syscall(NR["arch_prctl"], ARCH_SET_CPUID, _ALLOW) == 0


def features(code: SentryCode) -> VirtualCpuid:
    """Return what guests are to see of this host's CPU."""
    return VirtualCpuid(lambda leaf, subleaf: read_cpuid(code, leaf, subleaf))


def emulate(cpuid: VirtualCpuid, code: GuestCode, regs: "memoryview[int]") -> bool:
    """Answer the instruction at the instruction pointer if it is CPUID, and step over it. Tells whether it was."""
    at = regs[x86_64.RIP]
    if code.read_code(at, len(INSTRUCTION)) != INSTRUCTION:
        return False
    answer = cpuid.query(regs[x86_64.RAX] & _U32, regs[x86_64.RCX] & _U32)
    regs[x86_64.RAX], regs[x86_64.RBX], regs[x86_64.RCX], regs[x86_64.RDX] = answer
    regs[x86_64.RIP] = at + len(INSTRUCTION) & _U64
    return True
