"""The options of tracing, under strace's names. ``run`` has them too; ``trace`` has them and is on without any."""

from typing import Final, NamedTuple

from systrap.cli.options import Option, Parsed, UsageError

TRACING: Final = (
    Option("--expr", "what to trace, and what to do to it (below)", "EXPR", short="-e", repeat=True),
    Option("--follow-forks", "follow children: always on here", short="-f"),
    Option("--output-separately", "with -o FILE: the lines of each task go to FILE.PID", short="-ff"),
    Option("--summary-only", "count calls, errors and time instead of writing lines", short="-c"),
    Option("--summary", "write lines, and the summary at the end", short="-C"),
    Option("--summary-sort-by", "sort the summary by time (default), calls, errors, name, min-time, max-time, avg-time, nothing",
           "BY", short="-S"),
    Option("--summary-wall-clock", "count the time that calls wait, too", short="-w"),
    Option("--string-limit", "show at most N bytes of a string (default 32)", "N", short="-s"),
    Option("--decode-fds", "show what descriptors refer to", short="-y"),
    Option("--strings-in-hex", "strings with unprintable bytes in hexadecimal; -xx: all strings", short="-x"),
    Option("-xx", "see -x"),
    Option("-t", "the time of day in front of each line; -tt with microseconds, -ttt seconds since the epoch"),
    Option("-tt", "see -t"),
    Option("-ttt", "see -t"),
    Option("--relative-timestamps", "the time since the line before, in front of each line", short="-r"),
    Option("--syscall-times", "how long each call took, behind it", short="-T"),
    Option("--syscall-number", "the number of each call in front of its name", short="-n"),
    Option("--instruction-pointer", "the address behind each call's instruction", short="-i"),
    Option("--successful-only", "only calls that succeed: -e status=successful", short="-z"),
    Option("--failed-only", "only calls that fail: -e status=failed", short="-Z"),
    Option("--columns", "align results at column N (default 40)", "N", short="-a"),
    Option("--quiet", "no word of new tasks; -qq: none of their ends either", short="-q"),
    Option("-qq", "see -q"),
    Option("--json", "a JSON object a line instead of text"),
    Option("--trace-out", "write a timeline that ui.perfetto.dev and chrome://tracing open", "FILE"),
    Option("--report", "write one page that shows the run: timeline, hottest calls, latencies, address spaces", "FILE"),
)  # fmt: skip

NO_ABBREV: Final = Option("--no-abbrev", "leave nothing out of structures, arrays, environments", short="-v")

EXPRESSIONS: Final = """\
  -e trace=SET            calls by name, %set, /regex, all, none; ! in front turns it
                          round; ?name may be missing. -e SET is the same.
                          sets: %file %process %network %signal %ipc %desc %memory
                          %creds %clock %pure %stat %lstat %fstat %%stat %statfs
                          %fstatfs %%statfs
  -e signal=SET           signals by name
  -e status=SET           successful, failed, unfinished, unavailable
  -e inject=SET:WHAT...   WHAT is error=ENOENT, retval=N, signal=SIG, delay_enter=TIME,
                          delay_exit=TIME, when=FIRST[..LAST][+[STEP]]
  -e fault=SET:error=E    the same as inject, for errors only
"""

_LINES: Final = frozenset(option.name for option in TRACING) - {"--trace-out", "--report"}


class Tracing(NamedTuple):
    """What is to be traced, as the command line has it: checked in tracing.py, which an untraced run does not import."""

    parsed: Parsed
    lines: bool
    events: tuple[str | None, str | None]


def asked_for(parsed: Parsed, always: bool) -> Tracing | None:
    """Return what a command line asks for; None: nothing. ``always``: the command is ``trace``."""
    lines = always or parsed.given("--trace") or any(name in _LINES for name in parsed.values)
    files = parsed.values.get("--trace-out", [None])[-1], parsed.values.get("--report", [None])[-1]
    if not lines and files == (None, None):
        return None
    if parsed.given("--output-separately") and not parsed.given("--output"):
        raise UsageError("-ff writes to FILE.PID: it needs -o FILE")
    return Tracing(parsed, lines, files)
