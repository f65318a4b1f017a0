"""Running cells side by side: all of them in turn, round after round, so that whatever else the machine does meets all alike."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from systrap import arch
from systrap.bench.plan import IN_PROCESS, LADDER, STEPS, Cell, Program, Step, Way
from systrap.platforms.systrap.blob import images_folder

LIMIT: Final = 120.0
"""A cell that takes longer, in seconds, is stopped and counts as failed."""
_IN_PROCESS_WAYS: Final = {"systrap": "systrap", "systrap-ptrace": "ptrace"}


class Figure(NamedTuple):
    """What came out of a cell: nanoseconds of one repetition in each round that worked, and the errors of the others."""

    samples: list[float]
    errors: list[str]

    @property
    def median(self) -> float | None:
        """The median, None without a sample."""
        return statistics.median(self.samples) if self.samples else None


Key = tuple[str, str]
Progress = Callable[[str], None]


@contextmanager
def guest_program() -> Iterator[str]:
    """Yield the path of the guest, executable: in a wheel it is data."""
    source = Path(images_folder()) / f"{arch.host().NAME}-ladder.elf"
    with tempfile.TemporaryDirectory(prefix="systrap-bench-") as folder:
        program = Path(folder) / "ladder"
        program.write_bytes(source.read_bytes())
        program.chmod(0o755)
        os.chmod(folder, 0o755)
        yield str(program)


def step_cells(steps: Iterable[Step], ways: Iterable[Way], guest: str) -> list[Cell]:
    """Return the cells of the guest's steps."""
    cells: list[Cell] = []
    for step in steps:
        for way in ways:
            count = str(max(step.times // way.slower, step.threads))
            if step.in_process:
                name = _IN_PROCESS_WAYS.get(way.name)
                if name is not None:
                    command = (sys.executable, "-m", "systrap.bench.platform_steps", name, step.what, count)
                    cells.append(Cell(step.name, way.name, command))
                continue
            cells.append(Cell(step.name, way.name, (*way.prefix, guest, step.what, count, str(step.threads))))
    return cells


def ladder_cells(ways: dict[str, Way], guest: str, count: int) -> list[Cell]:
    """Return the cells of the ladder, whose step is the title of the rung; those whose way is missing are left out."""
    cells: list[Cell] = []
    for title, what, name in LADDER:
        way = ways.get(name or "native")
        if way is not None:
            cells.append(Cell(title, "ladder", (*way.prefix, guest, what, str(count // way.slower))))
    return cells


def program_cells(programs: Sequence[Program], ways: Iterable[Way]) -> list[Cell]:
    """Return the cells of whole programs, timed from outside."""
    return [
        Cell(program.name, way.name, (*way.prefix, "/bin/sh", "-c", program.command), whole=True)
        if program.command != "/bin/true"
        else Cell(program.name, way.name, (*way.prefix, "/bin/true"), whole=True)
        for program in programs
        for way in ways
    ]


def run(cells: Sequence[Cell], rounds: int, progress: Progress) -> dict[Key, Figure]:
    """Run every cell once a round; the order turns, so that no cell always comes after the same one."""
    figures = {(cell.step, cell.way): Figure([], []) for cell in cells}
    for number in range(rounds):
        shift = number * 7 % max(len(cells), 1)
        for index, cell in enumerate([*cells[shift:], *cells[:shift]]):
            progress(f"round {number + 1} of {rounds}, {index + 1} of {len(cells)}: {cell.step} on {cell.way}")
            figure = figures[(cell.step, cell.way)]
            try:
                figure.samples.append(_run_cell(cell))
            except CellError as error:
                figure.errors.append(str(error))
    return figures


class CellError(Exception):
    """A cell did not give a figure; the text says why."""


def _run_cell(cell: Cell) -> float:
    """Run one cell; return nanoseconds of one repetition, or of the whole program. Nothing it started survives."""
    begin = time.perf_counter_ns()
    try:
        process = subprocess.Popen(
            cell.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if cell.whole else subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise CellError(f"cannot be started: {error}") from error
    try:
        output, errors = process.communicate(timeout=LIMIT)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CellError(f"took longer than {LIMIT:.0f} s") from error
        raise
    taken = time.perf_counter_ns() - begin
    if process.returncode != 0:
        said = errors.decode(errors="replace").strip().splitlines()
        raise CellError(f"exit status {process.returncode}: {said[-1] if said else 'it said nothing'}")
    if cell.whole:
        return float(taken)
    return parse_figure(output)


def parse_figure(output: bytes) -> float:
    """Return nanoseconds of one repetition from ``WHAT COUNT NANOSECONDS``. Raises CellError."""
    fields = output.split()
    if len(fields) != 3 or not fields[1].isdigit() or not fields[2].isdigit() or int(fields[1]) == 0:
        raise CellError(f"printed {output[:80]!r} instead of a figure")
    return int(fields[2]) / int(fields[1])


def without_overhead(figures: dict[Key, Figure]) -> dict[Key, Figure]:
    """Take from each step the time of the one it is measured with (``minus``), round by round where both have one."""
    result = dict(figures)
    for step in (*STEPS, *IN_PROCESS):
        if not step.minus:
            continue
        for name, way in list(result):
            other = figures.get((step.minus, way))
            if name == step.name and other is not None:
                mine = figures[(name, way)]
                samples = [a - b for a, b in zip(mine.samples, other.samples, strict=False)]
                result[(name, way)] = Figure(samples, mine.errors + other.errors)
    return result
