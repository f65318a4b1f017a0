"""Where things lie in a stub that runs, and what guards them (10-stub §1; 20-platform §3.2)."""

import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from systrap.host import limits
from systrap.host.mem import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, mmap_result
from systrap.host.sys import NR, syscall
from systrap.platform import EventKind, MapError
from systrap.platforms.systrap import abi, layout, source, syscall_thread
from systrap.platforms.systrap.stub import _holes
from systrap.platforms.systrap.subprocess import Subprocess
from systrap.platforms.systrap.syscall_thread import Call
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import CODE, DATA, PAGE, Kernel, R, W, X, children, is_syscall, reg
from tests.spec import support
from tests.spec.support import Mapping, maps, place

_HAS_MSEAL = syscall(NR["mseal"], 0, 0, 0) == 0


def running(kernel: Kernel) -> Subprocess:
    """Return a stub in which a guest made a call, so that it has a thread."""
    space = kernel.space(guest.CALLS)
    assert is_syscall(kernel.run(kernel.context(rax=39), space))
    assert isinstance(space, Subprocess)
    return space


def at(mappings: list[Mapping], address: int) -> Mapping | None:
    """Return the mapping that covers an address."""
    return next((one for one in mappings if one.start <= address < one.end), None)


def covering(mappings: list[Mapping], address: int) -> Mapping:
    """Return the mapping that covers an address; there must be one."""
    found = at(mappings, address)
    assert found is not None, hex(address)
    return found


START = "from systrap import platform; p = platform.lookup('systrap').new(platform.Options());"


def test_stub_is_somewhere_else_in_each_run(server: Kernel) -> None:
    """S-002, P-007: above all guests, below the end, on a page, and nobody can tell where."""
    code = START + "print(p._pool.environment.image.layout.stub_start, p._pool.environment.image.layout.end)"
    starts = set()
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        begin, end = (int(word) for word in done.stdout.split())
        assert limits.max_user_address() <= begin < end <= limits.task_size()
        assert begin % PAGE == 0
        starts.add(begin)
    starts.add(place(server.platform).stub_start)
    assert len(starts) == 4


def test_a_guest_may_map_up_to_the_limit_and_no_further(server: Kernel) -> None:
    """S-001: the page below MaxUser is a guest's; MaxUser is TaskSize less its 128th."""
    size = limits.task_size()
    flags = MAP_ANONYMOUS | MAP_PRIVATE | MAP_FIXED
    assert mmap_result(size - PAGE - 1, 512, 0, flags) == -22, "inside, only misaligned"
    assert mmap_result(size, PAGE, 0, flags) == -12
    assert server.platform.max_user_address() == size - (size >> 7) // PAGE * PAGE
    space = server.space(guest.LOAD)
    last = server.platform.max_user_address() - PAGE
    server.map(space, last)
    assert is_syscall(server.run(server.context(rdi=last), space))


def test_code_is_code_and_rules_are_rules(kernel: Kernel) -> None:
    """S-003, P-113: images r-x, programs r--, and nothing of the stub is writable and executable."""
    one, where = running(kernel), place(kernel.platform)
    mappings = maps(one.stub.pid)
    for address in (where.stub_start, where.sysmsg, where.sysmsg_rules - 1):
        assert covering(mappings, address).prot == "r-xp"
    for address in (where.sysmsg_rules, where.notify_rules, where.ro_end - 1):
        assert covering(mappings, address).prot == "r--p"
    for mapping in mappings:
        assert not {"w", "x"} <= set(mapping.prot) or mapping.end <= where.stub_start, mapping


def test_unmapped_pages_stand_guard(kernel: Kernel) -> None:
    """S-004, P-113: behind the read-only part, and around both stacks of a thread."""
    one, where = running(kernel), place(kernel.platform)
    mappings = maps(one.stub.pid)
    area, base = where.area, where.thread_area(1)
    assert at(mappings, where.ro_end) is None
    for hole in (base, base + area.private_top, base + area.shared - 1, base + area.size):
        assert at(mappings, hole) is None, hex(hole)
    for used in (base + area.private, base + area.shared, base + area.sysmsg):
        assert covering(mappings, used).prot.startswith("rw")


@pytest.mark.skipif(not _HAS_MSEAL, reason="this kernel has no mseal")
def test_read_only_part_is_sealed(kernel: Kernel) -> None:
    """S-005, P-113, P-031: neither the sentry nor the stub's own syscall thread can change it, and it goes on."""
    one, where = running(kernel), place(kernel.platform)
    smaps = Path(f"/proc/{one.stub.pid}/smaps").read_text().split("VmFlags:")
    for before, after in pairwise(smaps):
        header = [line for line in before.splitlines() if "-" in line.split(" ")[0] and not line.endswith("kB")][-1]
        start, end = (int(part, 16) for part in header.split(" ")[0].split("-"))
        if where.stub_start <= start < where.ro_end:
            assert end <= where.ro_end
            assert "sl" in after.splitlines()[0].split(), header
    flags = MAP_ANONYMOUS | MAP_PRIVATE | MAP_FIXED
    assert mmap_result(where.stub_start, PAGE, PROT_READ, flags) == -1
    assert syscall(NR["munmap"], where.stub_start, where.ro_end - where.stub_start) == -1
    for name in ("mmap", "munmap"):
        arguments = (where.sysmsg, PAGE, PROT_READ, flags, -1, 0) if name == "mmap" else (where.sysmsg, PAGE)
        assert one.stub.channel.run([Call(name, arguments)]).ret == -1
    with pytest.raises(MapError) as error:
        kernel.map(one, where.stub_start)
    assert error.value.errno == 1
    assert is_syscall(kernel.run(kernel.context(), one))


def test_a_kernel_without_seals_will_do() -> None:
    """S-005: ENOSYS of mseal is no reason to refuse."""
    code = f"""
import systrap.host.mem as mem
real = mem.syscall
mem.syscall = lambda nr, *rest: -38 if nr == {NR["mseal"]} else real(nr, *rest)
from systrap import platform
from tests.platforms import guest
from tests.platforms.conftest import create
from tests.platforms.kernel import Kernel, is_syscall
kernel = Kernel(platform.lookup("systrap").new(platform.Options()), "switch")
space = kernel.space(guest.CALLS)
assert is_syscall(kernel.run(kernel.context(), space))
pid = space.stub.pid
assert " sl" not in open(f"/proc/{{pid}}/smaps").read()
kernel.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_thread_finds_its_structure_from_its_stack(kernel: Kernel) -> None:
    """S-006: areas at multiples of their size, sysmsg in the last page, ``self`` says so."""
    one, where = running(kernel), place(kernel.platform)
    assert where.thread_area(1) % where.area.size == 0
    self_address = support.sysmsg(one).cast("Q")[abi.SYSMSG_SELF >> 3]
    assert self_address == where.thread_area(1) + where.area.size - PAGE
    assert covering(maps(one.stub.pid), self_address).prot == "rw-s"


def test_nothing_of_the_sentry_is_in_a_stub(kernel: Kernel) -> None:
    """S-007, P-033: when guest code runs, a stub holds its own regions, the guest's, and the vsyscall page."""
    one, where = running(kernel), place(kernel.platform)
    memory = Path(f"/proc/self/fd/{environment_fd(kernel)}").stat().st_ino
    for pid in (one.stub.pid, support.environment(kernel.platform).source.pid):
        for mapping in maps(pid):
            if mapping.start < where.stub_start:
                assert (mapping.start, pid) == (CODE, one.stub.pid), mapping
            elif mapping.name != "[vsyscall]":
                assert mapping.end <= where.end, mapping
                assert mapping.inode in (0, memory), mapping
                assert mapping.name in ("", "/memfd:systrap-memory (deleted)"), mapping


def environment_fd(kernel: Kernel) -> int:
    """Return the descriptor of the memory shared with stubs."""
    return support.environment(kernel.platform).memory.fd


def test_what_is_shared_and_what_is_not(kernel: Kernel) -> None:
    """S-008, S-025: queue and contexts through one memfd, the spinning queue private; slots on 4096."""
    one, where = running(kernel), place(kernel.platform)
    mappings = maps(one.stub.pid)
    queue, contexts = covering(mappings, where.context_queue), covering(mappings, where.contexts)
    assert queue.prot == contexts.prot == "rw-s"
    assert queue.inode == contexts.inode == Path(f"/proc/self/fd/{environment_fd(kernel)}").stat().st_ino
    spinning = covering(mappings, where.spinning_queue)
    assert (spinning.prot, spinning.inode) == ("rw-p", 0)
    assert where.contexts % 4096 == 0
    context = kernel.context()
    kernel.run(context, one)
    assert support.slot(context).address % 4096 == 0


def test_no_gap_brings_two_regions_together(server: Kernel) -> None:
    """S-009: every small gap, with this host's sizes; the spinning queue moves with its neighbours."""
    where = place(server.platform)
    for gap in range(0, 3000 * PAGE, PAGE):
        one = layout.compute(PAGE, where.stub_start, gap, 3000, 9000, where.max_children)
        regions = [
            (one.stub_start, one.ro_end + PAGE),
            (one.area0, one.thread_area(one.max_children) + one.area.size),
            (one.context_queue, one.context_queue + layout.QUEUE_SIZE),
            (one.spinning_queue, one.spinning_queue + PAGE),
            (one.ready_ring, one.ready_ring + layout.RING_SIZE),
            (one.contexts, one.contexts + layout.CONTEXT_SLOT * layout.CONTEXT_SLOTS),
        ]
        assert all(end <= start for (_, end), (start, _) in pairwise(regions)), hex(gap)


def test_no_call_ever_covers_the_read_only_part(server: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """S-010: what the sentry lets stubs map and unmap, at birth, in use and at the end."""
    asked: list[Call] = []
    real = syscall_thread.write_batch

    def record(page: "memoryview[int]", calls: list[Call]) -> None:
        asked.extend(calls)
        real(page, calls)

    monkeypatch.setattr(syscall_thread, "write_batch", record)
    monkeypatch.setattr(source, "write_batch", record)
    space = server.space(guest.LOAD)
    server.map(space, DATA)
    assert is_syscall(server.run(server.context(rdi=DATA), space))
    space.unmap(0, server.platform.max_user_address())
    for context in server.contexts:
        context.release()
    space.release()
    where = place(server.platform)
    names = {call.name for call in asked}
    assert {"mmap", "munmap", "clone"} <= names
    assert names <= {"mmap", "munmap", "clone", "seccomp"}
    for call in asked:
        if call.name in ("mmap", "munmap"):
            start, length = call.args[:2]
            assert start + length <= where.stub_start or start >= where.ro_end, call


def test_stub_outlives_its_preemptions(server: Kernel) -> None:
    """S-011: an rseq area that is unmapped would kill a stub when the scheduler takes its CPU away."""
    spaces = [server.space(guest.SPIN) for _ in range(3)]
    for space in spaces:
        for _ in range(2):
            server.platform.submit(server.context(), space)
    end = time.monotonic() + 1.2
    offset = server.page()
    while time.monotonic() < end:
        for space in spaces:
            space.map_file(DATA, server.file, offset, PAGE, R | W)
            space.unmap(DATA, PAGE)
        assert server.platform.next_ready(time.monotonic()) is None
    source_pid = support.environment(server.platform).source.pid
    for pid in (source_pid, *(support.stub(space).pid for space in spaces)):
        found = support.status(pid)
        assert found["State"][0] not in "ZX"
        assert int(found["voluntary_ctxt_switches"]) + int(found["nonvoluntary_ctxt_switches"]) > 0


def test_only_as_many_areas_as_threads_can_be(server: Kernel) -> None:
    """S-012: one per sysmsg thread, one for the syscall thread, one for the alignment."""
    where = place(server.platform)
    assert where.max_children == server.platform.concurrency_count() + 1
    reserved = where.context_queue - where.area0
    gap_at_most = max(where.spinning_queue - where.context_queue, 0)
    assert reserved <= (where.max_children + 2) * where.area.size + gap_at_most


def test_holes_are_found_in_a_crowded_window() -> None:
    """S-002: the second and later attempts look only where there is room."""
    low, high = limits.max_user_address(), limits.task_size()
    holes = list(_holes(low, high))
    assert holes
    taken = [(one.start, one.end) for one in maps_of_self() if one.end > low and one.start < high]
    for start, end in holes:
        assert low <= start < end <= high
        assert not any(start < e and s < end for s, e in taken)


def maps_of_self() -> list[Mapping]:
    """Return this process's mappings."""
    return maps(int(Path("/proc/self").readlink().name))


def test_mapping_from_many_threads_while_guests_run(server: Kernel) -> None:
    """P-030: each change is whole, and the last of each thread stands."""
    space = server.space(guest.SPIN)
    server.platform.submit(server.context(), space)
    pages = [server.page(bytes([n + 1]) * 8) for n in range(4)]

    def work(index: int) -> None:
        for _ in range(100):
            space.map_file(DATA + index * PAGE, server.file, pages[index], PAGE, R)
            space.unmap(DATA + index * PAGE, PAGE)
        space.map_file(DATA + index * PAGE, server.file, pages[index], PAGE, R)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    server.contexts[0].interrupt()
    assert server.wait().event.kind == EventKind.INTERRUPTED
    mapped = {one.start: one for one in maps(support.stub(space).pid)}
    found = sorted(one.start for one in mapped.values() if DATA <= one.start < DATA + 4 * PAGE)
    assert found
    space.map_file(CODE, server.file, server.page(guest.LOAD), PAGE, R | X)
    for index in range(4):
        context = server.context(rdi=DATA + index * PAGE)
        assert is_syscall(server.run(context, space))
        assert reg(context, "r10") == int.from_bytes(bytes([index + 1]) * 8, "little")


def test_one_source_for_all_platforms(server: Kernel) -> None:
    """P-010: a second platform shares image and source with the first."""
    before = children()
    other = Kernel(create("systrap"), server.path)
    try:
        assert support.environment(other.platform) is support.environment(server.platform)
        assert children() == before
        assert is_syscall(other.run(other.context(), other.space(guest.CALLS)))
    finally:
        other.close()
