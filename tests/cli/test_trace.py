"""What ``trace`` understands of a command line, without running anything."""

import pytest

from systrap.cli import run, trace
from systrap.cli.main import main
from systrap.cli.options import UsageError, parse
from systrap.cli.trace_options import asked_for
from systrap.cli.tracing import Plan, understand


def plan(*arguments: str) -> Plan:
    tracing = asked_for(parse(trace.OPTIONS, [*arguments, "--", "true"]), True)
    assert tracing is not None
    return understand(tracing)


def test_switches_can_stand_together_as_getopt_has_it() -> None:
    found = plan("-fyTtt", "-s7", "-xx", "-qq", "-o", "f", "-v")
    assert (found.style.paths, found.style.limit, found.style.hexadecimal, found.style.verbose) == (True, 7, 2, True)
    assert (found.look.durations, found.look.clock, found.look.quiet, found.look.pids) == (True, 2, 2, 2)
    assert plan("-tt").look.clock == 2


def test_expressions() -> None:
    found = plan("-e", "openat,read", "-e", "signal=!CHLD", "-e", "status=failed", "-e", "fault=read:when=2")
    assert found.selected.calls == frozenset({"openat", "read"})
    assert found.selected.signals is not None
    assert 17 not in found.selected.signals
    assert found.selected.statuses == frozenset({"failed"})
    assert (found.injections[0].result, found.injections[0].first) == (-38, 2)
    assert plan("-e", "trace=read", "-e", "t=write").selected.calls == frozenset({"write"})
    assert plan("-Z").selected.statuses == frozenset({"failed"})


def test_a_summary_takes_the_place_of_lines() -> None:
    assert (plan("-c").lines, plan("-c").summary is None) == (False, False)
    assert (plan("-C").lines, plan("-C").summary is None) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-e", "opennat"), "did you mean openat"),
        (("-e", "trase=read"), "did you mean trace"),
        (("-S", "clals"), "did you mean calls"),
        (("-s", "x"), "takes a number"),
        (("-z", "-Z"), "exclude each other"),
        (("-ff",), "needs -o FILE"),
        (("-ff", "-o", "f", "--json"), "exclude each other"),
        (("-p", "1"), "unknown option -p"),
        (("-e", "inject=read"), "what is to happen"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(*arguments)
    assert words in str(caught.value)


def test_run_traces_when_anything_of_it_is_asked_for() -> None:
    def asked(*arguments: str) -> tuple[bool, tuple[str | None, str | None]] | None:
        found = asked_for(parse(run.OPTIONS, [*arguments, "true"]), False)
        return None if found is None else (found.lines, found.events)

    assert asked() is None
    assert asked("--trace") == (True, (None, None))
    assert asked("-c") == (True, (None, None))
    assert asked("--trace-out", "f") == (False, ("f", None))
    assert asked("--report=p", "-e", "read") == (True, (None, "p"))


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--help"]) == 0
    out = capsys.readouterr().out
    for words in ("-e inject=SET:WHAT", "%network", "--report FILE", "Examples:", "--syscall-trap"):
        assert words in out
    assert main(["run", "--help"]) == 0
    assert "--summary-only" not in capsys.readouterr().out
    assert main(["trace"]) == 125
    assert "which program?" in capsys.readouterr().err
