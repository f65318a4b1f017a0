"""The ptrace platform: guests run under ptrace, a stop for each system call. The simplest platform with the whole contract.

How a guest runs
    An address space is a *stub* process, a context in it a thread of that process, both traced and stopped. To run a context,
    write its registers into its thread and resume it: the thread stops at the next system call without making it, or at the
    next signal (machine.py: how on which CPU). Both are read back as an event (events.py). To map memory, make a stopped
    thread step over the one system call instruction of the stub page (Tracer.inject).

Where stubs come from
    The first, the *source*, is a raw clone of this process that shares its descriptors. It runs nothing but libc's sleep()
    until it is seized, loses all its memory but the stub page, and gets a filter under which only that page can call the host
    (stub.py). The others are clones of the source. So a descriptor of the sentry is one in every stub, which is all that
    MapFile needs. This takes a tracer that is the parent (so Yama's scope 1 will do), but neither privileges nor exec.

Who traces
    Only the thread that attached may make ptrace requests, and when it ends, its tracees are killed. The *broker*, a thread of
    the platform, traces the leaders of all stubs, makes new threads, maps, and runs contexts for switch(). That costs two
    thread hops per event. The thread that calls next_ready() is the *server*: it traces the threads of the contexts that are
    submitted itself, without a hop, and maps through them. It must not end before close().

How it waits
    By wait4 on the stubs' process group only, so that no other child of this process is ever reaped here. What ends a wait
    besides is the bell (Tracer). Interrupts are a signal to the stub thread, which makes it stop.

Known differences: the access of a fault is a guess where the page is not mapped (x86_faults.fault_access); and a single step
over a system call traps one instruction late.
"""

from functools import partial
from threading import Lock, get_ident
from typing import Final

from systrap.host import ptrace
from systrap.host.limits import max_user_address, min_user_address
from systrap.host.mem import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE
from systrap.host.sys import NR, PAGE_SIZE, check, syscall
from systrap.platform import (
    AddressSpace,
    Context,
    Event,
    EventKind,
    Options,
    Platform,
    PlatformError,
    ProgrammingError,
    Requirements,
)
from systrap.platforms.ptrace.broker import Broker, Server
from systrap.platforms.ptrace.context import PtraceContext
from systrap.platforms.ptrace.here import MACHINE
from systrap.platforms.ptrace.jobs import Run
from systrap.platforms.ptrace.space import PtraceSpace
from systrap.platforms.ptrace.stub import Stub, StubDiedError, create_source
from systrap.platforms.ptrace.tracer import BELL_BUFFER, Tracer

_STUB_FLAGS: Final = ptrace.CLONE_FILES | ptrace.CLONE_PARENT | ptrace.CLONE_PTRACE
_SIGCHLD: Final = 17
_MANY: Final = (1 << 31) - 1
_MEMBARRIER_QUERY: Final = 0
_MEMBARRIER_GLOBAL: Final = 1


class PtracePlatform(Platform):
    """See platform.Platform, and the module's text."""

    name = "ptrace"

    def __init__(self) -> None:
        """Create source, broker and bells. Raises RequirementError, PlatformError."""
        self.server: Server | None = None
        self._lock = Lock()
        self._early: list[tuple[PtraceContext, Stub]] = []
        self._spaces: set[PtraceSpace] = set()
        self._contexts: set[PtraceContext] = set()
        self._woken_early = False
        self._closed = False
        self._barrier = syscall(NR["membarrier"], _MEMBARRIER_QUERY, 0)
        try:
            ptrace.silence_stops()
            self.broker = Broker(self._set_up)
        except OSError as error:
            raise PlatformError(f"the ptrace platform cannot start: {error}") from error

    def _set_up(self, broker: Broker) -> None:
        """On the broker's thread: the source, the size of the FP state, the bells' stub, and the broker's bell."""
        self._source = create_source(broker)
        broker.group = self._source.pid
        self._fp_kind, self._fp_size = MACHINE.probe_fp(self._source.pid)
        self._bells = self._clone_stub(broker)
        page = (BELL_BUFFER, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
        check(broker.inject(self._bells.leader, NR["mmap"], *page, -1, 0), "mapping the bells' page")
        broker.hang(broker.spawn(self._bells))

    def _clone_stub(self, broker: Broker) -> Stub:
        """On the broker's thread: one more stub process, empty. Raises OSError, StubDiedError."""
        source = self._source
        pid = check(broker.inject(source.leader, NR["clone"], _STUB_FLAGS | _SIGCHLD), "clone of a stub process")
        stub = Stub(pid, source.code, broker)
        broker.adopt(stub.leader)
        return stub

    def min_user_address(self) -> int:
        """See Platform (P-005)."""
        return min_user_address()

    def max_user_address(self) -> int:
        """See Platform (P-006). The stub page lies above."""
        return max_user_address()

    def new_address_space(self) -> AddressSpace:
        """Clone a stub from the source (NewAddressSpace)."""
        try:
            stub = self.broker.call(partial(self._clone_stub, self.broker))
        except (OSError, StubDiedError) as error:
            raise PlatformError(f"no new address space: {error}") from error
        space = PtraceSpace(self, stub)
        self._spaces.add(space)
        return space

    def new_context(self) -> Context:
        """See Platform (NewContext)."""
        context = PtraceContext(self, self._fp_kind, self._fp_size)
        self._contexts.add(context)
        return context

    def forget(self, context: PtraceContext) -> None:
        """Take note that a context was released."""
        self._contexts.discard(context)

    def concurrency_count(self) -> int:
        """Return a number beyond any number of contexts: each has a host thread of its own (P-008)."""
        return _MANY

    def have_global_memory_barrier(self) -> bool:
        """See Platform (P-009): bit 0 of membarrier's answer."""
        return self._barrier > 0 and bool(self._barrier & _MEMBARRIER_GLOBAL)

    def global_memory_barrier(self) -> None:
        """See Platform (P-009). Takes tens of milliseconds."""
        if not self.have_global_memory_barrier():
            super().global_memory_barrier()
        check(syscall(NR["membarrier"], _MEMBARRIER_GLOBAL, 0), "membarrier")

    def switch(self, context: PtraceContext, space: AddressSpace) -> Event:
        """Have the broker run a context, and wait for its event (Context.switch)."""
        stub = self._stub(context, space)
        tracee = context.tracee
        if tracee is not None and tracee.tracer is not self.broker:
            Tracer.part(context)
        done = Lock()
        done.acquire()
        context.waiter = done
        self.broker.post(Run(self.broker, context, stub))
        done.acquire()
        return context.event

    def submit(self, context: Context, space: AddressSpace) -> None:
        """See Platform. At once on the server's thread; else the server does it in next_ready()."""
        if not isinstance(context, PtraceContext):
            raise ProgrammingError("a context of another platform")
        stub = self._stub(context, space)
        server = self.server
        if server is None:
            with self._lock:
                server = self.server
                if server is None:
                    self._early.append((context, stub))
                    return
        if server.ident == get_ident():
            server.start(context, stub)
        else:
            server.post(Run(server, context, stub))

    def next_ready(self, deadline: float | None) -> Context | None:
        """See Platform. The first call makes its thread the server."""
        server = self.server
        if server is None:
            server = self._serve()
        elif server.ident != get_ident():
            raise ProgrammingError("next_ready() belongs to the thread that called it first")
        if self._closed:
            raise PlatformError("the platform is closed")
        return server.next_ready(deadline)

    def _serve(self) -> Server:
        """Make the calling thread the server, and start what was submitted before there was one."""
        with self._lock:
            try:
                server = self.server = Server(self.broker, self._bells)
            except (OSError, StubDiedError) as error:
                raise PlatformError(f"this thread cannot serve guests: {error}") from error
            early, self._early = self._early, []
            if self._woken_early:
                server.wake()
        for context, stub in early:
            server.start(context, stub)
        return server

    def wake(self) -> None:
        """See Platform."""
        server = self.server
        if server is None:
            with self._lock:
                server = self.server
                if server is None:
                    self._woken_early = True
                    return
        server.wake()

    def _stub(self, context: PtraceContext, space: AddressSpace) -> Stub:
        """Check what the caller wants to run where."""
        if not isinstance(space, PtraceSpace):
            raise ProgrammingError("an address space of another platform")
        if context.running is not None:
            raise ProgrammingError("this context is running already")
        return space.stub

    def release_space(self, space: PtraceSpace) -> None:
        """Kill a stub and reap what the calling thread traces of it."""
        self._spaces.discard(space)
        space.stub.kill()
        server = self.server
        if server is not None and server.ident == get_ident():
            server.reap(space.stub)

    def statistics(self) -> "dict[str, int]":
        """See Platform. Counts are since creation, ``spaces`` and ``contexts`` are what exists."""
        tracers = [self.broker] if self.server is None else [self.broker, self.server]
        counts = {f"events_{kind.name.lower()}": sum(tracer.counts[kind] for tracer in tracers) for kind in EventKind}
        threads = sum(len(tracer.tracees) for tracer in tracers)
        return {"spaces": len(self._spaces), "contexts": len(self._contexts), "threads": threads, **counts}

    def close(self) -> None:
        """See Platform. From the server's thread, or when no next_ready() is under way."""
        if self._closed:
            return
        self._closed = True
        for stub in (*(space.stub for space in self._spaces), self._source, self._bells):
            stub.kill()
        server = self.server
        if server is not None and server.ident == get_ident():
            server.close()
        self.broker.close()


class PtraceConstructor:
    """Makes ptrace platforms (platform.Constructor)."""

    def new(self, options: Options) -> Platform:
        """Create a platform; no option concerns it. Raises RequirementError, PlatformError."""
        return PtracePlatform()

    def open_device(self, path: str) -> int | None:
        """Return None: there is no device."""
        return None

    def requirements(self) -> Requirements:
        """Ask for CAP_SYS_PTRACE (P-002), as the original does; where the host's policy lets parents trace, it is not used."""
        return Requirements(requires_cap_sys_ptrace=True, requires_current_pid_ns=True)


CONSTRUCTOR: Final = PtraceConstructor()
