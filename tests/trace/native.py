"""The same program under strace and under us: logs made comparable (docs/tracing.md lists what may differ)."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
STRACE = "/usr/bin/strace"
_LINE = re.compile(r"^(\d+) +(.*)$")
_UNFINISHED = re.compile(r"^(.*?) ?<unfinished \.\.\.>$")
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (.*)$")
_ADDRESS = re.compile(r"0x[0-9a-f]{6,16}\b")


class Line(NamedTuple):
    """One call: its name, arguments and result as text."""

    name: str
    arguments: str
    result: str


def traced_natively(arguments: Sequence[str], log: Path, options: Sequence[str] = ()) -> str:
    """Run a program under strace; return the log."""
    subprocess.run(
        [STRACE, "-f", "-o", str(log), *options, "--", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, env=environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    return log.read_text(errors="replace")


def traced_by_us(arguments: Sequence[str], log: Path, options: Sequence[str] = ()) -> str:
    """Run a program under systrap trace; return the log."""
    done = subprocess.run(
        [sys.executable, "-m", "systrap", "trace", "-o", str(log), *options, "--", *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, env=environment(), cwd=ROOT, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return log.read_text(errors="replace")


def environment() -> dict[str, str]:
    """Return an environment that is the same for both, and short."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1", **{k: v for k, v in os.environ.items() if k == "TERM"}}  # fmt: skip


def processes(log: str) -> list[list[str]]:
    """Return the lines of each process, in the order in which they began, unfinished ones put together."""
    found: dict[str, list[str]] = {}
    open_calls: dict[str, str] = {}
    for raw in log.splitlines():
        match = _LINE.match(raw)
        if match is None:
            continue
        pid, text = match.groups()
        lines = found.setdefault(pid, [])
        cut = _UNFINISHED.match(text)
        if cut is not None:
            open_calls[pid] = cut.group(1)
            continue
        resumed = _RESUMED.match(text)
        if resumed is not None:
            before = open_calls.pop(pid, f"{resumed.group(1)}(")
            text = before + (" " if before.endswith(",") else "") + resumed.group(2).lstrip()
        lines.append(text)
    return list(found.values())


def calls(lines: Sequence[str]) -> list[Line]:
    """Return the calls among a process's lines, addresses masked."""
    found = []
    for line in lines:
        match = _CALL.match(line)
        if match is not None:
            name, arguments, result = match.groups()
            found.append(Line(name, masked(arguments), masked(result)))
    return found


def masked(text: str) -> str:
    """Return a text with its addresses made equal."""
    return _ADDRESS.sub("ADDR", text)
