"""The ptrace platform beyond the contract: placement, who traces, strays, and what hostile guests try."""

import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from systrap.arch import x86_fp
from systrap.host import bpf, limits
from systrap.host.sys import AUDIT_ARCH, NR
from systrap.platform import Access, EventKind, MapError, Options, PlatformError, ProgrammingError
from systrap.platforms import x86_faults
from systrap.platforms.ptrace.context import PtraceContext
from systrap.platforms.ptrace.here import MACHINE
from systrap.platforms.ptrace.platform import CONSTRUCTOR, PtracePlatform
from systrap.platforms.ptrace.space import PtraceSpace
from systrap.platforms.ptrace.stub import INJECTED, stub_page
from tests.platforms import guest
from tests.platforms.kernel import (
    CODE,
    DATA,
    PAGE,
    PATIENCE,
    SUBMIT,
    SWITCH,
    Kernel,
    R,
    W,
    X,
    addr,
    children,
    eventually,
    is_syscall,
    reg,
    set_reg,
    signo,
    threads,
)

N, F = Access.NONE, Access.EXECUTE
MAPERR, ACCERR, PKUERR, KERNEL = x86_faults.SEGV_MAPERR, x86_faults.SEGV_ACCERR, x86_faults.SEGV_PKUERR, 0x80


@pytest.fixture(params=[SWITCH, SUBMIT])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Return a kernel on the ptrace platform, for each way to run contexts."""
    kernel = Kernel(CONSTRUCTOR.new(Options()), str(request.param))
    yield kernel
    kernel.close()


@pytest.fixture
def ptrace() -> Iterator[Kernel]:
    """Return a kernel on the ptrace platform that submits."""
    kernel = Kernel(CONSTRUCTOR.new(Options()), SUBMIT)
    yield kernel
    kernel.close()


def platform_of(kernel: Kernel) -> PtracePlatform:
    """Return the platform as what it is."""
    assert isinstance(kernel.platform, PtracePlatform)
    return kernel.platform


def pid_of(space: object) -> int:
    """Return the process of an address space."""
    assert isinstance(space, PtraceSpace)
    return space.stub.pid


def test_stub_page_is_placed_at_random(ptrace: Kernel) -> None:
    """# P-007."""
    places = set()
    for _ in range(3):
        one = CONSTRUCTOR.new(Options())
        space = one.new_address_space()
        assert isinstance(space, PtraceSpace)
        places.add(space.stub.code)
        assert limits.max_user_address() <= space.stub.code < limits.task_size()
        one.close()
    assert len(places) == 3


def test_mapping_over_the_stub_is_refused(ptrace: Kernel) -> None:
    """# P-031."""
    space = ptrace.space(guest.CALLS)
    assert isinstance(space, PtraceSpace)
    for address in (space.stub.code, limits.max_user_address(), limits.max_user_address() - PAGE):
        with pytest.raises(MapError):
            space.map_file(address, ptrace.file, 0, 2 * PAGE, R)
    space.unmap(limits.max_user_address() - PAGE, limits.task_size() - limits.max_user_address() + PAGE)
    assert is_syscall(ptrace.run(ptrace.context(), space))


def test_stub_holds_nothing_but_its_page(ptrace: Kernel) -> None:
    """# P-033."""
    space = ptrace.space(guest.CALLS)
    lines = Path(f"/proc/{pid_of(space)}/maps").read_text().splitlines()
    # A systrap platform in this process has sealed its stub image, read-only: no copy of the process can unmap it.
    sealed = [line for line in lines if len(line.split()) == 5 and "w" not in line.split()[1]]
    assert all(int(line.split("-")[0], 16) >= limits.max_user_address() for line in sealed)
    names = [line.split()[5] if len(line.split()) > 5 else "" for line in lines if line not in sealed]
    assert [name for name in names if name not in ("[vsyscall]", "/memfd:guest", "(deleted)")] == ["/memfd:ptrace-stub"]


def test_only_the_stub_page_may_call() -> None:
    """# P-034: and only what is injected, should a stub ever run untraced."""
    base = 0x7FFF12345000
    page = stub_page(base)
    assert page.startswith(MACHINE.stub_code)
    (count,) = struct.unpack_from("<H", page, 0x100)
    program = page[0x110 : 0x110 + 8 * count]
    behind = base + MACHINE.syscall_len
    for name in INJECTED:
        assert bpf.evaluate(program, NR[name], AUDIT_ARCH, behind) == bpf.RET_ALLOW
        assert bpf.evaluate(program, NR[name], AUDIT_ARCH, behind + 2) == bpf.RET_TRAP
        assert bpf.evaluate(program, NR[name], 0x40000003, behind) == bpf.RET_TRAP
    assert bpf.evaluate(program, NR["kill"], AUDIT_ARCH, behind) == bpf.RET_TRAP


def test_jump_into_the_stub_page(kernel: Kernel) -> None:
    """# P-034: its system call instruction is a guest's like any other."""
    space = kernel.space(guest.JUMP)
    assert isinstance(space, PtraceSpace)
    context = kernel.context(rdi=space.stub.code, rax=NR["getpid"])
    assert is_syscall(kernel.run(context, space))
    assert (reg(context, "rax"), reg(context, "rip")) == (NR["getpid"], space.stub.code + 2)
    assert signo(kernel.run(context, space)) == signal.SIGTRAP
    kernel.map(space, DATA)


def test_bases_round_trip(kernel: Kernel) -> None:
    """# P-041: both."""
    space = kernel.space(guest.BASES)
    kernel.map(space, DATA, struct.pack("<2Q", 0x1111, 0x2222))
    context = kernel.context(fs_base=DATA, gs_base=DATA + 8)
    assert is_syscall(kernel.run(context, space))
    assert (reg(context, "rax"), reg(context, "rbx")) == (0x1111, 0x2222)
    assert (reg(context, "fs_base"), reg(context, "gs_base")) == (DATA, DATA + 8)


def has_fsgsbase() -> bool:
    """Tell whether guests can set their bases themselves."""
    return " fsgsbase" in Path("/proc/cpuinfo").read_text()


@pytest.mark.skipif(not has_fsgsbase(), reason="this CPU has no wrfsbase")
@pytest.mark.parametrize("base", [0x12340000, 0x7FFFFFFFF000, 0xFFFF888000000000])
def test_bases_that_the_guest_sets(kernel: Kernel, base: int) -> None:
    """# P-041: also one that ptrace refuses to write."""
    space = kernel.space(guest.SET_BASES)
    context = kernel.context(rdi=base, rsi=base + 8)
    assert is_syscall(kernel.run(context, space))
    assert (reg(context, "fs_base"), reg(context, "gs_base")) == (base, base + 8)
    kernel.map(space, DATA)
    assert is_syscall(kernel.run(context, space))
    assert (reg(context, "rax"), reg(context, "rbx")) == (base, base + 8)


def test_wild_registers(kernel: Kernel) -> None:
    """A guest can have any register values; the host's answer is a signal."""
    space = kernel.space(guest.CALLS)
    for ip in (1 << 63, (1 << 64) - 1, 1 << 47, 0):
        context = kernel.context(ip=ip, sp=(1 << 64) - 1, eflags=(1 << 64) - 1 & ~0x100)
        event = kernel.run(context, space)
        assert signo(event) == signal.SIGSEGV
        context.release()
    assert is_syscall(kernel.run(kernel.context(), space))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGSEGV, signal.SIGTRAP, signal.SIGINT, signal.SIGSTOP])
def test_stray_signals_are_dropped(kernel: Kernel, number: int) -> None:
    """# P-114 and 20-platform §12, end."""
    space, context = kernel.space(guest.SPIN), kernel.context()

    def strays() -> None:
        for _ in range(5):
            os.kill(pid_of(space), number)
            time.sleep(0.005)
        os.kill(pid_of(space), signal.SIGCONT)
        time.sleep(0.01)
        context.interrupt()

    helper = threading.Thread(target=strays)
    helper.start()
    assert kernel.run(context, space).kind == EventKind.INTERRUPTED
    helper.join()
    kernel.map(space, DATA)


def test_stray_interrupt_signal_is_dropped(ptrace: Kernel) -> None:
    """A signal that nobody asked interrupt() for is not an interrupt."""
    space, context = ptrace.space(guest.COUNT_SPIN), ptrace.context(rdi=DATA)
    offset = ptrace.map(space, DATA)
    ptrace.platform.submit(context, space)
    for _ in range(5):
        os.kill(pid_of(space), signal.SIGCHLD)
        assert ptrace.platform.next_ready(time.monotonic() + 0.01) is None
    before = ptrace.word(offset)
    assert eventually(lambda: ptrace.word(offset) > before)
    context.interrupt()
    assert ptrace.wait() is context


def test_context_changes_its_path(ptrace: Kernel) -> None:
    """A context may be switched once and submitted the next time: its FP state goes with it."""
    space = ptrace.space(guest.KEEP_XMM + guest.KEEP_XMM)
    offset = ptrace.map(space, DATA, b"goes along......")
    context = ptrace.context(rdi=DATA)
    assert is_syscall(context.switch(space))
    assert is_syscall(ptrace.run(context, space))
    assert ptrace.read(offset + 16, 16) == b"goes along......"
    set_reg(context, "rip", CODE)
    assert is_syscall(ptrace.run(context, space))
    ptrace.file.data[offset + 16 : offset + 32] = bytes(16)
    assert is_syscall(context.switch(space))
    assert ptrace.read(offset + 16, 16) == b"goes along......"


def test_submit_before_there_is_a_server(ptrace: Kernel) -> None:
    """The thread that calls next_ready() first serves, whoever submitted."""
    space, context = ptrace.space(guest.CALLS), ptrace.context()
    ptrace.platform.submit(context, space)
    found: list[object] = []

    def serve() -> None:
        deadline = time.monotonic() + PATIENCE
        found.append(ptrace.platform.next_ready(deadline))
        found.append(ptrace.platform.next_ready(deadline))

    helper = threading.Thread(target=serve)
    helper.start()
    assert eventually(lambda: len(found) == 1)
    ptrace.platform.submit(context, space)
    helper.join()
    assert found == [context, context]


def test_only_one_thread_serves(ptrace: Kernel) -> None:
    """next_ready() on two threads is a mistake of the caller."""
    assert ptrace.platform.next_ready(time.monotonic()) is None
    caught: list[BaseException] = []

    def other() -> None:
        try:
            ptrace.platform.next_ready(time.monotonic())
        except ProgrammingError as error:
            caught.append(error)

    helper = threading.Thread(target=other)
    helper.start()
    helper.join()
    assert len(caught) == 1


def test_mistakes_are_told(kernel: Kernel) -> None:
    """# P-065, and its relatives."""
    space, context = kernel.space(guest.SPIN), kernel.context()
    other = Kernel(CONSTRUCTOR.new(Options()), kernel.path)
    helper = threading.Thread(target=context.switch, args=(space,), daemon=True)
    helper.start()
    assert isinstance(context, PtraceContext)
    assert eventually(lambda: context.running is not None)
    with pytest.raises(ProgrammingError):
        context.pull_full_state()
    with pytest.raises(ProgrammingError):
        context.release()
    with pytest.raises(ProgrammingError):
        kernel.run(context, space)
    context.interrupt()
    helper.join()
    other.close()


def test_fp_image_that_the_host_refuses(kernel: Kernel) -> None:
    """A frame that a guest forged is its own fault, once; what can be saved of it is loaded."""
    space = kernel.space(guest.STORE_FP)
    offset = kernel.map(space, DATA)
    context = kernel.context(rdi=DATA)
    context.fp[160 + 48 : 160 + 64] = b"kept.of.a.forged"
    context.fp[512:520] = struct.pack("<Q", 1 << 62 | 3)
    context.full_state_changed()
    event = kernel.run(context, space)
    assert (signo(event), event.access, reg(context, "rip")) == (signal.SIGSEGV, Access.NONE, CODE)
    assert is_syscall(kernel.run(context, space))
    assert kernel.read(offset, 16) == b"kept.of.a.forged"


def test_fp_size_is_the_hosts(ptrace: Kernel) -> None:
    """The image is as long as the host's own."""
    context = ptrace.context()
    assert len(context.fp) >= x86_fp.LEGACY_SIZE
    assert is_syscall(ptrace.run(context, ptrace.space(guest.CALLS)))
    context.pull_full_state()
    context.full_state_changed()
    assert is_syscall(ptrace.run(context, ptrace.space(guest.CALLS)))


def test_death_that_only_the_server_can_see(ptrace: Kernel) -> None:
    """# P-101: a dead leader shows in no wait while the server has not reaped its threads; the broker must not wait for it."""
    space, context = ptrace.space(guest.SPIN), ptrace.context()
    ptrace.platform.submit(context, space)
    assert ptrace.platform.next_ready(time.monotonic() + 0.02) is None
    os.kill(pid_of(space), signal.SIGKILL)
    with pytest.raises(MapError):
        ptrace.map(space, DATA)
    with pytest.raises(MapError):
        ptrace.map(space, DATA)
    assert ptrace.wait().event.kind == EventKind.DEATH
    space.release()
    assert eventually(lambda: not Path(f"/proc/{pid_of(space)}").exists())


def test_loss_of_the_source(ptrace: Kernel) -> None:
    """# P-012, P-100: no new space, but the others go on."""
    space = ptrace.space(guest.CALLS)
    source = platform_of(ptrace)._source
    os.kill(source.pid, signal.SIGKILL)
    with pytest.raises(PlatformError):
        ptrace.platform.new_address_space()
    assert is_syscall(ptrace.run(ptrace.context(), space))
    ptrace.map(space, DATA)


def test_loss_of_the_bells(kernel: Kernel) -> None:
    """Without bells nobody can wait: an error, not a hang."""
    space = kernel.space(guest.CALLS)
    kernel.run(kernel.context(), space)
    os.kill(platform_of(kernel)._bells.pid, signal.SIGKILL)
    if kernel.path == SUBMIT:
        with pytest.raises(PlatformError):
            kernel.platform.next_ready(None)
    assert eventually(lambda: kernel.context().switch(space).kind == EventKind.DEATH)
    with pytest.raises(PlatformError):
        kernel.platform.new_address_space()


def test_use_after_close(ptrace: Kernel) -> None:
    """Platform.close(): everything is dead."""
    space, context = ptrace.space(guest.CALLS), ptrace.context()
    ptrace.run(context, space)
    ptrace.platform.close()
    with pytest.raises(PlatformError):
        ptrace.platform.new_address_space()
    with pytest.raises(PlatformError):
        ptrace.platform.next_ready(None)
    with pytest.raises(MapError):
        ptrace.map(space, DATA)
    space.unmap(DATA, PAGE)
    assert context.switch(space).kind == EventKind.DEATH
    space.release()


def test_close_ends_running_contexts(ptrace: Kernel) -> None:
    """Platform.close() from another thread than the one in switch()."""
    space, context = ptrace.space(guest.SPIN), ptrace.context()
    events = []
    helper = threading.Thread(target=lambda: events.append(context.switch(space).kind), daemon=True)
    helper.start()
    assert isinstance(context, PtraceContext)
    assert eventually(lambda: context.running is not None)
    ptrace.platform.close()
    helper.join(PATIENCE)
    assert events == [EventKind.DEATH]


def test_close_by_another_thread(ptrace: Kernel) -> None:
    """Platform.close() ends a wait of next_ready()."""
    ptrace.platform.next_ready(time.monotonic())
    threading.Timer(0.05, ptrace.platform.close).start()
    with pytest.raises(PlatformError):
        ptrace.platform.next_ready(time.monotonic() + PATIENCE)


def test_no_signal_of_the_terminal_reaches_stubs(ptrace: Kernel) -> None:
    """Stubs are in a session of their own."""
    space = ptrace.space(guest.CALLS)
    assert os.getsid(pid_of(space)) != os.getsid(0)
    assert os.getpgid(pid_of(space)) != os.getpgid(0)


def test_events_send_no_signal_to_the_sentry(ptrace: Kernel) -> None:
    """A sentry that blocks signals and reads them from a signalfd is not woken at each event."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        signal.sigtimedwait([signal.SIGCHLD], 0)
        space, context = ptrace.space(guest.CALLS), ptrace.context()
        for _ in range(10):
            assert is_syscall(ptrace.run(context, space))
        assert signal.SIGCHLD not in signal.sigpending()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_threads_are_used_again(ptrace: Kernel) -> None:
    """A context that is gone leaves its thread to the next, in the same space."""
    space = ptrace.space(guest.CALLS)
    for _ in range(10):
        pair = [ptrace.context() for _ in range(2)]
        for context in pair:
            ptrace.run(context, space)
        for context in pair:
            context.release()
    assert len(threads(pid_of(space))) <= 4


def test_many_contexts(ptrace: Kernel) -> None:
    """# P-087, in small: several hundred contexts in one space."""
    space = ptrace.space(guest.CALLS)
    contexts = [ptrace.context() for _ in range(300)]
    for context in contexts:
        ptrace.platform.submit(context, space)
    assert {id(ptrace.wait()) for _ in contexts} == {id(context) for context in contexts}


def test_statistics_count(kernel: Kernel) -> None:
    """Events by kind."""
    space, context = kernel.space(guest.CALLS + guest.ILLEGAL), kernel.context()
    for _ in range(3):
        kernel.run(context, space)
    set_reg(context, "rip", CODE + len(guest.CALLS))
    kernel.run(context, space)
    context.interrupt()
    kernel.run(context, space)
    found = kernel.platform.statistics()
    kinds = ("syscall", "signal", "interrupted", "death")
    assert [found[f"events_{kind}"] for kind in kinds] == [3, 1, 1, 0]
    assert (found["spaces"], found["contexts"]) == (1, 1)


@pytest.mark.parametrize(
    ("code", "address", "ip", "before", "access"),
    [
        (MAPERR, 0x5000, 0x1000, N, R),
        (MAPERR, 0x5000, 0x1000, R, W),
        (MAPERR, 0x1000, 0x1000, N, F),
        (ACCERR, 0x5000, 0x1000, N, W),
        (ACCERR, 0x1000, 0x1000, N, F),
        (ACCERR, 0x1000, 0x1000, F, W),
        (PKUERR, 0x5000, 0x1000, N, R),
        (KERNEL, 0, 0x1000, N, N),
        (MAPERR, 0x2000, 0x1FFE, N, R),
        (MAPERR, 0x2000, 0x1FFE, R, W),
        (MAPERR, 0x2000, 0x1FFE, W, F),
        (ACCERR, 0x2000, 0x1FFE, N, W),
        (ACCERR, 0x2000, 0x1FFE, W, F),
        (ACCERR, 0x2001, 0x1FFE, W, W),
    ],
)
def test_fault_access(code: int, address: int, ip: int, before: Access, access: Access) -> None:
    """# P-043: the whole table of guesses."""
    assert x86_faults.fault_access(code, address, ip, before) == access


def test_unmap_forgets_the_last_fault(kernel: Kernel) -> None:
    """# P-043: a fault after an unmap is not a repetition."""
    space, context = kernel.space(guest.LOAD), kernel.context(rdi=DATA)
    assert kernel.run(context, space).access == R
    space.unmap(DATA, PAGE)
    assert kernel.run(context, space).access == R
    assert kernel.run(context, space).access == W


def test_instruction_across_a_page(kernel: Kernel) -> None:
    """# P-043: the second half of an instruction is fetched, in the end."""
    space = kernel.space(bytes(PAGE - 1) + b"\x0f")
    context = kernel.context(ip=CODE + PAGE - 1)
    accesses = []
    for _ in range(3):
        event = kernel.run(context, space)
        assert (signo(event), addr(event)) == (signal.SIGSEGV, CODE + PAGE)
        accesses.append(event.access)
    assert accesses == [R, W, X]
    kernel.map(space, CODE + PAGE, b"\x05", R | X)
    assert is_syscall(kernel.run(context, space))


def test_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """# P-012."""
    before = children(), len(os.listdir("/proc/self/fd"))

    def refuse(*_: object) -> None:
        raise OSError(1, "not allowed here")

    for target in ("systrap.platforms.ptrace.stub._confine", "systrap.platforms.ptrace.stub._place"):
        with monkeypatch.context() as patch:
            patch.setattr(target, refuse)
            with pytest.raises(PlatformError, match="not allowed here"):
                CONSTRUCTOR.new(Options())
    assert eventually(lambda: (children(), len(os.listdir("/proc/self/fd"))) == before)
    CONSTRUCTOR.new(Options()).close()


def test_host_without_ptrace(monkeypatch: pytest.MonkeyPatch) -> None:
    """# P-012: a requirement that is told as one."""
    before = children()
    monkeypatch.setattr("systrap.platforms.ptrace.stub.SEIZE_OPTIONS", 1 << 30)
    with pytest.raises(PlatformError, match="does not let this process trace"):
        CONSTRUCTOR.new(Options())
    assert eventually(lambda: children() == before)
