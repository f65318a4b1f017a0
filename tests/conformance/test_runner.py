"""The runner: real drivers pass, and every way to be a bad driver is told apart."""

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.case import Case, load_all
from conformance.runner import Runner
from conformance.verdict import GOOD, Status, Verdict
from systrap import platform
from systrap.platform import RequirementError
from tests.conformance.fakes import fake

EVERY = list(load_all("x86_64"))
BY_ID = {case.id: case for case in EVERY}
QUICK = [case.id for case in EVERY if case.tier <= 3]
ONE = BY_ID["SYS-NOSTACK-001"]


def driver(name: str) -> list[str]:
    """Return the command of our driver."""
    return [sys.executable, "-m", "systrap.cli.driver", "--platform", name]


@pytest.fixture(params=[pytest.param("ptrace", marks=pytest.mark.slow), "systrap"], scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict[str, Verdict]:
    """Return the verdicts of the first tiers' cases on a platform."""
    name = str(request.param)
    try:
        platform.lookup(name).new(platform.Options()).close()
    except RequirementError as error:
        pytest.skip(f"platform {name} does not run on this host: {error}")
    runner = Runner(driver(name))
    try:
        return {verdict.case.id: verdict for verdict in runner.run([BY_ID[identity] for identity in QUICK])}
    finally:
        runner.close()


@pytest.mark.parametrize("identity", QUICK)
def test_case(verdicts: dict[str, Verdict], identity: str) -> None:
    """Each case on the oracle."""
    verdict = verdicts[identity]
    if verdict.status is Status.UNSUPPORTED:
        pytest.skip(verdict.reason)
    assert verdict.status is Status.PASS, "\n".join((verdict.reason, *verdict.transcript))


HABITS = {
    "ip off by two": ('if r["op"] == "switch": out["event"]["ip"] = "0x10000000"', Status.FAIL, "expected 0x10000002"),
    "dies at a switch": ('if r["op"] == "switch": sys.exit(3)', Status.CRASH, "ended with status 3"),
    "dies of a signal": ('if r["op"] == "switch": os.kill(os.getpid(), 9)', Status.CRASH, "killed by SIGKILL"),
    "dies in the middle of a line": (
        'if r["op"] == "switch": sys.stdout.write(json.dumps(out)[:9]); sys.stdout.flush(); sys.exit(0)',
        Status.CRASH,
        "status 0, in the middle of a line",
    ),
    "closes its output": ('if r["op"] == "switch": os.close(1); time.sleep(60)', Status.CRASH, "lives on"),
    "dies at bye": ('if r["op"] == "bye": sys.exit(3)', Status.PASS, ""),
    "says no to map": (
        'if r["op"] == "map": out = {"id": r["id"], "error": {"kind": "map", "message": "no"}}',
        Status.ERROR,
        "map: no",
    ),
    "makes up errors": (
        'if r["op"] == "map": out = {"id": r["id"], "error": {"kind": "whim", "message": "no"}}',
        Status.ERROR,
        "answer.error.kind must be one of",
    ),
    "talks nonsense": ('if r["op"] == "switch": print("hello", flush=True)', Status.ERROR, "not JSON: b'hello'"),
    "nests too deeply": ('if r["op"] == "switch": print("[" * 200000, flush=True)', Status.ERROR, "not JSON"),
    "answers twice": (
        'if r["op"] == "map": print(json.dumps(out), flush=True)',
        Status.ERROR,
        "a second answer to map",
    ),
    "answers the last request twice": (
        'if r["op"] == "release_space": print(json.dumps(out), flush=True)',
        Status.ERROR,
        "a second answer to release_space",
    ),
    "speaks unasked": (
        'if r["op"] == "map": print(json.dumps({**out, "id": 999999}), flush=True)',
        Status.ERROR,
        "an answer to nothing that was asked",
    ),
    "answers with a list": ('out = [out] if r["op"] == "map" else out', Status.ERROR, "not an object"),
    "has no event": (
        'if r["op"] == "switch": out = {"id": r["id"], "result": {}}',
        Status.ERROR,
        "answered by a result, not by an event",
    ),
    "has two answers in one": ('if r["op"] == "map": out["event"] = {}', Status.ERROR, "exactly one of"),
    "sends numbers for strings": ('if r["op"] == "switch": out["event"]["nr"] = 0', Status.ERROR, "event.nr must be"),
    "has events of its own": (
        'if r["op"] == "switch": out["event"]["kind"] = "bang"',
        Status.ERROR,
        "event.kind must be",
    ),
    "floods in one line": (
        'if r["op"] == "switch":\n        while True: sys.stdout.write("x" * 65536)',
        Status.ERROR,
        "a flood",
    ),
    "floods in many lines": (
        'if r["op"] == "switch":\n        while True: sys.stdout.write("{}\\n" * 9999)',
        Status.ERROR,
        "an answer to nothing that was asked",
    ),
    "floods its log": (
        'if r["op"] == "switch": sys.stderr.write("x" * 5000000); sys.stderr.flush()',
        Status.PASS,
        "",
    ),
    "cannot switch": (
        'if r["op"] == "switch": out = {"id": r["id"], "unsupported": {"cap": "x", "reason": "y"}}',
        Status.UNSUPPORTED,
        "x: y",
    ),
    "will not switch": (
        'if r["op"] == "switch": out = {"id": r["id"], "skipped": {"reason": "y"}}',
        Status.SKIPPED,
        "y",
    ),
    "is of another kind": (
        'if r["op"] == "hello": out["result"]["arch"] = "aarch64"',
        Status.UNSUPPORTED,
        "this is aarch64",
    ),
    "reports a timeout": (
        'if r["op"] == "switch": out = {"id": r["id"], "error": {"kind": "timeout", "message": "late"}}',
        Status.TIMEOUT,
        "timeout: late",
    ),
    "never answers": ('if r["op"] == "switch": time.sleep(60)', Status.TIMEOUT, "no answer to switch within"),
    "reads no more": ('if r["op"] == "map": time.sleep(60)', Status.TIMEOUT, "no answer to map within"),
    # Lies in hello.
    "speaks another version": (
        'if r["op"] == "hello": out["result"]["protocol"] = 2',
        Status.ERROR,
        "protocol must be 1",
    ),
    "says its version in words": (
        'if r["op"] == "hello": out["result"]["protocol"] = "1"',
        Status.ERROR,
        "protocol must be 1",
    ),
    "has caps of a wrong type": (
        'if r["op"] == "hello": out["result"]["caps"] = "async"',
        Status.ERROR,
        "caps must be",
    ),
    "has true for a page size": (
        'if r["op"] == "hello": out["result"]["page_size"] = True',
        Status.ERROR,
        "page_size must be",
    ),
    "has no name": ('if r["op"] == "hello": del out["result"]["impl"]["name"]', Status.ERROR, "impl.name is missing"),
    "refuses to greet": (
        'if r["op"] == "hello": out = {"id": r["id"], "error": {"kind": "version", "message": "too new"}}',
        Status.ERROR,
        "version: too new",
    ),
    "ends before it greets": ("sys.exit(1)", Status.CRASH, "ended with status 1"),
}


@pytest.mark.parametrize("name", HABITS)
def test_bad_drivers_are_found_out(tmp_path: Path, name: str) -> None:
    habit, status, words = HABITS[name]
    runner = Runner(fake(tmp_path, habit), patience=10 if status is not Status.TIMEOUT else 0.5)
    (verdict,) = runner.run([ONE._replace(timeout_ms=500)])
    runner.close()
    assert verdict.status is status, verdict
    assert words in verdict.reason
    if status not in GOOD:
        assert verdict.transcript


@pytest.mark.parametrize(("slow", "asked"), [(1.0, 500), (10.0, 5000), (1000.0, 500_000), (900.0 * 2, 600_000)])
def test_a_slow_machine_gets_more_time(tmp_path: Path, slow: float, asked: int) -> None:
    """What a case grants is multiplied, up to what the protocol can say."""
    habit = f'if r["op"] == "switch" and r["timeout_ms"] != {asked}: sys.exit(1)'
    runner = Runner(fake(tmp_path, habit), slow=slow)
    (verdict,) = runner.run([ONE._replace(timeout_ms=500)])
    runner.close()
    assert verdict.status is Status.PASS, verdict


def test_a_lost_driver_is_replaced(tmp_path: Path) -> None:
    count = tmp_path / "count"
    start = f'open({str(count)!r}, "a").write("x")'
    habit = f'if r["op"] == "switch" and len(open({str(count)!r}).read()) == 1: sys.exit(1)'
    runner = Runner(fake(tmp_path, habit, start))
    statuses = [verdict.status for verdict in runner.run([ONE, ONE])]
    runner.close()
    assert statuses == [Status.CRASH, Status.PASS]


def test_a_second_look_tells_the_flaky_and_turns_nothing_green(tmp_path: Path) -> None:
    count = tmp_path / "count"
    start = f'open({str(count)!r}, "a").write("x")'
    habit = f'if r["op"] == "switch" and len(open({str(count)!r}).read()) == 1: sys.exit(1)'
    runner = Runner(fake(tmp_path, habit, start), second_look=True)
    (verdict,) = runner.run([ONE])
    runner.close()
    assert (verdict.status, verdict.flaky) == (Status.CRASH, True)
    assert "flaky" in verdict.reason


def test_what_does_not_greet_is_not_tried_for_ever(tmp_path: Path) -> None:
    count = tmp_path / "count"
    runner = Runner(fake(tmp_path, start=f'open({str(count)!r}, "a").write("x"); sys.exit(7)'))
    verdicts = list(runner.run([ONE] * 6))
    assert [verdict.status for verdict in verdicts] == [Status.CRASH] * 3 + [Status.UNKNOWN] * 3
    assert "status 7" in verdicts[-1].reason
    assert count.read_text() == "xxx"


def test_missing_capabilities(tmp_path: Path) -> None:
    runner = Runner(fake(tmp_path, "pass"))
    case: Case = ONE._replace(need=("levitation",))
    (verdict,) = runner.run([case])
    runner.close()
    assert (verdict.status, verdict.reason) == (Status.UNSUPPORTED, "no levitation")


def test_no_such_driver() -> None:
    (verdict,) = Runner(["/nonexistent/driver"]).run([ONE])
    assert verdict.status is Status.ERROR
    assert "cannot be started" in verdict.reason


def test_the_suite_knows_nothing_of_systrap() -> None:
    code = "import conformance.__main__, sys; print([m for m in sys.modules if m.startswith('systrap')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
