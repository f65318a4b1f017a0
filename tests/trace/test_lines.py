"""The log of calls, and how it becomes lines: columns, unfinished calls, signals, ends, outcomes; and JSON."""

import io
import json
import re
import struct

import pytest

from systrap.sentry.syscalls.numbers import NAMES, NUMBERS
from systrap.trace.call import Style
from systrap.trace.json_lines import JsonLines
from systrap.trace.lines import Lines, Look
from systrap.trace.log import CallLog, Selected
from systrap.trace.summary import Summary
from tests.trace.guest_memory import Files, Memory


class World:
    """A log that writes lines."""

    def __init__(self, look: Look | None = None, selected: Selected | None = None, as_json: bool = False) -> None:
        self.out = io.StringIO()
        sink = JsonLines(self.out) if as_json else Lines(self.out, look or Look(), True)
        self.summary = Summary()
        self.log = CallLog(NAMES, Style(), selected or Selected(), sink, self.summary, False)
        self.memory = Memory(b"hello world\0")

    def begin(self, tid: int, name: str, *args: int) -> None:
        padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
        self.log.began(tid, self.memory, Files(), NUMBERS.get(name, 9999), padded, 0x1234)

    def call(self, tid: int, name: str, *args: int, result: int | None = 0) -> None:
        self.begin(tid, name, *args)
        self.log.ended(tid, result)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


def test_results_stand_in_one_column() -> None:
    world = World()
    world.call(1, "close", 3)
    world.call(1, "write", 1, 0x10000, 5, result=5)
    world.call(1, "close", 77, result=-9)
    world.call(1, "connect", 3, 0x10000, 2, result=-111)
    assert world.lines == [
        "close(3)                                = 0",
        'write(1, "hello", 5)                    = 5',
        "close(77)                               = -1 EBADF (Bad file descriptor)",
        'connect(3, {sa_family=0x6568 /* AF_??? */, sa_data=""}, 2) = -1 ECONNREFUSED (Connection refused)',
    ]


def test_a_call_that_waits_is_shown_at_once_and_finished_later() -> None:
    world = World()
    world.log.attached(1)
    world.begin(1, "read", 0, 0x10000, 5)
    world.log.parked(1)
    assert world.out.getvalue() == "read(0, "
    world.log.goes_on(1)
    world.log.ended(1, 5)
    assert world.lines == ['read(0, "hello", 5)                     = 5']


def test_a_call_that_waits_while_others_are_made() -> None:
    world = World()
    world.log.attached(1)
    world.log.attached(2)
    world.begin(1, "read", 0, 0x10000, 5)
    world.log.parked(1)
    world.begin(2, "wait4", (1 << 64) - 1, 0, 0, 0)
    world.log.parked(2)
    world.log.ended(1, 5)
    world.log.ended(2, -512)
    assert world.lines == [
        "systrap: Process 2 attached",
        "[pid     1] read(0,  <unfinished ...>",
        "[pid     2] wait4(-1,  <unfinished ...>",
        '[pid     1] <... read resumed>"hello", 5) = 5',
        "[pid     2] <... wait4 resumed>NULL, 0, NULL) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)",
    ]


def test_optional_arguments_bring_their_own_comma() -> None:
    world = World(Look(pids=2))
    world.log.attached(7)
    world.begin(7, "clone", 0x1200011, 0, 0, 0x5000)
    world.log.parked(7)
    world.call(8, "fcntl", 3, 1)
    world.log.ended(7, 9)
    assert world.lines == [
        "7     clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD <unfinished ...>",
        "8     fcntl(3, F_GETFD)                 = 0",
        "7     <... clone resumed>, child_tidptr=0x5000) = 9",
    ]


def test_signals_and_ends() -> None:
    world = World()
    world.log.attached(5)
    info = struct.pack("<iiiiiIi4xqq", 17, 0, 1, 0, 9, 1000, 3, 0, 0).ljust(128, b"\0")
    world.log.signal(5, 17, info)
    world.log.signal(5, 11, struct.pack("<iiiiQ", 11, 0, 1, 0, 0x10).ljust(128, b"\0"))
    world.begin(5, "exit_group", 3)
    world.log.exited(5, 3 << 8)
    world.log.attached(6)
    world.log.exited(6, 11 | 0x80)
    assert world.lines == [
        "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=9, si_uid=1000, si_status=3, si_utime=0, si_stime=0} ---",
        "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10} ---",
        "exit_group(3)                           = ?",
        "+++ exited with 3 +++",
        "+++ killed by SIGSEGV (core dumped) +++",
    ]


def test_what_is_selected() -> None:
    selected = Selected(frozenset({"close", "read"}), frozenset({10}), frozenset({"failed"}))
    world = World(selected=selected)
    world.call(1, "close", 3)
    world.call(1, "dup", 3, result=-9)
    world.begin(1, "read", 0, 0x10000, 5)
    world.log.parked(1)
    world.log.ended(1, -4)
    world.log.signal(1, 17, bytes(128))
    world.call(1, "nosuch", 1)
    assert world.lines == ["read(0, 0x10000, 5)                     = -1 EINTR (Interrupted system call)"]
    assert [line.split()[-1] for line in world.summary.text().splitlines()[2:-2]] in (
        ["read", "close"],
        ["close", "read"],
    )


def test_a_number_without_a_name() -> None:
    world = World()
    world.call(1, "nosuch", 1, 2, result=-38)
    assert world.lines == ["syscall_0x270f(0x1, 0x2, 0, 0, 0, 0)    = -1 ENOSYS (Function not implemented)"]


@pytest.mark.parametrize(
    ("look", "pattern"),
    [
        (Look(clock=1), r"\d\d:\d\d:\d\d close"),
        (Look(clock=2), r"\d\d:\d\d:\d\d\.\d{6} close"),
        (Look(clock=3), r"\d{10}\.\d{6} close"),
        (Look(relative=True), r" +\d+\.\d{6} close"),
        (Look(durations=True), r"close\(3\) += 0 <\d+\.\d{6}>"),
        (Look(numbers=True), r"\[   3\] close"),
        (Look(pointers=True), r"\[0000000000001234\] close"),
        (Look(column=10), r"close\(3\)  = 0$"),
    ],
)
def test_what_stands_around_a_call(look: Look, pattern: str) -> None:
    world = World(look)
    world.call(1, "close", 3)
    assert re.match(pattern, world.lines[0]), world.lines


def test_a_file_for_each_task() -> None:
    files: dict[int, io.StringIO] = {}
    lines = Lines(io.StringIO(), Look(pids=0), False, lambda tid: files.setdefault(tid, io.StringIO()))
    log = CallLog(NAMES, Style(), Selected(), lines, None, False)
    for tid in (4, 5):
        log.began(tid, Memory(), Files(), NUMBERS["pause"], (0,) * 6, 0)
        log.parked(tid)
    for tid in (4, 5):
        log.ended(tid, -514)
    log.close()
    for tid in (4, 5):
        assert (
            files[tid].getvalue()
            == "pause()                                 = ? ERESTARTNOHAND (To be restarted if no handler)\n"
        )


def test_json_lines() -> None:
    world = World(as_json=True)
    world.log.attached(1)
    world.call(1, "write", 1, 0x10000, 5, result=5)
    world.call(1, "close", 9, result=-9)
    world.log.signal(1, 10, struct.pack("<iiiiiI", 10, 0, 0, 0, 4, 0).ljust(128, b"\0"))
    world.log.exited(1, 9)
    records = [json.loads(line) for line in world.lines]
    assert [record["type"] for record in records] == ["attached", "call", "call", "signal", "exited"]
    assert records[1]["args"] == ["1", '"hello"', "5"]
    assert (records[1]["result"], records[1]["returned"], records[1]["error"]) == (5, "5", None)
    assert records[1]["raw"] == ["0x1", "0x10000", "0x5"]
    assert (records[2]["result"], records[2]["error"]) == (-9, "EBADF")
    assert records[3]["name"] == "SIGUSR1"
    assert (records[4]["status"], records[4]["signal"]) == (None, "SIGKILL")
