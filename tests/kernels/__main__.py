"""The command line: list, run, shell, table."""

import argparse
import fnmatch
import os
import signal
import sys
from types import FrameType
from typing import Final

from tests.kernels import jobs, machine, table
from tests.kernels.catalog import KERNELS, Kernel
from tests.kernels.debian import UnavailableError

SKIPPED: Final = 77
"""Exit status when no machine is to be had here: neither good nor bad, as automake has it."""
LATE: Final = 124
BROKEN: Final = 125


def chosen(patterns: list[str], arch: str | None) -> list[Kernel]:
    """Return the kernels that are meant."""
    found = [
        kernel
        for kernel in KERNELS
        if arch in (None, kernel.machine)
        and (not patterns or any(fnmatch.fnmatch(kernel.name, pattern) for pattern in patterns))
    ]
    if not found:
        sys.exit("kernels: no such kernel; see: python3 -m tests.kernels list")
    return found


def show() -> int:
    """List kernels and jobs."""
    for kernel in KERNELS:
        print(f"{kernel.name:20} {kernel.suite:10} {kernel.package:26} {kernel.page}K pages, -cpu {kernel.cpu}")
    print()
    for job in jobs.JOBS:
        print(f"{job.name:20} {job.what}")
    return 0


def run_command(kernel: Kernel, options: argparse.Namespace) -> int:
    """Run one command in one machine, with its output as ours. Returns its status."""
    command: list[str] = options.command[1:] if options.command[:1] == ["--"] else options.command
    environment = dict(setting.split("=", 1) for setting in options.env)
    job = machine.Job(command, options.user, environment)
    outcome = machine.run(kernel, job, options.timeout, Writer(1), Writer(2))
    print(f"kernels: {kernel.name}: {outcome.seconds:.1f} s, {outcome.boot:.1f} s of it to boot", file=sys.stderr)
    return LATE if outcome.status is None else outcome.status


class Writer:
    """A function that writes to a descriptor of ours."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, data: bytes) -> None:
        """Write all of it."""
        while data:
            data = data[os.write(self._descriptor, data) :]


def run(options: argparse.Namespace) -> int:
    """Run a command, or jobs, on each kernel that was chosen. Returns the worst status."""
    worst = 0
    for kernel in chosen(options.kernel, options.arch):
        if options.command:
            worst = max(worst, run_command(kernel, options))
            continue
        for job in jobs.JOBS:
            if (not options.job or job.name in options.job) and job.fits(kernel):
                result = jobs.measure(kernel, job, options.timeout, Writer(2) if options.verbose else None)
                print(f"{kernel.name} {job.name}: {result.summary}", flush=True)
                if not options.dry:
                    table.keep(result)
                worst = max(worst, 0 if result.good else 1)
    return worst


def shell(options: argparse.Namespace) -> int:
    """Boot with the console here."""
    (kernel, *_) = chosen(options.kernel, options.arch)
    with machine.Machine(kernel, machine.prepare(kernel), machine.Job([], shell=True)) as booted:
        booted.wait()
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.kernels", description="Kernels in emulated machines.")
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("list", help="the kernels and the jobs there are")
    commands.add_parser("table", help="write docs/kernels.md from the results that were kept")
    for name, text in (
        ("run", "run jobs, or a command, on kernels"),
        ("shell", "a shell in a machine (Ctrl-A X ends it)"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "--kernel", action="append", default=[], metavar="PATTERN", help="only these, as 'x86_64-*'"
        )
        command.add_argument("--arch", choices=sorted({kernel.machine for kernel in KERNELS}))
    command = commands.choices["run"]
    command.add_argument("--job", action="append", default=[], choices=[job.name for job in jobs.JOBS])
    command.add_argument("--timeout", type=float, default=3600, metavar="S", help="seconds for each machine (3600)")
    command.add_argument("--user", choices=("root", "user"), default="root", help="who runs the command")
    command.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    command.add_argument("-v", "--verbose", action="store_true", help="show what jobs say on standard error")
    command.add_argument("--dry", action="store_true", help="do not keep the results for docs/kernels.md")
    command.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="instead of jobs, with its output"
    )
    return parser.parse_args(arguments)


def terminated(number: int, _frame: FrameType | None) -> None:
    """Leave by the way out, which switches machines off."""
    sys.exit(128 + number)


def main() -> int:
    """Do what was asked. 77: no machine can be had here; 124: past the deadline; 125: a machine died."""
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, terminated)
    try:
        if options.what == "list":
            return show()
        if options.what == "table":
            table.write()
            return 0
        return shell(options) if options.what == "shell" else run(options)
    except UnavailableError as error:
        print(f"kernels: skipped: {error}", file=sys.stderr)
        return SKIPPED
    except machine.MachineError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
