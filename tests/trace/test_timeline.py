"""Events and timelines: every hand-over is told, slices nest, arrows lead from one slice to another."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systrap.trace import events
from systrap.trace.chrome import write_chrome
from systrap.trace.events import Event
from systrap.trace.report import bucket
from systrap.trace.timeline import build
from tests.trace.chrome_file import ChromeFile
from tests.trace.native import ROOT, environment

NAMES = {0: "read", 39: "getpid"}
guests = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the guest kernel runs on x86-64 here")


def chrome(happened: list[Event]) -> ChromeFile:
    out = io.StringIO()
    write_chrome(build(happened, NAMES), out)
    return ChromeFile(out.getvalue())


def one_call(start: int) -> list[Event]:
    """Return the events of one round trip."""
    return [
        events.Queued(start, start + 10, 1, 1),
        events.Taken(start + 20, 1, 1, 1),
        events.Published(start + 50, 1, 1, 1, "SYSCALL"),
        events.Trapped(start + 70, 1, 1, 39, False),
        events.Handled(start + 80, 2, 39, "getpid", 2),
    ]


def test_one_round_trip() -> None:
    happened: list[Event] = [events.SpaceMade(1000, 1), events.TaskBegan(1100, 2, 2, 1, "sh")]
    happened += [*one_call(2000), *one_call(2090), events.TaskEnded(2300, 2, 0)]
    found = chrome(happened)
    assert not found.overlaps()
    assert not found.loose_ends()
    assert [(p.begin, p.end, p.name, p.kind) for p in found.slices[2, 2]] == [
        (1000, 1020, "queued", "queue"),
        (1020, 1050, "guest code", "guest"),
        (1050, 1070, "ready", "ready"),
        (1070, 1090, "getpid", "kernel"),
        (1090, 1110, "queued", "queue"),
        (1110, 1140, "guest code", "guest"),
        (1140, 1160, "ready", "ready"),
        (1160, 1300, "getpid", "kernel"),
    ]
    assert [(p.begin, p.end) for p in found.slices[101, 1]] == [(1020, 1050), (1110, 1140)]
    ends = [(where["s"], where["f"]) for where in found.flows.values()]
    assert (((1, 1), 1000), ((101, 1), 1020)) in ends
    assert (((101, 1), 1049), ((1, 1), 1070)) in ends


def test_a_wait_is_on_the_task_and_not_on_the_kernel() -> None:
    happened: list[Event] = [
        events.TaskBegan(1000, 2, 2, 1, "sh"),
        events.Queued(1001, 1002, 1, 1),
        events.Trapped(1010, 1, 1, 0, False),
        events.Parked(1020, 2, 0, "read"),
        events.Woken(5000, 2, 0, "read"),
        events.Handled(5010, 2, 0, "read", 3),
        events.Queued(5020, 5030, 1, 1),
    ]
    timeline = build(happened, NAMES)
    waits = [piece for piece in timeline.slices if piece.kind == "wait"]
    assert [(piece.begin, piece.end, piece.name) for piece in waits] == [(1020, 5000, "waits in read")]
    assert [(a.name, a.kernel, a.waited, a.round_trip) for a in timeline.answered] == [("read", 20, 3980, None)]
    assert not chrome(happened).overlaps()


STAMPS = st.integers(0, 3000)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Return events in an order that can happen, with stamps of stubs that can be anything."""
    now = 1000
    found: list[Event] = [events.TaskBegan(now, 2, 2, 1, "a"), events.TaskBegan(now, 3, 2, 2, "b")]
    for _ in range(draw(st.integers(1, 12))):
        context = draw(st.integers(1, 2))
        now += draw(st.integers(1, 50))
        found.append(events.Queued(now, now + draw(st.integers(0, 5)), context, draw(st.integers(1, 2))))
        now += 6 + draw(st.integers(0, 50))
        thread = draw(st.sampled_from([0, 1, 2, 5000, 0xFEFEFEFE]))
        published = min(draw(STAMPS), now)
        found.append(events.Taken(min(draw(STAMPS), published), context, 1, thread))
        found.append(events.Published(published, context, 1, thread, "SYSCALL"))
        found.append(events.Trapped(now, context, 1, 0, draw(st.booleans())))
        if draw(st.booleans()):
            begin = now + draw(st.integers(0, 5))
            now = begin + draw(st.integers(0, 20))
            found.append(events.Mapped(begin, now, 1, 1, 0, 4096, 0))
        if draw(st.booleans()):
            now += 1
            found.append(events.Parked(now, context + 1, 0, "read"))
            now += draw(st.integers(1, 90))
            found.append(events.Woken(now, context + 1, 0, "read"))
        now += draw(st.integers(0, 9))
        found.append(events.Handled(now, context + 1, 0, "read", draw(st.integers(-5, 5))))
    return found


@settings(max_examples=150, deadline=None)
@given(histories())
def test_slices_nest_whatever_stubs_stamp(happened: list[Event]) -> None:
    """What a guest writes over its stub's time stamps spoils no picture (S-141)."""
    found = chrome(happened)
    assert not found.overlaps()
    assert not found.loose_ends()


def test_latencies_are_counted_by_powers_of_two() -> None:
    assert [bucket(n) for n in (0, 255, 256, 511, 512, 1 << 62)] == [0, 0, 1, 1, 2, 23]


def test_the_recorder_forgets_nothing_silently() -> None:
    recorder = events.Recorder(2)
    for at in range(5):
        recorder.event(events.Resumed(at, 1))
    assert (len(recorder.events), recorder.dropped) == (2, 3)
    events.DISCARD.event(events.Resumed(1, 1))


@guests
@pytest.mark.parametrize("platform", ["systrap", "ptrace"])
def test_a_run_as_a_timeline(platform: str, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    done = subprocess.run(
        [sys.executable, "-m", "systrap", "run", "--platform", platform, "--trace-out", str(out), "--", "/bin/sh", "-c",
         "cat /etc/passwd | sort | head -1"],
        cwd=ROOT, env=environment(), timeout=120, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = ChromeFile(out.read_text())
    assert not found.overlaps()
    assert not found.loose_ends()
    kernel = {piece.name for piece in found.slices[1, 1]}
    assert {"openat", "mmap", "execve", "page fault"} <= kernel
    tracks = {record["args"]["name"] for record in found.records if record["name"] == "thread_name"}
    assert {"kernel", "sh 2"} <= tracks
    assert any(name.startswith("sort ") for name in tracks)
    if platform == "systrap":
        assert any(pid > 100 for pid, _ in found.slices)
        assert found.flows
