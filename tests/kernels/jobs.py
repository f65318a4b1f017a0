"""What is run on kernels, and how its output becomes a cell of the table."""

import datetime
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from conformance import report
from conformance.verdict import Status
from tests.kernels import machine
from tests.kernels.catalog import Kernel
from tests.kernels.image import image

SLOW: Final = 30
"""By how much deadlines are longer than on a real machine. The emulator is slower by 5 to 20, and its host may be busy."""

_TAIL: Final = 20
"""Lines of a failed job that are shown."""


class Cell(NamedTuple):
    """What one job gave on one kernel. ``notes`` says of each thing that did not pass, why; ``source`` is the package."""

    kernel: str
    job: str
    good: bool
    text: str
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    date: str = ""
    release: str = ""
    source: str = ""

    @property
    def summary(self) -> str:
        """Return it in a few lines, for a terminal."""
        mark = "good" if self.good else "NOT GOOD"
        return "\n  ".join((f"{mark}: {self.text} ({self.seconds:.0f} s)", *self.notes))


class Reading(NamedTuple):
    """What the output of a job says."""

    good: bool
    text: str
    notes: tuple[str, ...] = ()


class Job(NamedTuple):
    """A job: the command in the machine, who runs it, and how to read what it says."""

    name: str
    what: str
    command: tuple[str, ...]
    read: Callable[[int, str], Reading]
    user: str = "root"
    machine: str = "*"
    in_matrix: bool = True

    def fits(self, kernel: Kernel) -> bool:
        """Tell whether the job is for this kernel's architecture."""
        return self.machine in ("*", kernel.machine)


def conformance(platform: str, *options: str) -> tuple[str, ...]:
    """Return the command that runs the suite, talk on stderr and the report on stdout."""
    suite = f"python3 -m conformance run --slow {SLOW} --driver 'python3 -m systrap driver --platform {platform}'"
    script = f"{suite} --report /tmp/report {' '.join(options)} >&2; status=$?; cat /tmp/report; exit $status"
    return ("/bin/sh", "-c", script)


def read_conformance(status: int, text: str) -> Reading:
    """Read a report of the suite's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report"
        path.write_text(text, encoding="utf-8")
        try:
            found = report.read(path)
        except report.ReportError as error:
            return Reading(False, "no report", (str(error),))
    counts = found.counts()
    others = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if verdict is not Status.PASS)
    notes = tuple(
        f"{row.id}: {row.status.value}: {row.reason.splitlines()[0] if row.reason else ''}{' (flaky)' if row.flaky else ''}"
        for row in found.rows
        if row.status is not Status.PASS
    )
    return Reading(status == 0, f"{counts[Status.PASS]} of {len(found.rows)}{f' ({others})' if others else ''}", notes)


def read_programs(status: int, text: str) -> Reading:
    """Read lines that begin with pass, skip or FAIL."""
    lines = [line for line in text.splitlines() if line.split(" ")[0] in ("pass", "skip", "FAIL")]
    counts = Counter(line.split(" ")[0] for line in lines)
    skipped = f" ({counts['skip']} skipped)" if counts["skip"] else ""
    good = status == 0 and counts["pass"] > 0
    return Reading(
        good, f"{counts['pass']} of {len(lines)}{skipped}", tuple(x for x in lines if not x.startswith("pass"))
    )


def read_pytest(status: int, text: str) -> Reading:
    """Read pytest's last line."""
    found = re.findall(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", text, re.MULTILINE)
    notes = tuple(re.findall(r"^(?:FAILED|ERROR) .*", text, re.MULTILINE))
    return Reading(status == 0 and bool(found), found[-1] if found else "no result", notes)


def read_doctor(status: int, text: str) -> Reading:
    """Read ``doctor --json``: whether the platforms run here, and what is not as it could be."""
    try:
        said = json.loads(text)
    except ValueError:
        return Reading(False, "no answer")
    rows = [row for row in said["requirements"] if row["verdict"] != "ok"]
    runs = [name for name, state in said["platforms"].items() if state["can_run"] and not state["trial"]]
    counts = Counter(row["verdict"] for row in said["requirements"])
    text = f"runs: {', '.join(runs) or 'nothing'}; {', '.join(f'{count} {name}' for name, count in counts.items())}"
    return Reading(status == 0, text, tuple(f"{row['id']}: {row['finding']}" for row in rows))


def pytest(*arguments: str) -> tuple[str, ...]:
    """Return the command that runs tests, where there is only Debian's pytest."""
    return ("python3", "-m", "pytest", "-c", "/dev/null", "--rootdir", ".", "-q", "-p", "no:cacheprovider", *arguments)


PROGRAMS: Final = ("python3", "-m", "tests.kernels.inside.programs")
DOCTOR: Final = ("python3", "-m", "systrap", "doctor", "--json")
ARM64_TESTS: Final = ("tests/arm64", "tests/defects/test_arm64.py")
SMOKE: Final = ("/bin/sh", "tests/kernels/inside/smoke")

JOBS: Final = (
    Job("doctor", "what this kernel offers, as root", DOCTOR, read_doctor),
    Job("doctor-user", "the same, as a user", DOCTOR, read_doctor, "user"),
    Job(
        "conformance-systrap",
        "the suite's must cases up to tier 5 on the systrap platform",
        conformance("systrap", "--level", "must", "--tier", "5"),
        read_conformance,
    ),
    Job(
        "conformance-ptrace",
        "the same on the ptrace platform",
        conformance("ptrace", "--level", "must", "--tier", "5"),
        read_conformance,
    ),
    Job(
        "stress-systrap",
        "its must cases of tier 6, stress and leaks, on the systrap platform",
        conformance("systrap", "--level", "must", "--from-tier", "6"),
        read_conformance,
    ),
    Job(
        "stress-ptrace",
        "the same on the ptrace platform",
        conformance("ptrace", "--level", "must", "--from-tier", "6"),
        read_conformance,
    ),
    Job(
        "programs-systrap",
        "programs under `run`, compared with native runs",
        (*PROGRAMS, "systrap", "sample"),
        read_programs,
    ),
    Job("programs-user", "a few of them, as a user", (*PROGRAMS, "systrap", "few"), read_programs, "user"),
    Job("programs-ptrace", "a few programs under `run --platform ptrace`", (*PROGRAMS, "ptrace", "few"), read_programs),
    Job("arm64", "the tests that want an arm64 kernel", pytest(*ARM64_TESTS), read_pytest, machine="aarch64"),
    Job("smoke", "what CI runs: tiers 0 to 2 of the suite, and one program", SMOKE, read_conformance, in_matrix=False),
)


def measure(kernel: Kernel, job: Job, seconds: float, tell: Callable[[bytes], None] | None = None) -> Cell:
    """Run a job on a kernel; ``tell`` gets what it says meanwhile. Raises UnavailableError, MachineError."""
    out = bytearray()
    err = bytearray()

    def listen(data: bytes) -> None:
        err.extend(data)
        if tell is not None:
            tell(data)

    environment = {"SYSTRAP_SLOWNESS": str(SLOW)}
    outcome = machine.run(kernel, machine.Job(job.command, job.user, environment), seconds, out.extend, listen)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    if outcome.status is None:
        reading = Reading(False, f"no end within {seconds:.0f} s")
    else:
        reading = job.read(outcome.status, out.decode(errors="replace"))
    if not reading.good and tell is None:
        tail = err.decode(errors="replace").splitlines()[-_TAIL:]
        print("\n".join(f"  | {line}" for line in tail), file=sys.stderr, flush=True)
    seconds = round(outcome.seconds, 1)
    return Cell(kernel.name, job.name, *reading, seconds, date, outcome.release, source(kernel))


def source(kernel: Kernel) -> str:
    """Return what a kernel's image was made of: package, version, checksum, and where it came from."""
    (row, *_) = json.loads(image(kernel).packages[0].read_text(encoding="utf-8"))
    return f"`{row['name']}` {row['version']}, {row['url']}, SHA-256 `{row['sha256']}`"
