"""``systrap bench``: what it runs, what it makes of the answers, how it shows them. No figure is judged here."""

import html.parser
import json
import sys
import time
from pathlib import Path

import pytest

from systrap import arch
from systrap.bench import measure, page, plan, render
from systrap.bench.measure import CellError, Figure
from systrap.bench.plan import Cell, Step, Way
from systrap.cli import bench
from systrap.cli.options import UsageError
from tests.programs.leftovers import is_alive

ON_X86 = pytest.mark.skipif(arch.host().NAME != "x86_64", reason="native steps of x86-64")


def say(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "import sys; sys.stdout.write(sys.argv[1])", text)


@pytest.mark.parametrize("output", [b"", b"getpid", b"getpid x 5\n", b"getpid 0 5\n", b"getpid 5 -5\n", b"a b c d"])
def test_what_is_no_figure_is_an_error(output: bytes) -> None:
    with pytest.raises(CellError, match="instead of a figure"):
        measure.parse_figure(output)


def test_a_figure_is_nanoseconds_of_one_repetition() -> None:
    assert measure.parse_figure(b"getpid 1000 250000\n") == 250.0


def test_failures_are_told_and_do_not_stop_the_others() -> None:
    cells = [
        Cell("good", "a", say("x 10 1000")),
        Cell("bad", "a", (sys.executable, "-c", "import sys; sys.exit('oh dear')")),
        Cell("missing", "a", ("/no/such/program",)),
        Cell("whole", "a", ("/bin/true",), whole=True),
    ]
    figures = measure.run(cells, 2, lambda text: None)
    assert figures[("good", "a")] == Figure([100.0, 100.0], [])
    assert figures[("bad", "a")].samples == []
    assert figures[("bad", "a")].errors == ["exit status 1: oh dear"] * 2
    assert figures[("missing", "a")].errors[0].startswith("cannot be started")
    assert all(sample > 0 for sample in figures[("whole", "a")].samples)


def test_what_takes_too_long_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "LIMIT", 0.5)
    pid_file = tmp_path / "pid"
    cell = Cell("slow", "a", ("/bin/sh", "-c", f"sleep 1000 & echo $! >{pid_file}; wait"))
    figures = measure.run([cell], 1, lambda text: None)
    assert "took longer" in figures[("slow", "a")].errors[0]
    deadline = time.monotonic() + 10
    while is_alive(int(pid_file.read_text())):
        assert time.monotonic() < deadline, "it outlived the measurement"
        time.sleep(0.01)


def test_every_cell_runs_once_in_a_round_and_the_order_turns() -> None:
    order: list[str] = []
    cells = [Cell(str(number), "a", say("x 1 1")) for number in range(3)]
    measure.run(cells, 2, lambda text: order.append(text.split(": ")[1].split()[0]))
    assert sorted(order[:3]) == sorted(order[3:]) == ["0", "1", "2"]
    assert order[:3] != order[3:]


def test_overhead_is_taken_off_round_by_round() -> None:
    figures = {("fault", "w"): Figure([10.0, 12.0], []), ("discard", "w"): Figure([4.0, 5.0], ["e"])}
    cleaned = measure.without_overhead(figures)
    assert cleaned[("fault", "w")] == Figure([6.0, 7.0], ["e"])
    assert cleaned[("discard", "w")] == figures[("discard", "w")]


def test_ratios_are_formed_within_a_round() -> None:
    figures = {("s", "systrap"): Figure([10.0, 300.0, 40.0], []), ("s", "peer"): Figure([20.0, 400.0, 50.0], [])}
    assert render.ratio(figures, "s", "systrap", "peer") == 0.75
    assert render.ratio(figures, "s", "systrap", "nobody") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.14159, "3.14 ns"), (31.4, "31.4 ns"), (314.0, "314 ns"), (3.14e4, "31.4 µs"), (2.5e9, "2.50 s")],
)
def test_amounts_have_three_digits(value: float, text: str) -> None:
    assert render.amount(value) == text


def a_report() -> render.Report:
    figures = {
        ("getpid", "native"): Figure([100.0, 110.0, 105.0], []),
        ("getpid", "systrap"): Figure([3000.0, 3100.0, 2900.0], []),
        ("getpid", "runsc-systrap"): Figure([4000.0, 4100.0, 4200.0], ["<exit> & 1"]),
    }
    table = render.Table(
        "Steps", (("getpid", "a system call"),), ("native", "systrap", "runsc-systrap"), "runsc-systrap"
    )
    return render.Report({"cpu": "one <of> these"}, 3, (table,), figures)


def test_the_text_shows_medians_spread_ratio_and_failures() -> None:
    text = render.as_text(a_report())
    for wanted in ("105 ns", "3.00 µs", "-3…+3 %", "0.75", "<exit> & 1"):
        assert wanted in text


def test_the_json_has_every_sample() -> None:
    content = json.loads(render.as_json(a_report()))
    assert content["figures"][1]["samples"] == [3000.0, 3100.0, 2900.0]
    assert content["tables"][0]["peer"] == "runsc-systrap"


class Page(html.parser.HTMLParser):
    """Checks that what is opened is closed, and that nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bars = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in ("meta",):
            self.open.append(tag)
        self.bars += tag == "rect"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.bars += tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    parser = Page()
    text = page.as_html(a_report())
    parser.feed(text)
    assert parser.open == []
    assert parser.bars == 3
    assert "one &lt;of&gt; these" in text
    assert "&lt;exit&gt; &amp; 1" in text


def test_cells_of_slower_ways_repeat_less_but_every_thread_calls() -> None:
    step = Step("t", "t", "threads", 100, 8)
    cells = measure.step_cells([step], [Way("fast", ()), Way("slow", ("x",), 1000)], "/guest")
    assert [cell.command for cell in cells] == [("/guest", "threads", "100", "8"), ("x", "/guest", "threads", "8", "8")]


@ON_X86
def test_a_measurement_from_end_to_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Natively and under this systrap, two steps, one of them in this process's interpreter."""
    out = tmp_path / "out.json"
    arguments = [
        "--rounds",
        "1",
        "--way",
        "systrap",
        "--only",
        "signal",
        "--only",
        "space-fresh",
        "-q",
        "--json",
        str(out),
    ]
    assert bench.main(arguments) == 0
    figures = {(f["step"], f["way"]): f for f in json.loads(out.read_text())["figures"]}
    assert {key for key, figure in figures.items() if figure["median"]} == {
        ("signal", "native"),
        ("signal", "systrap"),
        ("space-fresh", "systrap"),
    }
    assert all(figure["errors"] == [] for figure in figures.values())
    assert "a signal to oneself" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--way", "sistrap"], "did you mean systrap"),
        (["--rounds", "0"], "from 1 to 1000"),
        (["--only", "nothing-like-that"], "nothing is left"),
        (["program"], "takes options only"),
    ],
)
def test_mistakes_are_told(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench.main(arguments)


def test_every_step_of_the_plan_is_one_that_the_guest_has() -> None:
    """A name that the guest does not know ends with exit status 1."""
    with measure.guest_program() as guest:
        names = {step.what for step in plan.STEPS} | {what for _, what, _ in plan.LADDER}
        cells = [Cell(name, "native", (guest, name, "2", "1")) for name in sorted(names)]
        figures = measure.run(cells, 1, lambda text: None)
    # What the machine cannot do (user dispatch on arm64, seccomp in a sandbox) may fail, but not for want of a name.
    assert not [error for figure in figures.values() for error in figure.errors if "there is no such step" in error]
    assert figures[("getpid", "native")].samples
