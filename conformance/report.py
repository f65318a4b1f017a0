"""Reports: JSON lines that are written while a run goes on, read back, and turned into other forms.

The first line is the header, with the plan: so a report that ends early says which cases it lacks, and those are ``unknown``.
The last is the footer. See schemas/report.schema.json.
"""

import datetime
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from conformance.client import Message
from conformance.protocol import PROTOCOL, SPEC, SUITE
from conformance.selection import host_cpu
from conformance.verdict import GOOD, Item, Status, Verdict, badge

_UNKNOWN_DRIVER: Final = {"name": "(a driver that did not say hello)", "version": "", "language": ""}


class ReportError(Exception):
    """The file is no report."""


class Row(NamedTuple):
    """A case and its verdict, as reports have it."""

    id: str
    title: str
    level: str
    tier: int
    require: tuple[str, ...]
    status: Status
    reason: str = ""
    transcript: tuple[str, ...] = ()
    seconds: float = 0.0
    flaky: bool = False

    @property
    def good(self) -> bool:
        """Tell whether a run may pass with this."""
        return self.status in GOOD


class Report(NamedTuple):
    """A run. ``rows`` are in the order of ids within tiers, one for each case of the plan."""

    header: Message
    rows: tuple[Row, ...]
    seconds: float

    @property
    def driver(self) -> dict[str, str]:
        """Return what the driver calls itself: ``name``, ``version``, ``language``, perhaps more."""
        hello = self.header.get("driver")
        said = hello.get("impl") if isinstance(hello, dict) else None
        found = {str(name): str(value) for name, value in said.items()} if isinstance(said, dict) else {}
        return {**_UNKNOWN_DRIVER, **found}

    def counts(self) -> Counter[Status]:
        """Count verdicts."""
        return Counter(row.status for row in self.rows)

    def badge(self) -> str:
        """Return the badge that the run earns; "" is none."""
        return badge((row.tier, row.status) for row in self.rows)

    def bad(self) -> list[Row]:
        """Return the rows that keep the run from passing."""
        return [row for row in self.rows if not row.good]


def row_of(verdict: Verdict) -> Row:
    """Return a verdict as a row."""
    case = verdict.case
    what = (case.id, case.title, case.level, case.tier, case.require)
    return Row(*what, verdict.status, verdict.reason, verdict.transcript, verdict.seconds, verdict.flaky)


class Writer:
    """Writes a report, line by line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def _line(self, kind: str, values: Message) -> None:
        self._file.write(json.dumps({"kind": kind, **values}) + "\n")
        self._file.flush()

    def begin(self, plan: Sequence[Item], command: Sequence[str], seed: int) -> None:
        """Write the header."""
        cases = [
            {"id": item.id, "title": item.title, "level": item.level, "tier": item.tier, "require": list(item.require)}
            for item in plan
        ]
        host = {"kernel": os.uname().release, "machine": os.uname().machine, "cpu": host_cpu()}
        versions = {"suite": SUITE, "protocol": PROTOCOL, "spec": SPEC}
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        run = {"command": list(command), "seed": seed, "started": started}
        self._line("header", {**versions, **run, "host": host, "plan": cases})

    def verdict(self, verdict: Verdict) -> None:
        """Write a case's verdict."""
        row = row_of(verdict)
        lists = {"require": list(row.require), "transcript": list(row.transcript)}
        self._line("case", {**row._asdict(), **lists, "status": row.status.value})

    def end(self, hello: Message, seconds: float, rows: Sequence[Row]) -> None:
        """Write the footer. It has what the driver said of itself, since that is not known before the first case."""
        counts = {status.value: count for status, count in Counter(row.status for row in rows).items()}
        good = all(row.good for row in rows)
        self._line("footer", {"driver": hello, "seconds": round(seconds, 3), "counts": counts, "good": good})


def _row(values: Message) -> Row:
    """Return a line, or an entry of the plan, as a row. Raises ReportError."""
    try:
        status = Status(values.get("status", "unknown"))
    except ValueError as error:
        raise ReportError(str(error)) from error
    tier, seconds = values.get("tier"), values.get("seconds", 0.0)
    if not isinstance(tier, int) or not isinstance(seconds, int | float):
        raise ReportError(f"a case without tier: {values!r:.80}")
    reason = str(values.get("reason", "" if "status" in values else "the report ends before this case"))
    what = (str(values.get("id")), str(values.get("title", "")), str(values.get("level", "")), tier)
    require, transcript = (
        tuple(map(str, found)) if isinstance(found, list) else ()
        for found in (values.get("require"), values.get("transcript"))
    )
    return Row(*what, require, status, reason, transcript, float(seconds), values.get("flaky") is True)


def read(path: Path) -> Report:
    """Read a report. Raises ReportError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path}: {error}") from error
    lines: list[Message] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value: object = json.loads(line)
        except ValueError as error:
            if number == text.count("\n") + 1:
                break  # a last line without its end: the run was killed while it was written
            raise ReportError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ReportError(f"{path}:{number}: not an object")
        lines.append({str(name): field for name, field in value.items()})
    if not lines or lines[0].get("kind") != "header" or not isinstance(lines[0].get("plan"), list):
        raise ReportError(f"{path}: no report: the first line is no header")
    return _assemble(lines)


def _assemble(lines: list[Message]) -> Report:
    header = lines[0]
    rows: dict[str, Row] = {}
    plan = header["plan"]
    for entry in plan if isinstance(plan, list) else []:
        if isinstance(entry, dict):
            row = _row(entry)
            rows[row.id] = row
    seconds = 0.0
    for values in lines[1:]:
        if values.get("kind") == "case":
            row = _row(values)
            rows[row.id] = row
        elif values.get("kind") == "footer":
            header = {**header, "driver": values.get("driver")}
            took = values.get("seconds")
            seconds = float(took) if isinstance(took, int | float) else 0.0
    ordered = sorted(rows.values(), key=lambda row: (row.tier, row.id))
    return Report(header, tuple(ordered), seconds)
