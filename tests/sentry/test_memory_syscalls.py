"""Memory system calls with arguments no sane program passes: errors, never exceptions; and their plain use."""

import errno
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import systrap.sentry.syscalls.memory  # noqa: F401 - registers the calls
from systrap.memory import MemoryFile
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import FDTable
from systrap.sentry.mm import MemoryManager
from systrap.sentry.syscalls.numbers import NUMBERS
from systrap.sentry.syscalls.table import TABLE
from tests.sentry.fake_platform import PAGE, FakePlatform
from tests.sentry.test_mm_model import HostContents, TestFile

CALLS = (
    "mmap", "munmap", "mprotect", "brk", "mremap", "madvise", "msync", "mincore", "mlock", "mlock2", "munlock", "mlockall",
    "munlockall", "pkey_mprotect", "pkey_alloc", "pkey_free", "process_vm_readv", "process_vm_writev", "shmget", "shmat",
    "shmdt", "shmctl",
)  # fmt: skip
ARGS = (14, 13, 12, 7, 9, 8)


class Kernel:
    """As much of one as memory calls look at."""

    def __init__(self) -> None:
        self.platform = FakePlatform()
        self.platform.quiet = True
        self.memory = MemoryFile("test")
        self.tasks: dict[int, SimpleNamespace] = {}

    def task(self, pid: int) -> SimpleNamespace:
        mm = MemoryManager(self.platform, self.memory)
        mm.brk_start = mm.brk_end = 0x500000
        fds = FDTable()
        creds = SimpleNamespace(uid=0, gid=0, euid=0, egid=0, groups=())
        group = SimpleNamespace(pid=pid, tgid=pid)
        task = SimpleNamespace(mm=mm, fds=fds, creds=creds, group=group, kernel=self, tid=pid)
        self.tasks[pid] = task
        return task


def call(task: SimpleNamespace, name: str, *args: int) -> int:
    regs = [0] * 27
    for register, value in zip(ARGS, args, strict=False):
        regs[register] = value & (1 << 64) - 1
    result = TABLE[NUMBERS[name]].adapter(task, regs)  # type: ignore[arg-type] # a task and registers as far as they are used
    assert isinstance(result, int)
    return result


word = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            2,
            3,
            4,
            7,
            9,
            0x10,
            0x22,
            0x32,
            0x1032,
            0x8022,
            0o1600,
            (1 << 64) - 1,
            (1 << 64) - PAGE,
            1 << 63,
            1 << 47,
        ]
    ),
    st.integers(0, 40).map(lambda n: 0x100000 + n * PAGE),
    st.integers(0, 60).map(lambda n: n * PAGE),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 300),
)


@given(st.lists(st.tuples(st.sampled_from(CALLS), st.lists(word, min_size=6, max_size=6)), max_size=25))
@settings(max_examples=250, deadline=None)
def test_hostile_arguments(steps: "list[tuple[str, list[int]]]") -> None:
    kernel = Kernel()
    task = kernel.task(1)
    contents = HostContents(b"x" * 10000)
    task.fds.add(TestFile(contents))
    call(task, "mmap", 0x100000, 20 * PAGE, 3, 0x32, -1, 0)
    for name, args in steps:
        try:
            call(task, name, *args)
        except SyscallError as error:
            assert 0 < error.errno < 200  # noqa: PT017 - any of them
        for area in task.mm.vmas.items:
            assert 0 < area.start < area.end <= task.mm.max_address
            assert not (area.start | area.end) % PAGE
    task.mm.release()
    kernel.memory.close()


def test_process_vm() -> None:
    kernel = Kernel()
    one, two = kernel.task(1), kernel.task(2)
    here = call(one, "mmap", 0, PAGE, 3, 0x22, -1, 0)
    there = call(two, "mmap", 0, PAGE, 3, 0x22, -1, 0)
    two.mm.write(there + PAGE - 5, b"hello")
    one.mm.write(here, b"".join(n.to_bytes(8, "little") for n in (here + 100, 3, here + 200, 100)))
    one.mm.write(here + 32, b"".join(n.to_bytes(8, "little") for n in (there + PAGE - 5, 10)))
    assert call(one, "process_vm_readv", 2, here, 2, here + 32, 1, 0) == 5
    assert one.mm.read(here + 100, 3) + one.mm.read(here + 200, 2) == b"hello"
    one.mm.write(here + 100, b"HEL")
    assert call(one, "process_vm_writev", 2, here, 1, here + 32, 1, 0) == 3
    assert two.mm.read(there + PAGE - 5, 5) == b"HELlo"
    for number, args in ((errno.ESRCH, (3, here, 1, here + 32, 1, 0)), (errno.EINVAL, (2, here, 1, here + 32, 1, 1))):
        with pytest.raises(SyscallError) as caught:
            call(one, "process_vm_readv", *args)
        assert caught.value.errno == number
    one.mm.release()
    two.mm.release()
    kernel.memory.close()


def test_shared_segments() -> None:
    kernel = Kernel()
    one, two = kernel.task(1), kernel.task(2)
    ident = call(one, "shmget", 77, 5000, 0o1600)
    assert call(two, "shmget", 77, 0, 0) == ident
    first, second = call(one, "shmat", ident, 0, 0), call(two, "shmat", ident, 0, 0)
    one.mm.write(first + 4999, b"!")
    assert two.mm.read(second + 4999, 1) == b"!"
    buffer = call(one, "mmap", 0, PAGE, 3, 0x22, -1, 0)
    call(one, "shmctl", ident, 2, buffer)
    assert one.mm.read_u32(buffer) == 77
    assert one.mm.read_u64(buffer + 48) == 5000
    assert one.mm.read_u64(buffer + 88) == 2
    call(one, "shmctl", ident, 0, 0)
    call(one, "shmdt", first)
    assert two.mm.read(second + 4999, 1) == b"!"
    one.mm.release()
    two.mm.release()
    with pytest.raises(SyscallError):
        call(two, "shmctl", ident, 2, buffer)
    assert kernel.memory.used == 0
    kernel.memory.close()
