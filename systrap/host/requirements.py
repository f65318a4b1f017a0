"""What systrap asks of a host, as data: each requirement, what it protects, how it is judged, and what to do.

A probe is a function of the host's facts (``probe.Host``) alone, so that every verdict can be tested with a made-up host.
``systrap doctor`` prints the table; the run path asks for the blocking rows only when a platform could not start.
"""

from typing import Final

from systrap.host.cpu_requirements import (
    address_bits,
    architecture,
    arm_address_bits,
    arm_fp_state,
    cpuid_faulting,
    fp_state,
    fsgsbase,
    page_size,
)
from systrap.host.findings import (
    AARCH64,
    BOTH,
    MACHINES,
    PTRACE,
    SYSTRAP,
    X86_64,
    Finding,
    Requirement,
    Result,
    Verdict,
    degraded,
    missing,
    ok,
    outcome,
    version,
)
from systrap.host.probe import Host

__all__ = ["BOTH", "MACHINES", "REQUIREMENTS", "Result", "Verdict", "blocking", "examine", "outcome", "version"]


_ENOSYS: Final = 38


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _status(host: Host, field: str) -> str:
    """Return a line of /proc/self/status, or nothing."""
    for line in (host.read("/proc/self/status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    return ""


def _inside_filter(host: Host) -> str:
    """Say that a filter of the surroundings is a likely cause, if there is one."""
    if _status(host, "Seccomp") == "2":
        return "a seccomp filter is in force around this process (a container's profile?): allow it there"
    return "look for a security module (AppArmor, SELinux) that forbids it, and at the kernel's configuration"


def kernel(host: Host) -> Finding:
    """Judge the kernel's version. What single features are there is asked separately."""
    release = host.uname()[0]
    found = version(release)
    if found < (5, 3):
        return missing(f"Linux {release} is older than 5.3", "boot a newer kernel (5.16 has everything)")
    if found < (5, 16):
        return degraded(f"Linux {release} runs guests with older, slower ways of waiting", "Linux 5.16 has everything")
    return ok(f"Linux {release}")


def python(host: Host) -> Finding:
    """Judge the interpreter."""
    found = host.python()
    text = ".".join(map(str, found))
    if found < (3, 11):
        return missing(f"Python {text} is older than 3.11", "use Python 3.11 or newer")
    return ok(f"Python {text}")


def proc(host: Host) -> Finding:
    """Judge whether /proc is there."""
    if host.read("/proc/self/status") is None:
        return missing("/proc is not mounted here", "mount -t proc proc /proc")
    return ok("mounted")


def no_new_privs(host: Host) -> Finding:
    """Judge whether filters may be installed without being root."""
    code = host.experiment("no_new_privs")
    if code:
        return missing(f"prctl(PR_SET_NO_NEW_PRIVS): {outcome(code)}", _inside_filter(host))
    return ok("can be set")


def seccomp(host: Host) -> Finding:
    """Judge whether a filter can be installed, and can answer with a signal."""
    code = host.experiment("seccomp_filter")
    if code:
        cause = "the kernel needs CONFIG_SECCOMP_FILTER" if code in (_ENOSYS, 22) else _inside_filter(host)
        return missing(f"seccomp(SET_MODE_FILTER): {outcome(code)}", cause)
    actions = (host.read("/proc/sys/kernel/seccomp/actions_avail") or "").split()
    if actions and "trap" not in actions:
        return missing("filters work, but without the action trap", "the kernel needs SECCOMP_RET_TRAP")
    return ok("filters can be installed, and can trap")


def user_notify(host: Host) -> Finding:
    """Judge whether a filter can hand system calls to a listener."""
    code = host.experiment("user_notify")
    if code == 0:
        return ok("a listener can be had")
    lost = (
        "memory is mapped through a shared page and futexes instead, which is slower and which guest code could disturb"
    )
    if code == 16:
        return degraded(f"somebody around this process listens already: {lost}", "run outside of that supervisor")
    return degraded(f"no seccomp listener ({outcome(code)}): {lost}", "Linux 5.0 and no filter around this process")


def user_dispatch(host: Host) -> Finding:
    """Judge syscall user dispatch."""
    code = host.experiment("user_dispatch")
    if code:
        return degraded(
            f"prctl(PR_SET_SYSCALL_USER_DISPATCH): {outcome(code)}; seccomp alone traps system calls",
            "nothing to do; Linux 5.11 on x86-64 has it",
        )
    return ok("works")


def ptrace(host: Host) -> Finding:
    """Judge whether children can be traced. Yama, a container's filter and a missing capability all forbid it."""
    code = host.experiment("ptrace")
    scope = _number(host.read("/proc/sys/kernel/yama/ptrace_scope"))
    if code == 0:
        return ok("children can be traced" + (f" (Yama scope {scope})" if scope else ""))
    if scope is not None and scope >= 3:
        return missing(
            f"Yama scope {scope} forbids ptrace altogether", "use the platform systrap: it does not need ptrace"
        )
    if scope == 2:
        return missing(
            "Yama scope 2 allows ptrace with CAP_SYS_PTRACE only", "use the platform systrap, or run as root"
        )
    return missing(f"ptrace: {outcome(code)}", f"use the platform systrap, or: {_inside_filter(host)}")


def memfd(host: Host) -> Finding:
    """Judge whether guest memory can live in memfds that are mapped executable."""
    code = host.experiment("memfd_execute")
    if code == 0:
        return ok("can be mapped executable")
    policy = _number(host.read("/proc/sys/vm/memfd_noexec"))
    if policy:
        return missing(f"vm.memfd_noexec = {policy} forbids executable memfds", "sysctl vm.memfd_noexec=0 (or 1)")
    return missing(f"memfd_create and mmap(PROT_EXEC): {outcome(code)}", _inside_filter(host))


def address_room(host: Host) -> Finding:
    """Judge whether the sentry can map its whole (sparse) memory file."""
    code = host.experiment("memfd_large")
    if code == 0:
        return ok("256 GiB of sparse memory file can be mapped")
    if host.limit("AS") >= 0:
        return missing("RLIMIT_AS does not leave 256 GiB of address space", "ulimit -v unlimited")
    return missing(
        f"mapping 256 GiB of sparse memory file: {outcome(code)}", "look at vm.overcommit_memory and container limits"
    )


def rseq(host: Host) -> Finding:
    """Judge whether glibc's restartable sequences can be taken back in stubs."""
    size = host.rseq_size()
    if size is None:
        return ok("this libc registers none that it tells of")
    return ok(f"glibc registered {size} bytes; stubs take it back" if size else "not registered")


def mseal(host: Host) -> Finding:
    """Judge memory sealing."""
    code = host.experiment("mseal")
    if code:
        return degraded(
            f"mseal: {outcome(code)}; only filters keep the stub's code as it is", "nothing to do; Linux 6.10 has it"
        )
    return ok("the stub's code is sealed")


def futex_waitv(host: Host) -> Finding:
    """Judge waiting on several futexes."""
    code = host.experiment("futex_waitv")
    if code:
        return degraded(f"futex_waitv: {outcome(code)}; the sentry looks at each stub in turn", "Linux 5.16 has it")
    return ok("works")


def membarrier(host: Host) -> Finding:
    """Judge membarrier."""
    code = host.experiment("membarrier")
    if code:
        return degraded(f"membarrier: {outcome(code)}; guests that ask for it get ENOSYS", "nothing to do")
    return ok("works")


def mappings(host: Host) -> Finding:
    """Judge how many mappings a process may have."""
    count = _number(host.read("/proc/sys/vm/max_map_count"))
    if count is not None and count < 65530:
        return degraded(f"vm.max_map_count = {count}: big guests may run out", "sysctl vm.max_map_count=65530")
    return ok("vm.max_map_count is not readable" if count is None else f"vm.max_map_count = {count}")


def processes(host: Host) -> Finding:
    """Judge the room for processes: each guest process takes one stub process with a few threads."""
    room = host.limit("NPROC")
    where = "ulimit -u"
    group = next(
        (p for p in (host.read("/proc/self/cgroup") or "").splitlines() if ":pids:" in p or p.startswith("0::")), ""
    )
    path = group.rpartition(":")[2]
    for base in (f"/sys/fs/cgroup{path}", f"/sys/fs/cgroup/pids{path}"):
        most, used = _number(host.read(f"{base}/pids.max")), _number(host.read(f"{base}/pids.current"))
        if most is not None and (room < 0 or most - (used or 0) < room):
            room, where = most - (used or 0), "the container's limit of pids"
    if 0 <= room < 64:
        return degraded(
            f"room for {room} more processes and threads: guests get EAGAIN from fork early", f"raise {where}"
        )
    return ok("no limit" if room < 0 else f"room for {room}")


def descriptors(host: Host) -> Finding:
    """Judge the room for file descriptors: the sentry opens the guests' host files."""
    room = host.limit("NOFILE")
    if 0 <= room < 1024:
        return degraded(f"{room} descriptors: guests get EMFILE early", "ulimit -n 4096")
    return ok("no limit" if room < 0 else f"{room}")


def cpus(host: Host) -> Finding:
    """Tell how many CPUs there are; one is enough, and means no spinning."""
    count = host.cpus()
    quota = (host.read("/sys/fs/cgroup/cpu.max") or "").split()
    if len(quota) == 2 and quota[0].isdecimal() and int(quota[0]) < int(quota[1]):
        return ok(f"{count}, but a quota of less than one: everything sleeps instead of spinning")
    return ok("1: everything sleeps instead of spinning" if count == 1 else f"{count}")


def terminal(host: Host) -> Finding:
    """Tell whether there is a controlling terminal."""
    return ok("there is one" if host.has_terminal() else "none: no job control between host and guest, which is fine")


_ADDRESS_BITS: Final = "the stub's place at the top of the address space is computed from it"
_FP_STATE: Final = "guest floating point and vector registers survive a trap"

REQUIREMENTS: Final = (
    Requirement("architecture", "guest code runs natively: registers and machine code must be known", BOTH, architecture),
    Requirement("kernel", "the features below came with certain versions", BOTH, kernel),
    Requirement("python", "the sentry is Python", BOTH, python),
    Requirement("/proc", "the sentry reads its own auxiliary vector and maps", BOTH, proc),
    Requirement("no_new_privs", "any user may install filters; stubs cannot gain rights", SYSTRAP, no_new_privs),
    Requirement("seccomp", "turns every system call of guest code into a signal of its stub", SYSTRAP, seccomp),
    Requirement("user notify", "takes results of the stub's own calls where no guest can forge them", SYSTRAP, user_notify),
    Requirement("user dispatch", "a second, faster trap by instruction address", SYSTRAP, user_dispatch),
    Requirement("ptrace", "stops guest code at system calls, for the platform ptrace only", PTRACE, ptrace),
    Requirement("memfd", "guest memory: one file that both stub and sentry map", BOTH, memfd),
    Requirement("address room", "the sentry sees all guest memory through one mapping", BOTH, address_room),
    Requirement("page size", "what guests map comes in pages", BOTH, page_size),
    Requirement("address bits", _ADDRESS_BITS, BOTH, address_bits, (X86_64,)),
    Requirement("address bits", _ADDRESS_BITS, BOTH, arm_address_bits, (AARCH64,)),
    Requirement("FP state", _FP_STATE, BOTH, fp_state, (X86_64,)),
    Requirement("FP state", _FP_STATE, BOTH, arm_fp_state, (AARCH64,)),
    Requirement("FSGSBASE", "saves a system call per trap", SYSTRAP, fsgsbase, (X86_64,)),
    Requirement("CPUID faulting", "guests see only what of the CPU is kept for them", SYSTRAP, cpuid_faulting, (X86_64,)),
    Requirement("rseq", "glibc's registration must not write into guest memory", SYSTRAP, rseq),
    Requirement("mseal", "a hostile guest cannot remap the stub's code", SYSTRAP, mseal),
    Requirement("futex_waitv", "the sentry sleeps on all stubs at once", SYSTRAP, futex_waitv),
    Requirement("membarrier", "guests' membarrier calls", SYSTRAP, membarrier),
    Requirement("mappings", "each stub has as many mappings as its guest", BOTH, mappings),
    Requirement("processes", "each guest process is a stub process with a few threads", BOTH, processes),
    Requirement("descriptors", "host files that guests have open are open in the sentry", BOTH, descriptors),
    Requirement("CPUs", "spinning pays only when another CPU does the work", BOTH, cpus),
    Requirement("terminal", "Ctrl-C, Ctrl-Z and window sizes reach guests", BOTH, terminal),
)  # fmt: skip
"""Everything that is asked of a host, in the order doctor prints it."""


def examine(host: Host) -> list[Result]:
    """Ask for everything that matters on the host's machine; on an unknown one, for what matters on all."""
    machine = host.uname()[1]
    asked = [r for r in REQUIREMENTS if machine in r.machines or r.machines == MACHINES]
    return [Result(requirement, requirement.probe(host)) for requirement in asked]


def blocking(results: list[Result], platform: str) -> list[Result]:
    """Return what keeps ``platform`` from running."""
    return [r for r in results if r.finding.verdict is Verdict.MISSING and platform in r.requirement.needed_by]
