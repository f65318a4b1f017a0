"""Runs the suite's named cases on mutants, and judges whether each is found by the cases that its row names."""

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from conformance.pool import How, Pool
from conformance.runner import Runner
from conformance.selection import everything
from conformance.sentry_half import SENTRY_CHECKS
from conformance.verdict import Item, Status, Verdict
from tests.conformance.seeded.mutation import Mutant, build_image

PATIENCE: Final = 5.0
"""Seconds that a mutant's answer may take beyond what a case grants its guests: some never answer."""

FOUND: Final = frozenset((Status.FAIL, Status.ERROR, Status.TIMEOUT, Status.CRASH))

ITEMS: Final[dict[str, Item]] = {item.id: item for item in (*everything("x86_64"), *SENTRY_CHECKS)}


class Hunt(NamedTuple):
    """What became of one mutant. ``missed``: what is wrong with the row, or nothing; ``untried``: why it was not run."""

    mutant: Mutant
    verdicts: tuple[Verdict, ...] = ()
    missed: tuple[str, ...] = ()
    untried: str = ""
    seconds: float = 0.0

    @property
    def found(self) -> bool:
        """Tell whether the bug was found as its row says."""
        return not self.missed and not self.untried


def command(identity: str, images: Path, switches: Sequence[str] = ()) -> list[str]:
    """Return the command line of a mutant driver; "none" is the driver without a bug."""
    return [sys.executable, "-m", "tests.conformance.seeded.driver", identity, "--images", str(images), *switches]


def hunt(mutant: Mutant, images: Path, seed: int = 0) -> Hunt:
    """Run a mutant's cases and controls. Raises what building its image raises."""
    start = time.monotonic()
    if mutant.image_edits:
        build_image(mutant, images)
    runner = Runner(command(mutant.id, images, mutant.switches), PATIENCE, seed)
    try:
        verdicts = list(runner.run([ITEMS[name] for name in (*mutant.control, *mutant.caught_by)]))
    finally:
        runner.close()
    missed = []
    for verdict in verdicts:
        control = verdict.case.id in mutant.control
        if control and verdict.status is not Status.PASS:
            missed.append(f"the control {verdict.case.id} is {verdict.status.value}: {verdict.reason}")
        elif not control and verdict.status not in FOUND:
            missed.append(f"{verdict.case.id} is {verdict.status.value} {verdict.reason}".rstrip())
    return Hunt(mutant, tuple(verdicts), tuple(missed), seconds=time.monotonic() - start)


def hunt_all(mutants: Sequence[Mutant], images: Path, jobs: int, seed: int = 0) -> Iterator[Hunt]:
    """Hunt several mutants, ``jobs`` at a time, and yield each as it is done."""
    todo: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    done: queue.SimpleQueue[Hunt | BaseException] = queue.SimpleQueue()
    for mutant in mutants:
        todo.put(mutant)

    def work() -> None:
        while True:
            try:
                mutant = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put(hunt(mutant, images, seed))
            except BaseException as error:
                done.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for _ in mutants:
        result = done.get()
        if isinstance(result, BaseException):
            raise result
        yield result
    for thread in threads:
        thread.join()


def healthy(mutants: Sequence[Mutant], images: Path, jobs: int) -> list[Verdict]:
    """Run the named cases and controls of mutants on the driver without a bug; return what does not pass."""
    bad: list[Verdict] = []
    for half, switches in sorted({(mutant.half, mutant.switches) for mutant in mutants}):
        alike = [mutant for mutant in mutants if (mutant.half, mutant.switches) == (half, switches)]
        names = {name for mutant in alike for name in (*mutant.caught_by, *mutant.control)}
        plan = [ITEMS[name] for name in sorted(names)]
        pool = Pool(How(command("none-half" if half else "none", images, switches), jobs, second_look=True))
        bad += [verdict for verdict in pool.run(plan) if verdict.status is not Status.PASS]
    return bad


def survey(mutant: Mutant, images: Path, jobs: int, enough: int) -> list[Verdict]:
    """Run everything on a mutant, until ``enough`` cases have found it: for writing its row."""
    if mutant.image_edits:
        build_image(mutant, images)
    pool = Pool(How(command(mutant.id, images, mutant.switches), jobs, PATIENCE))
    found = []
    for verdict in pool.run(list(ITEMS.values())):
        if verdict.status in FOUND:
            found.append(verdict)
            if len(found) == enough:
                pool.stop()
    return found


def default_jobs() -> int:
    """Return as many drivers at a time as there are CPUs for us, at most four."""
    return min(len(os.sched_getaffinity(0)), 4)
