"""What a run says while it goes on and when it ends: to people, on stdout; progress goes to stderr, if that is a terminal."""

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import IO, Final

from conformance.report import Row
from conformance.verdict import GOOD, TIERS, Status, Verdict, badge

_COLOURS: Final = {
    Status.PASS: "32",
    Status.UNSUPPORTED: "36",
    Status.SKIPPED: "33",
    Status.KNOWN_ERRATUM: "33",
}
_BAD: Final = "31;1"
_INDENT: Final = " " * 6
_WIDTH: Final = 240
"""Of a line of the talk: reports have more."""


class Screen:
    """Tells of verdicts. ``command`` is the driver's, for the lines that say how to run a case again."""

    def __init__(self, out: IO[str], progress: IO[str], command: Sequence[str], seed: int, verbose: bool) -> None:
        self._out = out
        self._progress = progress
        self._command = command
        self._seed = seed
        self._verbose = verbose
        self._live = progress.isatty()
        self._colour = out.isatty() and "NO_COLOR" not in os.environ
        self._bad = 0
        self._done = 0

    def verdict(self, verdict: Verdict, total: int) -> None:
        """Tell of a verdict: in full if it is bad, in a line if everything is wanted, and by the progress line."""
        self._done += 1
        good = verdict.status in GOOD
        self._bad += not good
        if not good or self._verbose:
            self._wipe()
            self._tell(verdict)
        if self._live:
            words = f"[{self._done}/{total}] {self._bad} not good  {verdict.case.id}"
            self._progress.write(f"\r{words[: shutil.get_terminal_size().columns - 1]}\x1b[K")
            self._progress.flush()

    def _wipe(self) -> None:
        if self._live:
            self._progress.write("\r\x1b[K")
            self._progress.flush()

    def _painted(self, status: Status, width: int = 0) -> str:
        text = f"{status.value:{width}}"
        return f"\x1b[{_COLOURS.get(status, _BAD)}m{text}\x1b[0m" if self._colour else text

    def _tell(self, verdict: Verdict) -> None:
        case = verdict.case
        lines = [f"{self._painted(verdict.status, 14)}{case.id:22}{case.title}"]
        if verdict.reason:
            lines += [f"{_INDENT}{line}" for line in verdict.reason.splitlines()]
        if verdict.status not in GOOD and verdict.status is not Status.UNKNOWN:
            lines += [f"{_INDENT}{line[:_WIDTH]}" for line in verdict.transcript]
            words = ["python3", "-m", "conformance", "run", "--only", case.id, "--seed", str(self._seed)]
            lines.append(f"{_INDENT}again: {shlex.join([*words, '--driver', shlex.join(self._command)])}")
        self._out.write("\n".join(lines) + "\n")
        self._out.flush()

    def summary(self, rows: Sequence[Row], seconds: float) -> None:
        """Tell how it went, by tier and in all."""
        self._wipe()
        out = self._out.write
        for tier in sorted({row.tier for row in rows}):
            mine = [row for row in rows if row.tier == tier]
            counts = Counter(row.status for row in mine)
            rest = "".join(
                f", {count} {self._painted(status)}" for status, count in counts.items() if status is not Status.PASS
            )
            out(f"tier {tier}  {TIERS.get(tier, ''):38} {counts[Status.PASS]:3} of {len(mine):3}{rest}\n")
        left = Counter(row.reason for row in rows if row.status is Status.UNSUPPORTED)
        for reason, count in left.most_common(5):
            out(f"        {count} × unsupported: {reason}\n")
        counts = Counter(row.status for row in rows)
        words = ", ".join(f"{count} {status.value}" for status, count in counts.most_common())
        earned = badge((row.tier, row.status) for row in rows)
        cases = f"{len(rows)} case{'' if len(rows) == 1 else 's'}"
        out(f"{cases} in {seconds:.1f} s, seed {self._seed}: {words}{f'; badge: {earned}' if earned else ''}\n")
        self._out.flush()
