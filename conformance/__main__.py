"""``python3 -m conformance``: run the cases against a driver, list and explain them, and work with reports.

Exit status: 0 when all is well, 1 when something is not (diff: when something got worse), 2 when the command line, a case or
a file makes no sense.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from conformance import commands
from conformance.case import CaseError
from conformance.explain import explain
from conformance.pool import default_jobs
from conformance.report import ReportError
from conformance.runner import PATIENCE
from conformance.selection import ERRATA, LEVELS, Selection, SelectionError

EXIT_USAGE: Final = 2


def _count(text: str) -> int:
    """Read a number of things, of which there is one at least."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _seconds(text: str) -> float:
    """Read a time."""
    if not 0 < float(text) < 86400:
        raise ValueError(text)
    return float(text)


def _add_driver(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--driver", required=True, metavar="CMD", type=shlex.split, help="the driver's command line, as for a shell")
    _add_report(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--timeout", metavar="S", type=_seconds, default=PATIENCE, dest="patience",
        help="seconds that an answer may take beyond what a case grants its guests (%(default)s)")  # fmt: skip
    add("-v", "--verbose", action="store_true", help="tell of every case, not only of what is not good")
    add("--report", metavar="FILE", type=Path, help="write a report as JSON lines")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--only", metavar="GLOB", action="append", help="only ids that match, as SYS-*; may be given again")
    add("--tier", metavar="N", type=int, default=99, help="only tiers up to N")
    add("--level", choices=LEVELS, default="may", help="only cases that bind at least so much (%(default)s: all)")
    add("--arch", default=os.uname().machine, help="the guests' architecture (%(default)s)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = parser.add_subparsers(dest="command", required=True)

    one = named.add_parser("run", help="run cases against a driver")
    _add_driver(one)
    _add_selection(one)
    add = one.add_argument
    add("--skip-file", metavar="FILE", type=Path, help='cases to leave out: "GLOB REASON" on each line')
    add("--skipped-must-fail", action="store_true", help="run them all the same: one that passes is a failure")
    add("--certified", action="store_true", help="a case that is skipped is a failure, too")
    add("--jobs", metavar="N", type=_count, default=default_jobs(), help="drivers at the same time (%(default)s)")
    add("--seed", metavar="N", type=int, help="shuffle the cases, and choose random values, by this number")
    add("--errata", metavar="FILE", type=Path, default=ERRATA, help="what is known to be broken on some hosts")
    add("--no-second-look", action="store_true", help="do not run failures again to tell whether they are flaky")

    one = named.add_parser("stub", help="run what a stub image alone decides, with a sentry that takes other images")
    add = one.add_argument
    add("--blob", metavar="FILE", type=Path, required=True, help="the image: upstream's sysmsg blob, or a port's")
    add("--manifest", metavar="FILE", type=Path, required=True, help="its exports, as JSON (docs/foreign.md)")
    add("--sentry", metavar="CMD", type=shlex.split, default=[sys.executable, "-m", "systrap", "driver"],
        help="the driver of a sentry that takes --stub-blob and --stub-manifest (ours)")  # fmt: skip
    add("--only", metavar="GLOB", action="append", help="only ids that match (all that is a stub's affair)")
    _add_report(one)
    add("--jobs", metavar="N", type=_count, default=default_jobs(), help="drivers at the same time (%(default)s)")
    one = named.add_parser("sentry", help="run what a sentry alone decides, against a stub that the suite plays")
    _add_driver(one)
    one.add_argument(
        "--only", metavar="GLOB", action="append", default=None, help="only ids that match, as SENTRY-INT-*"
    )
    one.add_argument(
        "--jobs", metavar="N", type=_count, default=default_jobs(), help="drivers at the same time (%(default)s)"
    )

    _add_driver(named.add_parser("smoke", help="a first look at a driver: does it speak the protocol at all?"))
    _add_selection(named.add_parser("list", help="list the cases"))
    one = named.add_parser("export", help="write the cases as canonical JSON, for other runners")
    _add_selection(one)
    one.add_argument("--output", metavar="FILE", type=Path, help="where to (stdout)")
    one = named.add_parser("explain", help="tell all about a case")
    one.add_argument("id", metavar="ID")
    one.add_argument("--arch", default=os.uname().machine, help="the guests' architecture (%(default)s)")

    one = named.add_parser("report", help="turn a report into another form")
    one.add_argument("report", metavar="REPORT", type=Path)
    form = one.add_mutually_exclusive_group(required=True)
    for name in commands.FORMS:
        form.add_argument(f"--{name}", action="store_const", dest="form", const=name)
    one.add_argument("--output", metavar="FILE", type=Path, help="where to (stdout)")
    one = named.add_parser(
        "diff", help="tell what changed from one report to another; status 1 when something got worse"
    )
    one.add_argument("old", metavar="OLD", type=Path)
    one.add_argument("new", metavar="NEW", type=Path)
    return parser


def _stub(options: argparse.Namespace) -> int:
    command = [*options.sentry, "--stub-blob", str(options.blob), "--stub-manifest", str(options.manifest)]
    settings = commands.RunOptions(
        command, jobs=options.jobs, report=options.report, patience=options.patience, verbose=options.verbose
    )
    return commands.run(Selection("x86_64", tuple(options.only or commands.STUB_AFFAIRS)), settings)


def _sentry(options: argparse.Namespace) -> int:
    settings = commands.RunOptions(
        options.driver, jobs=options.jobs, report=options.report, patience=options.patience, verbose=options.verbose
    )
    return commands.run_sentry(tuple(options.only or ("*",)), settings)


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(str(options.arch), tuple(options.only or ("*",)), int(options.tier), str(options.level))


def _run(options: argparse.Namespace) -> int:
    settings = commands.RunOptions(
        options.driver,
        skip_file=options.skip_file,
        skipped_must_fail=options.skipped_must_fail,
        certified=options.certified,
        jobs=options.jobs,
        seed=options.seed,
        report=options.report,
        patience=options.patience,
        errata=options.errata,
        second_look=not options.no_second_look,
        verbose=options.verbose,
    )
    return commands.run(_selection(options), settings)


def _smoke(options: argparse.Namespace) -> int:
    settings = commands.RunOptions(options.driver, report=options.report, patience=options.patience, verbose=True)
    return commands.smoke(settings._replace(jobs=1, seed=0))


def _carry_out(options: argparse.Namespace) -> int:
    """Carry out the command that was chosen. Raises CaseError, SelectionError, ReportError, OSError."""
    match options.command:
        case "run":
            return _run(options)
        case "stub":
            return _stub(options)
        case "sentry":
            return _sentry(options)
        case "smoke":
            return _smoke(options)
        case "list":
            return commands.list_cases(_selection(options))
        case "export":
            return commands.export_cases(_selection(options), options.output)
        case "explain":
            sys.stdout.write(explain(str(options.id), str(options.arch)))
            return 0
        case "report":
            return commands.show_report(options.report, str(options.form), options.output)
        case _:
            return commands.show_difference(options.old, options.new)


def main(arguments: Sequence[str]) -> int:
    """Carry out a command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status = _carry_out(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except (CaseError, SelectionError, ReportError, OSError) as error:
        sys.stderr.write(f"conformance: {error}\n")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
