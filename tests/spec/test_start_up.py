"""How a platform, its source, its stubs and their threads come to be (10-stub §8; 20-platform §2, §3)."""

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from systrap.host import ptrace
from systrap.host.bpf import RET_TRAP, evaluate
from systrap.host.mem import address_of
from systrap.host.sys import AUDIT_ARCH, NR
from systrap.platform import MapError
from systrap.platforms.systrap import filters
from systrap.platforms.systrap import platform as systrap_platform
from systrap.platforms.systrap.stub_process import StubProcess
from tests.blobs.stub import Context, Stub, new_world, running_stub
from tests.platforms import guest
from tests.platforms.kernel import CODE, DATA, PAGE, Kernel, R, X, eventually, is_syscall, reg
from tests.platforms.test_contract_lifetime import usage
from tests.spec import support

_PTRACE_SYSCALL = 24

_ALL_BUT_KILL_AND_STOP = (1 << 64) - 1 & ~(1 << 8 | 1 << 18)


def used_stub(kernel: Kernel) -> StubProcess:
    """Return a stub with one parked thread."""
    space = kernel.space(guest.CALLS)
    assert is_syscall(kernel.run(kernel.context(), space))
    return support.stub(space)


def test_filters_of_each_kind_of_thread(kernel: Kernel) -> None:
    """S-100, S-105, S-107, P-112: F0 alone on the source, FN besides on syscall threads, F1 besides on sysmsg threads."""
    one = used_stub(kernel)
    source = support.environment(kernel.platform).source.pid
    notify = int(support.environment(kernel.platform).notify)
    for pid, count in ((source, 1), (one.pid, 1 + notify), (one.threads[1], 2 + notify)):
        found = support.status(pid)
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert found.get("Seccomp_filters", str(count)) == str(count)


BASE_CALLS = (
    "arch_prctl", "clone", "exit", "exit_group", "futex", "getpid", "getppid", "mmap", "munmap", "prctl", "rt_sigprocmask",
    "rt_sigreturn", "sched_yield", "seccomp", "sigaltstack",
)  # fmt: skip


def test_the_base_filter_allows_nothing_else(server: Kernel) -> None:
    """S-100, S-104, S-120: with any of the arguments that some call may have, F0 lets these numbers through, and no other."""
    where = support.place(server.platform)
    program = filters.base_filter(where)
    dispatch = (where.stub_start, where.ro_end - where.stub_start)
    tried = [(value, second, *rest) for value in range(3) for second in (0, 1, 8, 9) for rest in ((), dispatch)]
    tried += [(value, 0) for value in (filters.CLONE_PROCESS, filters.CLONE_THREAD, 0x1001, 0x1002, 0x1003, 0x1012)]
    tried += [(value, 1, *dispatch) for value in (38, 59)]
    passed = {nr for nr in range(1024) for args in tried if evaluate(program, nr, AUDIT_ARCH, 0, args) != RET_TRAP}
    assert passed == {NR[name] for name in BASE_CALLS}


def test_masks_and_tracers(kernel: Kernel) -> None:
    """S-126, P-111, P-112: nothing reaches a syscall thread; a sysmsg thread is open but in its handler; nobody is traced."""
    one = used_stub(kernel)
    space = kernel.space(guest.SPIN)
    context = kernel.context()
    for pid in (one.pid, support.environment(kernel.platform).source.pid):
        assert int(support.status(pid)["SigBlk"], 16) == _ALL_BUT_KILL_AND_STOP
    kernel.platform.submit(context, space)
    assert eventually(lambda: bool(support.stub(space).threads))
    spinning = support.stub(space).threads[1]
    assert eventually(lambda: int(support.status(spinning)["SigBlk"], 16) == 0)
    for pid in (one.pid, one.threads[1], spinning, support.environment(kernel.platform).source.pid):
        assert support.status(pid)["TracerPid"] == "0"
        assert int(support.status(pid)["SigCgt"], 16) == 0x400104D8, "S-030: the seven handlers"


def test_sysmsg_threads_are_nicer_than_the_sentry(server: Kernel) -> None:
    """S-125, P-112: nice value of the sentry, plus one."""
    one = used_stub(server)
    assert os.getpriority(os.PRIO_PROCESS, one.threads[1]) == os.getpriority(os.PRIO_PROCESS, 0) + 1


def test_what_a_thread_is_made_from_is_out_of_reach(kernel: Kernel) -> None:
    """S-122: request page and thread records are read-only in the stub, from before its first thread on."""
    one, where = used_stub(kernel), support.place(kernel.platform)
    prots = {m.start: m.prot for m in support.maps(one.pid)}
    assert prots[where.area0] == "r--s"
    assert prots[where.area0 + PAGE] == "rw-s"
    assert prots[where.area0 + 2 * PAGE] == "r--s"


class Birth(NamedTuple):
    """What a sysmsg thread did before it took work: its system calls, and its registers at its first signal."""

    calls: list[tuple[int, tuple[int, ...]]]
    first: ptrace.SignalStop
    regs: dict[str, int]


def traced_birth(stub: Stub) -> Birth:
    """Make a sysmsg thread under the eyes of a tracer, up to where it parks.

    The clone's CLONE_PTRACE gives the tracer of the syscall thread the new thread as well, stopped before it ran.
    """
    ptrace.demand(ptrace.SEIZE, stub.pid, 0, ptrace.O_TRACESYSGOOD | ptrace.O_EXITKILL)
    maker = threading.Thread(target=stub.start_thread, args=(1,))
    maker.start()
    waiter, calls = ptrace.Waiter(), list[tuple[int, tuple[int, ...]]]()
    buffer = bytearray(8 * len(Context.NAMES))
    general = ptrace.RegisterSet(ptrace.NT_PRSTATUS, buffer)
    first: ptrace.SignalStop | None = None
    regs: dict[str, int] = {}
    while not calls or calls[-1][0] != NR["futex"]:
        tid = waiter.wait(-1, ptrace.WALL | ptrace.WNOTHREAD)
        assert tid > 0
        if not ptrace.is_stopped(waiter.status):
            assert tid not in (stub.pid, *stub.tids.values()), "it died"
            continue  # A thread of an earlier stub, which this thread traced.
        number = ptrace.stop_signal(waiter.status)
        if number == ptrace.SYSCALL_STOP:
            calls += entered(tid)
            number = 0
        elif ptrace.stop_event(waiter.status):
            number = 0
        elif first is None:
            first = ptrace.siginfo(tid)
            general.read(tid)
            regs = dict(zip(Context.NAMES, struct.unpack(f"<{len(Context.NAMES)}Q", buffer), strict=True))
        ptrace.demand(_PTRACE_SYSCALL, tid, 0, number)
    maker.join()
    assert first is not None
    return Birth(calls, first, regs)


def entered(tid: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return number and arguments of the call a thread is about to make; nothing where it comes back from one."""
    info = bytearray(88)
    ptrace.demand(ptrace.GET_SYSCALL_INFO, tid, len(info), address_of(info))
    if info[0] != 1:
        return []
    number, *arguments = struct.unpack_from("<7Q", info, 24)
    return [(number, tuple(arguments))]


@pytest.fixture(scope="module")
def birth() -> Iterator[tuple[Birth, Stub]]:
    """Return how a thread of a stub was born, and the stub."""
    with new_world() as world, running_stub(world) as stub:
        yield traced_birth(stub), stub


def test_order_in_which_a_thread_is_set_up(birth: tuple[Birth, Stub]) -> None:
    """S-121, S-122, S-106, S-124, S-105: life bound to the stub's, dispatch, stack from read-only memory, filter last."""
    (calls, _, _), stub = birth
    where = stub.world.place
    record, rules = where.thread_record(1), where.sysmsg_rules
    prctl, arch_prctl = NR["prctl"], NR["arch_prctl"]
    wanted: list[tuple[int, tuple[int, ...]]] = [
        (prctl, (filters.PR_SET_PDEATHSIG, filters.SIGKILL)),
        (NR["getppid"], ()),
        (prctl, (filters.PR_SET_SYSCALL_USER_DISPATCH, 1, where.stub_start, where.ro_end - where.stub_start, 0)),
        (NR["sigaltstack"], (record, 0)),
        (arch_prctl, (filters.ARCH_SET_FS, 0)),
        (arch_prctl, (filters.ARCH_SET_GS, where.thread_area(1) + where.area.sysmsg)),
        (NR["rt_sigprocmask"], (filters.SIG_SETMASK,)),
        (NR["seccomp"], (filters.SECCOMP_SET_MODE_FILTER, 0, rules)),
    ]
    before, (parked, _) = calls[:-1], calls[-1]
    assert parked == NR["futex"]
    assert [number for number, _ in before] == [number for number, _ in wanted]
    for (_, found), (_, arguments) in zip(before, wanted, strict=True):
        assert found[: len(arguments)] == arguments
    assert support.status(stub.tids[1])["NoNewPrivs"] == "1"


def test_first_signal_of_a_thread(birth: tuple[Birth, Stub]) -> None:
    """S-123: SIGSEGV in code of the bootstrap, gs leads to sysmsg, and all registers are zero."""
    (_, info, regs), stub = birth
    where = stub.world.place
    assert info.signo == signal.SIGSEGV
    assert where.stub_start <= regs["rip"] < where.sysmsg
    assert regs["gs_base"] == where.thread_area(1) + where.area.sysmsg
    special = ("rip", "gs_base", "eflags", "cs", "ss", "orig_rax")
    assert {name: value for name, value in regs.items() if name not in special and value} == {}


def test_how_a_thread_hangs_together_with_its_stub(server: Kernel) -> None:
    """S-120: a thread group of its own, that kills its parent when it ends, and shares its memory."""
    one = used_stub(server)
    tid = one.threads[1]
    fields = Path(f"/proc/{tid}/stat").read_text().rpartition(")")[2].split()
    exit_signal = int(fields[35])
    found = support.status(tid)
    assert (exit_signal, found["Tgid"], found["PPid"]) == (signal.SIGKILL, str(tid), str(one.pid))
    assert support.maps(tid) == support.maps(one.pid)
    assert filters.CLONE_THREAD == 0x2709


def test_concurrency_is_what_the_process_may_use() -> None:
    """P-008: the affinity when the platform was made counts."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from systrap import platform; p = platform.lookup('systrap').new(platform.Options());"
        "os.sched_setaffinity(0, range(os.cpu_count())); print(p.concurrency_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "1\n"


FAILING = """
import os, sys, threading
sys.path[:0] = [""]
from systrap import platform
from systrap.host import process
from systrap.platforms.systrap import source
from tests.platforms.kernel import children, eventually
def refuse(*_):
    raise platform.PlatformError("cloning the source stub failed")
before = sorted(os.listdir("/proc/self/fd"))
real = source.Source._clone
source.Source._clone = refuse
for _ in range(3):
    try:
        platform.lookup("systrap").new(platform.Options())
    except platform.PlatformError as error:
        print(error)
print(len(children()), len(os.listdir("/proc/self/fd")) - len(before), threading.active_count())
source.Source._clone = real
platform.lookup("systrap").new(platform.Options()).new_address_space()
"""


def failed_starts() -> list[str]:
    """Return what a program says in which the source cannot be made, three times, and then can."""
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, check=True, text=True)
    return done.stdout.splitlines()


def test_without_a_source_there_is_no_platform() -> None:
    """P-012: an error that says why, no child left, and a later attempt can succeed."""
    *errors, left = failed_starts()
    assert errors == ["cloning the source stub failed"] * 3
    assert left.split()[0] == "0"


def test_a_failed_start_leaves_no_descriptor() -> None:
    """P-012: no memfd, and nothing else either."""
    *_, left = failed_starts()
    assert left.split()[1:] == ["0", "1"]


@pytest.fixture
def futex_mode(server: Kernel, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Return a kernel whose new stubs get no listener."""
    monkeypatch.setattr(support.environment(server.platform), "notify", False)
    return server


def test_without_a_listener(futex_mode: Kernel) -> None:
    """P-115: requests go through the futex channel then, and everything works."""
    space = futex_mode.space(guest.LOAD)
    assert support.stub(space).channel.listener < 0
    for number in range(1, 20):
        futex_mode.map(space, DATA, bytes([number]) * 8)
        context = futex_mode.context(rdi=DATA)
        assert is_syscall(futex_mode.run(context, space))
        assert reg(context, "r10") == int.from_bytes(bytes([number]) * 8, "little")
        context.release()
    with pytest.raises(MapError) as error:
        space.map_file(DATA + 1, futex_mode.file, 0, PAGE, R)
    assert error.value.errno == 22
    assert support.status(support.stub(space).pid).get("Seccomp_filters", "1") == "1"
    space.unmap(0, futex_mode.platform.max_user_address())


def test_a_host_without_listeners_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-115: EFAULT says yes, EINVAL says no."""
    for answer, found in ((-14, True), (-22, False), (-38, False)):
        monkeypatch.setattr(systrap_platform, "syscall", lambda *_, answer=answer: answer)
        assert systrap_platform._has_listener() is found


@pytest.mark.timeout(300)
def test_a_thousand_spaces(server: Kernel) -> None:
    """P-117: made, used and released, they leave no descriptor, no process and no mapping."""

    def cycle() -> None:
        space, context = server.platform.new_address_space(), server.platform.new_context()
        space.map_file(CODE, server.file, code, PAGE, R | X)
        server.run(context, space)
        context.release()
        space.release()

    code = server.page(guest.CALLS)
    for _ in range(20):
        cycle()
    before = usage()
    for _ in range(1000):
        cycle()
    assert eventually(lambda: all(now <= b + 8 for now, b in zip(usage(), before, strict=True))), (before, usage())
