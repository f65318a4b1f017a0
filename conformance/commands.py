"""The commands of ``python3 -m conformance``."""

import fnmatch
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from conformance import forms, report
from conformance.case import Case
from conformance.export import export
from conformance.page import html
from conformance.pool import How, Pool, default_jobs
from conformance.runner import PATIENCE
from conformance.selection import (
    ERRATA,
    Erratum,
    Selection,
    SelectionError,
    Skips,
    apply_errata,
    choose,
    everything,
    judge_skipped,
    load_errata,
    shuffled,
)
from conformance.sentry_half import SENTRY_CHECKS
from conformance.terminal import Screen
from conformance.verdict import GOOD, Item, Status, Verdict

FORMS: Final[dict[str, Callable[[report.Report], str]]] = {
    "html": html,
    "junit": forms.junit,
    "tap": forms.tap,
    "markdown": forms.markdown,
}

STUB_AFFAIRS: Final = tuple("ABI-* SMOKE-* SYS-* REG-* FLT-* STEP-* FP-* INT-* PATCH-* CTX-* HOST-* STRESS-*".split())
"""The cases in which the stub image has a part. What is left is the sentry's: the protocol, mappings, deaths, leaks."""


class RunOptions(NamedTuple):
    """How to run. ``seed`` None: a new one, and the cases in their order. ``slow`` multiplies every time that is granted."""

    driver: Sequence[str]
    skip_file: Path | None = None
    skipped_must_fail: bool = False
    certified: bool = False
    jobs: int = default_jobs()
    seed: int | None = None
    report: Path | None = None
    patience: float = PATIENCE
    slow: float = 1.0
    errata: Path = ERRATA
    second_look: bool = True
    verbose: bool = False


def run(selection: Selection, options: RunOptions) -> int:
    """Run what is selected; return 0 when every verdict is good. Raises CaseError, SelectionError, OSError."""
    return _run(choose(selection), selection, options)


def run_sentry(only: Sequence[str], options: RunOptions) -> int:
    """Run the checks of a sentry alone on the driver of one; return 0 when every verdict is good. Raises as run() does."""
    plan: list[Item] = [check for check in SENTRY_CHECKS if any(fnmatch.fnmatchcase(check.id, glob) for glob in only)]
    if not plan:
        raise SelectionError(f"no check of a sentry matches {' '.join(only)}")
    return _run(plan, Selection("x86_64"), options)


def _run(plan: list[Item], selection: Selection, options: RunOptions) -> int:
    if not options.driver:
        raise SelectionError("the driver's command is empty")
    skips = None if options.skip_file is None else Skips(options.skip_file, everything(selection.arch))
    reasons = {item.id: skips.reason(item) for item in plan} if skips is not None else {}
    errata = load_errata(options.errata)
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    if options.seed is not None:
        plan = shuffled(plan, seed)
    screen = Screen(sys.stdout, sys.stderr, options.driver, seed, options.verbose)
    rows: list[report.Row] = []
    start = time.monotonic()
    with ExitStack() as stack:
        writer = None
        if options.report is not None:
            writer = report.Writer(stack.enter_context(options.report.open("w", encoding="utf-8")))
            writer.begin(plan, options.driver, seed)
        pool = Pool(How(options.driver, options.jobs, options.patience, seed, options.second_look, options.slow))
        for verdict in _verdicts(pool, plan, reasons, errata, options.skipped_must_fail):
            rows.append(report.row_of(verdict))
            screen.verdict(verdict, len(plan))
            if writer is not None:
                writer.verdict(verdict)
        seconds = time.monotonic() - start
        if writer is not None:
            writer.end(pool.hello, seconds, rows)
    screen.summary(rows, seconds)
    certified = not options.certified or all(row.status is not Status.SKIPPED for row in rows)
    return 0 if certified and all(row.status in GOOD for row in rows) else 1


def _verdicts(
    pool: Pool, plan: Sequence[Item], reasons: dict[str, str], errata: Sequence[Erratum], run_skipped: bool
) -> Iterator[Verdict]:
    """Yield a verdict for each case of the plan; those with a reason are skipped, whether they are run or not."""
    for item in plan:
        if reasons.get(item.id) and not run_skipped:
            yield Verdict(item, Status.SKIPPED, reasons[item.id])
    to_run = [item for item in plan if run_skipped or not reasons.get(item.id)]
    with _stopped_by_ctrl_c(pool):
        for verdict in pool.run(to_run):
            reason = reasons.get(verdict.case.id)
            yield judge_skipped(verdict, reason) if reason else apply_errata(verdict, errata)


@contextmanager
def _stopped_by_ctrl_c(pool: Pool) -> Iterator[None]:
    """Let the first Ctrl-C end the run in order: what was not run is "unknown". The second ends it at once."""

    def stop(_number: int, _frame: object) -> None:
        pool.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def smoke(options: RunOptions) -> int:
    """Run tier 0 on one driver, and tell what to do next."""
    status = run(Selection(os.uname().machine, tier=0), options)
    if status == 0:
        again = f"python3 -m conformance run --driver {shlex.quote(shlex.join(options.driver))} --tier 1"
        sys.stdout.write(f"It speaks the protocol. Next: {again}\n")
    return status


def list_cases(selection: Selection) -> int:
    """Print a line for each case."""
    for item in choose(selection):
        need = f"  [{', '.join(item.need)}]" if item.need else ""
        sys.stdout.write(f"{item.id:22} tier {item.tier} {item.level:6} {item.title}{need}\n")
    return 0


def export_cases(selection: Selection, output: Path | None) -> int:
    """Write the cases as JSON: those that are data, not the checks."""
    _write(export([item for item in choose(selection) if isinstance(item, Case)]), output)
    return 0


def show_report(path: Path, form: str, output: Path | None) -> int:
    """Write a report in another form."""
    _write(FORMS[form](report.read(path)), output)
    return 0


def show_difference(old: Path, new: Path) -> int:
    """Print what changed; 1 when something got worse."""
    lines, worse = forms.difference(report.read(old), report.read(new))
    for line in lines or ["no difference"]:
        sys.stdout.write(f"{line}\n")
    return 1 if worse else 0


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")
