"""Drivers that misbehave: each gets a clear verdict, and the run goes on with another process of the same driver.

test_runner.py has the habits that show in one case; here are those that need a run: what comes after, and the checks.
"""

import json
import shlex
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.case import load_all
from conformance.checks import CHECKS
from conformance.pool import How, Pool
from conformance.runner import Runner
from conformance.verdict import Item, Status, Verdict
from tests.conformance.fakes import fake

BY_ID = {case.id: case for case in load_all("x86_64")}
BY_CHECK = {check.id: check for check in CHECKS}
ONE = BY_ID["SYS-NOSTACK-001"]


def run(command: list[str], *items: Item, patience: float = 10.0) -> list[Verdict]:
    """Return a driver's verdicts."""
    runner = Runner(command, patience=patience)
    try:
        return list(runner.run(items))
    finally:
        runner.close()


ONCE = {
    "crashes in the middle of a line": (
        "sys.stdout.write(json.dumps(out)[:7]); sys.stdout.flush(); sys.exit(0)",
        Status.CRASH,
        "in the middle of a line",
    ),
    "aborts": ("os.abort()", Status.CRASH, "SIGABRT"),
    "closes its output": ("os.close(1); time.sleep(60)", Status.CRASH, "lives on"),
    "closes its input and output": ("os.close(0); os.close(1); time.sleep(60)", Status.CRASH, "lives on"),
    "floods its output without end": (
        "\n        while True: os.write(1, b'x' * 65536)",
        Status.ERROR,
        "a flood",
    ),
    "writes a whole line of two megabytes": (
        'out["event"]["more"] = "x" * (2 << 20)',
        Status.ERROR,
        "a flood",
    ),
    "answers twice": ("print(json.dumps(out), flush=True)", Status.ERROR, "a second answer to"),
    "answers under another id": ('out["id"] += 1000', Status.ERROR, "an answer to nothing that was asked"),
    "answers under a text for an id": (
        'out["id"] = str(out["id"])',
        Status.ERROR,
        "an answer to nothing that was asked",
    ),
    "answers under a fraction for an id": ('out["id"] += 0.5', Status.ERROR, "an answer to nothing that was asked"),
    "answers under no id": ('del out["id"]', Status.ERROR, "an answer to nothing that was asked"),
    "answers under true": ('out["id"] = True', Status.ERROR, "an answer to nothing that was asked"),
    "is not JSON": ('print("{", flush=True)', Status.ERROR, "not JSON"),
    "is not UTF-8": (r'sys.stdout.buffer.write(b"\xff\xfe\n"); sys.stdout.flush()', Status.ERROR, "not JSON"),
    "tells an event of a context that nobody switched": (
        'print(json.dumps({"id": 4242, "event": {"kind": "interrupted"}}), flush=True)',
        Status.ERROR,
        "an answer to nothing that was asked",
    ),
    "tells an event without an id": (
        'print(json.dumps({"event": {"kind": "interrupted"}}), flush=True)',
        Status.ERROR,
        "an answer to nothing that was asked",
    ),
    "never answers": ("time.sleep(60)", Status.TIMEOUT, "no answer to switch within"),
    "leaves a child that keeps its output open": (
        "os.fork() or time.sleep(60); os._exit(5)",
        Status.TIMEOUT,
        "no answer to switch within",
    ),
}


@pytest.mark.parametrize("name", ONCE)
def test_the_run_goes_on(tmp_path: Path, name: str) -> None:
    """The first process misbehaves at a switch; the next case gets another one, and passes."""
    habit, status, words = ONCE[name]
    count = tmp_path / "count"
    start = f'open({str(count)!r}, "a").write("x")'
    body = f'if r["op"] == "switch" and len(open({str(count)!r}).read()) == 1: {habit}'
    patience = 10 if status is not Status.TIMEOUT else 0.5
    first, second = run(fake(tmp_path, body, start), ONE._replace(timeout_ms=500), ONE, patience=patience)
    assert first.status is status, first
    assert words in first.reason
    assert first.transcript
    assert second.status is Status.PASS, second
    assert count.read_text() == "xx"


NEXT = '\n    if r["op"] == "bye": break\n    continue'
FINE = {
    "ends its lines as other systems do": 'sys.stdout.write(json.dumps(out) + "\\r\\n"); sys.stdout.flush()' + NEXT,
    "writes blanks around everything": 'print("  " + json.dumps(out, separators=(" , ", " : ")) + "  ", flush=True)'
    + NEXT,
    "writes byte by byte": (
        "for char in json.dumps(out): sys.stdout.write(char); sys.stdout.flush()\n    print(flush=True)" + NEXT
    ),
}
"""Odd, and allowed."""


@pytest.mark.parametrize("name", FINE)
def test_what_is_odd_and_allowed(tmp_path: Path, name: str) -> None:
    assert [verdict.status for verdict in run(fake(tmp_path, FINE[name]), ONE, ONE)] == [Status.PASS, Status.PASS]


def test_answers_out_of_order_are_fine(tmp_path: Path) -> None:
    """A fake that answers 64 requests for spaces only when it has all of them, the last first."""
    habit = (
        'held = globals().setdefault("held", [])\n'
        '    if r["op"] == "new_space":\n'
        "        held.append(json.dumps(out))\n"
        "        if len(held) == 64: print(chr(10).join(reversed(held)), flush=True)\n"
        "        continue"
    )
    (verdict,) = run(fake(tmp_path, habit), BY_CHECK["DRV-ONCE-001"])
    assert verdict.status is Status.PASS, verdict


LIES = {
    "DRV-HELLO-001": {
        "a page size that is none": 'out["result"]["page_size"] = 5000',
        "an empty range": 'out["result"]["va_min"] = out["result"]["va_max"]',
        "more addresses than bits": 'out["result"]["va_bits"] = 40',
        "a capability twice": 'out["result"]["caps"] = ["async", "async"]',
        "something else each time": 'out["result"]["limits"] = {"n": r["id"]}',
    },
    "DRV-VERSION-001": {"any version": "pass"},
    "DRV-CLAIMS-001": {"FP state that is not there": 'out["result"]["caps"] = ["fp.legacy"]'},
    "DRV-ASYNC-001": {"that it serves others meanwhile": 'out["result"]["caps"] = ["async"]'},
}


@pytest.mark.parametrize(("check", "lie"), [(check, lie) for check, lies in LIES.items() for lie in lies])
def test_lies_in_hello_are_found(tmp_path: Path, check: str, lie: str) -> None:
    """Each by the check that is there for it."""
    (verdict,) = run(fake(tmp_path, f'if r["op"] == "hello": {LIES[check][lie]}'), BY_CHECK[check])
    assert verdict.status is Status.FAIL, verdict
    assert verdict.transcript


def test_a_whole_run_of_a_driver_that_crashes_at_every_switch(tmp_path: Path) -> None:
    """Every case of the plan has a verdict, also when several drivers crash at the same time."""
    plan = [case for case in BY_ID.values() if case.id.startswith("SYS-")]
    pool = Pool(How(fake(tmp_path, 'if r["op"] == "switch": sys.exit(3)'), jobs=2, patience=5))
    verdicts = {verdict.case.id: verdict.status for verdict in pool.run(plan)}
    assert verdicts.keys() == {case.id for case in plan}
    assert Status.CRASH in verdicts.values()
    assert set(verdicts.values()) <= {Status.CRASH, Status.UNSUPPORTED}


def test_a_report_of_a_bad_run_is_whole(tmp_path: Path) -> None:
    """Status 1, a row for each case, and a footer that says it is not good."""
    report = tmp_path / "report.jsonl"
    command = shlex.join(fake(tmp_path, 'if r["op"] == "switch": os.abort()'))
    arguments = ["run", "--driver", command, "--only", "SYS-N*", "--arch", "x86_64", "--report", str(report)]
    assert main([*arguments, "--no-second-look", "--jobs", "1"]) == 1
    header, *rows, footer = (json.loads(line) for line in report.read_text().splitlines())
    assert sorted(row["id"] for row in rows) == sorted(entry["id"] for entry in header["plan"])
    assert footer["good"] is False
