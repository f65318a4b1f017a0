"""``systrap explain``: the stories are played for real, and are the ones that docs/explain shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from systrap import arch
from systrap.cli import explain
from systrap.cli.explaining.scenes import SCENES
from systrap.cli.options import UsageError
from systrap.host.sys import NR, syscall

GOLDEN = Path(__file__).parent.parent.parent / "docs" / "explain"
HAS_DISPATCH = syscall(NR["prctl"], 59, 0, 0, 0, 0) == 0

on_x86 = pytest.mark.skipif(arch.host().NAME != "x86_64", reason="the guests are x86-64 code")


def told(*arguments: str, keys: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "systrap", "explain", *arguments]
    return subprocess.run(command, input=keys, capture_output=True, text=True, timeout=60, check=False)


@on_x86
@pytest.mark.parametrize("kind", SCENES)
def test_stories_are_those_of_the_documents(kind: str) -> None:
    if kind == "dispatched" and not HAS_DISPATCH:
        pytest.skip("this kernel has no syscall user dispatch")
    done = told("--symbolic", kind)
    assert done.stderr == ""
    assert done.stdout == (GOLDEN / f"{kind}.txt").read_text(
        encoding="utf-8"
    ), f"to bring it up to date: python3 -m systrap explain --symbolic {kind} > docs/explain/{kind}.txt"


@on_x86
def test_it_waits_for_enter_before_each_step() -> None:
    done = told("--step", "fault", keys="\n" * 10)
    assert done.returncode == 0
    assert done.stderr.count("[Enter]") == 4, "five steps, and nobody waits before the first"


@on_x86
def test_without_symbolic_times_are_told() -> None:
    assert " ticks" in told("trapped").stdout


def test_every_story_is_in_the_documents() -> None:
    page = (GOLDEN / "README.md").read_text(encoding="utf-8")
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(SCENES)
    assert all(f"[{kind}]({kind}.txt)" in page for kind in SCENES)


@pytest.mark.parametrize(
    ("arguments", "message"), [([], "one kind"), (["trap"], "did you mean trapped"), (["a", "b"], "one kind")]
)
def test_mistakes_are_told(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        explain.main(arguments)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(kind in out for kind in SCENES)
