"""epoll against a model of one file: level-triggered, edge-triggered, one-shot."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.sentry.epoll import CTL_ADD, CTL_DEL, CTL_MOD, EPOLLET, EPOLLONESHOT, Epoll
from systrap.sentry.errors import SyscallError
from systrap.sentry.file import drop
from systrap.sentry.pipe import make_pipe
from systrap.sentry.wait import POLLIN, POLLOUT

STEPS = st.lists(st.sampled_from(["write", "read", "wait", "rearm"]), max_size=40)


@given(STEPS, st.booleans(), st.booleans())
def test_one_file(steps: list[str], edge: bool, oneshot: bool) -> None:
    reader, writer = make_pipe(0)
    epoll = Epoll()
    events = POLLIN | (EPOLLET if edge else 0) | (EPOLLONESHOT if oneshot else 0)
    epoll.control(CTL_ADD, 3, reader, events, 7)
    size, fired, armed = 0, True, True
    for step in steps:
        if step == "write" and size < 16:
            writer.write(b"x")
            size, fired = size + 1, True
        elif step == "read" and size:
            reader.read(1)
            size -= 1
        elif step == "rearm":
            epoll.control(CTL_MOD, 3, reader, events, 7)
            fired = armed = True
        elif step == "wait":
            expected = armed and size > 0 and (fired or not edge)
            assert bool(epoll.poll() & POLLIN) == expected
            assert epoll.collect(8) == ([(POLLIN, 7)] if expected else [])
            if expected:
                fired = False
                armed = not oneshot


def test_a_file_whose_last_descriptor_is_closed_leaves_the_set() -> None:
    reader, writer = make_pipe(0)
    reader.refs = 1
    epoll = Epoll()
    epoll.control(CTL_ADD, 3, reader, POLLIN, 0)
    writer.write(b"x")
    drop(reader)
    assert epoll.collect(8) == []
    assert not epoll.entries


def test_an_edge_of_the_other_direction_is_none() -> None:
    reader, writer = make_pipe(0)
    epoll = Epoll()
    epoll.control(CTL_ADD, 4, writer, POLLOUT | EPOLLET, 0)
    assert len(epoll.collect(8)) == 1
    writer.write(b"x")
    assert epoll.collect(8) == []
    assert reader.read(1) == b"x"


def test_errors() -> None:
    reader, _ = make_pipe(0)
    epoll, outer = Epoll(), Epoll()
    for operation, expected in ((CTL_MOD, errno.ENOENT), (CTL_DEL, errno.ENOENT), (9, errno.EINVAL)):
        with pytest.raises(SyscallError) as failed:
            epoll.control(operation, 3, reader, POLLIN, 0)
        assert failed.value.errno == expected
    epoll.control(CTL_ADD, 3, reader, POLLIN, 0)
    with pytest.raises(SyscallError) as failed:
        epoll.control(CTL_ADD, 3, reader, POLLIN, 0)
    assert failed.value.errno == errno.EEXIST
    outer.control(CTL_ADD, 5, epoll, POLLIN, 0)
    with pytest.raises(SyscallError) as failed:
        epoll.control(CTL_ADD, 6, outer, POLLIN, 0)
    assert failed.value.errno == errno.ELOOP


def test_sets_within_sets() -> None:
    reader, writer = make_pipe(0)
    inner, outer = Epoll(), Epoll()
    inner.control(CTL_ADD, 3, reader, POLLIN, 1)
    outer.control(CTL_ADD, 4, inner, POLLIN, 2)
    assert outer.collect(8) == []
    writer.write(b"x")
    assert outer.collect(8) == [(POLLIN, 2)]
    reader.read(1)
    assert outer.collect(8) == []
