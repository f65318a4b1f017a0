"""The systrap platform: the whole story, and where to read on (seed: systrap.go; 20-platform §1, §3.1).

A **stub process** (subprocess.py) is one guest address space. All are cloned from the **source** (source.py), which was
cloned from the sentry and holds nothing but the **stub image** (stub.py, layout.py): machine code (blob.py, docs/images.md)
and seccomp programs (filters.py) that turn every system call of guest code into SIGSYS.

A guest thread's registers live in a **context** (context.py), a slot of memory shared with the stub (abi.py). The
**dispatcher** (dispatcher.py) puts it on the stub's context queue; a **sysmsg thread** of the stub takes it, runs guest
code natively until the kernel calls the signal handler, writes the registers back and announces the context in the
stub's ready ring; ``next_ready`` finds it there. Mappings change through the stub's **syscall thread**
(syscall_thread.py), which no guest code can reach. The **broker** (broker.py) is parent of all and learns of deaths.
"""

import errno
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, NamedTuple

from systrap import arch
from systrap.arch import arm_fp
from systrap.arch.aarch64 import AArch64
from systrap.arch.x86_64 import X86_64
from systrap.host import limits
from systrap.host.auxv import auxiliary_vector
from systrap.host.cpus import usable_cpus
from systrap.host.sys import NR, syscall
from systrap.memory import MemoryFile
from systrap.platform import (
    DISPATCH,
    SECCOMP,
    AddressSpace,
    Context,
    Options,
    Platform,
    PlatformError,
    ProgrammingError,
    QuickCalls,
    RequirementError,
    Requirements,
)
from systrap.platforms.systrap import blob, fast_path, fpu, stub
from systrap.platforms.systrap.aarch64_context import AArch64Context
from systrap.platforms.systrap.broker import Broker
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.dispatcher import Dispatcher
from systrap.platforms.systrap.environment import Environment, Modes
from systrap.platforms.systrap.layout import Layout
from systrap.platforms.systrap.machine_code import SentryCode, read_cpuid
from systrap.platforms.systrap.pool import Pool
from systrap.platforms.systrap.source import Source
from systrap.platforms.systrap.subprocess import Subprocess

_AT_HWCAP2: Final = 26
_SECCOMP_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 8
_MEMBARRIER_GLOBAL: Final = 1
_PR_SET_SYSCALL_USER_DISPATCH: Final = 59
_PR_SYS_DISPATCH_OFF: Final = 0


class _Machine(NamedTuple):
    """What differs between CPUs: the contexts, and what the stub is told of the FP state (its ``arch_state`` export)."""

    context: type[SystrapContext]
    arch_state: Callable[[SentryCode], tuple[int, ...]]
    fp_len: Callable[[tuple[int, ...]], int]


def _x86_state(code: SentryCode) -> tuple[int, ...]:
    hwcap2 = auxiliary_vector().get(_AT_HWCAP2, 0)
    return fpu.probe(lambda leaf, subleaf: read_cpuid(code, leaf, subleaf), hwcap2)


_MACHINES: Final = {
    X86_64.NAME: _Machine(SystrapContext, _x86_state, lambda state: fpu.ArchState(*state).fp_len),
    AArch64.NAME: _Machine(AArch64Context, lambda _: (arm_fp.SIZE,), lambda state: state[0]),
}


class _Shared:
    """What one process has once, however many platforms: image, source, memory file (P-010)."""

    def __init__(self, options: Options) -> None:
        self.blob = (options.stub_blob, options.stub_manifest, options.disable_user_resume)
        image = blob.load("sentry")
        code = SentryCode(image)
        guest = arch.host()
        self.machine = _MACHINES[guest.NAME]
        self.arch_state = self.machine.arch_state(code)
        self.max_threads = len(os.sched_getaffinity(0))
        sysmsg = _sysmsg_image(options)
        self.patching = guest.PATCHED_CALLS and not options.disable_syscall_patching
        deep_sleep = fast_path.ticks(code.counter_frequency).deep_sleep
        settings = stub.Settings(
            self.arch_state,
            deep_sleep,
            self.patching,
            guest.HANDLER_FLAGS,
            code.has_rdpid,
            guest.USER_RESUME
            and not options.disable_user_resume
            and stub.signals_can_nest(self.machine.fp_len(self.arch_state)),
        )
        stub_image = stub.build(blob.load("bootstrap"), sysmsg, settings, self.max_threads)
        memory = MemoryFile("systrap-memory")
        broker = Broker()
        try:
            source = Source(code, stub_image, memory, broker)
        except PlatformError:
            # Nothing is left of the attempt (P-012).
            broker.close()
            memory.close()
            code.unmap()
            raise
        self.environment = Environment(code, memory, broker, source, self.max_threads, _has_listener())


_shared: _Shared | None = None
_shared_lock = threading.Lock()


def _sysmsg_image(options: Options) -> blob.Image:
    """Return our sysmsg image, or the foreign one that was asked for."""
    if options.stub_blob is None:
        return blob.load("sysmsg")
    if options.stub_manifest is None:
        raise RequirementError("a foreign stub blob needs its manifest: --stub-manifest FILE")
    return blob.load_foreign(options.stub_blob, options.stub_manifest)


def _has_listener() -> bool:
    """Tell whether this kernel has seccomp listeners: it looks at the flag before it looks at the (missing) program."""
    return syscall(NR["seccomp"], _SECCOMP_SET_MODE_FILTER, _NEW_LISTENER, 0) == -errno.EFAULT


def _user_dispatch(trap: str) -> bool:
    """Decide about syscall user dispatch. Raises RequirementError where it is asked for and not to be had.

    Switching it off is allowed to everybody, and does nothing to a process that has not got it: the kernel only tells
    whether it knows the call (EINVAL: not for this machine, or before Linux 5.11).
    """
    if trap == SECCOMP:
        return False
    has_it = syscall(NR["prctl"], _PR_SET_SYSCALL_USER_DISPATCH, _PR_SYS_DISPATCH_OFF, 0, 0, 0) == 0
    if trap == DISPATCH and not has_it:
        raise RequirementError("this kernel has no syscall user dispatch: use --syscall-trap auto or seccomp")
    return has_it


class SystrapPlatform(Platform):
    """See platform.Platform. The process must not have installed a seccomp filter that forbids clone before."""

    name = "systrap"

    def __init__(self, options: Options) -> None:
        """Create the platform, and with the first one of a process the source. Raises RequirementError, PlatformError."""
        global _shared
        with _shared_lock:
            if _shared is None:
                try:
                    _shared = _Shared(options)
                except (OSError, blob.BlobError) as error:
                    raise PlatformError(f"the systrap platform cannot start: {error}") from error
            shared = _shared
            # Once refused, patching stays refused for every later platform of the process (P-011).
            shared.patching = shared.patching and not options.disable_syscall_patching
        if shared.blob != (options.stub_blob, options.stub_manifest, options.disable_user_resume):
            raise PlatformError("this process has its stub image already; another one needs another process")
        modes = Modes(_user_dispatch(options.syscall_trap), shared.patching)
        self._machine = shared.machine
        self._fp_len = shared.machine.fp_len(shared.arch_state)
        self._concurrency = shared.max_threads
        self._code = SentryCode(blob.load("sentry"))
        has_ring = shared.environment.image.has_ready_ring
        # One CPU is always left to whom the spinning waits for. With a foreign image a thread waits for each context.
        spin_limit = 0 if options.disable_fast_path or not has_ring else usable_cpus() - 1
        self._dispatcher = Dispatcher(self._code, shared.max_threads, spin_limit, has_ring)
        # What a foreign image gives back is announced by a thread of its own, which a quick call would not tell.
        self._quick_calls = has_ring and not options.disable_quick_calls
        self._layout = shared.environment.image.layout
        self._pool = Pool(shared.environment, modes, self._dispatcher)
        self._closed = False
        self._spaces: weakref.WeakSet[Subprocess] = weakref.WeakSet()
        self._barrier = syscall(NR["membarrier"], 0, 0) & _MEMBARRIER_GLOBAL == _MEMBARRIER_GLOBAL

    def min_user_address(self) -> int:
        """See platform.Platform."""
        return limits.min_user_address()

    def max_user_address(self) -> int:
        """See platform.Platform."""
        return limits.max_user_address()

    def concurrency_count(self) -> int:
        """Return the limit of sysmsg threads of one space: the CPUs this process may use (P-080)."""
        return self._concurrency

    def have_global_memory_barrier(self) -> bool:
        """See platform.Platform."""
        return self._barrier

    def global_memory_barrier(self) -> None:
        """Ask the host: guests run in other address spaces, so only MEMBARRIER_CMD_GLOBAL reaches them all."""
        if not self._barrier:
            super().global_memory_barrier()
        if syscall(NR["membarrier"], _MEMBARRIER_GLOBAL, 0) != 0:
            raise PlatformError("membarrier(GLOBAL) failed")

    def new_address_space(self) -> AddressSpace:
        """See platform.Platform. One process: an idle one of the pool, or a clone of the source (20-platform §2.4)."""
        try:
            space = self._pool.new_space()
        except OSError as error:
            raise PlatformError(f"no new address space: {error}") from error
        self._spaces.add(space)
        return space

    def new_context(self) -> Context:
        """See platform.Platform."""
        return self._machine.context(self._dispatcher, self._fp_len)

    def answer_quickly(self, calls: QuickCalls) -> None:
        """See platform.Platform."""
        if self._quick_calls:
            self._dispatcher.answer_quickly(calls)

    def submit(self, context: Context, space: AddressSpace) -> None:
        """See platform.Platform."""
        if not isinstance(context, SystrapContext) or not isinstance(space, Subprocess):
            raise ProgrammingError("context and address space must be this platform's")
        self._dispatcher.submit(context, space)

    def next_ready(self, deadline: float | None) -> Context | None:
        """See platform.Platform."""
        return self._dispatcher.next_ready(deadline)

    def wake(self) -> None:
        """See platform.Platform."""
        self._dispatcher.wake()

    def stub_layout(self) -> Layout:
        """Return where everything lies in stubs."""
        return self._layout

    def kicks(self) -> int:
        """See platform.Platform."""
        return self._dispatcher.kicks()

    def statistics(self) -> dict[str, int]:
        """Return how many spaces, stubs and contexts there are and were, and the dispatcher's counters."""
        spaces = [space for space in self._spaces if not space.dead]
        return {
            "spaces": len(spaces),
            "stubs_created": self._pool.created,
            "stubs_reused": self._pool.reused,
            "stubs_poisoned": self._pool.poisoned,
            "stubs_idle": self._pool.idle,
            "threads": sum(len(space.stub.threads) for space in spaces),
            "contexts": sum(len(space.contexts) for space in spaces),
            **self._dispatcher.statistics(),
        }

    def close(self) -> None:
        """Kill every stub of this platform. The source stays for the next platform, and ends with the process."""
        if self._closed:
            return
        self._closed = True
        for space in list(self._spaces):
            space.abandon()
        for space in list(self._spaces):
            space.stub.wait_until_gone()
        self._pool.close()
        self._code.unmap()


class _Constructor:
    """Makes systrap platforms (platform.Constructor)."""

    def new(self, options: Options) -> Platform:
        """See platform.Constructor."""
        return SystrapPlatform(options)

    def open_device(self, path: str) -> int | None:
        """There is no device (OpenDevice)."""
        return None

    def requirements(self) -> Requirements:
        """Ask for nothing: our stubs are made without ptrace, for which upstream needs CAP_SYS_PTRACE (P-002)."""
        return Requirements(requires_cap_sys_ptrace=False, requires_current_pid_ns=False)


CONSTRUCTOR = _Constructor()
