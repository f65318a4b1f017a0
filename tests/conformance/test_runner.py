"""The runner: real drivers pass, and every way to be a bad driver is told apart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.case import Case, load_all
from conformance.runner import Runner, Status, Verdict
from systrap import platform
from systrap.platform import RequirementError

EVERY = list(load_all("x86_64"))
BY_ID = {case.id: case for case in EVERY}
ONE = BY_ID["SYS-NOSTACK-001"]


def driver(name: str) -> list[str]:
    """Return the command of our driver."""
    return [sys.executable, "-m", "systrap.cli.driver", "--platform", name]


@pytest.fixture(params=["ptrace", "systrap"], scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict[str, Verdict]:
    """Return the verdicts of all cases on a platform."""
    name = str(request.param)
    try:
        platform.lookup(name).new(platform.Options()).close()
    except RequirementError as error:
        pytest.skip(f"platform {name} does not run on this host: {error}")
    runner = Runner(driver(name))
    try:
        return {verdict.case.id: verdict for verdict in runner.run(EVERY)}
    finally:
        runner.close()


@pytest.mark.parametrize("identity", BY_ID)
def test_case(verdicts: dict[str, Verdict], identity: str) -> None:
    """Each case on the oracle."""
    verdict = verdicts[identity]
    if verdict.status is Status.UNSUPPORTED:
        pytest.skip(verdict.reason)
    assert verdict.status is Status.PASS, "\n".join((verdict.reason, *verdict.transcript))


# A driver that says yes to everything, with one bad habit that the test writes into it.
FAKE = """
import json, sys, time
rsp = "0x0"
for line in sys.stdin:
    r = json.loads(line)
    reply = {{"result": {{}}}}
    if r["op"] == "hello":
        reply = {{"result": {{"protocol": 1, "arch": "x86_64", "caps": [], "page_size": 4096}}}}
    elif r["op"] == "new_space":
        reply = {{"result": {{"space": 1}}}}
    elif r["op"] == "new_context":
        reply = {{"result": {{"context": 2}}}}
    elif r["op"] in ("get_regs", "set_regs"):
        rsp = r.get("regs", {{}}).get("rsp", rsp)
        reply = {{"result": {{"regs": {{"rsp": rsp}}}}}}
    elif r["op"] == "switch":
        reply = {{"event": {{"kind": "syscall", "ip": "0x10000002", "nr": "0x0", "args": ["0x0"] * 6}}}}
    out = {{"id": r["id"], **reply}}
    {habit}
    print(json.dumps(out), flush=True)
    if r["op"] == "bye":
        break
"""

HABITS = {
    "ip off by two": ('if r["op"] == "switch": out["event"]["ip"] = "0x10000000"', Status.FAIL),
    "dies at a switch": ('if r["op"] == "switch": sys.exit(3)', Status.CRASH),
    "dies in the middle of a line": (
        'if r["op"] == "switch": sys.stdout.write(json.dumps(out)[:9]); sys.stdout.flush(); sys.exit(0)',
        Status.CRASH,
    ),
    "says no to map": ('if r["op"] == "map": out = {"id": r["id"], "error": {"kind": "map"}}', Status.ERROR),
    "talks nonsense": ('if r["op"] == "switch": print("hello", flush=True)', Status.ERROR),
    "answers twice": ('if r["op"] == "map": print(json.dumps(out), flush=True)', Status.ERROR),
    "answers with a list": ('out = [out] if r["op"] == "map" else out', Status.ERROR),
    "has no event": ('if r["op"] == "switch": out = {"id": r["id"], "result": {}}', Status.ERROR),
    "cannot switch": (
        'if r["op"] == "switch": out = {"id": r["id"], "unsupported": {"cap": "x", "reason": "y"}}',
        Status.UNSUPPORTED,
    ),
    "will not switch": ('if r["op"] == "switch": out = {"id": r["id"], "skipped": {"reason": "y"}}', Status.SKIPPED),
    "is of another kind": ('if r["op"] == "hello": out["result"]["arch"] = "aarch64"', Status.UNSUPPORTED),
    "reports a timeout": (
        'if r["op"] == "switch": out = {"id": r["id"], "error": {"kind": "timeout", "message": "late"}}',
        Status.FAIL,
    ),
}


def fake(tmp_path: Path, habit: str) -> list[str]:
    """Return the command of a fake driver."""
    path = tmp_path / "fake.py"
    path.write_text(FAKE.format(habit=habit))
    return [sys.executable, str(path)]


@pytest.mark.parametrize("name", HABITS)
def test_bad_drivers_are_found_out(tmp_path: Path, name: str) -> None:
    habit, status = HABITS[name]
    runner = Runner(fake(tmp_path, habit))
    (verdict,) = runner.run([ONE])
    runner.close()
    assert verdict.status is status, verdict
    assert verdict.reason


def test_a_driver_that_hangs(tmp_path: Path) -> None:
    impatient = ONE._replace(timeout_ms=-4800)
    runner = Runner(fake(tmp_path, 'if r["op"] == "switch": time.sleep(60)'))
    (verdict,) = runner.run([impatient])
    runner.close()
    assert verdict.status is Status.TIMEOUT


def test_a_lost_driver_is_replaced(tmp_path: Path) -> None:
    count = tmp_path / "count"
    habit = (
        f'open({str(count)!r}, "a").write("x") if r["op"] == "hello" else None\n'
        f'    if r["op"] == "switch" and len(open({str(count)!r}).read()) == 1: sys.exit(1)'
    )
    runner = Runner(fake(tmp_path, habit))
    statuses = [verdict.status for verdict in runner.run([ONE, ONE])]
    runner.close()
    assert statuses == [Status.CRASH, Status.PASS]


def test_missing_capabilities(tmp_path: Path) -> None:
    runner = Runner(fake(tmp_path, "pass"))
    case: Case = ONE._replace(need=("levitation",))
    (verdict,) = runner.run([case])
    runner.close()
    assert (verdict.status, verdict.reason) == (Status.UNSUPPORTED, "no levitation")


def test_no_such_driver() -> None:
    (verdict,) = Runner(["/nonexistent/driver"]).run([ONE])
    assert verdict.status is Status.ERROR


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.jsonl"
    command = f"{sys.executable} {fake(tmp_path, 'pass')[1]}"
    arguments = ["run", "--driver", command, "--only", "SYS-NOSTACK-*", "--arch", "x86_64", "--report", str(report)]
    assert main(arguments) == 0
    assert "1 cases: 1 pass" in capsys.readouterr().out
    header, row = (json.loads(line) for line in report.read_text().splitlines())
    assert header["driver"]["arch"] == "x86_64"
    assert (row["id"], row["status"]) == ("SYS-NOSTACK-001", "pass")
    assert main(["list", "--arch", "x86_64"]) == 0
    assert capsys.readouterr().out.count("\n") == len(EVERY)
    assert main(["run", "--driver", "x", "--only", "NOTHING-*", "--arch", "x86_64"]) == 2
    assert main(["run", "--driver", "/nonexistent", "--only", "SYS-NOSTACK-*", "--arch", "x86_64"]) == 1
    assert "again: python3 -m conformance run --only SYS-NOSTACK-001" in capsys.readouterr().out


def test_the_suite_knows_nothing_of_systrap() -> None:
    code = "import conformance.__main__, sys; print([m for m in sys.modules if m.startswith('systrap')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
