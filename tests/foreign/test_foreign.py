"""Guests in stubs whose image is not ours: ``--stub-blob``, ``--stub-manifest`` (10-stub §8.3, issue 3's "must show").

Two images: a small one that was written from the specification alone (stub.c), and ours with a manifest that names upstream's
exports only. A process has one image, so whatever runs with another one runs in a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.foreign import build, plugin
from tests.foreign.build import Files
from tests.programs.support import ROOT, interpreter, need_platform

IMAGES: Final[dict[str, Callable[[Path], Files]]] = {
    "small": build.small_image,
    "ours-without-ring": build.our_image_without_ring,
}

CONTRACT: Final = tuple(f"tests/platforms/test_contract_{part}.py" for part in
                        ("events", "interrupts", "state", "memory", "lifetime", "interfaces"))  # fmt: skip


@pytest.fixture(scope="module", params=sorted(IMAGES))
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return each image."""
    need_platform("systrap")
    name = str(request.param)
    return IMAGES[name](tmp_path_factory.mktemp(name))


def run(files: Files, *command: str) -> bytes:
    """Run a guest; it must end well and say nothing on its standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "systrap", "run", *files.options, "--", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def run_within(files: Files, *arguments: str, timeout: int = 50) -> str:
    """Run tests in a process whose stubs have this image, and return pytest's last line. They must pass."""
    environment = dict(os.environ) | {plugin.BLOB: str(files.blob), plugin.MANIFEST: str(files.manifest)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.foreign.plugin", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    return done.stdout.splitlines()[-1]


def test_a_program(files: Files) -> None:
    assert run(files, "/bin/echo", "hi") == b"hi\n"


def test_a_pipeline(files: Files) -> None:
    """Processes, pipes, signals that wake: fork and exec in spaces of their own."""
    assert run(files, "/bin/sh", "-c", "seq 500 | sort -rn | head -2; echo $((1 + 2)) | cat") == b"500\n499\n3\n"


def test_python_with_threads(files: Files) -> None:
    """Floating point that survives, TLS, futexes, contexts that share a space (S-045, S-048)."""
    program = (
        "import math, threading\n"
        "def work(n):\n"
        "    x = float(n)\n"
        "    for i in range(20000): x = math.sqrt(x * x + 1e-9)\n"
        "    found[n] = round(x, 3)\n"
        "found = {}\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 7)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(sorted(found.items()))\n"
    )
    native = subprocess.run([interpreter(), "-c", program], capture_output=True, check=True).stdout
    assert run(files, interpreter(), "-c", program) == native


def test_a_guest_that_crashes(files: Files) -> None:
    """Its status is a signal's; the sentry is fine."""
    out = run(files, "/bin/sh", "-c", f"{interpreter()} -c 'import ctypes; ctypes.string_at(0)' 2>/dev/null; echo $?")
    assert out == b"139\n"


def test_how_the_sentry_drives_it(files: Files) -> None:
    assert "passed" in run_within(files, "tests/foreign/within.py")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_contract(files: Files) -> None:
    """Every test of the platform's contract, as for our own image."""
    more = ("tests/platforms/systrap/test_events.py", "tests/platforms/systrap/test_cpuid.py")
    last = run_within(files, *CONTRACT, *more, "-k", "not ptrace", timeout=280)
    assert "passed" in last


def test_a_manifest_without_an_export_is_refused(files: Files, tmp_path: Path) -> None:
    """In words, before anything runs."""
    manifest = tmp_path / "short.json"
    manifest.write_text(files.manifest.read_text().replace("__export_sighandler", "__export_other"))
    command = [sys.executable, "-m", "systrap", "run", "--stub-blob", str(files.blob), "--stub-manifest", str(manifest)]
    done = subprocess.run([*command, "/bin/true"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 125
    assert "sighandler" in done.stderr
