"""The registry, and what platforms answer about themselves (20-platform §1.1, §1.2)."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from systrap import platform
from systrap.host import limits
from systrap.host.sys import NR, syscall
from systrap.platform import Options, Platform, ProgrammingError, UnknownPlatformError
from tests.platforms import guest
from tests.platforms.conftest import constructor
from tests.platforms.kernel import Kernel, children, eventually

Make = Callable[[], Platform]


def test_unknown_name() -> None:
    """# P-001."""
    with pytest.raises(UnknownPlatformError, match="kvm"):
        platform.lookup("kvm")


def test_names_are_sorted() -> None:
    """# P-001."""
    assert platform.names() == sorted(platform.names())
    assert {"ptrace", "systrap"} <= set(platform.names())


def test_register_replaces_silently() -> None:
    """# P-001."""
    first, second = constructor("ptrace"), constructor("ptrace")
    before = platform.names()
    try:
        platform.register("test-only", first)
        platform.register("test-only", second)
        assert platform.lookup("test-only") is second
        assert "test-only" in platform.names()
    finally:
        del platform._registered["test-only"]
    assert platform.names() == before


def test_requirements(name: str) -> None:
    """# P-002: the original asks for CAP_SYS_PTRACE always; a platform that makes its stubs without ptrace need not."""
    asked = constructor(name).requirements()
    assert asked.requires_cap_sys_ptrace is (name != "systrap")


def test_no_device(name: str) -> None:
    """OpenDevice: no platform of ours has one."""
    assert constructor(name).open_device("/dev/kvm") is None


def test_constants(make: Make) -> None:
    """# P-003."""
    one = make()
    for _ in range(2):
        assert one.supports_address_space_io() is False
        assert one.detects_cpu_preemption() is False
        assert one.has_cpu_numbers() is False
        assert one.cooperatively_schedules_address_space() is False
        assert one.map_unit() == 0


@pytest.mark.parametrize(
    "call",
    [Platform.preempt_all_cpus, Platform.num_cpus, lambda p: p.preempt_cpu(0)],
    ids=["preempt_all_cpus", "num_cpus", "preempt_cpu"],
)
def test_what_is_not_there_is_a_programming_error(make: Make, call: Callable[[Platform], object]) -> None:
    """# P-004."""
    with pytest.raises(ProgrammingError):
        call(make())


def test_min_user_address(make: Make) -> None:
    """# P-005."""
    assert make().min_user_address() == max(int(Path("/proc/sys/vm/mmap_min_addr").read_text()), 4096)


def test_max_user_address(make: Make) -> None:
    """# P-006."""
    size = limits.task_size()
    assert make().max_user_address() == size - (size // 128 & ~4095)


def test_max_user_address_is_the_same_in_every_process() -> None:
    """# P-006."""
    code = "from systrap.host import limits; print(limits.max_user_address(), limits.task_size())"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert runs == {f"{limits.max_user_address()} {limits.task_size()}\n".encode()}


def test_concurrency_count_is_fixed(make: Make) -> None:
    """# P-008."""
    one = make()
    count = one.concurrency_count()
    assert count >= 1
    one.new_address_space().release()
    assert one.concurrency_count() == count


def test_memory_barrier(make: Make) -> None:
    """# P-009."""
    one = make()
    assert one.have_global_memory_barrier() == bool(max(syscall(NR["membarrier"], 0, 0), 0) & 1)
    if one.have_global_memory_barrier():
        one.global_memory_barrier()
    else:
        with pytest.raises(ProgrammingError):
            one.global_memory_barrier()


def test_two_platforms_at_once(make: Make) -> None:
    """# P-010 (that the source is shared is systrap's affair)."""
    one, two = make(), make()
    one.new_address_space().release()
    two.new_address_space().release()
    one.close()
    two.new_address_space().release()


def test_close_is_idempotent_and_leaves_no_child(make: Make) -> None:
    """Platform.close(), and P-012's "no children"."""
    before = children()
    one = make()
    for _ in range(3):
        one.new_address_space()
    one.close()
    one.close()
    assert eventually(lambda: children() <= before)


def test_statistics(make: Make) -> None:
    """The counters that every platform has."""
    one = make()
    assert one.statistics()["spaces"] == 0
    space, context = one.new_address_space(), one.new_context()
    found = one.statistics()
    assert found["spaces"] == 1
    assert found["contexts"] in (0, 1)
    assert all(type(value) is int for value in (*space.statistics().values(), *context.statistics().values()))
    context.release()
    space.release()
    assert found["spaces"] == 1
    assert all(type(value) is int for value in one.statistics().values())


def test_statistics_of_a_context(kernel: Kernel) -> None:
    """What came back, and what was asked for, is counted where it belongs."""
    space, context = kernel.space(guest.CALLS), kernel.context()
    for _ in range(3):
        kernel.run(context, space)
    context.interrupt()
    kernel.run(context, space)
    assert context.statistics()["events"] == 4
    assert context.statistics()["interrupts"] == 1
    assert kernel.context().statistics()["events"] == 0


def test_options_are_data() -> None:
    """Options have defaults: nothing is asked for."""
    assert Options() == Options(False, False, False, False, None, None, "auto")
