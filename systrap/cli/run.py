"""``systrap run``: one program and all it starts, as guests, with this process's terminal, files and exit status.

Start-up time is part of the product: nothing is imported here before it is needed (docs/start-up.md).
"""

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from systrap import platform as platforms
from systrap.cli.options import (
    EXIT_FAILED,
    EXIT_NOT_EXECUTABLE,
    EXIT_NOT_FOUND,
    Option,
    Parsed,
    UsageError,
    describe,
    parse,
)
from systrap.cli.switches import SWITCHES, chosen_platform
from systrap.cli.trace_options import TRACING, Tracing, asked_for

if TYPE_CHECKING:
    from systrap.cli.tracing import Plan, TracedRun

RUNNING: Final = (
    Option("--rw", "let guests change the host's files in and below PATH; everywhere else changes go to a layer in memory "
           "that is gone afterwards", "PATH", repeat=True),
    Option("--env", "set a variable of the program's environment (NAME alone: take it from here)", "NAME=VALUE", short="-E",
           repeat=True),
    Option("--clear-env", "start from an empty environment instead of this one"),
    Option("--cwd", "start in directory DIR instead of this one", "DIR"),
    Option("--output", "log to FILE instead of standard error", "FILE", short="-o"),
    Option("--verbose", "report at the end what was asked for and is not there, and what was done", short="-v"),
    *SWITCHES,
    Option("--help", "show this text", short="-h"),
)  # fmt: skip
TRACE: Final = Option("--trace", "log each system call with its arguments and result. All options of trace work here, "
                                 "too: -e, -c, "
                      "--trace-out, --report… (python3 -m systrap trace --help)")  # fmt: skip
OPTIONS: Final = (*RUNNING, TRACE, *TRACING)

_HELP: Final = """\
Run a Linux program as a guest: it runs natively, but each of its system calls is answered here.

usage: python3 -m systrap run [options] [--] PROGRAM [ARGUMENT ...]

{options}

Guests see the host's files read-only under a layer of their own, a fresh /tmp, and a loopback network.
The exit status is the program's, 128+N when signal N killed it; 127 when PROGRAM is not there, 126 when it
cannot be executed, 125 when systrap itself failed.

Examples:
  python3 -m systrap run -- /bin/ls -l /etc
  python3 -m systrap run -- bash -c 'seq 10 | sort -r | head -3'
  python3 -m systrap run --trace -o /tmp/log -- /bin/true
  python3 -m systrap run --report page.html -- /bin/ls
  python3 -m systrap run --rw ~/project --cwd ~/project -- make
"""


CLOSED: Final = (1 << 31) - 1
"""Stands for a standard stream that is closed: no descriptor has this number."""
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of ours
    """The program cannot be run: ``status`` as a shell has it, the text says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    """What is to be run, and how: the command line, understood and checked as far as possible without the guest kernel."""

    platform: str
    options: platforms.Options
    path: str
    argv: list[str]
    environment: dict[str, str]
    cwd: str
    rw: tuple[str, ...]
    output: str | None
    verbose: bool
    tracing: Tracing | None = None


def main(arguments: list[str]) -> int:
    """Carry out ``systrap run``; return the exit status."""
    parsed = parse(OPTIONS, arguments)
    if parsed.given("--help"):
        sys.stdout.write(_HELP.format(options=describe((*RUNNING, TRACE))))
        return 0
    return carry_out(parsed)


def carry_out(parsed: Parsed, traced: bool = False) -> int:
    """Run what a command line says; ``traced``: whether it says so or not. Return the exit status. Raises UsageError."""
    try:
        return execute(understand(parsed, traced))
    except Refusal as refusal:
        sys.stderr.write(f"systrap: {refusal}\n")
        return refusal.status


def understand(parsed: Parsed, traced: bool = False) -> Request:
    """Check a command line. Raises UsageError, and Refusal when the program is not on PATH."""
    if not parsed.rest:
        raise UsageError("which program? For instance: run -- /bin/ls -l /etc")
    for path in parsed.all("--rw"):
        if not os.path.exists(path):
            raise UsageError(f"--rw {path}: there is no such file or directory")
    cwd = parsed.one("--cwd", "")
    if cwd and not os.path.isdir(cwd):
        raise UsageError(f"--cwd {cwd}: there is no such directory")
    platform, options = chosen_platform(parsed)
    environment = make_environment(parsed)
    return Request(
        platform=platform,
        options=options,
        path=find_program(parsed.rest[0], environment.get("PATH", _DEFAULT_PATH)),
        argv=parsed.rest,
        environment=environment,
        cwd=os.path.abspath(cwd) if cwd else current_directory(),
        rw=tuple(os.path.abspath(path) for path in parsed.all("--rw")),
        output=parsed.values.get("--output", [None])[-1],
        verbose=parsed.given("--verbose"),
        tracing=asked_for(parsed, traced),
    )


def platform_report(counters: dict[str, int]) -> str:
    """Return the platform's counters in one line, without those that are 0."""
    return "systrap: platform: " + ", ".join(f"{name} {count}" for name, count in counters.items() if count)


def make_environment(parsed: Parsed) -> dict[str, str]:
    """Return the program's environment: ours, or an empty one, with what --env says. Raises UsageError."""
    environment = {} if parsed.given("--clear-env") else dict(os.environ)
    for setting in parsed.all("--env"):
        name, equals, value = setting.partition("=")
        if not name:
            raise UsageError(f"--env {setting}: a variable needs a name")
        if equals:
            environment[name] = value
        elif name in os.environ:
            environment[name] = os.environ[name]
    return environment


def current_directory() -> str:
    """Return where we are; "/" when that place is gone."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def find_program(name: str, path: str) -> str:
    """Look a program up as a shell does. Raises Refusal for a name without a slash that is not on PATH."""
    if "/" in name:
        return name
    found = ""
    for folder in path.split(":"):
        candidate = f"{folder or '.'}/{name}"
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            found = found or candidate
    if found:
        raise Refusal(EXIT_NOT_EXECUTABLE, f"{found}: Permission denied")
    raise Refusal(EXIT_NOT_FOUND, f"{name}: command not found")


def execute(request: Request) -> int:
    """Run a program to its end; return the exit status."""
    plan = None
    if request.tracing is not None:
        from systrap.cli import tracing

        plan = tracing.understand(request.tracing)
    streams = hold_standard_streams()
    log = _open_log(request.output)
    from systrap.sentry import kernel as sentry
    from systrap.sentry.host_events import HANDLED

    # Before there is a second thread: a signal must find none that does not block it, or it would end us (host_events.py).
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        platform = platforms.lookup(request.platform).new(request.options)
    except (platforms.PlatformError, OSError) as error:
        return explain(request.platform, error)
    traced = None if plan is None else _traced(plan, platform, log, request.output is None)
    config = sentry.Config(
        path=os.fsencode(request.path),
        argv=[os.fsencode(word) for word in request.argv],
        env=[os.fsencode(f"{name}={value}") for name, value in request.environment.items()],
        cwd=os.fsencode(request.cwd),
        rw_paths=tuple(map(os.fsencode, request.rw)),
        uid=os.getuid(),
        gid=os.getgid(),
        groups=tuple(os.getgroups()),
        stdio=streams,
        log=log,
        verbose=request.verbose,
    )
    kernel = None
    try:
        kernel = sentry.Kernel(platform, config) if traced is None else traced.kernel(platform, config)
        _settle_garbage()
        status = kernel.run()
        if traced is not None:
            traced.finish(" ".join(request.argv))
        if " executing " in kernel.crash_report:
            # A fault. A signal that somebody sent is told by the exit status, as natively.
            kernel.write_log(f"systrap: {kernel.crash_report.rstrip()}")
        if request.verbose:
            kernel.write_log(kernel.report())
            kernel.write_log(platform_report(platform.statistics()))
    except sentry.ExecError as error:
        raise Refusal(error.status, f"{str(error).removeprefix('systrap: ')}{hint(request)}") from None
    except platforms.PlatformError as error:
        return explain(request.platform, error)
    finally:
        if kernel is not None:
            kernel.close()
        else:
            platform.close()
    return status


def _traced(plan: "Plan", platform: platforms.Platform, log: TextIO, live: bool) -> "TracedRun":
    from systrap.cli.tracing import TracedRun

    try:
        return TracedRun(plan, platform, log, live)
    except OSError as error:
        platform.close()
        raise Refusal(EXIT_FAILED, f"{error.filename}: {error.strerror}") from None


def hold_standard_streams() -> tuple[int, int, int]:
    """Return the descriptors 0, 1, 2, or CLOSED in place of those, and see to it that nothing of ours takes their place."""
    found = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            found.append(CLOSED)
        else:
            found.append(number)
    return found[0], found[1], found[2]


def _open_log(path: str | None) -> TextIO:
    if path is None:
        return sys.stderr or open(os.devnull, "w")
    try:
        return open(path, "w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise Refusal(EXIT_FAILED, f"--output {path}: {error.strerror}") from None


def _settle_garbage() -> None:
    """Take what start-up made out of the collector's sight, and let it look seldom: handlers make next to no cycles."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def explain(platform: str, error: Exception) -> int:
    """Tell why a platform cannot work here, with doctor's findings if they explain it; return the exit status."""
    sys.stderr.write(f"systrap: the platform {platform} cannot run here: {error}\n")
    from systrap.cli.doctor import explain_failure

    sys.stderr.write(explain_failure(platform) or "systrap: python3 -m systrap doctor shows what this host offers\n")
    return EXIT_FAILED


def hint(request: Request) -> str:
    """Return what may help when a program is there on the host, but could not be run."""
    path = os.path.join(request.cwd, request.path)
    if not os.path.isfile(path):
        return ""
    if os.path.realpath(path).startswith("/tmp/") and "/tmp" not in request.rw:
        return " (guests have a /tmp of their own; --rw /tmp shows them this one)"
    try:
        with open(path, "rb") as file:
            first = file.read(256).split(b"\n")[0]
    except OSError:
        return ""
    interpreter = os.fsdecode(first[2:].split()[0]) if first[:2] == b"#!" and first[2:].strip() else ""
    if interpreter and not os.path.exists(interpreter):
        return f" (its interpreter {interpreter} is not there)"
    return ""
