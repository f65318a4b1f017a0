"""The contract between a guest kernel and the platform that runs its guests, and the registry of platforms.

A *platform* runs guest code natively in *address spaces* and hands every system call, fault and signal of that code to the
caller. A *context* is the register state of one guest thread; it runs in one address space at a time.

Upstream's primitive is ``Context.Switch``: block until this one context has an event. It is here as :meth:`Context.switch`.
A kernel that serves many contexts from one thread uses the pair underneath: :meth:`Platform.submit` puts a context on the
run queue, :meth:`Platform.next_ready` returns the next context that has an event. One context uses one of the two at a time.

Names of the original (gVisor's ``pkg/sentry/platform``) stand in the docstrings. Spec: 20-platform §1, P-001…P-012, P-020…P-047.
"""

import enum
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple, Protocol


class Access(enum.IntFlag):
    """Kinds of memory access: permissions of a mapping, or the one access that faulted (hostarch.AccessType)."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXECUTE = 4


class EventKind(enum.IntEnum):
    """What brought a context back from guest code."""

    SYSCALL = 1
    SIGNAL = 2
    INTERRUPTED = 3
    DEATH = 4


class SignalInfo(NamedTuple):
    """A fault or signal of guest code, as the hardware and the host kernel told it.

    Everything here may be forged by a hostile guest; it describes that guest to itself and nothing else.
    ``trapno`` and ``err`` are the words of the signal frame (x86: trap number and error code), 0 where unknown.
    """

    signo: int
    code: int
    addr: int
    trapno: int = 0
    err: int = 0


class Event(NamedTuple):
    """The outcome of running a context.

    * SYSCALL: number and arguments are in the registers (upstream: nil error).
    * SIGNAL: ``info`` is set; ``access`` is the faulting access of a page fault, else NONE (ErrContextSignal).
    * INTERRUPTED: :meth:`Context.interrupt` was called; may be spurious (ErrContextInterrupt).
    * DEATH: the address space cannot run guest code any more; ``error`` says why. The guest's thread group must be killed.
    """

    kind: EventKind
    info: SignalInfo | None = None
    access: Access = Access.NONE
    error: "ContextError | None" = None


SYSCALL_EVENT = Event(EventKind.SYSCALL)
INTERRUPTED_EVENT = Event(EventKind.INTERRUPTED)


class PlatformError(Exception):
    """Base of everything a platform raises on purpose."""


class UnknownPlatformError(PlatformError):
    """No platform of that name (P-001)."""


class RequirementError(PlatformError):
    """The host lacks something the platform needs; the text names it and says what to do (``systrap doctor``)."""


class ContextError(PlatformError):
    """A guest cannot go on: its stub died or its shared memory makes no sense (platform.ContextError)."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class MapError(PlatformError):
    """A change of an address space failed; the range counts as unmapped. ``errno`` is the host's."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class MappableFile(Protocol):
    """A source of pages: platform.File / memmap.File."""

    def data_fd(self, start: int, length: int) -> int:
        """Return a host descriptor whose offsets ``[start, start+length)`` hold valid data (DataFD).

        May raise OSError, which apply() raises as a MapError with its errno (P-028).
        """


class MapRequest(NamedTuple):
    """Map ``length`` bytes of ``file`` from offset ``start`` at ``addr``, shared; whatever was there is replaced.

    All of addr, start and length are page multiples; ``access`` is exact. ``precommit`` makes the pages resident, if cheap.
    """

    addr: int
    length: int
    file: MappableFile
    start: int
    access: Access
    precommit: bool = False


class UnmapRequest(NamedTuple):
    """Make ``[addr, addr+length)`` inaccessible. Never fails, also where nothing is mapped."""

    addr: int
    length: int


class GuestCode(Protocol):
    """The guest's memory as far as a platform reads and patches the code in it (platform.MemoryManager in Context.Switch).

    Called on the thread that runs the space's contexts, between their events. A refusal is an answer, never an exception:
    guests map, protect and unmap as they like.
    """

    def read_code(self, addr: int, length: int) -> bytes | None:
        """Return bytes whatever their protection is (also where guests may execute only), or None if some are not mapped."""

    def may_write_code(self, addr: int, length: int) -> bool:
        """Tell whether write_code() would write all of a range."""

    def write_code(self, addr: int, data: bytes) -> bool:
        """Write whatever the protection is, if the maximal protection allows it: copies a private page, never changes a file.

        Tells whether all was written. Guest threads see each byte of it change at once, or an aligned word together.
        """

    def find_area(self, name: str, low: int, high: int) -> tuple[int, int] | None:
        """Return start and offset (within what it was mapped as) of the area of that name in ``[low, high)``."""

    def map_code(self, addr: int, length: int, name: str) -> bool:
        """Map zeroed private pages for code at exactly ``addr``: readable and executable, all present. False: no room."""


class AddressSpace(ABC):
    """One guest address space (platform.AddressSpace). Methods may be called from any thread; they are serialised inside."""

    code: GuestCode | None = None
    """How the platform reaches the code of this guest. Set by the guest kernel before the first run; without it the platform
    patches no call site and emulates no instruction."""

    @abstractmethod
    def apply(self, requests: Sequence[MapRequest | UnmapRequest]) -> None:
        """Carry out the requests in order, in as few host operations as the platform can.

        Raises MapError at the first request that fails; those behind it were not carried out. After an unmap (or a
        replacing map) returned, no guest access reaches the old pages: the caller may free them (P-024).
        An address space whose stub died raises MapError for maps and ignores unmaps (P-101).
        """

    def map_file(
        self, addr: int, file: MappableFile, start: int, length: int, access: Access, precommit: bool = False
    ) -> None:
        """Map one range (MapFile). See MapRequest and apply()."""
        self.apply((MapRequest(addr, length, file, start, access, precommit),))

    def unmap(self, addr: int, length: int) -> None:
        """Unmap one range (Unmap). See UnmapRequest and apply()."""
        self.apply((UnmapRequest(addr, length),))

    def pre_fork(self) -> None:  # noqa: B027 - most platforms have nothing to do
        """Bracket the copying of this space for a guest fork: no call site is half patched in between (PreFork)."""

    def post_fork(self) -> None:  # noqa: B027 - see pre_fork
        """End what pre_fork began (PostFork)."""

    @abstractmethod
    def statistics(self) -> "dict[str, int]":
        """Return counters of this space, as they are now."""

    @abstractmethod
    def release(self) -> None:
        """Give the space back (Release). Once; afterwards no other method may be called and no context may enter it."""


class Run(NamedTuple):
    """What a stub did with a context the last time it was submitted (for tracing). Times are CLOCK_MONOTONIC, in nanoseconds.

    ``thread`` is the stub's number of the thread that ran it; ``state`` names the word it was given back with; ``dispatched``:
    a system call through a patched site. All of it comes from memory that the guest can write: it is shown, and decides nothing.
    """

    taken: int
    published: int
    thread: int
    state: str
    dispatched: bool


class Context(ABC):
    """The register state of one guest thread, and the right to run it (platform.Context).

    Only ``interrupt`` may be called from any thread; everything else from the thread that serves this context, and only
    while the context is not running (before submit/switch, or after its event was returned).
    """

    __slots__ = ("event", "fp", "owner", "regs")

    regs: "memoryview[int]"
    """General registers as 64-bit words, in the order of ``arch.*.Reg``. Read and write in place. The object may be
    replaced by submit() and switch(): fetch it again after each event."""

    fp: bytearray
    """The sentry's copy of the FP state, in the kernel's format (x86: standard XSAVE image). Valid after
    pull_full_state(); write it, then call full_state_changed()."""

    event: Event
    """The last event; valid when next_ready() returned this context."""

    owner: object
    """For the caller's use: the task this context belongs to."""

    @abstractmethod
    def switch(self, space: AddressSpace) -> Event:
        """Run guest code in ``space`` until something happens, and return it (Switch).

        Blocks this thread only; different contexts may be switched from different threads at the same time.
        """

    @abstractmethod
    def pull_full_state(self) -> None:
        """Make ``fp`` current (PullFullState). A no-op unless an event came since the last pull or change (P-062)."""

    @abstractmethod
    def full_state_changed(self) -> None:
        """Declare the sentry's ``fp`` authoritative: the next run loads it (FullStateChanged; P-063)."""

    @abstractmethod
    def interrupt(self) -> None:
        """End a current run soon, or else the next run at once, with INTERRUPTED (Interrupt; P-070, P-071). Any thread."""

    def prepare_sleep(self) -> None:  # noqa: B027 - a hint
        """Hint: this context's task is about to block, so it will not come back at once (PrepareSleep; P-086)."""

    def last_run(self) -> Run | None:
        """Tell how the last run went, before the next one; None where the platform does not know. For tracing (Run)."""
        return None

    @abstractmethod
    def statistics(self) -> "dict[str, int]":
        """Return counters of this context since it was made: its ``events``, the ``interrupts`` it was sent."""

    @abstractmethod
    def release(self) -> None:
        """Free what the platform holds for this context (Release). Once, when its task ended."""


AUTO = "auto"
SECCOMP = "seccomp"
DISPATCH = "dispatch"
SYSCALL_TRAPS = (AUTO, SECCOMP, DISPATCH)
"""How system calls of guest code are caught (Options.syscall_trap)."""


class Options(NamedTuple):
    """What a platform can be asked for (platform.Options and ours). Platforms ignore what does not concern them."""

    disable_syscall_patching: bool = False
    disable_fast_path: bool = False
    disable_quick_calls: bool = False
    disable_user_resume: bool = False
    stub_blob: str | None = None
    stub_manifest: str | None = None
    syscall_trap: str = AUTO


class Requirements(NamedTuple):
    """What the sandbox around the sentry has to grant (platform.Requirements)."""

    requires_cap_sys_ptrace: bool
    requires_current_pid_ns: bool


QuickCall = Callable[[object, "memoryview[int]"], int | None]
"""A handler of QuickCalls: called with the context's ``owner`` and ``regs``."""


class QuickCalls(NamedTuple):
    """System calls that a platform may answer within next_ready(), which saves telling of them: handlers by number.

    A handler returns the result (-errno when it failed), which goes into the result register, and the context runs on; or None
    when it has set that register itself and somebody is to look before the context runs on: then next_ready() returns it, as
    INTERRUPTED. It must not wait, and neither submit, release nor change a context; of the address space it may change what it
    likes.

    ``counts``: how often each was answered so, for whoever counts system calls; it has every number of ``handlers``.
    """

    handlers: Mapping[int, QuickCall]
    counts: MutableMapping[int, int]


class Platform(ABC):
    """A way to run guest code (platform.Platform). The thread that creates one may end; the process must not fork after."""

    name: str

    def supports_address_space_io(self) -> bool:
        """Tell whether address spaces offer CopyIn/CopyOut. Ours do not: the sentry maps guest memory itself (P-003)."""
        return False

    def cooperatively_schedules_address_space(self) -> bool:
        """Tell whether NewAddressSpace may ask to retry later ([seed] only; never true here)."""
        return False

    def detects_cpu_preemption(self) -> bool:
        """Tell whether contexts can report a change of CPU. They cannot, so guests get no rseq (P-003)."""
        return False

    def has_cpu_numbers(self) -> bool:
        """Tell whether preempt_cpu, num_cpus and last_cpu_number are meaningful (P-003)."""
        return False

    def map_unit(self) -> int:
        """Return 0: the cost of a map does not depend on its size (MapUnit)."""
        return 0

    @abstractmethod
    def min_user_address(self) -> int:
        """Return the lowest address guests may map: the host's vm.mmap_min_addr, at least one page (P-005)."""

    @abstractmethod
    def max_user_address(self) -> int:
        """Return the first address guests may not use; the same in every run on one host (P-006)."""

    @abstractmethod
    def new_address_space(self) -> AddressSpace:
        """Return an empty address space (NewAddressSpace). Raises PlatformError when the host cannot give one."""

    @abstractmethod
    def new_context(self) -> Context:
        """Return a context with zeroed registers and an initial FP state (NewContext). Takes no host resource yet."""

    @abstractmethod
    def concurrency_count(self) -> int:
        """Return how many contexts can really run at once (ConcurrencyCount; P-008)."""

    def have_global_memory_barrier(self) -> bool:
        """Tell whether global_memory_barrier works here (HaveGlobalMemoryBarrier; P-009)."""
        return False

    def global_memory_barrier(self) -> None:
        """Return after every guest thread passed a full memory barrier (GlobalMemoryBarrier)."""
        raise ProgrammingError("this platform has no global memory barrier; ask have_global_memory_barrier() first")

    def preempt_all_cpus(self) -> None:
        """Not available, since CPU preemption is not detected (P-004)."""
        raise ProgrammingError("preempt_all_cpus needs detects_cpu_preemption()")

    def preempt_cpu(self, cpu: int) -> None:
        """Not available without CPU numbers (P-004)."""
        raise ProgrammingError(f"preempt_cpu({cpu}) needs has_cpu_numbers()")

    def num_cpus(self) -> int:
        """Not available without CPU numbers (P-004)."""
        raise ProgrammingError("num_cpus needs has_cpu_numbers()")

    def answer_quickly(self, calls: QuickCalls) -> None:  # noqa: B027 - an offer
        """Offer handlers for system calls that need not be told of. A platform may use them, or not, for every single call."""

    @abstractmethod
    def submit(self, context: Context, space: AddressSpace) -> None:
        """Let ``context`` run in ``space``; its event will come out of next_ready().

        Never raises for what a guest did: a broken space makes the context ready with DEATH.
        """

    @abstractmethod
    def next_ready(self, deadline: float | None) -> Context | None:
        """Wait for a submitted context with an event, set its ``event``, and return it.

        One thread only, from the first call until close(): it must not end before.

        Returns None when ``deadline`` (time.monotonic() seconds, None = never) passed, wake() was called, or a host
        signal arrived: look at whatever else there is to do, and call again.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make a current or the next next_ready() return None soon. Any thread."""

    def kicks(self) -> int:
        """Return how often a sleeping stub thread was woken so far; 0 where nobody counts. For tracing: cheap."""
        return 0

    @abstractmethod
    def statistics(self) -> "dict[str, int]":
        """Return an immutable snapshot of counters: spaces, contexts, events by kind."""

    @abstractmethod
    def close(self) -> None:
        """End every stub and free everything. Idempotent. Contexts and spaces are dead afterwards."""


class ProgrammingError(RuntimeError):
    """The caller broke the contract; never caused by a guest."""


class Constructor(Protocol):
    """Makes platforms of one kind (platform.Constructor)."""

    def new(self, options: Options) -> Platform:
        """Create a platform (New). Raises RequirementError when the host lacks something, PlatformError otherwise."""

    def open_device(self, path: str) -> int | None:
        """Open the device the platform needs, if any (OpenDevice): none here does, so None."""

    def requirements(self) -> Requirements:
        """Return what the surrounding sandbox must grant (Requirements; P-002)."""


# Modules that define CONSTRUCTOR; imported when asked for, so that one platform does not pay for another.
_BUILT_IN = {
    "ptrace": "systrap.platforms.ptrace.platform",
    "systrap": "systrap.platforms.systrap.platform",
}
_registered: dict[str, Constructor] = {}


def register(name: str, constructor: Constructor) -> None:
    """Add a platform under ``name``, silently replacing an earlier one (Register)."""
    _registered[name] = constructor


def names() -> list[str]:
    """Return the names of all platforms, sorted (List; P-001)."""
    return sorted({*_BUILT_IN, *_registered})


def lookup(name: str) -> Constructor:
    """Return the constructor of a platform (Lookup). Raises UnknownPlatformError naming it (P-001)."""
    if name in _registered:
        return _registered[name]
    if name not in _BUILT_IN:
        raise UnknownPlatformError(f"unknown platform: {name} (there are: {', '.join(names())})")
    constructor: Constructor = importlib.import_module(_BUILT_IN[name]).CONSTRUCTOR
    return constructor
