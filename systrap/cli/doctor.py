"""``systrap doctor``: every requirement of the host, what it protects, whether it holds, and what to do if not."""

import sys
from typing import Final

from systrap.cli.options import Option, UsageError, describe, parse
from systrap.host.probe import Host
from systrap.host.requirements import BOTH, Result, Verdict, blocking, examine
from systrap.version import VERSION

OPTIONS: Final = (
    Option("--json", "print one JSON object instead of the table"),
    Option("--no-trial", "do not run a guest on each platform at the end"),
    Option("--help", "show this text", short="-h"),
)

_HELP: Final = """\
Check whether this host can run guests: each requirement, what it protects, what was found, what to do.

usage: python3 -m systrap doctor [options]

{options}

Marks: ✓ holds, ~ can be done without, ✗ keeps a platform from running.
Exit status: 0 when the platform systrap can run here, 1 when it cannot.
"""

MARKS: Final = {Verdict.OK: "✓", Verdict.DEGRADED: "~", Verdict.MISSING: "✗"}
_COLOURS: Final = {Verdict.OK: "32", Verdict.DEGRADED: "33", Verdict.MISSING: "31"}
_TRIAL_SECONDS: Final = 30


def main(arguments: list[str]) -> int:
    """Carry out ``systrap doctor``."""
    parsed = parse(OPTIONS, arguments)
    if parsed.given("--help"):
        sys.stdout.write(_HELP.format(options=describe(OPTIONS)))
        return 0
    if parsed.rest:
        raise UsageError(f"what is {parsed.rest[0]} for? doctor takes options only")
    host = Host()
    results = examine(host)
    trials: dict[str, str] = {}
    if not parsed.given("--no-trial"):
        trials = {name: _trial(name) for name in BOTH if not blocking(results, name)}
    if parsed.given("--json"):
        sys.stdout.write(as_json(host, results, trials))
    else:
        colour = sys.stdout.isatty()
        sys.stdout.write(as_table(host, results, trials, colour))
    return 1 if blocking(results, "systrap") or trials.get("systrap") else 0


def _trial(platform: str) -> str:
    """Run /bin/true as a guest; return "" when that works, else what was said."""
    import subprocess

    command = [sys.executable, "-m", "systrap", "run", "--platform", platform, "--", "/bin/true"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=_TRIAL_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"a guest /bin/true did not end within {_TRIAL_SECONDS} s"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"a guest /bin/true ended with status {done.returncode}" + (f": {said[-1]}" if said else "")


def as_table(host: Host, results: list[Result], trials: dict[str, str], colour: bool) -> str:
    """Return the table for people."""
    release, machine = host.uname()
    python = ".".join(map(str, host.python()))
    lines = [f"systrap {VERSION} on Linux {release} {machine}, Python {python}", ""]
    for result in results:
        lines += row(result, colour)
    lines.append("")
    lines += [verdict(name, results, trials) for name in reversed(BOTH)]
    return "\n".join(lines) + "\n"


def row(result: Result, colour: bool) -> list[str]:
    """Return the lines of one requirement: finding, what it protects, and the remedy if one is needed."""
    requirement, finding = result
    mark = MARKS[finding.verdict]
    if colour:
        mark = f"\x1b[{_COLOURS[finding.verdict]}m{mark}\x1b[0m"
    whom = f" (platform {requirement.needed_by[0]})" if len(requirement.needed_by) == 1 else ""
    lines = [f"{mark} {requirement.id:14} {finding.text}", f"  {'':14} why: {requirement.protects}{whom}"]
    if finding.verdict is not Verdict.OK:
        lines.append(f"  {'':14} do:  {finding.remedy}")
    return lines


def verdict(platform: str, results: list[Result], trials: dict[str, str]) -> str:
    """Return the closing line of a platform."""
    blocked = blocking(results, platform)
    if blocked:
        return f"✗ {platform} cannot run here: {', '.join(r.requirement.id for r in blocked)}"
    trial = trials.get(platform)
    if trial:
        return f"✗ {platform} should run here, but {trial}"
    return f"✓ {platform} {'can run here' if trial is None else 'runs here: a guest /bin/true did'}"


def as_json(host: Host, results: list[Result], trials: dict[str, str]) -> str:
    """Return the same for programs."""
    import json

    release, machine = host.uname()
    platforms = {
        name: {
            "can_run": not blocking(results, name) and not trials.get(name),
            "blocked_by": [r.requirement.id for r in blocking(results, name)],
            "trial": trials.get(name),
        }
        for name in BOTH
    }
    requirements = [
        {
            "id": r.requirement.id,
            "protects": r.requirement.protects,
            "needed_by": list(r.requirement.needed_by),
            "verdict": r.finding.verdict.value,
            "finding": r.finding.text,
            "remedy": r.finding.remedy,
        }
        for r in results
    ]
    report = {
        "systrap": VERSION,
        "kernel": release,
        "machine": machine,
        "platforms": platforms,
        "requirements": requirements,
    }
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def explain_failure(platform: str) -> str:
    """Return why a platform could not start here, as lines for the run path; "" when no requirement is to blame."""
    results = examine(Host())
    lines: list[str] = []
    for result in blocking(results, platform):
        lines += row(result, colour=False)
    others = [name for name in BOTH if name != platform and not blocking(results, name)]
    if lines and others:
        lines.append(f"{others[0]} could run here: --platform {others[0]}")
    return "".join(f"{line}\n" for line in lines)
