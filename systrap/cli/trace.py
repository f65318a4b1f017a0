"""``systrap trace``: run a program and tell each of its system calls, with strace's options and in its words."""

import sys
from typing import Final

from systrap.cli import run
from systrap.cli.options import UsageError, describe, parse
from systrap.cli.trace_options import EXPRESSIONS, NO_ABBREV, TRACING

_SHARED: Final = tuple(option._replace(short="") if option.short == "-v" else option for option in run.RUNNING)
OPTIONS: Final = (*TRACING, NO_ABBREV, *_SHARED)

_HELP: Final = """\
Run a Linux program and tell each of its system calls, as strace does, without ptrace.

usage: python3 -m systrap trace [options] [--] PROGRAM [ARGUMENT ...]

{tracing}

Expressions:
{expressions}
Options of run that work here, too:
{running}

Examples:
  python3 -m systrap trace -- ls                         every call
  python3 -m systrap trace -e openat,%network -- curl …  some calls
  python3 -m systrap trace -e '!%memory' -o log -- make  all but some, into a file
  python3 -m systrap trace -Z -- cat /none               what fails, and why
  python3 -m systrap trace -c -- git status              how many, how long
  python3 -m systrap trace -e inject=openat:error=EMFILE:when=5+ -- ls
  python3 -m systrap trace -y --json -o log.json -- ls   for programs to read
  python3 -m systrap run --report page.html -- ls        a page to look at
"""


def main(arguments: list[str]) -> int:
    """Carry out ``systrap trace``; return the exit status of the program."""
    parsed = parse(OPTIONS, arguments)
    if parsed.given("--help"):
        tracing = describe((*TRACING, NO_ABBREV))
        sys.stdout.write(_HELP.format(tracing=tracing, expressions=EXPRESSIONS, running=describe(_SHARED)))
        return 0
    if not parsed.rest:
        raise UsageError("which program? For instance: trace -- /bin/ls -l /etc")
    return run.carry_out(parsed, traced=True)
