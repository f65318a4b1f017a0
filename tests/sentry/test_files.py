"""Locks, seals, synthetic files, inotify queues: the rooms behind the system calls on open files."""

import errno
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.memory import MemoryFile
from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_RDWR, FDTable, drop
from systrap.sentry.fs import locks, memfd, notify
from systrap.sentry.fs.contents import DirectoryFile
from systrap.sentry.fs.inode import Location
from systrap.sentry.fs.locks import F_RDLCK, F_UNLCK, F_WRLCK, FileLocks
from systrap.sentry.fs.memfd import MemoryDescriptor, MemoryInode
from systrap.sentry.fs.synthetic import TextFile, TextInode, tree

SIZE = 24


def make_memfd(seals: int = 0) -> MemoryDescriptor:
    creds = SimpleNamespace(fsuid=0, fsgid=0)
    task = SimpleNamespace(kernel=SimpleNamespace(memory=MemoryFile("test")), creds=creds)
    return MemoryDescriptor(MemoryInode(task, b"m", 0o777, seals), O_RDWR)  # type: ignore[arg-type] # as much of a task as is used


step = st.tuples(
    st.integers(0, 2), st.sampled_from((F_RDLCK, F_WRLCK, F_UNLCK)), st.integers(0, SIZE - 1), st.integers(1, SIZE)
)


@given(st.lists(step, max_size=40))
def test_record_locks_are_what_a_byte_wise_model_says(steps: list[tuple[int, int, int, int]]) -> None:
    owners = [FDTable() for _ in range(3)]
    table = FileLocks()
    model: list[dict[int, int]] = [{} for _ in range(SIZE * 2)]
    for who, kind, start, length in steps:
        span = range(start, start + length)
        clash = kind != F_UNLCK and any(
            other != who and F_WRLCK in (kind, held) for at in span for other, held in model[at].items()
        )
        try:
            table.set(owners[who], kind, start, start + length, who)
        except WouldBlockError:
            assert clash
            continue
        assert not clash
        for at in span:
            model[at].pop(who, None)
            if kind != F_UNLCK:
                model[at][who] = kind
    found: list[dict[int, int]] = [{} for _ in range(SIZE * 2)]
    for record in table.records:
        for at in range(record.start, record.end):
            assert record.pid not in found[at]
            found[at][record.pid] = record.kind
    assert found == model


def test_record_locks_end_with_any_close_and_flocks_with_the_last() -> None:
    file, table, other = make_memfd(), FDTable(), FDTable()
    first, second = table.add(file), table.add(file)
    locks.keep_by_table(table)
    locks.keep_by_file(file)
    found = locks.locks_of(file)
    found.set(table, F_WRLCK, 0, 10, 1)
    found.flock(file, locks.LOCK_EX)
    with pytest.raises(WouldBlockError):
        found.set(other, F_WRLCK, 5, 6, 2)
    table.close(first)
    found.set(other, F_WRLCK, 5, 6, 2)
    found.forget(other)
    assert found.flocks
    table.close(second)
    assert locks.find(file) is None


def test_waiting_for_each_other_is_a_deadlock() -> None:
    first, second = FDTable(), FDTable()
    found = FileLocks()
    found.set(first, F_WRLCK, 0, 1, 1)
    found.set(second, F_WRLCK, 1, 2, 2)
    locks.begin_wait(found, second, F_WRLCK, 0, 1)
    with pytest.raises(SyscallError) as caught:
        locks.begin_wait(found, first, F_WRLCK, 1, 2)
    assert caught.value.errno == errno.EDEADLK
    locks.end_wait(second)


def test_seals() -> None:
    file = make_memfd()
    file.write(b"hello")
    file.add_seals(memfd.F_SEAL_GROW | memfd.F_SEAL_SHRINK)
    for length in (4, 6):
        with pytest.raises(SyscallError):
            file.truncate(length)
    assert file.pwrite(b"abcdef", 3) == 2
    file.add_seals(memfd.F_SEAL_WRITE | memfd.F_SEAL_SEAL)
    with pytest.raises(SyscallError):
        file.pwrite(b"x", 0)
    with pytest.raises(SyscallError):
        file.add_seals(memfd.F_SEAL_EXEC)
    assert file.pread(10, 0) == b"helab"


def test_synthetic_text_is_one_text_until_it_is_read_from_the_start_again() -> None:
    texts = iter([b"first text", b"2nd"])
    inode = TextInode(lambda: next(texts), 7)
    task = SimpleNamespace(kernel=SimpleNamespace(current=None))
    file = inode.open(task, Location(inode), 0)  # type: ignore[arg-type] # as much of a task as is used
    assert isinstance(file, TextFile)
    assert file.read(5) + file.read(50) + file.read(5) == b"first text"
    file.seek(0, 0)
    assert file.read(50) == b"2nd"
    with pytest.raises(SyscallError) as caught:
        file.write(b"x")
    assert caught.value.errno == errno.EIO


def test_tree_lists_what_it_finds() -> None:
    root = tree("t", {"a": lambda: b"1", "d": {"b": lambda: b"2"}})
    assert [(name, kind) for name, _, kind in root.entries()] == [(b"a", 8), (b"d", 4)]
    assert root.lookup(b"d").lookup(b"b").stat().mode == 0o100444
    assert isinstance(root.open(None, Location(root), 0), DirectoryFile)  # type: ignore[arg-type] # the task is not looked at
    with pytest.raises(SyscallError):
        root.lookup(b"c")


def test_inotify_queues_padded_events_and_merges_equal_ones() -> None:
    root = tree("watched", {"a": lambda: b"1"})
    instance = notify.Inotify(0)
    number = instance.add(root, notify.IN_CREATE | notify.IN_MODIFY)
    for _ in range(2):
        notify.named(Location(root), b"name", None, notify.IN_CREATE)
    notify.tell(root, notify.IN_ACCESS)
    with pytest.raises(SyscallError):
        instance.read(20)
    assert instance.read(100) == struct.pack("<iIII16s", number, notify.IN_CREATE, 0, 16, b"name")
    with pytest.raises(WouldBlockError):
        instance.read(100)
    instance.remove(number)
    assert instance.read(100) == struct.pack("<iIII", number, notify.IN_IGNORED, 0, 0)
    assert root not in notify.watched


def test_a_closed_instance_watches_nothing() -> None:
    root = tree("closed", {})
    instance = notify.Inotify(0)
    instance.refs = 1
    instance.add(root, notify.IN_MODIFY)
    drop(instance)
    assert root not in notify.watched
