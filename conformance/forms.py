"""A report in other forms: JUnit XML, TAP 14, Markdown, and what differs between two."""

from typing import Final
from xml.sax.saxutils import escape, quoteattr

from conformance.report import Report, Row
from conformance.verdict import TIERS, Status

_BROKEN: Final = (Status.ERROR, Status.CRASH, Status.TIMEOUT, Status.UNKNOWN)


def _details(row: Row) -> str:
    return "\n".join((row.reason, *row.transcript))


def _xml(text: str) -> str:
    """Return text without what XML 1.0 cannot hold."""
    return "".join(
        char if char in "\t\n" or " " <= char < "\ud800" or "\ue000" <= char < "\ufffe" else "\ufffd" for char in text
    )


def junit(report: Report) -> str:
    """Return JUnit XML: a test suite for each tier."""
    out = ['<?xml version="1.0" encoding="UTF-8"?>\n', '<testsuites name="conformance">\n']
    for tier in sorted({row.tier for row in report.rows}):
        rows = [row for row in report.rows if row.tier == tier]
        bad = [row for row in rows if not row.good]
        errors = sum(row.status in _BROKEN for row in bad)
        skipped = sum(row.good and row.status is not Status.PASS for row in rows)
        name = quoteattr(f"tier {tier}: {TIERS.get(tier, '')}")
        seconds = sum(row.seconds for row in rows)
        out.append(
            f'<testsuite name={name} tests="{len(rows)}" failures="{len(bad) - errors}" errors="{errors}" '
            f'skipped="{skipped}" time="{seconds:.3f}">\n'
        )
        out.extend(_testcase(row) for row in rows)
        out.append("</testsuite>\n")
    out.append("</testsuites>\n")
    return "".join(out)


def _testcase(row: Row) -> str:
    head = (
        f'<testcase classname="tier{row.tier}" name={quoteattr(_xml(f"{row.id} {row.title}"))} time="{row.seconds:.3f}"'
    )
    if row.status is Status.PASS:
        return f"{head}/>\n"
    message = quoteattr(_xml(f"{row.status.value}: {row.reason}"))
    if row.good:
        return f"{head}><skipped message={message}/></testcase>\n"
    kind = "error" if row.status in _BROKEN else "failure"
    body = escape(_xml(_details(row)))
    return f'{head}><{kind} type="{row.status.value}" message={message}>{body}</{kind}></testcase>\n'


def tap(report: Report) -> str:
    """Return TAP, version 14."""
    out = ["TAP version 14\n", f"1..{len(report.rows)}\n"]
    for number, row in enumerate(report.rows, 1):
        verb = "ok" if row.good else "not ok"
        skip = (
            "" if row.status is Status.PASS or not row.good else f" # SKIP {row.status.value}: {_one_line(row.reason)}"
        )
        out.append(f"{verb} {number} - {row.id} {_one_line(row.title)}{skip}\n")
        if not row.good:
            lines = "".join(f"      {_one_line(line)}\n" for line in _details(row).splitlines())
            out.append(f"  ---\n  status: {row.status.value}\n  details: |\n{lines}  ...\n")
    return "".join(out)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("#", "\\#")


def markdown(report: Report) -> str:
    """Return Markdown, for an issue or a summary of CI."""
    driver = report.driver
    counts = ", ".join(f"{count} {status.value}" for status, count in sorted(report.counts().items(), key=str))
    out = [f"# {driver['name']} {driver['version']}: {'not conforming' if report.bad() else 'conforming'}\n\n"]
    out.append(f"Suite {report.header.get('suite')}, {len(report.rows)} cases: {counts}.")
    out.append(f" Badge: {report.badge() or 'none'}.\n\n| tier | | good | bad | left out |\n|---|---|---|---|---|\n")
    for tier in sorted({row.tier for row in report.rows}):
        rows = [row for row in report.rows if row.tier == tier]
        passed = sum(row.status is Status.PASS for row in rows)
        bad = sum(not row.good for row in rows)
        out.append(f"| {tier} | {TIERS.get(tier, '')} | {passed} | {bad} | {len(rows) - passed - bad} |\n")
    for row in report.bad():
        fence = "````"
        out.append(f"\n## {row.status.value}: {row.id}\n\n{row.title}\n\n{fence}\n{_details(row)}\n{fence}\n")
    left = [row for row in report.rows if row.good and row.status is not Status.PASS]
    if left:
        out.append("\n## Left out\n\n| case | verdict | why |\n|---|---|---|\n")
        out.extend(f"| {row.id} | {row.status.value} | {_cell(row.reason)} |\n" for row in left)
    return "".join(out)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def difference(old: Report, new: Report) -> tuple[list[str], bool]:
    """Return what changed, a line each, and whether anything got worse: a case that was good and is no more, or is gone."""
    before = {row.id: row for row in old.rows}
    after = {row.id: row for row in new.rows}
    lines: list[str] = []
    worse = False
    for identity in sorted(before.keys() | after.keys()):
        was, now = before.get(identity), after.get(identity)
        if was is not None and now is not None and was.status is now.status:
            continue
        bad = was is not None and was.good and (now is None or not now.good)
        # What passed and is now left out was not found wrong, but it is no longer shown to be right either.
        bad = bad or (
            was is not None and was.status is Status.PASS and now is not None and now.status is not Status.PASS
        )
        bad = bad or (was is None and now is not None and not now.good)
        worse = worse or bad
        words = [row.status.value if row is not None else "(absent)" for row in (was, now)]
        title = (now or was or Row("", "", "", 0, (), Status.UNKNOWN)).title
        lines.append(
            f"{'worse ' if bad else 'better' if now and now.good else 'other '} {identity:20} {words[0]} -> {words[1]}  {title}"
        )
    return lines, worse
