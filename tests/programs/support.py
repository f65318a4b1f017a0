"""Running a program twice, natively and as a guest, and comparing what a user can see of it."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from systrap.host.probe import Host
from systrap.host.requirements import blocking, examine

ROOT = Path(__file__).resolve().parents[2]
SLOWNESS = float(os.environ.get("SYSTRAP_SLOWNESS", "1"))
"""How many times slower than a machine of our days this one is: an emulated one says so, and every time limit grows."""
TIMEOUT = 50 * SLOWNESS
PLATFORMS = ("systrap", "ptrace")


class Outcome(NamedTuple):
    """What a user sees of a program that ran."""

    status: int
    out: bytes
    err: bytes


@functools.cache
def interpreter() -> str:
    """Return the Python that guests are run with: Debian's own if it is new enough, since that is what users have."""
    system = "/usr/bin/python3"
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    if os.access(system, os.X_OK) and subprocess.run([system, "-c", check], check=False).returncode == 0:
        return system
    return sys.executable


@functools.cache
def why_not(platform: str) -> str:
    """Return what this host lacks for a platform, "" for nothing. A platform that should work and does not is no excuse."""
    return ", ".join(r.finding.text for r in blocking(examine(Host()), platform))


def need_platform(platform: str) -> None:
    """Skip the test when this host cannot run a platform."""
    if why_not(platform):
        pytest.skip(f"{platform}: {why_not(platform)}")


def need_program(name: str) -> str:
    """Return the path of a program where both runs look for it, or skip the test."""
    path = shutil.which(name, path=environment()["PATH"])
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that both runs get: small, and the same everywhere."""
    base = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8"}
    return base | {"PYTHONPATH": str(ROOT)} | dict(extra or {})


def command(platform: str, argv: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """Return the command line that runs ``argv`` as a guest."""
    return [interpreter(), "-m", "systrap", "run", "--platform", platform, *options, "--", *argv]


def execute(
    argv: Sequence[str],
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    timeout: float = TIMEOUT,
) -> Outcome:
    """Run a command to its end. The status is 128+n for signal n, as a shell has it."""
    done = subprocess.run(
        argv, input=stdin, capture_output=True, env=environment(env), cwd=cwd, timeout=timeout, check=False
    )
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Outcome(status, done.stdout, done.stderr)


def guest(
    platform: str,
    argv: Sequence[str],
    stdin: bytes = b"",
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    timeout: float = TIMEOUT,
) -> Outcome:
    """Run ``argv`` as a guest."""
    need_platform(platform)
    return execute(command(platform, argv, options), stdin, env, cwd, timeout)


def same_as_native(
    platform: str, argv: Sequence[str], stdin: bytes = b"", *, prefix: Sequence[str] = (), options: Sequence[str] = ()
) -> Outcome:
    """Run ``argv`` natively and as a guest, assert that both look the same, and return the guest's outcome.

    ``prefix`` is a command that starts both ("taskset -c 0"), ``options`` are those of ``systrap run``.
    """
    need_platform(platform)
    native = execute([*prefix, *argv], stdin)
    ours = execute([*prefix, *command(platform, argv, options)], stdin)
    assert ours.status == native.status, f"native {native.status}, guest {ours.status}: {ours.err[-2000:]!r}"
    assert ours.out == native.out
    assert without_pids(without_reports(ours.err)) == without_pids(native.err)
    return ours


def without_reports(text: bytes) -> bytes:
    """Drop what the sentry says about a crash."""
    return re.sub(rb"^systrap: killed by .*\n", b"", text, flags=re.MULTILINE)


def without_pids(text: bytes) -> bytes:
    """Drop the process ids that bash tells when a child was killed: "line 3: 4711 Killed"."""
    return re.sub(rb"(: line \d+:) +\d+ ", rb"\1 ", text)
