"""-e: what is selected, what goes wrong on purpose, and what a typing error leads to."""

import pytest

from systrap.sentry.syscalls.numbers import NUMBERS
from systrap.trace.filters import FilterError, choose_calls, choose_signals, choose_statuses
from systrap.trace.inject import Injection, Injector, parse
from systrap.trace.summary import SORTS, Summary


def calls(text: str) -> frozenset[str]:
    return choose_calls(text, NUMBERS)


def test_names_sets_patterns_negation() -> None:
    assert calls("read,write") == {"read", "write"}
    assert calls("%clock,read") >= {"clock_gettime", "time", "read"}
    assert calls("/^sched_get") == {name for name in NUMBERS if name.startswith("sched_get")}
    assert calls("!read") == set(NUMBERS) - {"read"}
    assert calls("!%memory,/stat$").isdisjoint({"mmap", "brk", "stat", "lstat"})
    assert calls("all") == set(NUMBERS)
    assert calls("none") == set()
    assert calls("?nosuchcall,read") == {"read"}
    assert calls("%%stat") == {"stat", "lstat", "fstat", "newfstatat", "statx"}
    assert calls("%stat") == {"stat"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("opennat", "did you mean openat"),
        ("read,wrte", "no system call wrte (did you mean write"),
        ("%flie", "no set %flie (did you mean %file"),
        ("network", "the set is written %network"),
        ("/(", "no regular expression"),
        ("/^zz", "no system call matches '/^zz'"),
        ("read,,write", "a name is missing"),
        ("", "a name is missing"),
    ],
)
def test_mistakes_are_told(text: str, words: str) -> None:
    """An unknown name is an error with suggestions: python-ptrace's typing errors were accepted in silence (models.md A8)."""
    with pytest.raises(FilterError) as caught:
        calls(text)
    assert words in str(caught.value)


def test_signals_and_outcomes() -> None:
    assert choose_signals("CHLD,sigterm,9") == {17, 15, 9}
    assert 17 not in choose_signals("!SIGCHLD")
    assert choose_signals("none") == frozenset()
    assert choose_statuses("failed,unfinished") == {"failed", "unfinished"}
    assert "successful" not in choose_statuses("!successful")
    for wrong, words in (("SIGCHILD", "SIGCHLD"), ("70", "no signal 70")):
        with pytest.raises(FilterError, match=words):
            choose_signals(wrong)
    with pytest.raises(FilterError, match="did you mean failed"):
        choose_statuses("faild")


def test_injections() -> None:
    assert parse("openat:error=ENOENT", NUMBERS) == Injection(frozenset({"openat"}), result=-2)
    assert parse("%file:retval=0x10:when=2", NUMBERS).result == 16
    found = parse("read:signal=USR1:delay_enter=500:delay_exit=20ms:when=2..9+3", NUMBERS)
    assert (found.signal, found.delay_enter, found.delay_exit) == (10, 500e-6, 0.02)
    assert [n for n in range(12) if found.applies(n)] == [2, 5, 8]
    assert parse("read", NUMBERS, fault=True).result == -38
    assert parse("read:error=5:when=3+", NUMBERS).applies(1000)
    assert not parse("read:error=5:when=3", NUMBERS).applies(4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("read", "what is to happen"),
        ("read:error=ENOTEXIST", "did you mean E"),
        ("read:eror=EIO", "did you mean error"),
        ("read:error=EIO:retval=1", "exclude each other"),
        ("read:retval=x", "is no number"),
        ("read:delay_enter=5h", "is no time"),
        ("read:error=EIO:when=0", "count from 1"),
        ("read:error=EIO:when=a", "FIRST"),
        ("rread:error=EIO", "did you mean"),
    ],
)
def test_injections_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(FilterError, match=words):
        parse(text, NUMBERS)


def test_calls_are_counted_by_task_and_name() -> None:
    injector = Injector([parse("%file:error=EIO:when=2", NUMBERS), parse("openat:error=EMFILE:when=3+", NUMBERS)])
    assert injector.find(1, "read") is None
    found = [injector.find(1, "openat") for _ in range(4)]
    assert [None if injection is None else injection.result for injection in found] == [None, None, -24, -24]
    assert injector.find(2, "openat") is None
    assert [injector.find(1, "stat") is None for _ in range(3)] == [True, False, True]


def test_the_summary() -> None:
    summary = Summary()
    summary.add("read", 0.002, False)
    summary.add("read", 0.004, True)
    summary.add("a_call_with_a_long_name", 0.001, False)
    lines = summary.text().splitlines()
    assert lines[0] == "% time     seconds  usecs/call     calls    errors syscall"
    assert lines[2].split() == ["85.71", "0.006000", "3000", "2", "1", "read"]
    assert lines[3].split() == ["14.29", "0.001000", "1000", "1", "a_call_with_a_long_name"]
    assert lines[-1].split() == ["100.00", "0.007000", "2333", "3", "1", "total"]


@pytest.mark.parametrize("sort", SORTS)
def test_the_summary_can_be_sorted(sort: str) -> None:
    summary = Summary(sort)
    for name, seconds, times, failed in (("b", 3.0, 1, False), ("a", 1.0, 4, True), ("c", 2.0, 2, False)):
        for _ in range(times):
            summary.add(name, seconds / times, failed)
    order = [line.split()[-1] for line in summary.text().splitlines()[2:-2]]
    expected = {
        "time": "bca", "min-time": "bca", "max-time": "bca", "avg-time": "bca", "calls": "acb", "errors": "abc",
        "name": "abc", "nothing": "bac",
    }  # fmt: skip
    assert order == list(expected[sort])
