"""The command line: what a run prints, reports, skips, and with which status it ends."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conformance.__main__ import main, parser
from conformance.case import load_all
from conformance.checks import CHECKS
from tests.conformance.fakes import fake

EVERY = [case.id for case in load_all("x86_64")]
ONE = "SYS-NOSTACK-001"
IP = 'if r["op"] == "switch": out["event"]["ip"] = "0x10000000"'


def run(command: list[str], *arguments: str, only: str = ONE) -> int:
    """Run one case with the command line."""
    return main(["run", "--driver", shlex.join(command), "--only", only, "--arch", "x86_64", *arguments])


def test_a_good_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.jsonl"
    assert run(fake(tmp_path), "--report", str(report)) == 0
    out, progress = capsys.readouterr()
    assert re.search(r"1 case in .* s, seed \d+: 1 pass", out)
    assert ONE not in out
    assert progress == ""
    header, row, footer = (json.loads(line) for line in report.read_text().splitlines())
    assert [entry["id"] for entry in header["plan"]] == [ONE]
    assert (row["id"], row["status"], row["transcript"]) == (ONE, "pass", [])
    assert (footer["driver"]["arch"], footer["counts"], footer["good"]) == ("x86_64", {"pass": 1}, True)
    assert run(fake(tmp_path), "--verbose") == 0
    assert f"pass          {ONE}" in capsys.readouterr().out


def test_a_failure_says_all_there_is_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fake(tmp_path, IP + '; print("a word on stderr", file=sys.stderr)'), "--seed", "7") == 1
    out = capsys.readouterr().out
    assert f"fail          {ONE}" in out
    assert "step 0: event.ip: expected 0x10000002, got 0x10000000" in out
    assert '> {"id": ' in out
    assert '"op": "switch"' in out
    assert "! a word on stderr" in out
    again = next(line.partition("again: ")[2] for line in out.splitlines() if "again: " in line)
    # The line that says how to run it again does just that.
    done = subprocess.run([sys.executable, *shlex.split(again)[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "got 0x10000000" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--driver", "x", "--only", "NOTHING-*"],
        ["run", "--driver", "", "--only", ONE],
        ["run", "--driver", "x", "--skip-file", "/nonexistent"],
        ["run", "--driver", "x", "--report", "/nonexistent/report"],
        ["explain", "SYS-NOSTACK-002"],
        ["report", "/nonexistent", "--tap"],
        ["diff", "/nonexistent", "/nonexistent"],
    ],
)
def test_what_makes_no_sense_has_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--arch", "x86_64"] if arguments[0] in ("run", "explain") else []
    assert main([*arguments, *more]) == 2
    assert capsys.readouterr().err.startswith("conformance: ")


@pytest.mark.parametrize(
    "arguments", [["run"], ["run", "--driver", "x", "--jobs", "0"], ["dance"], ["report", "x"], []]
)
def test_command_lines_that_are_wrong_have_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("command", ["run", "smoke", "list", "explain", "export", "report", "diff"])
def test_every_command_shows_how_it_is_used(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And the examples are command lines that the parser takes."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    lines = [line.strip() for line in out.splitlines() if line.startswith("  python3 -m conformance ")]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" >>")[0])[3:]
        assert words[0] == command
        parser().parse_args(words)


def test_nothing_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--only", "NO-*", "--tier", "3", "--level", "must", "--arch", "x86_64"]) == 2
    assert "no case for x86_64 matches NO-* up to tier 3 of level must" in capsys.readouterr().err


def test_a_missing_driver_fails_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["/nonexistent"], "--jobs", "1", "--no-second-look", only="SYS-*") == 1
    out = capsys.readouterr().out
    count = sum(identity.startswith("SYS-") for identity in EVERY)
    assert f"{count} cases" in out
    assert out.endswith((f": {count - 3} unknown, 3 error\n", f": 3 error, {count - 3} unknown\n"))


def test_tiers_have_two_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--arch", "x86_64", "--from-tier", "4", "--tier", "5"]) == 0
    tiers = {line.split()[2] for line in capsys.readouterr().out.splitlines()}
    assert tiers == {"4", "5"}
    assert main(["list", "--from-tier", "5", "--tier", "4"]) == 2


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--arch", "x86_64"]) == 0
    out = capsys.readouterr().out
    assert sorted(line.split()[0] for line in out.splitlines()) == sorted([*EVERY, *(check.id for check in CHECKS)])
    assert main(["list", "--arch", "x86_64", "--tier", "0", "--level", "must", "--only", "DRV-*"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == sum(check.tier == 0 for check in CHECKS)


@pytest.mark.parametrize("identity", ["INT-LOOP-001", "sys-args-001", "MEM-SHARED-001", "DRV-ONCE-001"])
def test_explain(identity: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", identity, "--arch", "x86_64"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(identity.upper())
    assert "level must" in out
    assert "steps:" in out or "a check in Python" in out


def test_explain_knows_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "SYS-NOSTAK-001", "--arch", "x86_64"]) == 2
    assert ONE in capsys.readouterr().err


def test_processes_that_outlive_a_killed_driver_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conformance.checks._LEFT_SECONDS", 0.3)
    habit = 'if r["op"] == "new_space": __import__("subprocess").Popen(["sleep", "60"], stdout=2)'
    assert run(fake(tmp_path, habit), "--no-second-look", only="KILL-DRIVER-001") == 1
    assert "processes outlived the driver by 0.3 s" in capsys.readouterr().out
    assert run(fake(tmp_path), only="KILL-DRIVER-001") == 0


# Skipping.


def test_skips_have_reasons_and_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skips = tmp_path / "skips"
    skips.write_text(f"# what we do not do yet\n\n{ONE}  no stacks here\n")
    assert run(fake(tmp_path, IP), "--skip-file", str(skips), "--verbose") == 0
    out = capsys.readouterr().out
    assert "1 skipped" in out
    assert "no stacks here" in out
    assert run(fake(tmp_path, IP), "--skip-file", str(skips), "--certified") == 1


def test_what_is_skipped_must_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skips = tmp_path / "skips"
    skips.write_text(f"{ONE} no stacks here\n")
    arguments = ("--skip-file", str(skips), "--skipped-must-fail")
    assert run(fake(tmp_path, IP), *arguments) == 0
    assert "1 skipped" in capsys.readouterr().out
    assert run(fake(tmp_path), *arguments) == 1
    assert "it passes, but is skipped (no stacks here)" in capsys.readouterr().out


@pytest.mark.parametrize(("line", "words"), [("SYS-* ", "for no reason"), ("SYS-NONE-* why", "there is no case")])
def test_skip_files_that_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    skips = tmp_path / "skips"
    skips.write_text(line + "\n")
    assert run(fake(tmp_path), "--skip-file", str(skips)) == 2
    assert words in capsys.readouterr().err


# Errata.


def erratum(folder: Path, **fields: str) -> str:
    """Write a file with one erratum; return its name."""
    path = folder / "errata.toml"
    values = {"case": ONE, "reason": "off by two here", "reference": "a letter", **fields}
    path.write_text("[[erratum]]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items()))
    return str(path)


def test_a_known_erratum_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(fake(tmp_path, IP), "--errata", erratum(tmp_path, kernel=">=2.6"), "--verbose") == 0
    out = capsys.readouterr().out
    assert "1 known-erratum" in out
    assert "off by two here (a letter): step 0" in out
    assert run(fake(tmp_path), "--errata", erratum(tmp_path)) == 0
    assert "1 pass" in capsys.readouterr().out


@pytest.mark.parametrize("fields", [{"kernel": "<2.6"}, {"cpu": "no such CPU"}, {"case": "MEM-*"}])
def test_errata_of_other_hosts(tmp_path: Path, fields: dict[str, str]) -> None:
    assert run(fake(tmp_path, IP), "--errata", erratum(tmp_path, **fields)) == 1


@pytest.mark.parametrize("fields", [{"kernel": "new"}, {"reason": ""}, {"whim": "x"}])
def test_errata_that_are_wrong(tmp_path: Path, fields: dict[str, str]) -> None:
    assert run(fake(tmp_path), "--errata", erratum(tmp_path, **fields)) == 2


# Order, jobs, interruption.


def order(report: Path) -> list[str]:
    """Return the ids of a report's plan."""
    return [entry["id"] for entry in json.loads(report.read_text().splitlines()[0])["plan"]]


@pytest.mark.slow
def test_a_seed_shuffles_and_repeats(tmp_path: Path) -> None:
    report, command = tmp_path / "report", fake(tmp_path)
    orders = []
    for arguments in ([], ["--seed", "1"], ["--seed", "1"], ["--seed", "2"]):
        run(command, "--report", str(report), "--no-second-look", *arguments, only="*")
        orders.append(order(report))
    plain, first, again, second = orders
    assert first == again != second
    assert sorted(first) == sorted(plain)
    assert plain != first


def test_many_drivers_at_once_give_every_case_one_verdict(tmp_path: Path) -> None:
    report = tmp_path / "report"
    habit = 'if r["op"] == "switch" and handles % 3 == 0: sys.exit(1)'
    run(fake(tmp_path, habit), "--report", str(report), "--jobs", "4", only="*")
    rows = [json.loads(line) for line in report.read_text().splitlines()[1:-1]]
    assert sorted(row["id"] for row in rows) == sorted(order(report))


def test_what_was_not_run_is_unknown(tmp_path: Path) -> None:
    """Ctrl-C: the case that runs gets its verdict, the others are unknown, and the report is whole."""
    report = tmp_path / "report"
    command = fake(tmp_path, f'if r["op"] == "switch": open({str(tmp_path / "there")!r}, "w"); time.sleep(2)')
    arguments = ["run", "--driver", shlex.join(command), "--only", "SYS-*", "--arch", "x86_64", "--jobs", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "conformance", *arguments, "--report", str(report)], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "there").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    rows = [json.loads(line) for line in report.read_text().splitlines()[1:-1]]
    statuses = {row["id"]: row["status"] for row in rows}
    assert sorted(statuses) == sorted(order(report))
    assert list(statuses.values()).count("unknown") == len(statuses) - 1
    assert "not run" in out


def test_progress_on_a_terminal() -> None:
    """A terminal shows how far it is; what is not one does not (test_a_good_run)."""
    ours, theirs = pty.openpty()
    arguments = ["run", "--driver", "/nonexistent", "--only", ONE, "--arch", "x86_64"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "conformance", *arguments]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:  # the other side is closed
            process.wait()
    os.close(ours)
    assert b"\r[1/1] 1 not good  SYS-NOSTACK-001\x1b[K" in said
    assert b"\x1b[31;1merror" in said


def test_smoke(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["smoke", "--driver"]
    assert main([*arguments, f"{sys.executable} -m systrap driver --platform ptrace"]) == 0
    out = capsys.readouterr().out
    assert all(f"pass          {check.id}" in out for check in CHECKS if check.tier == 0)
    assert "It speaks the protocol" in out
    # The fake takes any field for good, so it does not pass for a driver.
    assert main([*arguments, shlex.join(fake(tmp_path))]) == 1


@pytest.mark.parametrize(
    ("check", "habit", "words"),
    [
        ("DRV-HELLO-001", 'if r["op"] == "hello": out["result"]["page_size"] = 4095', "is no page size"),
        ("DRV-HELLO-001", 'if r["op"] == "hello": out["result"]["va_max"] = "0x10"', "is no range"),
        ("DRV-HELLO-001", 'if r["op"] == "hello": out["result"]["caps"] = ["x", "x"]', "there twice"),
        ("DRV-HELLO-001", 'if r["op"] == "hello": hello["page_size"] *= 2', "answered differently"),
        ("DRV-VERSION-001", "pass", "expected an error of kind version"),
        ("DRV-ONCE-001", 'handles = 1 if r["op"] == "new_space" else 0', "have these handles"),
        (
            "DRV-ONCE-001",
            'if r["op"] == "new_space": print(json.dumps(out), flush=True)',
            "a second answer to new_space",
        ),
        ("DRV-ONCE-001", 'if r["op"] == "new_space" and handles == 9: continue', "no answer to new_space"),
        ("DRV-ID-001", 'out["id"] = min(out["id"], 70000)', "the request had the id"),
        ("DRV-FRAMING-001", "pass", "result of read.data is missing"),
        ("DRV-CLAIMS-001", 'if r["op"] == "hello": out["result"]["caps"] = ["fp.ymm"]', "fp.ymm is claimed, but"),
        ("DRV-CLAIMS-001", 'if r["op"] == "get_fp": out = {"id": r["id"], "result": {"data": "00"}}', "is not claimed"),
        ("DRV-ASYNC-001", 'if r["op"] == "hello": out["result"]["caps"] = ["async"]', "get_regs"),
        ("DRV-BYE-001", 'if r["op"] == "bye": print(json.dumps(out), flush=True); sys.exit(1)', "status 1 after bye"),
        ("DRV-EOF-001", "import atexit; atexit.register(os._exit, 5)", "status 5 at the end of its input"),
    ],
)
def test_each_check_finds_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], check: str, habit: str, words: str
) -> None:
    assert run(fake(tmp_path, habit), "--timeout", "2", "--no-second-look", only=check) == 1
    assert words in capsys.readouterr().out
