"""PageStore against a bytearray."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from systrap.memory import MemoryFile
from systrap.sentry.pages import PageStore
from tests.sentry.fake_platform import PAGE, CheckedMemoryFile, FakePlatform

LIMIT = 5 * PAGE
spots = st.one_of(st.integers(0, LIMIT), st.integers(0, 5).map(lambda n: n * PAGE))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), spots, st.binary(min_size=1, max_size=40).map(lambda b: b * 120)),
        st.tuples(st.just("read"), spots, spots),
        st.tuples(st.just("truncate"), spots, st.none()),
        st.tuples(st.just("punch"), spots, spots),
        st.tuples(st.just("translate"), spots, spots),
    ),
    max_size=30,
)


@given(operations)
@settings(max_examples=150, deadline=None)
def test_store_is_a_file(steps: "list[tuple[str, int, object]]") -> None:
    memory = CheckedMemoryFile(FakePlatform())
    store = PageStore(memory)
    model = bytearray()
    for name, at, argument in steps:
        if name == "write":
            assert isinstance(argument, bytes)
            model.extend(bytes(max(0, at + len(argument) - len(model))))
            model[at : at + len(argument)] = argument
            assert store.write(at, argument) == len(argument)
        elif name == "truncate":
            del model[at:]
            model.extend(bytes(at - len(model)))
            store.truncate(at)
        elif isinstance(argument, int) and name == "read":
            assert store.read(at, argument) == model[at : at + argument]
        elif isinstance(argument, int) and name == "punch":
            end = min(len(model), at + argument)
            if end > at:
                model[at:end] = bytes(end - at)
            store.punch(at, argument)
        elif isinstance(argument, int) and at // PAGE * PAGE < len(model):
            backing = store.translate(at // PAGE * PAGE, argument // PAGE * PAGE + PAGE, False)
            assert backing.in_memory_file
            assert memory.data[backing.start] == model[at // PAGE * PAGE]
        assert store.size == len(model)
    store.punch(5, 0)
    assert store.read(0, LIMIT * 2) == model
    store.release()
    assert not memory.live
    memory.close()


def test_big_files_take_big_chunks() -> None:
    memory = CheckedMemoryFile(FakePlatform())
    store = PageStore(memory)
    for n in range(256):
        store.write(n * 4096, bytes([n]) * 4096)
    assert store.read(200 * 4096, 1) == b"\xc8"
    assert store.next_data(0) == 0
    assert store.next_hole(0) == 256 * 4096
    assert store.allocated == 256 * 4096
    store.release()
    assert not memory.live
    memory.close()


def test_late_end_touches_no_other_file(tmp_path: Path) -> None:
    """A store that outlives its MemoryFile must not free pages of the file that has the descriptor's number by then."""
    memory = MemoryFile("test")
    store = PageStore(memory)
    store.write(0, b"x" * 100)
    memory.close()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 1000)
    with victim.open("r+b"):
        del store
    assert victim.read_bytes() == b"precious" * 1000
