"""``systrap bench``: what a system call costs here, and all the rest, side by side with what else one could have used."""

import fnmatch
import sys
from typing import Final

from systrap.bench import host, measure, page, plan, render
from systrap.cli.options import Option, Parsed, UsageError, describe, did_you_mean, parse

PARTS: Final = ("ladder", "steps", "platform", "programs")

OPTIONS: Final = (
    Option("--part", "measure only this part: ladder, steps, platform, programs", "PART", repeat=True, choices=PARTS),
    Option("--only", "measure only the rows that match, such as getpid or 'threads-*'", "GLOB", repeat=True),
    Option("--way", "measure only this way (native always is), such as systrap or runsc-systrap", "NAME", repeat=True),
    Option("--rounds", "how often everything is measured; default 5", "N"),
    Option("--runsc", "compare with this runsc; default: the one on the PATH, if any", "FILE"),
    Option("--json", "write all samples to a file", "FILE"),
    Option("--html", "write a page with plots to a file", "FILE"),
    Option("--quiet", "do not tell on stderr what is being measured", short="-q"),
    Option("--help", "show this text", short="-h"),
)

_HELP: Final = """\
Measure what systrap costs on this machine, interleaved with the other ways to run a program.

usage: python3 -m systrap bench [options]

{options}

Examples:
  python3 -m systrap bench --part ladder             one getpid, from nothing to a guest kernel
  python3 -m systrap bench --runsc /opt/runsc --html bench.html
  python3 -m systrap bench --only 'threads-*' --way systrap --way runsc-systrap

Every figure is the median of the rounds. Leave the machine alone meanwhile: the load is printed, and above 0.5 or so it shows.
"""

_DEFAULT_WAYS: Final = ("native", "systrap", "systrap-ptrace", "strace", "runsc-systrap", "runsc-ptrace")
_PROGRAM_WAYS: Final = ("native", "systrap", "strace", "runsc-systrap")
_PEER: Final = "runsc-systrap"


def main(arguments: list[str]) -> int:
    """Carry out ``systrap bench``. Exit status 1 when nothing at all could be measured."""
    parsed = parse(OPTIONS, arguments)
    if parsed.given("--help"):
        sys.stdout.write(_HELP.format(options=describe(OPTIONS)))
        return 0
    if parsed.rest:
        raise UsageError(f"what is {parsed.rest[0]} for? bench takes options only")
    report = _measure(parsed)
    sys.stdout.write(render.as_text(report))
    for option, text in (("--json", render.as_json), ("--html", page.as_html)):
        path = parsed.one(option, "")
        if path:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text(report))
    return 0 if any(figure.samples for figure in report.figures.values()) else 1


def _measure(parsed: Parsed) -> render.Report:
    rounds = _rounds(parsed)
    runsc = parsed.one("--runsc", "") or None
    ways = plan.ways(runsc)
    chosen = _chosen_ways(parsed, ways)
    parts = parsed.values.get("--part", list(PARTS))
    with measure.guest_program() as guest:
        cells, tables = _plan(parsed, parts, chosen, ways, guest)
        if not cells:
            raise UsageError("nothing is left to measure: see --part, --only and --way")
        facts = host.facts(ways[_PEER].prefix[0] if _PEER in ways else None)
        figures = measure.run(cells, rounds, _silent if parsed.given("--quiet") else _tell)
    if not parsed.given("--quiet"):
        sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
    facts["load after"] = host.load()
    return render.Report(facts, rounds, tuple(tables), measure.without_overhead(figures))


def _plan(
    parsed: Parsed, parts: list[str], chosen: list[plan.Way], ways: dict[str, plan.Way], guest: str
) -> tuple[list[plan.Cell], list[render.Table]]:
    """Return what to run, and how to show it."""
    cells: list[plan.Cell] = []
    tables: list[render.Table] = []

    def add(title: str, new: list[plan.Cell], titles: dict[str, str], peer: str = "") -> None:
        if new:
            cells.extend(new)
            rows = tuple((name, text) for name, text in titles.items() if any(cell.step == name for cell in new))
            columns = tuple(dict.fromkeys(cell.way for cell in new))
            tables.append(render.Table(title, rows, columns, peer if peer in columns else ""))

    def wanted(name: str) -> bool:
        globs = parsed.values.get("--only")
        return globs is None or any(fnmatch.fnmatchcase(name, glob) for glob in globs)

    if "ladder" in parts and wanted("ladder"):
        rungs = measure.ladder_cells(ways, guest, 20_000)
        add("The ladder: one getpid", rungs, {cell.step: cell.step for cell in rungs})
    for part, steps, title in (
        ("steps", plan.STEPS, "Steps of a guest"),
        ("platform", plan.IN_PROCESS, "The platform alone"),
    ):
        if part in parts:
            names = {step.minus for step in steps if wanted(step.name)} | {s.name for s in steps if wanted(s.name)}
            found = measure.step_cells([step for step in steps if step.name in names], chosen, guest)
            add(title, found, {step.name: step.title for step in steps if step.name in names}, _PEER)
    if "programs" in parts:
        programs = [program for program in plan.programs() if wanted(program.name)]
        runners = [way for way in chosen if way.name in _PROGRAM_WAYS]
        titles = {program.name: program.title for program in programs}
        add("Whole programs", measure.program_cells(programs, runners), titles, _PEER)
    return cells, tables


def _rounds(parsed: Parsed) -> int:
    text = parsed.one("--rounds", "5")
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise UsageError(f"--rounds {text}: a number from 1 to 1000 is wanted")
    return int(text)


def _chosen_ways(parsed: Parsed, ways: dict[str, plan.Way]) -> list[plan.Way]:
    names = parsed.values.get("--way")
    if names is None:
        return [ways[name] for name in _DEFAULT_WAYS if name in ways]
    for name in names:
        if name not in ways:
            raise UsageError(f"--way {name}: there is no such way here{did_you_mean(name, list(ways))}; "
                             f"there are {', '.join(ways)}")  # fmt: skip
    return [way for name, way in ways.items() if name in ("native", *names)]


def _tell(text: str) -> None:
    sys.stderr.write(f"\r\033[K{text}" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


def _silent(text: str) -> None:
    """Tell nothing."""
