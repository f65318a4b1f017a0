"""What systrap asks of a host's CPU, by architecture. See requirements.py, whose table these probes are part of."""

from typing import Final

from systrap.host.findings import AARCH64, MACHINES, X86_64, Finding, degraded, missing, ok, outcome
from systrap.host.probe import AT_HWCAP, AT_HWCAP2, AT_MINSIGSTKSZ, AT_PAGESZ, Host

_PAGE_SIZES: Final = {X86_64: (4096,), AARCH64: (4096, 16384, 65536)}
_FPSTATE_MAX: Final = 3584 - 4
_FRAME_WITHOUT_FP: Final = 936
_HANDLER_ROOM: Final = 2048
_HWCAP_FP: Final = 1 << 0
_HWCAP_ASIMD: Final = 1 << 1


def architecture(host: Host) -> Finding:
    """Judge the machine."""
    machine = host.uname()[1]
    if machine in MACHINES:
        return ok(machine)
    return missing(
        f"{machine}: registers and signal frames of {' and '.join(MACHINES)} are known, no others",
        "run on an x86-64 or arm64 machine",
    )


def page_size(host: Host) -> Finding:
    """Judge the size of pages."""
    size = host.auxiliary(AT_PAGESZ) or 0
    if size not in _PAGE_SIZES.get(host.uname()[1], ()):
        return missing(f"{size} bytes: there is no machine code for it", "boot a kernel with 4K pages")
    return ok(f"{size} bytes")


def address_bits(host: Host) -> Finding:
    """Judge the size of user address spaces, which x86-64 tells in /proc/cpuinfo."""
    for line in (host.read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("address sizes"):
            return ok(line.partition(":")[2].strip())
    return degraded("/proc/cpuinfo does not tell the address sizes", "nothing to do")


def fp_state(host: Host) -> Finding:
    """Judge whether the CPU's register state fits the place the stub has for it."""
    size = host.auxiliary(AT_MINSIGSTKSZ)
    flags = (host.read("/proc/cpuinfo") or "").split()
    if "xsave" not in flags:
        return degraded("no XSAVE: the old 512-byte FXSAVE image is used", "nothing to do")
    if size is None:
        return degraded("the kernel does not tell the size of signal frames (AT_MINSIGSTKSZ)", "Linux 5.14 tells")
    if size - _FRAME_WITHOUT_FP > _FPSTATE_MAX:
        return degraded(
            f"signal frames need {size} bytes (AMX?): tile data of guests is not kept", "do not use AMX in guests"
        )
    return ok(f"signal frames need {size} bytes, which fits")


def arm_address_bits(host: Host) -> Finding:
    """Judge the size of user address spaces on arm64: where this process's stack is tells its number of bits."""
    top = host.stack_top()
    if top is None:
        return degraded("/proc/self/maps does not tell where the stack is", "nothing to do")
    return ok(f"{top.bit_length()} bits virtual")


def arm_signal_stack(page: int) -> int:
    """Return the size of the stub's signal stacks on arm64 (platforms/systrap/layout.py) for a page size, in bytes."""
    return page if page >= 65536 else 3 * page


def arm_fp_state(host: Host) -> Finding:
    """Judge whether the CPU's FP registers are those that are kept, and whether signal frames with all others fit."""
    page, size = host.auxiliary(AT_PAGESZ) or 4096, host.auxiliary(AT_MINSIGSTKSZ)
    capabilities = host.auxiliary(AT_HWCAP) or 0
    if capabilities & (_HWCAP_FP | _HWCAP_ASIMD) != _HWCAP_FP | _HWCAP_ASIMD:
        return missing("no FP and SIMD registers", "there is nothing to do: the stub saves them")
    if size is None:
        return degraded("the kernel does not tell the size of signal frames (AT_MINSIGSTKSZ)", "nothing to do")
    room = arm_signal_stack(page) - _HANDLER_ROOM
    if size > room:
        return degraded(
            f"signal frames take up to {size} bytes (SVE, SME), stubs have room for {room}: a guest that uses these unasked dies",
            "nothing to do; guests are not told of SVE and SME",
        )
    return ok(f"signal frames need {size} bytes, which fits; guests are told of FP and SIMD, not of SVE and SME")


def fsgsbase(host: Host) -> Finding:
    """Judge whether user code may set FS and GS itself."""
    if (host.auxiliary(AT_HWCAP2) or 0) & 2:
        return ok("user code can set FS and GS")
    return degraded("no FSGSBASE: the stub sets FS by a system call of its own", "Linux 5.9 on a CPU since 2012 has it")


def cpuid_faulting(host: Host) -> Finding:
    """Judge whether CPUID can be made to fault."""
    code = host.experiment("cpuid_fault")
    if code:
        return degraded(
            f"arch_prctl(ARCH_SET_CPUID): {outcome(code)}; guests see the host's CPU as it is",
            "nothing to do; Intel CPUs since 2012 have it, AMD's since 2024, and hypervisors often hide it",
        )
    return ok("CPUID can be made to fault")
