"""``systrap explain``: one round trip of a kind, run for real and told step by step."""

import sys
from typing import Final

from systrap import arch
from systrap.cli.explaining import scenes
from systrap.cli.explaining.tell import Teller
from systrap.cli.options import EXIT_FAILED, Option, UsageError, describe, did_you_mean, parse
from systrap.platform import PlatformError

OPTIONS: Final = (
    Option("--step", "wait for Enter before each step"),
    Option("--symbolic", "names instead of what differs from run to run: the same text each time"),
    Option("--help", "show this text", short="-h"),
)

_HELP: Final = """\
Run one round trip between a guest and the sentry, stop it at each step, and tell what happens: which shared words
changed, what the signal frame holds, who woke whom, what was decided.

usage: python3 -m systrap explain [options] KIND

Kinds:
{kinds}

{options}

Examples:
  python3 -m systrap explain trapped
  python3 -m systrap explain --step patched
"""


def main(arguments: list[str]) -> int:
    """Carry out ``systrap explain``."""
    parsed = parse(OPTIONS, arguments)
    if parsed.given("--help"):
        kinds = "\n".join(f"  {name:11} {scene.summary}" for name, scene in scenes.SCENES.items())
        sys.stdout.write(_HELP.format(kinds=kinds, options=describe(OPTIONS)))
        return 0
    if len(parsed.rest) != 1:
        raise UsageError(f"one kind of round trip is wanted: {', '.join(scenes.SCENES)}")
    (name,) = parsed.rest
    if name not in scenes.SCENES:
        raise UsageError(f"there is no round trip {name}{did_you_mean(name, list(scenes.SCENES))}")
    if arch.host().NAME != "x86_64":
        sys.stderr.write("systrap explain: its guests are x86-64 code, and this is another machine\n")
        return EXIT_FAILED
    pause = _wait_for_enter if parsed.given("--step") else _go_on
    try:
        scenes.play(name, Teller(sys.stdout.write, parsed.given("--symbolic"), pause))
    except PlatformError as error:
        sys.stderr.write(f"systrap explain: {error}\n")
        return EXIT_FAILED
    return 0


def _wait_for_enter() -> None:
    sys.stdout.flush()
    sys.stderr.write("\n[Enter] ")
    sys.stderr.flush()
    sys.stdin.readline()


def _go_on() -> None:
    """Do not wait."""
