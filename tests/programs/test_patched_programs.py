"""Programs whose calls are patched, under the whole of ``systrap run`` (10-stub §6: S-084…S-094, S-147)."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs.cases import GUESTS
from tests.programs.support import Outcome, guest, need_program

TRAPS = ("seccomp", "dispatch")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all programs, compiled; skip where there is no compiler."""
    compiler = shutil.which("gcc") or need_program("cc")
    folder = tmp_path_factory.mktemp("patched")
    for source in sorted((GUESTS / "c").glob("*.c")):
        command = [
            compiler,
            "-std=gnu11",
            "-O1",
            "-Wall",
            "-Wextra",
            "-pthread",
            "-o",
            str(folder / source.stem),
            str(source),
        ]
        subprocess.run(command, check=True)
    return folder


def lines(outcome: Outcome) -> list[str]:
    """Return what a program wrote; it must have ended well."""
    text = outcome.out.decode().splitlines()
    assert (outcome.status, outcome.err) == (0, b""), text
    return text


def run(program: Path, trap: str, *options: str) -> list[str]:
    return lines(guest("systrap", [str(program)], options=["--syscall-trap", trap, *options]))


RESTARTED = [
    "read goes on",
    "read is interrupted",
    "nanosleep is interrupted, and says what is left",
    "nanosleep survives a stop",
    "wait4 goes on",
]


@pytest.mark.parametrize("trap", TRAPS)
def test_restarts(built: Path, trap: str) -> None:
    """S-085: patched calls that signals interrupt."""
    assert run(built / "restarts", trap) == ["patched: 1 1 1 1", *RESTARTED]


def test_restarts_without_patches(built: Path) -> None:
    """S-085, S-087: the same when nothing is patched, and natively: what the program expects is what Linux does."""
    assert run(built / "restarts", "auto", "--no-syscall-patching") == ["patched: 0 0 0 0", *RESTARTED]
    native = subprocess.run([built / "restarts"], capture_output=True, text=True, check=True)
    assert native.stdout.splitlines() == ["patched: 0 0 0 0", *RESTARTED]


def test_switch_is_for_systrap_only(built: Path) -> None:
    """S-087: the other platform patches nothing."""
    assert lines(guest("ptrace", [str(built / "forks")])) == ["patched: 0", "each its own"]


@pytest.mark.parametrize("trap", TRAPS)
def test_forks(built: Path, trap: str) -> None:
    """S-088: children inherit table and sites, at the same place, and all go on by themselves."""
    assert run(built / "forks", trap) == ["patched: 1", "each its own"]


@pytest.mark.parametrize("trap", TRAPS)
def test_signals_and_threads(built: Path, trap: str) -> None:
    """S-084, S-040: threads run fresh code at once, and timers interrupt them in it."""
    assert run(built / "signals_and_threads", trap) == ["patched: 24", "interrupted: 1"]


@pytest.mark.slow
def test_signals_and_threads_often(built: Path) -> None:
    """S-084, S-040: on one CPU as on all, again and again."""
    for _ in range(10):
        assert run(built / "signals_and_threads", "auto") == ["patched: 24", "interrupted: 1"]


@pytest.mark.parametrize("trap", TRAPS)
def test_registers(built: Path, trap: str) -> None:
    """S-092, S-093, S-094: registers, flags, red zone; a program that single-steps itself through a patched site."""
    assert run(built / "registers", trap) == ["written once: 1", "kept: 1", "stepped: 1"]


@pytest.mark.parametrize("trap", TRAPS)
def test_sigreturn(built: Path, trap: str) -> None:
    """S-092: rt_sigreturn through a patched site: registers, flags and FP state come from the frame."""
    assert run(built / "sigreturn", trap) == ["patched: 1 1"]


def test_files(built: Path, tmp_path: Path) -> None:
    """S-091: also where guests may change the host's files."""
    program = Path(shutil.copy(built / "files", tmp_path / "files"))
    before = hashlib.sha256(program.read_bytes()).digest(), program.stat().st_mtime_ns
    expected = [
        "patched: 1",
        "mapped and read as it was",
        "a shared mapping is left alone",
        "a new program finds it as it was",
    ]
    assert run(program, "auto") == expected
    assert run(program, "auto", "--rw", str(tmp_path)) == expected
    assert (hashlib.sha256(program.read_bytes()).digest(), program.stat().st_mtime_ns) == before


def test_table(built: Path) -> None:
    """S-081, S-089, S-090, S-147: a guest that interferes with its table hurts nobody but itself."""
    permissions, *rest = run(built / "table", "auto")
    assert permissions.split()[0] == "r-xp"
    assert permissions.split()[-1] == "[usertrap]"
    assert rest == ["headers that make no sense", "patched: many, not all: 1", "nothing behind the table", "faulted"]
