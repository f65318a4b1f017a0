"""The words of doctor, kept as golden files: SYSTRAP_UPDATE_GOLDEN=1 writes them anew, for a person to read in the diff."""

import json
import os
from pathlib import Path

import pytest

from systrap.cli import doctor
from systrap.host.requirements import examine
from systrap.version import VERSION
from tests.host.fake import FakeHost

GOLDEN = Path(__file__).parent / "golden"

HOSTS: dict[str, tuple[FakeHost, dict[str, str]]] = {
    "good": (FakeHost(), {"ptrace": "", "systrap": ""}),
    "arm64": (
        FakeHost(
            release="6.12.48-arm64-16k",
            machine="aarch64",
            failing={"user_dispatch": 22},
            files={"/proc/self/maps": "ffffc1e20000-ffffc1e50000 rw-p 00000000 00:00 0 [stack]"},
            auxiliary={6: 16384, 16: 0x107FF, 26: 0, 51: 4720},
        ),
        {"systrap": ""},
    ),
    "container": (
        FakeHost(
            release="5.10.0-28-amd64",
            failing={"ptrace": 1, "user_notify": 16, "mseal": 38, "futex_waitv": 38, "user_dispatch": 22},
            files={"/proc/self/status": "Seccomp:\t2", "/sys/fs/cgroup/user.slice/pids.max": "130"},
            limits={"NOFILE": 256},
            cpus=1,
            terminal=False,
        ),
        {"systrap": "a guest /bin/true ended with status 125: systrap run: it would not"},
    ),
    "hopeless": (
        FakeHost(
            release="3.10.0-1160.el7.x86_64",
            failing={"no_new_privs": 22, "seccomp_filter": 38, "ptrace": 1, "memfd_execute": 38, "memfd_large": 38},
            files={"/proc/sys/kernel/yama/ptrace_scope": "3", "/proc/sys/vm/max_map_count": "1000"},
            auxiliary={26: 0, 51: 0},
            rseq=None,
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", sorted(HOSTS))
def test_wording(name: str) -> None:
    host, trials = HOSTS[name]
    text = doctor.as_table(host, examine(host), trials, colour=False).replace(f"systrap {VERSION}", "systrap VERSION")
    file = GOLDEN / f"doctor-{name}.txt"
    if os.environ.get("SYSTRAP_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def test_colour_only_paints_the_marks() -> None:
    host = FakeHost(failing={"ptrace": 1, "mseal": 38})
    painted = doctor.as_table(host, examine(host), {}, colour=True)
    plain = doctor.as_table(host, examine(host), {}, colour=False)
    for code in ("31", "32", "33"):
        assert f"\x1b[{code}m" in painted
        painted = painted.replace(f"\x1b[{code}m", "")
    assert painted.replace("\x1b[0m", "") == plain


def test_json_says_the_same() -> None:
    host = FakeHost(failing={"ptrace": 1})
    report = json.loads(doctor.as_json(host, examine(host), {"systrap": ""}))
    assert report["platforms"]["systrap"] == {"can_run": True, "blocked_by": [], "trial": ""}
    assert report["platforms"]["ptrace"]["blocked_by"] == ["ptrace"]
    by_id = {row["id"]: row for row in report["requirements"]}
    assert by_id["ptrace"]["verdict"] == "missing"
    assert by_id["ptrace"]["remedy"]


@pytest.mark.parametrize(("failing", "status"), [({}, 0), ({"ptrace": 1}, 0), ({"seccomp_filter": 22}, 1)])
def test_exit_status(failing: dict[str, int], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Host", lambda: FakeHost(failing=failing))
    assert doctor.main(["--no-trial"]) == status


def test_a_failed_trial_counts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "Host", FakeHost)
    monkeypatch.setattr(doctor, "_trial", lambda platform: "it broke" if platform == "systrap" else "")
    assert doctor.main([]) == 1
    assert "systrap should run here, but it broke" in capsys.readouterr().out


def test_what_the_run_path_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Host", lambda: FakeHost(failing={"seccomp_filter": 22}))
    said = doctor.explain_failure("systrap")
    assert "✗ seccomp" in said
    assert "--platform ptrace" in said
    assert doctor.explain_failure("ptrace") == ""
