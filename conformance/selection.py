"""Which cases are run: globs, tiers and levels, skip files, and what is known to be broken on this host."""

import fnmatch
import os
import random
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from conformance.case import load_all
from conformance.checks import CHECKS
from conformance.verdict import Item, Status, Verdict

LEVELS: Final = ("must", "should", "may")
ERRATA: Final = Path(__file__).parent / "errata.toml"

_ALL_TIERS: Final = 99
_KERNEL: Final = re.compile(r"(\d+)\.(\d+)")
_BOUND: Final = re.compile(r"(<|<=|>|>=|==)(\d+)\.(\d+)")


class SelectionError(Exception):
    """A file or an option makes no sense."""


class Selection(NamedTuple):
    """What to run. ``only`` and ``levels`` choose cases that match one of them."""

    arch: str
    only: Sequence[str] = ("*",)
    tier: int = _ALL_TIERS
    level: str = "may"
    from_tier: int = 0


def everything(arch: str) -> list[Item]:
    """Return all checks and cases, in the order of tiers. Raises CaseError."""
    return sorted((*CHECKS, *load_all(arch)), key=lambda item: item.tier)


def choose(selection: Selection) -> list[Item]:
    """Return what is selected. Raises CaseError, and SelectionError when that is nothing."""
    levels = LEVELS[: LEVELS.index(selection.level) + 1]
    chosen = [
        item
        for item in everything(selection.arch)
        if any(fnmatch.fnmatchcase(item.id, glob) for glob in selection.only)
        and selection.from_tier <= item.tier <= selection.tier
        and item.level in levels
    ]
    if not chosen:
        bounds = [f"from tier {selection.from_tier}"] if selection.from_tier else []
        bounds += [f"up to tier {selection.tier}"] if selection.tier < _ALL_TIERS else []
        bounds += [f"of level {selection.level}"] if selection.level != LEVELS[-1] else []
        words = " ".join((*selection.only, *bounds))
        raise SelectionError(f"no case for {selection.arch} matches {words}: `list` shows what there is")
    return chosen


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in the order that a seed gives."""
    mixed = list(items)
    random.Random(seed).shuffle(mixed)
    return mixed


class Skips:
    """A skip file: a glob and a reason on each line. A reason must be given; what matches nothing is a mistake."""

    def __init__(self, path: Path, known: Sequence[Item]) -> None:
        """Read a file. Raises SelectionError."""
        self._reasons: dict[str, str] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SelectionError(f"skip file: {error}") from error
        for number, line in enumerate(lines, 1):
            glob, _, reason = line.strip().partition(" ")
            if not glob or glob.startswith("#"):
                continue
            if not reason.strip():
                raise SelectionError(f"{path}:{number}: {glob} is skipped for no reason")
            if not fnmatch.filter([item.id for item in known], glob):
                raise SelectionError(f"{path}:{number}: there is no case {glob}")
            self._reasons[glob] = reason.strip()

    def reason(self, item: Item) -> str:
        """Say why a case is skipped; "" when it is not."""
        return next((reason for glob, reason in self._reasons.items() if fnmatch.fnmatchcase(item.id, glob)), "")


def judge_skipped(verdict: Verdict, reason: str) -> Verdict:
    """Return the verdict of a case that is skipped, but was run to see whether it must be."""
    if verdict.status is Status.PASS:
        return verdict._replace(
            status=Status.FAIL, reason=f"it passes, but is skipped ({reason}): take it out of the skip file"
        )
    return verdict._replace(status=Status.SKIPPED, reason=f"{reason} (run all the same: {verdict.status.value})")


class Erratum(NamedTuple):
    """A host on which a case is known to fail, through no fault of a driver's."""

    case: str
    kernel: str
    cpu: str
    reason: str
    reference: str


def load_errata(path: Path = ERRATA) -> list[Erratum]:
    """Read errata. Raises SelectionError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SelectionError(f"errata: {error}") from error
    rows = table.get("erratum", [])
    found = []
    for row in rows:
        if not isinstance(row, dict) or not row.keys() <= set(Erratum._fields):
            raise SelectionError(f"errata: an erratum has the fields {', '.join(Erratum._fields)}: {row!r}")
        texts = {name: str(row.get(name, "*" if name == "cpu" else "")) for name in Erratum._fields}
        if not texts["case"] or not texts["reason"] or not texts["reference"]:
            raise SelectionError(f"errata: case, reason and reference must be there: {row!r}")
        in_range(texts["kernel"], "0.0")
        found.append(Erratum(**texts))
    return found


def in_range(bounds: str, release: str) -> bool:
    """Tell whether a kernel release lies within bounds such as ">=5.4,<5.10". No bounds: every one. Raises SelectionError."""
    matched = _KERNEL.match(release)
    version = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    for bound in filter(None, bounds.replace(" ", "").split(",")):
        parts = _BOUND.fullmatch(bound)
        if parts is None:
            raise SelectionError(f"errata: {bound!r} is no bound such as >=5.4")
        limit = (int(parts[2]), int(parts[3]))
        true = {
            "<": version < limit,
            "<=": version <= limit,
            ">": version > limit,
            ">=": version >= limit,
            "==": version == limit,
        }
        if not true[parts[1]]:
            return False
    return True


def host_cpu() -> str:
    """Return the name of the host's CPU, as /proc/cpuinfo has it; "" when it has none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        return ""


def apply_errata(verdict: Verdict, errata: Sequence[Erratum]) -> Verdict:
    """Return the verdict, or KNOWN_ERRATUM where a case that is known to fail on this host failed."""
    if verdict.status not in (Status.FAIL, Status.TIMEOUT, Status.ERROR, Status.CRASH):
        return verdict
    for erratum in errata:
        here = in_range(erratum.kernel, os.uname().release) and fnmatch.fnmatchcase(host_cpu(), erratum.cpu)
        if here and fnmatch.fnmatchcase(verdict.case.id, erratum.case):
            reason = f"{erratum.reason} ({erratum.reference}): {verdict.reason}"
            return verdict._replace(status=Status.KNOWN_ERRATUM, reason=reason)
    return verdict
