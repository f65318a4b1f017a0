"""Figures as text and as JSON: the ladder first, then steps against ways, then whole programs, then what failed."""

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from systrap.bench.measure import Figure, Key


class Table(NamedTuple):
    """A part of the report: rows (name, title) against columns (ways). ``peer``: the column that ratios are formed with."""

    title: str
    rows: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    peer: str = ""


class Report(NamedTuple):
    """Everything that was measured."""

    facts: dict[str, str]
    rounds: int
    tables: tuple[Table, ...]
    figures: dict[Key, Figure]


def amount(nanoseconds: float) -> str:
    """Return a time with three digits and its unit."""
    size = abs(nanoseconds)
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if size < limit:
            return f"{_digits(nanoseconds / divisor)} {unit}"
    return f"{_digits(nanoseconds / 1e9)} s"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(figure: Figure) -> str:
    """Return lowest and highest sample, as a percentage of the median."""
    median = figure.median
    if median is None or median <= 0 or len(figure.samples) < 2:
        return ""
    return f"{100 * min(figure.samples) / median - 100:+.0f}…{100 * max(figure.samples) / median - 100:+.0f} %"


def ratio(figures: dict[Key, Figure], row: str, column: str, peer: str) -> float | None:
    """Return the median over the rounds of ``column`` over ``peer`` in the same round; None where one of them has none."""
    mine, other = figures.get((row, column)), figures.get((row, peer))
    if mine is None or other is None:
        return None
    pairs = [a / b for a, b in zip(mine.samples, other.samples, strict=False) if b > 0]
    return statistics.median(pairs) if pairs else None


def as_text(report: Report) -> str:
    """Return the report for a terminal."""
    lines = [f"{name:12} {value}" for name, value in report.facts.items()]
    lines.append(f"{'rounds':12} {report.rounds}, interleaved; medians, and how far the samples lie from them")
    for table in report.tables:
        lines += ["", table.title, ""]
        lines += _grid(_cells(report, table))
    failures = [f"  {step} on {way}: {error}" for (step, way), figure in report.figures.items()
                for error in sorted(set(figure.errors))]  # fmt: skip
    if failures:
        lines += ["", "did not give a figure:", *failures]
    return "\n".join(lines) + "\n"


def _cells(report: Report, table: Table) -> list[list[str]]:
    head = [""]
    for column in table.columns:
        head += [column, ""]
    if table.peer:
        head.append(f"systrap / {table.peer}")
    rows = [head]
    for name, title in table.rows:
        row = [title]
        for column in table.columns:
            figure = report.figures.get((name, column))
            if figure is None or figure.median is None:
                row += ["-", ""]
            else:
                row += [amount(figure.median), spread(figure)]
        if table.peer:
            value = ratio(report.figures, name, "systrap", table.peer)
            row.append("" if value is None else f"{value:.2f}")
        rows.append(row)
    return rows


def _grid(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def as_json(report: Report) -> str:
    """Return the report as one JSON object; times are nanoseconds of one repetition."""
    figures = [
        {"step": step, "way": way, "median": figure.median, "samples": figure.samples, "errors": figure.errors}
        for (step, way), figure in report.figures.items()
    ]
    tables = [
        {
            "title": table.title,
            "rows": [list(row) for row in table.rows],
            "columns": list(table.columns),
            "peer": table.peer,
        }
        for table in report.tables
    ]
    content = {"format": 1, "facts": report.facts, "rounds": report.rounds, "tables": tables, "figures": figures}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
