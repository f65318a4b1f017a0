"""Pipes against a model: a queue of bytes of limited size."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.sentry.errors import SyscallError, WouldBlockError
from systrap.sentry.file import O_DIRECT, O_NONBLOCK, O_RDONLY, O_WRONLY
from systrap.sentry.fs.inode import Inode
from systrap.sentry.pipe import DEFAULT_CAPACITY, PIPE_BUF, Pipe, PipeEnd, make_pipe, open_fifo
from systrap.sentry.wait import POLLERR, POLLHUP, POLLIN, POLLOUT

STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 3 * PIPE_BUF)), max_size=60)


class Counter:
    """A waiter that notes what it is told."""

    def __init__(self) -> None:
        self.events: list[int] = []

    def notified(self, events: int) -> None:
        self.events.append(events)


@given(STEPS)
def test_bytes_come_out_as_they_went_in(steps: list[tuple[bool, int]]) -> None:
    reader, writer = make_pipe(O_NONBLOCK)
    reader.set_pipe_size(4 * PIPE_BUF)
    model = bytearray()
    number = 0
    for writes, count in steps:
        if writes:
            data = bytes((number + i) & 0xFF for i in range(count))
            room = 4 * PIPE_BUF - len(model)
            try:
                done = writer.write(data)
            except WouldBlockError:
                assert not room or (count <= PIPE_BUF and room < count)
                continue
            assert done == min(count, room)
            assert done == count or count > PIPE_BUF
            model += data[:done]
            number += done
        elif model:
            assert reader.pipe.peek(count) == bytes(model[:count])
            assert reader.read(count) == bytes(model[:count])
            del model[:count]
        else:
            with pytest.raises(WouldBlockError):
                reader.read(count)
        assert reader.pipe.size == len(model)
        assert bool(reader.poll() & POLLIN) == bool(model)
        assert bool(writer.poll() & POLLOUT) == (4 * PIPE_BUF - len(model) >= PIPE_BUF)


@given(st.integers(1, 200), st.integers(1, 200))
def test_what_is_put_back_comes_first(first: int, second: int) -> None:
    reader, writer = make_pipe(0)
    writer.write(bytes(range(200)))
    begun = reader.read(min(first, 100))
    taken = reader.read(second)
    reader.pipe.put_back(taken)
    assert begun + reader.read(200) == bytes(range(200))


def test_ends() -> None:
    reader, writer = make_pipe(0)
    writer.write(b"last")
    writer.release()
    assert reader.poll() & (POLLIN | POLLHUP) == POLLIN | POLLHUP
    assert (reader.read(9), reader.read(9)) == (b"last", b"")
    reader, writer = make_pipe(0)
    reader.release()
    assert writer.poll() & POLLERR
    with pytest.raises(SyscallError) as failed:
        writer.write(b"x")
    assert failed.value.errno == errno.EPIPE


def test_a_packet_that_is_not_read_whole_is_cut() -> None:
    reader, writer = make_pipe(O_DIRECT)
    writer.write(b"one")
    writer.write(b"two")
    assert (reader.read(2), reader.read(9)) == (b"on", b"two")


def test_writers_hear_of_room_once_there_is_a_page_of_it() -> None:
    reader, writer = make_pipe(0)
    writer.write(bytes(DEFAULT_CAPACITY))
    counter = Counter()
    writer.queue.add(counter)
    reader.read(PIPE_BUF - 1)
    assert not counter.events
    reader.read(1)
    assert len(counter.events) == 1


def test_every_write_is_an_edge() -> None:
    reader, writer = make_pipe(0)
    counter = Counter()
    reader.queue.add(counter)
    writer.write(b"a")
    writer.write(b"b")
    assert len(counter.events) == 2


def test_a_fifo_without_a_reader_cannot_be_opened_for_writing_without_waiting() -> None:
    inode = Inode()
    task = None
    with pytest.raises(SyscallError) as failed:
        open_fifo(inode, task, O_WRONLY | O_NONBLOCK)  # type: ignore[arg-type] # nobody asks the task
    assert failed.value.errno == errno.ENXIO
    reader = open_fifo(inode, task, O_RDONLY | O_NONBLOCK)  # type: ignore[arg-type] # see above
    assert not reader.must_wait
    assert not reader.poll() & POLLHUP
    writer = open_fifo(inode, task, O_WRONLY | O_NONBLOCK)  # type: ignore[arg-type] # see above
    assert writer.pipe is reader.pipe


def test_capacity() -> None:
    end = PipeEnd(Pipe(), O_WRONLY)
    assert end.set_pipe_size(5000) == 8192
    with pytest.raises(SyscallError) as failed:
        end.set_pipe_size(1 << 21)
    assert failed.value.errno == errno.EPERM
