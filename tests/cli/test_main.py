"""The command line as a whole: help, version, mistakes."""

import importlib
import subprocess
import sys

import pytest

from systrap.arch import UnsupportedArchitectureError
from systrap.cli.main import COMMANDS, help_text, main
from systrap.version import VERSION


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"systrap {VERSION}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out == help_text()
    assert all(len(line) < 100 for line in out.splitlines())


def test_nothing_at_all_is_a_mistake_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 125
    assert "usage:" in capsys.readouterr().out


def test_mistyped_commands_get_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 125
    assert "unknown command rnu (did you mean run?)" in capsys.readouterr().err
    assert main(["--halp"]) == 125
    assert "unknown option --halp (did you mean --help?)" in capsys.readouterr().err


def test_a_machine_that_is_not_known_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: list[str]) -> int:
        raise UnsupportedArchitectureError("systrap does not run on riscv64 yet")

    monkeypatch.setattr("systrap.cli.run.main", refuse)
    assert main(["run", "--", "/bin/true"]) == 125
    expected = "systrap run: systrap does not run on riscv64 yet; python3 -m systrap doctor tells more\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_is_there_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(importlib.import_module(COMMANDS[name].module).main)
    assert main([name, "--help"]) == 0
    assert f"systrap {name}" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m systrap doctor --no-trial | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_the_way_to_run_is_light() -> None:
    """Modules that cost start-up time stay away from the path of ``run`` (CONTRIBUTING.md)."""
    heavy = {
        "argparse", "asyncio", "dataclasses", "inspect", "json", "logging", "pathlib", "selectors", "socket", "subprocess",
        "tempfile",
    }  # fmt: skip
    code = (
        "import atexit, sys; from systrap.cli import main\n"
        "status = main.main(['run', '--', '/bin/true']); print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 125), done.stderr
    assert heavy & set(done.stderr.split()) == set()
