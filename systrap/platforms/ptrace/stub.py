"""Stub processes: what is traced, and how the first one comes to be."""

import os
import signal
import struct
from typing import TYPE_CHECKING, Final

from systrap.host import bpf, ptrace
from systrap.host.limits import max_user_address, task_size
from systrap.host.mem import MAP_FIXED_NOREPLACE, MAP_PRIVATE, PROT_EXEC, PROT_READ
from systrap.host.sys import AUDIT_ARCH, NR, PAGE_SIZE, check
from systrap.platform import RequirementError
from systrap.platforms.ptrace.here import MACHINE

if TYPE_CHECKING:
    from systrap.platforms.ptrace.context import PtraceContext
    from systrap.platforms.ptrace.tracer import Tracer

INTERRUPT_SIGNAL: Final = signal.SIGCHLD
"""The one signal that stub threads do not block, and that the sentry sends them."""

SEIZE_OPTIONS: Final = MACHINE.seize_options

THREAD_FLAGS: Final = (
    ptrace.CLONE_VM
    | ptrace.CLONE_FS
    | ptrace.CLONE_FILES
    | ptrace.CLONE_SIGHAND
    | ptrace.CLONE_THREAD
    | ptrace.CLONE_SYSVSEM
    | ptrace.CLONE_PTRACE
)
"""What a new thread of a stub shares: everything. It is traced from the start, by its creator's tracer."""

_BLOCKED: Final = ((1 << 64) - 1) & ~(1 << (INTERRUPT_SIGNAL - 1))
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_SET_MODE_FILTER: Final = 1
_RSEQ_FLAG_UNREGISTER: Final = 1
_EEXIST: Final = 17
_EPERM: Final = 1
_PLACEMENT_TRIES: Final = 32
_SLEEP_SECONDS: Final = 10
# What lies on the stub page behind the code.
_NO_HANDLER: Final = 0x40
_NAME: Final = 0x80
_FILTER: Final = 0x100

INJECTED: Final = (
    "mmap", "munmap", "clone", "ppoll", "read", "setsid", "rt_sigaction", "prctl", "seccomp",
)  # fmt: skip
"""The system calls that stubs make on the host, all of them from the stub page."""


class StubDiedError(Exception):
    """A stub process died while it was worked on."""


class Tracee:
    """A stub thread, traced by one tracer's OS thread. It is stopped unless ``context`` is set."""

    __slots__ = ("context", "dead", "stub", "tid", "tracer")

    def __init__(self, tid: int, stub: "Stub", tracer: "Tracer") -> None:
        self.tid = tid
        self.stub = stub
        self.tracer = tracer
        self.context: PtraceContext | None = None
        self.dead = False


class Stub:
    """A stub process: one address space, one leader that only maps, and a thread for each context that ever ran at once.

    ``death`` says why the process is no more, once it is not. ``unmaps`` counts changes that invalidate the last fault.
    ``lent``: other tracers than the leader's have threads here. ``idle`` and ``spare``: stopped threads of the tracers.
    """

    __slots__ = ("code", "death", "idle", "leader", "lent", "pid", "spare", "unmaps")

    def __init__(self, pid: int, code: int, broker: "Tracer") -> None:
        """Describe the process ``pid`` with its stub page at ``code``, whose leader ``broker`` traces."""
        self.pid = pid
        self.code = code
        self.leader = Tracee(pid, self, broker)
        self.death = ""
        self.unmaps = 0
        self.lent = False
        self.idle: dict[Tracer, list[Tracee]] = {}
        self.spare: Tracee | None = None

    def kill(self) -> None:
        """Send SIGKILL. The tracers reap."""
        if not self.death:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.death = "it was gone already"


def stub_page(address: int) -> bytes:
    """Return the content of the stub page for a placement: code, and the data of the calls that set up the source."""
    behind = address + MACHINE.syscall_len
    only_here = (bpf.Alternative((bpf.Condition(bpf.IP, behind),), MACHINE.stub_action),)
    program = bpf.program({NR[name]: only_here for name in INJECTED}, AUDIT_ARCH)
    page = bytearray(PAGE_SIZE)
    page[: len(MACHINE.stub_code)] = MACHINE.stub_code
    struct.pack_into("16s", page, _NAME, b"ptrace-stub")
    fprog = bpf.sock_fprog(program, address + _FILTER)
    page[_FILTER : _FILTER + len(fprog)] = fprog
    return bytes(page)


def create_source(tracer: "Tracer") -> Stub:
    """Make the stub process that all others are cloned from, and let ``tracer`` (this thread) trace it.

    It shares the sentry's descriptors, so a number that is valid here is valid in an injected mmap, now and later; it has
    none of the sentry's memory, no handlers, its own session, and a filter under which only the stub page can reach the
    host kernel. All signals are blocked in this thread. Raises RequirementError, OSError.
    """
    pid = ptrace.clone_sleeper(ptrace.CLONE_FILES, _SLEEP_SECONDS)
    stub = Stub(pid, ptrace.libc_syscall_instruction(), tracer)
    try:
        result = ptrace.request(ptrace.SEIZE, pid, 0, SEIZE_OPTIONS)
        if result < 0:
            raise RequirementError(
                f"the host does not let this process trace its child: {os.strerror(-result)} "
                "(Yama scope ≥ 2, or a container without ptrace); run systrap doctor"
            )
        ptrace.demand(ptrace.INTERRUPT, pid)
        tracer.adopt(stub.leader)
        _strip(tracer, stub)
        _confine(tracer, stub)
    except StubDiedError as error:
        raise OSError(_EPERM, f"the first stub process died while it was set up: {error}") from error
    except BaseException:
        stub.kill()
        if pid in tracer.tracees:
            tracer.reap(stub)
        else:
            os.waitpid(pid, ptrace.WALL)
        raise
    return stub


def _strip(tracer: "Tracer", stub: Stub) -> None:
    """Place the stub page, and remove everything else that the source inherited."""
    leader = stub.leader
    rseq = ptrace.rseq(leader.tid, MACHINE.thread_pointer(leader.tid))
    if rseq is not None:
        # Or the kernel would write to unmapped memory at the next preemption, and kill the stub for it.
        args = (rseq.address, rseq.size, _RSEQ_FLAG_UNREGISTER, rseq.signature)
        check(tracer.inject(leader, NR["rseq"], *args), "unregistering rseq in a stub")
    stub.code = _place(tracer, leader)
    end = stub.code + PAGE_SIZE
    for low, high in ((0, stub.code), (end, task_size())):
        result = tracer.inject(leader, NR["munmap"], low, high - low)
        if result == -_EPERM:
            _unmap_each(tracer, leader, low, high)
        else:
            check(result, "emptying a stub")


def _place(tracer: "Tracer", leader: Tracee) -> int:
    """Map the stub page at a random address that no guest can map over, and return it (P-007)."""
    low = max_user_address()
    pages = (task_size() - low) // PAGE_SIZE - 1
    fd = os.memfd_create("ptrace-stub", os.MFD_CLOEXEC)
    try:
        for _ in range(_PLACEMENT_TRIES):
            address = low + int.from_bytes(os.urandom(8), "little") % pages * PAGE_SIZE
            os.pwrite(fd, stub_page(address), 0)
            flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE
            result = tracer.inject(leader, NR["mmap"], address, PAGE_SIZE, PROT_READ | PROT_EXEC, flags, fd, 0)
            if result == address:
                return address
            if result != -_EEXIST:
                check(result, "mapping the stub page")
    finally:
        os.close(fd)
    raise OSError(_EEXIST, "no room for the stub page")


def _unmap_each(tracer: "Tracer", leader: Tracee, low: int, high: int) -> None:
    """Unmap mapping by mapping, where the kernel sealed its own (vdso): those stay if no guest can map there."""
    with open(f"/proc/{leader.tid}/maps", encoding="utf-8", errors="replace") as file:
        ranges = [tuple(int(x, 16) for x in line.split(" ", 1)[0].split("-")) for line in file]
    for start, end in ranges:
        if start < low or end > high:
            continue
        result = tracer.inject(leader, NR["munmap"], start, end - start)
        if result != -_EPERM or start < max_user_address():
            check(result, f"unmapping {start:#x} in a stub")


def _confine(tracer: "Tracer", stub: Stub) -> None:
    """Give the source its own session, default handling of the interrupt signal, its name, and the filter."""
    leader, code = stub.leader, stub.code
    calls = (
        ("setsid", ()),
        ("rt_sigaction", (INTERRUPT_SIGNAL, code + _NO_HANDLER, 0, 8)),
        ("prctl", (_PR_SET_NAME, code + _NAME)),
        ("prctl", (_PR_SET_NO_NEW_PRIVS, 1)),
        ("seccomp", (_SECCOMP_SET_MODE_FILTER, 0, code + _FILTER)),
    )
    for name, args in calls:
        check(tracer.inject(leader, NR[name], *args), f"{name} in a stub")
    ptrace.set_signal_mask(leader.tid, _BLOCKED)
