"""Verdicts about a host: what a requirement is, what a probe finds, and the words for results."""

import enum
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from systrap.host.probe import DIED, TIMED_OUT, Host

BOTH: Final = ("ptrace", "systrap")
SYSTRAP: Final = ("systrap",)
PTRACE: Final = ("ptrace",)

X86_64: Final = "x86_64"
AARCH64: Final = "aarch64"
MACHINES: Final = (X86_64, AARCH64)


class Verdict(enum.Enum):
    """How a requirement fares on a host."""

    OK = "ok"
    DEGRADED = "degraded"
    MISSING = "missing"


class Finding(NamedTuple):
    """What a probe found, in words; ``remedy`` says what to do when the verdict is not OK."""

    verdict: Verdict
    text: str
    remedy: str = ""


class Requirement(NamedTuple):
    """One thing a host should have. MISSING keeps the platforms in ``needed_by`` from running; DEGRADED does not.

    It is asked for on ``machines`` only; ids are unique on each.
    """

    id: str
    protects: str
    needed_by: tuple[str, ...]
    probe: Callable[[Host], Finding]
    machines: tuple[str, ...] = MACHINES


class Result(NamedTuple):
    """A requirement together with what was found."""

    requirement: Requirement
    finding: Finding


def ok(text: str) -> Finding:
    """Return a finding that holds."""
    return Finding(Verdict.OK, text)


def degraded(text: str, remedy: str) -> Finding:
    """Return a finding one can live with."""
    return Finding(Verdict.DEGRADED, text, remedy)


def missing(text: str, remedy: str) -> Finding:
    """Return a finding that keeps platforms from running."""
    return Finding(Verdict.MISSING, text, remedy)


def outcome(code: int) -> str:
    """Say what the result of an experiment means."""
    if code == DIED:
        return "the attempt was killed"
    if code == TIMED_OUT:
        return "the attempt did not end"
    return os.strerror(code)


def version(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel release; (0, 0) when it does not look like one."""
    parts = release.split("-")[0].split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return 0, 0
