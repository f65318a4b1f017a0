"""The whole suite on systrap, under each combination of its switches (issue 4, "Must show")."""

import subprocess
import sys

import pytest

SWITCHES = [
    " ".join((*trap, *patching, *fast_path))
    for trap in ((), ("--syscall-trap", "seccomp"))
    for patching in ((), ("--no-syscall-patching",))
    for fast_path in ((), ("--no-fast-path",))
] + ["--no-user-resume", "--no-user-resume --no-syscall-patching --no-fast-path"]
"""(The driver has no guest kernel, so there are no quick calls to switch off.)"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("switches", SWITCHES)
def test_every_case_passes(switches: str) -> None:
    """Every case passes, as a user runs it."""
    command = f"{sys.executable} -m systrap driver {switches}"
    argv = [sys.executable, "-m", "conformance", "run", "--driver", command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
