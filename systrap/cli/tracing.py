"""A traced run: what the command line asks for becomes a log of calls, a recorder of events, a kernel that tells.

Imported when a run is traced; an untraced one pays nothing for it.
"""

from typing import Final, NamedTuple, TextIO

from systrap.cli.options import Parsed, UsageError, did_you_mean
from systrap.cli.trace_options import Tracing
from systrap.platform import Platform
from systrap.sentry.kernel import Config, Kernel
from systrap.sentry.syscalls.numbers import NAMES, NUMBERS
from systrap.sentry.traced import TracedKernel
from systrap.trace.call import Style
from systrap.trace.events import Recorder
from systrap.trace.filters import FilterError, choose_calls, choose_signals, choose_statuses
from systrap.trace.inject import Injection, Injector, parse
from systrap.trace.json_lines import JsonLines
from systrap.trace.lines import Lines, Look
from systrap.trace.log import CallLog, Selected, Sink
from systrap.trace.summary import SORTS, Summary
from systrap.trace.watched import WatchedPlatform

_KINDS: Final = ("trace", "signal", "status", "inject", "fault")


class Plan(NamedTuple):
    """What was asked for, understood and checked."""

    style: Style
    look: Look
    selected: Selected
    injections: list[Injection]
    lines: bool
    json: bool
    separately: str | None
    summary: Summary | None
    wall: bool
    trace_out: str | None
    report: str | None


def understand(tracing: Tracing) -> Plan:
    """Check what the command line says about tracing. Raises UsageError."""
    parsed = tracing.parsed
    try:
        selected, injections = _expressions(parsed)
    except FilterError as error:
        raise UsageError(f"-e: {error}") from None
    if parsed.given("--failed-only") or parsed.given("--successful-only"):
        if parsed.given("--failed-only") and parsed.given("--successful-only"):
            raise UsageError("-z and -Z exclude each other")
        selected = selected._replace(statuses=frozenset(("failed" if parsed.given("--failed-only") else "successful",)))
    sort = parsed.one("--summary-sort-by", "time")
    if sort not in SORTS:
        raise UsageError(f"-S {sort}: one can sort by {', '.join(SORTS)}{did_you_mean(sort, SORTS)}")
    only = parsed.given("--summary-only")
    separately = parsed.one("--output", "") if parsed.given("--output-separately") else None
    if parsed.given("--json") and separately is not None:
        raise UsageError("--json and -ff exclude each other: each JSON object has its pid")
    return Plan(
        style=Style(
            limit=_number(parsed, "--string-limit", 32),
            hexadecimal=2 if parsed.given("-xx") else 1 if parsed.given("--strings-in-hex") else 0,
            paths=parsed.given("--decode-fds"),
            verbose=parsed.given("--no-abbrev"),
        ),
        look=_look(parsed),
        selected=selected,
        injections=injections,
        lines=tracing.lines and not only,
        json=parsed.given("--json"),
        separately=separately,
        summary=Summary(sort) if only or parsed.given("--summary") else None,
        wall=parsed.given("--summary-wall-clock"),
        trace_out=tracing.events[0],
        report=tracing.events[1],
    )


def _look(parsed: Parsed) -> Look:
    clock = 3 if parsed.given("-ttt") else 2 if parsed.given("-tt") else 1 if parsed.given("-t") else 0
    separately = parsed.given("--output-separately")
    return Look(
        clock=clock,
        relative=parsed.given("--relative-timestamps"),
        durations=parsed.given("--syscall-times"),
        pids=0 if separately else 2 if parsed.given("--output") else 1,
        quiet=2 if parsed.given("-qq") else 1 if parsed.given("--quiet") else 0,
        column=_number(parsed, "--columns", 40),
        numbers=parsed.given("--syscall-number"),
        pointers=parsed.given("--instruction-pointer"),
    )


def _number(parsed: Parsed, name: str, default: int) -> int:
    text = parsed.one(name, str(default))
    if not text.isdigit() or int(text) > 1 << 20:
        raise UsageError(f"{name} {text}: it takes a number from 0 to {1 << 20}")
    return int(text)


def _expressions(parsed: Parsed) -> tuple[Selected, list[Injection]]:
    """Understand all -e. Of several of a kind the last one counts, as with strace; injections add up. Raises FilterError."""
    selected = Selected()
    injections: list[Injection] = []
    for expression in parsed.all("--expr"):
        kind, equals, value = expression.partition("=")
        if not equals:
            kind, value = "trace", expression
        kind = {"t": "trace", "s": "signal", "signals": "signal"}.get(kind, kind)
        if kind == "trace":
            selected = selected._replace(calls=choose_calls(value, NUMBERS))
        elif kind == "signal":
            selected = selected._replace(signals=choose_signals(value))
        elif kind == "status":
            selected = selected._replace(statuses=choose_statuses(value))
        elif kind in ("inject", "fault"):
            injections.append(parse(value, NUMBERS, kind == "fault"))
        else:
            raise FilterError(
                f"{expression}: there is no {kind}={did_you_mean(kind, _KINDS)}; there are {', '.join(_KINDS)}"
            )
    return selected, injections


class TracedRun:
    """Everything a traced run has besides: made before it, written out after it."""

    def __init__(self, plan: Plan, platform: Platform, out: TextIO, live: bool) -> None:
        """``out``: where lines go; ``live``: somebody watches it. Raises OSError when a file cannot be written."""
        self._plan = plan
        self._out = out
        self.recorder = Recorder() if plan.trace_out or plan.report else None
        # Opened now: it is no use to learn at the end of a long run that it cannot be written.
        self._files = {path: _create(path) for path in (plan.trace_out, plan.report) if path}
        self.watched = WatchedPlatform(platform, self.recorder) if self.recorder is not None else None
        self._tasks: list[TextIO] = []
        sink: Sink | None = None
        if plan.lines:
            sink = JsonLines(out) if plan.json else Lines(out, plan.look, live, self._open if plan.separately else None)
        self._log: CallLog | None = None
        if plan.lines or plan.summary is not None:
            self._log = CallLog(NAMES, plan.style, plan.selected, sink, plan.summary, plan.wall)

    def _open(self, tid: int) -> TextIO:
        file = _create(f"{self._plan.separately}.{tid}")
        self._tasks.append(file)
        return file

    def kernel(self, platform: Platform, config: Config) -> Kernel:
        """Return the kernel that tells."""
        injector = Injector(self._plan.injections) if self._plan.injections else None
        if self.watched is None or self.recorder is None:
            return TracedKernel(platform, config, self._log, injector)
        from systrap.sentry.eventful import EventfulKernel

        return EventfulKernel(self.watched, config, self.recorder, self.watched.number, self._log, injector)

    def finish(self, title: str) -> None:
        """Write what is written at the end: the summary, the timeline, the report."""
        if self._log is not None:
            text = self._log.close()
            if text:
                self._out.write(text + "\n")
                self._out.flush()
        for file in self._tasks:
            file.close()
        recorder = self.recorder
        if recorder is None or self.watched is None:
            return
        from systrap.cli.stub_picture import regions_of
        from systrap.trace.chrome import write_chrome
        from systrap.trace.report import write_report
        from systrap.trace.timeline import build

        timeline = build(recorder.events, NAMES)
        if self._plan.trace_out:
            write_chrome(timeline, self._files[self._plan.trace_out])
        if self._plan.report:
            write_report(
                timeline, title, regions_of(self.watched.inner), recorder.dropped, self._files[self._plan.report]
            )
        for file in self._files.values():
            file.close()
        if recorder.dropped:
            self._out.write(f"systrap: the timeline ends early: {recorder.dropped} events did not fit\n")


def _create(path: str) -> TextIO:
    return open(path, "w", encoding="utf-8", errors="backslashreplace")
