"""What ``run`` understands of a command line, without running anything."""

import os
from pathlib import Path

import pytest

from systrap.cli import doctor, run
from systrap.cli.options import UsageError, parse
from systrap.platform import RequirementError
from tests.host.fake import FakeHost


def understand(*arguments: str) -> run.Request:
    return run.understand(parse(run.OPTIONS, list(arguments)))


def test_everything_at_once(tmp_path: Path) -> None:
    request = understand(
        "--rw", str(tmp_path), "--env=A=b=c", "--clear-env", "--cwd", "/etc", "--platform", "ptrace",
        "--trace", "-v", "-olog", "--", "/bin/ls", "-l", "--trace",
    )  # fmt: skip
    assert request.platform == "ptrace"
    assert (request.path, request.argv) == ("/bin/ls", ["/bin/ls", "-l", "--trace"])
    assert request.environment == {"A": "b=c"}
    assert request.cwd == "/etc"
    assert request.rw == (str(tmp_path),)
    assert request.output == "log"
    assert request.tracing is not None
    assert request.tracing.lines
    assert request.verbose


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MARK", "x")
    monkeypatch.chdir(tmp_path)
    request = understand("true")
    assert request.platform == "systrap"
    assert request.environment == dict(os.environ)
    assert request.cwd == str(tmp_path)
    assert os.path.basename(request.path) == "true"
    assert request.argv == ["true"]
    assert request.tracing is None
    assert request.output is None


def test_a_variable_can_be_taken_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", "x")
    assert understand("--clear-env", "-E", "MARK", "-E", "UNSET_HERE", "-E", "EMPTY=", "/bin/true").environment == {
        "MARK": "x",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "which program?"),
        (("--",), "which program?"),
        (("--rw", "/no/such", "true"), "--rw /no/such"),
        (("--cwd", "/etc/passwd", "true"), "no such directory"),
        (("--env", "=x", "true"), "needs a name"),
        (("--stub-blob", "f", "true"), "belong together"),
        (("--platform", "kvm", "true"), "choose from ptrace, systrap"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        understand(*arguments)
    assert words in str(caught.value)


def test_programs_are_looked_up_as_a_shell_does(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "tool").write_text("")
    path = f"{first}:{second}"
    with pytest.raises(run.Refusal) as caught:
        run.find_program("tool", path)
    assert (caught.value.status, "Permission denied" in str(caught.value)) == (126, True)
    (second / "tool").chmod(0o755)
    if os.getuid() != 0 or os.access(second / "tool", os.X_OK):
        assert run.find_program("tool", path) == f"{second}/tool"
    with pytest.raises(run.Refusal) as caught:
        run.find_program("missing", path)
    assert caught.value.status == 127
    assert run.find_program("./tool", path) == "./tool"
    (first / "dir").mkdir()
    with pytest.raises(run.Refusal):
        run.find_program("dir", path)


def test_a_vanished_directory_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run.current_directory() == "/"


def test_hints(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/interpreter -x\n")
    request = understand("--rw", "/tmp", "--", str(script))
    assert "/no/interpreter" in run.hint(request)
    assert run.hint(request._replace(path="/no/such")) == ""
    assert run.hint(request._replace(path="/bin/true")) == ""
    if str(tmp_path).startswith("/tmp/"):
        assert "--rw /tmp" in run.hint(request._replace(rw=()))


def test_a_platform_that_cannot_start_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "Host", lambda: FakeHost(failing={"seccomp_filter": 22}))
    assert run.explain("systrap", RequirementError("no filters")) == 125
    err = capsys.readouterr().err
    assert "systrap: the platform systrap cannot run here: no filters" in err
    assert "✗ seccomp" in err
    assert "--platform ptrace" in err
    monkeypatch.setattr(doctor, "Host", FakeHost)
    assert run.explain("systrap", OSError(12, "no memory")) == 125
    assert "doctor" in capsys.readouterr().err


def test_a_log_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["-o", "/no/such/log", "--", "/bin/true"]) == 125
    assert "--output /no/such/log" in capsys.readouterr().err
