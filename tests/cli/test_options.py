"""The option parser: strace's habits, and errors that help."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.cli.options import Option, UsageError, describe, parse

OPTIONS = (
    Option("--rw", "let guests write below PATH", "PATH", repeat=True),
    Option("--cwd", "start in DIR", "DIR"),
    Option("--platform", "which", "NAME", choices=("ptrace", "systrap")),
    Option("--output", "write the log to FILE instead of standard error", "FILE", short="-o"),
    Option("--trace", "show system calls"),
)


def test_values_switches_and_the_rest() -> None:
    parsed = parse(OPTIONS, ["--rw", "/a", "--rw=/b", "--trace", "--", "prog", "--rw", "x"])
    assert parsed.all("--rw") == ["/a", "/b"]
    assert parsed.given("--trace")
    assert not parsed.given("--cwd")
    assert parsed.one("--cwd", "/") == "/"
    assert parsed.rest == ["prog", "--rw", "x"]


def test_the_first_word_ends_the_options() -> None:
    assert parse(OPTIONS, ["--trace", "ls", "--trace"]).rest == ["ls", "--trace"]
    assert parse(OPTIONS, ["-", "x"]).rest == ["-", "x"]


def test_short_options_with_and_without_space() -> None:
    assert parse(OPTIONS, ["-o", "f", "p"]).one("--output", "") == "f"
    assert parse(OPTIONS, ["-of", "p"]).one("--output", "") == "f"


def test_an_empty_value_is_a_value() -> None:
    assert parse(OPTIONS, ["--cwd=", "p"]).one("--cwd", "/") == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rx", "p"], "unknown option --rx (did you mean --rw?)"),
        (["--zzzzzz"], "unknown option --zzzzzz"),
        (["--cwd"], "--cwd needs a value: --cwd DIR"),
        (["--trace=1"], "--trace takes no value"),
        (["--cwd", "/", "--cwd", "/"], "--cwd stands there twice"),
        (["--platform", "ptrase"], "there is no such thing (did you mean ptrace?); choose from ptrace, systrap"),
    ],
)
def test_errors(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(OPTIONS, arguments)
    assert words in str(caught.value)


@given(st.lists(st.text(max_size=6), max_size=6), st.lists(st.text(max_size=6), max_size=4))
def test_what_stands_behind_the_dashes_is_never_touched(values: list[str], rest: list[str]) -> None:
    arguments = [word for value in values for word in ("--rw", value)]
    parsed = parse(OPTIONS, [*arguments, "--", *rest])
    assert parsed.all("--rw") == values
    assert parsed.rest == rest


def test_help_fits_a_terminal() -> None:
    text = describe(OPTIONS)
    assert all(len(line) < 80 for line in text.splitlines())
    assert "-o, --output FILE" in text
    assert "let guests write below PATH" in text
