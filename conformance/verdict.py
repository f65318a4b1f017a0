"""What becomes of a case, and what has a verdict: case files, and the checks of checks.py."""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from conformance.case import Case
from conformance.checks import Check

Item = Case | Check

TIERS: Final = {
    0: "the protocol",
    1: "system calls and integer state",
    2: "memory and faults",
    3: "FP state, thread pointer, interrupts",
    4: "many contexts and spaces",
    5: "hostile guests",
    6: "stress and numbers",
}

BADGES: Final = {1: "minimal", 3: "standard", 4: "full", 5: "hardened"}
"""What a driver is called that passes everything up to a tier."""


class Status(Enum):
    """What became of a case."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    TIMEOUT = "timeout"
    CRASH = "crash"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"
    KNOWN_ERRATUM = "known-erratum"
    UNKNOWN = "unknown"


MEANING: Final = {
    Status.PASS: "everything was as expected",
    Status.FAIL: "the guest did, or saw, something else",
    Status.ERROR: "the driver refused, or broke the protocol",
    Status.TIMEOUT: "no event, or no answer at all, in time",
    Status.CRASH: "the driver ended",
    Status.UNSUPPORTED: "the driver or this host has no such thing, and says so",
    Status.SKIPPED: "left out on purpose, with a reason",
    Status.KNOWN_ERRATUM: "it fails as errata.toml says that it does on this host",
    Status.UNKNOWN: "never run",
}

GOOD: Final = frozenset((Status.PASS, Status.UNSUPPORTED, Status.SKIPPED, Status.KNOWN_ERRATUM))
"""Verdicts that let a run pass."""


class Verdict(NamedTuple):
    """A case's status, and why. ``transcript`` is the last of the talk, for anything that is not good.

    ``flaky``: it was bad, but good when it was run again. That is told, and changes nothing.
    """

    case: Item
    status: Status
    reason: str = ""
    transcript: tuple[str, ...] = ()
    seconds: float = 0.0
    flaky: bool = False


def badge(rows: Iterable[tuple[int, Status]]) -> str:
    """Return the badge that verdicts by tier earn; "" is none. What was not run, or skipped, earns nothing.

    What is unsupported does not stand in the way, since hosts and implementations differ, but the badge says how much that is.
    """
    worst: dict[int, bool] = {}
    every = list(rows)
    for tier, status in every:
        fine = status in (Status.PASS, Status.UNSUPPORTED, Status.KNOWN_ERRATUM)
        worst[tier] = worst.get(tier, True) and fine
    earned, upto = "", 0
    for tier in sorted(TIERS):
        if not worst.get(tier, False):
            break
        if tier in BADGES:
            earned, upto = BADGES[tier], tier
    lacking = sum(status is Status.UNSUPPORTED and tier <= upto for tier, status in every)
    return f"{earned}, with {lacking} unsupported" if earned and lacking else earned
