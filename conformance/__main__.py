"""``python3 -m conformance``: run the cases against a driver, or list them."""

import argparse
import fnmatch
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from conformance.case import Case, CaseError, load_all
from conformance.runner import GOOD, SUITE, Runner, Verdict


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m conformance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run cases and print a verdict for each; status 0 when all are good")
    run.add_argument("--driver", required=True, metavar="CMD", help="the driver's command line, as for a shell")
    run.add_argument("--report", metavar="FILE", type=Path, help="write the verdicts as JSON lines, too")
    listing = commands.add_parser("list", help="list the cases")
    for command in (run, listing):
        command.add_argument("--only", metavar="GLOB", default="*", help="only ids that match, as SYS-*")
        command.add_argument("--tier", metavar="N", type=int, default=99, help="only tiers up to N")
        command.add_argument("--arch", default=os.uname().machine, help="the guests' architecture (%(default)s)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Carry out a command line; return the exit status."""
    options = _arguments().parse_args(arguments)
    only, tier = str(options.only), int(options.tier)
    try:
        every = list(load_all(str(options.arch)))
    except CaseError as error:
        sys.stderr.write(f"conformance: {error}\n")
        return 2
    cases = [case for case in every if fnmatch.fnmatchcase(case.id, only) and case.tier <= tier]
    if options.command == "list":
        for case in cases:
            sys.stdout.write(f"{case.id:18} tier {case.tier} {case.level:6} {case.title}\n")
        return 0
    if not cases:
        sys.stderr.write(f"conformance: no case matches {only}\n")
        return 2
    return _run(shlex.split(str(options.driver)), cases, options.report)


def _run(command: list[str], cases: Sequence[Case], report: Path | None) -> int:
    runner = Runner(command)
    verdicts: list[Verdict] = []
    try:
        for verdict in runner.run(cases):
            verdicts.append(verdict)
            _print(verdict, command)
    finally:
        runner.close()
    counts = Counter(verdict.status.value for verdict in verdicts)
    summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    sys.stdout.write(f"{len(verdicts)} cases: {summary}\n")
    if report is not None:
        _write_report(report, runner, verdicts)
    return 0 if all(verdict.status in GOOD for verdict in verdicts) else 1


def _print(verdict: Verdict, command: list[str]) -> None:
    case = verdict.case
    sys.stdout.write(f"{verdict.status.value:12}{case.id:18}{case.title}\n")
    if verdict.reason:
        sys.stdout.write(f"            {verdict.reason}\n")
    if verdict.status not in GOOD:
        for line in verdict.transcript:
            sys.stdout.write(f"            {line}\n")
        again = shlex.join(["python3", "-m", "conformance", "run", "--only", case.id, "--driver", shlex.join(command)])
        sys.stdout.write(f"            again: {again}\n")
    sys.stdout.flush()


def _write_report(path: Path, runner: Runner, verdicts: Sequence[Verdict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"suite": SUITE, "driver": runner.hello}) + "\n")
        for verdict in verdicts:
            case = verdict.case
            row = {"id": case.id, "level": case.level, "tier": case.tier, "status": verdict.status.value}
            file.write(json.dumps({**row, "require": case.require, "reason": verdict.reason}) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
