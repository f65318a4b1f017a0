"""A report as one self-contained HTML page: summary, what went wrong, statements by tier, all cases."""

import datetime
import shlex
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from conformance.report import Report, Row
from conformance.statements import statements
from conformance.verdict import MEANING, TIERS, Status

_PAGE: Final = Path(__file__).parent / "page.html"

_ORDER: Final = (
    Status.FAIL,
    Status.CRASH,
    Status.TIMEOUT,
    Status.ERROR,
    Status.UNKNOWN,
    Status.KNOWN_ERRATUM,
    Status.SKIPPED,
    Status.UNSUPPORTED,
    Status.PASS,
)
"""From worst to best: how things are sorted and coloured."""

_LINE_CLASSES: Final = {">": "out", "<": "in", "!": "log"}
_OPEN: Final = 3
"""How many failures show their last lines unasked."""
_SHOWN: Final = 25
"""How many failures are shown unasked: whoever has more than that has one mistake behind many of them."""

_SIGNS: Final = {Status.FAIL: "×", Status.CRASH: "†", Status.TIMEOUT: "…", Status.ERROR: "!", Status.UNKNOWN: "?"}
"""What a square shows besides its colour."""

_PROTOCOL: Final = "(protocol)"


def html(report: Report) -> str:
    """Return the page."""
    bad, driver, total = report.bad(), report.driver, len(report.rows)
    counts = report.counts()
    words = ", ".join(f"{counts[status]} {status.value}" for status in _ORDER if counts[status])
    badge = report.badge()
    parts = {
        "title": escape(f"{driver['name']}: conformance"),
        "driver": escape(f"{driver['name']} {driver['version']}".strip()),
        "subtitle": escape(_subtitle(report)),
        "stamp_class": "bad" if bad else "good",
        "stamp": f"{len(bad)} of {total} not good" if bad else f"All {total} cases good",
        "badge": f"badge: {badge}" if badge else "no badge",
        "counts_text": escape(words),
        "bar": _bar(report.rows),
        "legend": "".join(_legend(status, counts[status]) for status in _ORDER if counts[status]),
        "tiers": "".join(_tier(tier, report.rows) for tier in sorted({row.tier for row in report.rows})),
        "failures": _failures(bad, report),
        "contents": _contents(bad),
        "tier_heads": "".join(
            f'<th scope="col" title="{escape(name)}">tier {tier}</th>' for tier, name in TIERS.items()
        ),
        "matrix": _matrix(report.rows),
        "buttons": "".join(_button(status, counts[status]) for status in _ORDER if counts[status]),
        "cases": "".join(_case(row) for row in report.rows),
        "facts": _facts(report),
        "colours": "".join(_colours(status) for status in Status),
    }
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(parts)


def _colours(status: Status) -> str:
    return f".s-{status.value} {{ --s: var(--{status.value}); }}\n"


def _subtitle(report: Report) -> str:
    driver, header = report.driver, report.header
    written = f"written in {driver['language']}, " if driver["language"] else ""
    return f"{written}conformance suite {header.get('suite')}, {_moment(str(header.get('started')))}"


def _moment(text: str) -> str:
    """Return a time of a report for people; anything else as it is."""
    try:
        moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _share(rows: tuple[Row, ...] | list[Row]) -> list[tuple[Status, int]]:
    found = [(status, sum(row.status is status for row in rows)) for status in reversed(_ORDER)]
    return [(status, count) for status, count in found if count]


def _bar(rows: tuple[Row, ...] | list[Row]) -> str:
    return "".join(f'<i class="s-{status.value}" style="flex:{count}"></i>' for status, count in _share(rows))


def _legend(status: Status, count: int) -> str:
    dot = f'<i class="dot s-{status.value}"></i>'
    return f'<li title="{escape(MEANING[status])}">{dot}{count} {status.value}</li>'


def _button(status: Status, count: int) -> str:
    dot = f'<i class="dot s-{status.value}"></i>'
    return (
        f'<button type="button" aria-pressed="false" data-status="{status.value}">{dot}{status.value} {count}</button>'
    )


def _tier(tier: int, rows: tuple[Row, ...]) -> str:
    mine = [row for row in rows if row.tier == tier]
    passed = sum(row.status is Status.PASS for row in mine)
    head = f'<div class="head"><b>{tier}</b><span class="soft">{passed} of {len(mine)}</span></div>'
    name = escape(TIERS.get(tier, ""))
    return f'<div class="tier">{head}<p class="soft">{name}</p><div class="bar">{_bar(mine)}</div></div>'


def _failures(bad: list[Row], report: Report) -> str:
    if not bad:
        return ""
    ordered = sorted(bad, key=lambda row: (_ORDER.index(row.status), row.tier, row.id))
    # What was never run has nothing to tell but its reason, which is mostly one for all: those stand together.
    unknown = [row for row in ordered if row.status is Status.UNKNOWN]
    told = [row for row in ordered if row.status is not Status.UNKNOWN]
    cards = "".join(_failure(row, report, index < _OPEN) for index, row in enumerate(told[:_SHOWN]))
    if told[_SHOWN:]:
        rest = "".join(_failure(row, report, False) for row in told[_SHOWN:])
        cards += f'<details class="more"><summary>{len(told) - _SHOWN} more that are not good</summary>{rest}</details>'
    if unknown:
        names = " ".join(f'<a class="id" href="#{row.id}">{row.id}</a>' for row in unknown)
        reasons = "\n".join(sorted({row.reason for row in unknown}))
        cards += f'<div class="case s-unknown"><h3>{_chip(Status.UNKNOWN)}{len(unknown)} cases were not run</h3>'
        cards += f'<div class="why">{escape(reasons)}</div>{names}</div>'
    return f'<h2 id="bad">What is not good</h2>{cards}'


def _contents(bad: list[Row]) -> str:
    """Return links to the page's parts."""
    parts = {"tiers": "Tiers", "requirements": "Requirements", "all": "All cases", "run": "This run"}
    if bad:
        parts = {"bad": f"What is not good ({len(bad)})", **parts}
    return "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in parts.items())


def _chip(status: Status) -> str:
    return f'<span class="chip s-{status.value}" title="{escape(MEANING[status])}">{status.value}</span>'


def _failure(row: Row, report: Report, is_open: bool) -> str:
    head = f'<h3>{_chip(row.status)}<a class="id" href="#{row.id}">{row.id}</a> {escape(row.title)}</h3>'
    texts = statements()
    told = "".join(f"<br><code>{escape(name)}</code> {escape(texts.get(name, ''))}" for name in row.require)
    about = f'<div class="soft">tier {row.tier}, {escape(row.level)}{", flaky" if row.flaky else ""}{told}</div>'
    lines = "\n".join(_line(line) for line in row.transcript)
    talk = (
        f"<details{' open' if is_open else ''}><summary>the last lines</summary><pre>{lines}</pre></details>"
        if lines
        else ""
    )
    again = escape(rerun(row.id, report))
    return (
        f'<div class="case s-{row.status.value}">{head}{about}<div class="why"><code>{escape(row.reason)}</code></div>'
        f"{talk}<details><summary>run it again</summary><pre class='run-again'>{again}</pre></details></div>"
    )


def rerun(identity: str, report: Report) -> str:
    """Return the command that runs a case of a report again."""
    command = report.header.get("command")
    driver = shlex.join(map(str, command)) if isinstance(command, list) else "DRIVER"
    words = ["python3", "-m", "conformance", "run", "--only", identity, "--seed", str(report.header.get("seed", 0))]
    return shlex.join([*words, "--driver", driver])


def _line(line: str) -> str:
    return f'<span class="{_LINE_CLASSES.get(line[:1], "in")}">{escape(line)}</span>'


def _matrix(rows: tuple[Row, ...]) -> str:
    """Return a table row for each statement that cases name, the worst first."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        for name in row.require or (_PROTOCOL,):
            by_name.setdefault(name, []).append(row)

    def worst(name: str) -> tuple[int, bool, str]:
        rank = min(_ORDER.index(row.status) for row in by_name[name])
        return (rank if rank < _ORDER.index(Status.KNOWN_ERRATUM) else len(_ORDER), name == _PROTOCOL, name)

    texts = statements()
    out = []
    for name in sorted(by_name, key=worst):
        cells = "".join(f"<td>{_marks(by_name[name], tier)}</td>" for tier in TIERS)
        head = f'<code>{escape(name)}</code> <span class="soft">{escape(texts.get(name, ""))}</span>'
        out.append(f'<tr><th scope="row">{head}</th>{cells}</tr>')
    return "".join(out)


def _marks(rows: list[Row], tier: int) -> str:
    mine = [row for row in rows if row.tier == tier]
    return "".join(_mark(row) for row in sorted(mine, key=lambda row: (row.good, row.id)))


def _mark(row: Row) -> str:
    text = escape(f"{row.id}: {row.status.value} – {row.title}")
    hollow = "" if row.status is Status.PASS or not row.good else " hollow"
    sign = _SIGNS.get(row.status, "")
    return (
        f'<a class="mark s-{row.status.value}{hollow}" href="#{row.id}" title="{text}" aria-label="{text}">{sign}</a>'
    )


def _case(row: Row) -> str:
    names = " ".join(f"<code>{escape(name)}</code>" for name in row.require)
    why = f'<div class="soft">{escape(row.reason)}</div>' if row.reason else ""
    return (
        f'<tr id="{row.id}" data-status="{row.status.value}"><td>{_chip(row.status)}</td>'
        f'<td class="id">{row.id}</td><td>{row.tier}</td><td>{escape(row.level)}</td>'
        f'<td class="text">{escape(row.title)}{why}</td><td>{names}</td><td class="num">{row.seconds * 1000:.0f}</td></tr>'
    )


def _facts(report: Report) -> str:
    header = report.header
    hello, host, command = header.get("driver"), header.get("host"), header.get("command")
    facts = {
        "driver command": shlex.join(map(str, command)) if isinstance(command, list) else "",
        "versions": f"suite {header.get('suite')}, protocol {header.get('protocol')}, specification {header.get('spec')}",
        "host": ", ".join(map(str, host.values())) if isinstance(host, dict) else "",
        "seed": str(header.get("seed")),
        "took": f"{report.seconds:.1f} s",
    }
    if isinstance(hello, dict):
        caps = hello.get("caps")
        facts["capabilities"] = ", ".join(map(str, caps)) if isinstance(caps, list) else ""
        facts["guests"] = f"{hello.get('arch')}, pages of {hello.get('page_size')} bytes, {hello.get('va_bits')} bits"
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
