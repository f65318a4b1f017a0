"""Figures as one HTML page that needs nothing else: a plot of bars for each row, with every sample on it."""

import html
import math
from collections.abc import Sequence
from typing import Final

from systrap.bench.measure import Figure
from systrap.bench.render import Report, Table, amount, ratio, spread

_BAR: Final = 18
_LABEL: Final = 230
_WIDTH: Final = 860
_VALUE: Final = 110

_STYLE: Final = """
:root { --paper: #fbfaf7; --ink: #1d2126; --soft: #5d6570; --line: #d8d5cc; --bar: #b8c4d6; --mine: #2f6f9f; --dot: #1d2126; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16191d; --ink: #e7e5df; --soft: #9aa3ad; --line: #33383f; --bar: #3d4a5c; --mine: #5fa8d8; --dot: #e7e5df; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 Georgia, serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; }
h1 { font-weight: normal; } h2 { font-weight: normal; border-bottom: 1px solid var(--line); margin-top: 3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .2rem; } p, dl { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .85rem; } dd { margin: 0; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; } text { fill: var(--ink); }
.bar { fill: var(--bar); } .mine { fill: var(--mine); } .dot { fill: var(--dot); fill-opacity: .55; } .soft { fill: var(--soft); }
"""


def as_html(report: Report) -> str:
    """Return the page."""
    facts = "".join(f"<dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd>" for n, v in report.facts.items())
    body = "".join(_table(report, table) for table in report.tables)
    failures = "".join(
        f"<li>{html.escape(step)} on {html.escape(way)}: {html.escape(error)}</li>"
        for (step, way), figure in report.figures.items()
        for error in sorted(set(figure.errors))
    )
    if failures:
        body += f"<h2>Did not give a figure</h2><ul>{failures}</ul>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>systrap bench</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>What it costs</h1><p>{report.rounds} rounds, all ways in turn in each. "
        "Bars are medians, dots are the rounds; scales are logarithmic and begin at a tenth of the shortest bar.</p>"
        f"<dl>{facts}</dl>{body}</body></html>\n"
    )


def _table(report: Report, table: Table) -> str:
    parts = [f"<h2>{html.escape(table.title)}</h2>"]
    if len(table.columns) == 1:
        column = table.columns[0]
        bars = [
            (title, report.figures[(name, column)]) for name, title in table.rows if (name, column) in report.figures
        ]
        return parts[0] + _bars(bars)
    for name, title in table.rows:
        bars = [(way, report.figures[(name, way)]) for way in table.columns if (name, way) in report.figures]
        value = ratio(report.figures, name, "systrap", table.peer) if table.peer else None
        note = f" — systrap takes {value:.2f} of {table.peer}" if value is not None else ""
        parts.append(f"<h3>{html.escape(title)}{html.escape(note)}</h3>{_bars(bars)}")
    return "".join(parts)


def _bars(bars: Sequence[tuple[str, Figure]]) -> str:
    """Draw one bar for each figure that has a median."""
    shown = [
        (label, figure, figure.median) for label, figure in bars if figure.median is not None and figure.median > 0
    ]
    if not shown:
        return "<p>nothing to show</p>"
    low = min(median for _, _, median in shown) / 10
    high = max([median for _, _, median in shown] + [max(figure.samples) for _, figure, _ in shown])
    room = _WIDTH - _LABEL - _VALUE

    def place(value: float) -> float:
        if value <= low:
            return 0.0
        return room * math.log(value / low) / math.log(high / low)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {len(shown) * (_BAR + 6)}" role="img" width="{_WIDTH}">']
    for index, (label, figure, median) in enumerate(shown):
        top = index * (_BAR + 6)
        css = "mine" if label.startswith("systrap") else "bar"
        middle = top + _BAR / 2
        parts.append(
            f"<g><title>{html.escape(label)}: {amount(median)} {spread(figure)}</title>"
            f'<text x="{_LABEL - 8}" y="{middle + 4}" text-anchor="end">{html.escape(_short(label))}</text>'
            f'<rect class="{css}" x="{_LABEL}" y="{top}" width="{place(median):.1f}" height="{_BAR}" rx="2"/>'
        )
        parts += [
            f'<circle class="dot" cx="{_LABEL + place(sample):.1f}" cy="{middle}" r="2"/>' for sample in figure.samples
        ]
        parts.append(f'<text class="soft" x="{_WIDTH - _VALUE + 8}" y="{middle + 4}">{amount(median)}</text></g>')
    return "".join(parts) + "</svg>"


def _short(label: str) -> str:
    return label if len(label) <= 36 else label[:35] + "…"
