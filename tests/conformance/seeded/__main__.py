"""``python -m tests.conformance.seeded``: can the conformance suite find bugs? It prints "N of N seeded bugs found".

Exit status: 0 when every mutant was found by the cases that its row names (or could not be built here), and these cases pass on
the driver without a bug; else 1.
"""

import argparse
import fnmatch
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from blobs import build
from tests.conformance.seeded import hunt
from tests.conformance.seeded.mutation import Mutant, StaleError
from tests.conformance.seeded.table import MUTANTS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.seeded", description=__doc__)
    add = parser.add_argument
    add("--only", metavar="GLOB", action="append", help="only mutants whose id matches; may be given again")
    add("--jobs", metavar="N", type=int, default=hunt.default_jobs(), help="drivers at the same time (%(default)s)")
    add("--repeat", metavar="N", type=int, default=1, help="run those that depend on timing N times, with other seeds")
    add("--list", action="store_true", help="tell what there is, and run nothing")
    add("--survey", action="store_true", help="run the whole suite on each mutant, and tell which cases find it")
    add("--enough", metavar="N", type=int, default=8, help="with --survey: stop at so many cases (%(default)s)")
    return parser


def _compiler() -> str:
    """Say why images cannot be built here; "" when they can."""
    try:
        build.check_compiler()
    except build.BuildError as error:
        return str(error)
    return ""


def _hunt(mutants: Sequence[Mutant], images: Path, jobs: int, repeat: int) -> int:
    """Hunt the mutants; return how many were found every time."""
    found = 0
    chance = [mutant for mutant in mutants if mutant.chance]
    steady = [mutant for mutant in mutants if not mutant.chance]
    for result in hunt.hunt_all(steady, images, jobs):
        found += result.found
        _tell(result, "")
    for mutant in chance:
        results = list(hunt.hunt_all([mutant] * repeat, images, 1))
        missed = [result for result in results if not result.found]
        found += not missed
        _tell(missed[0] if missed else results[0], f" {repeat - len(missed)} of {repeat} times")
    return found


def _tell(result: hunt.Hunt, times: str) -> None:
    mutant = result.mutant
    word = "found " if result.found else "MISSED"
    by = ", ".join(mutant.caught_by)
    sys.stdout.write(f"{word} {mutant.id:26} {result.seconds:5.1f} s{times}  {mutant.what}  [{by}]\n")
    for line in result.missed:
        sys.stdout.write(f"         {line}\n")
    sys.stdout.flush()


def _survey(mutants: Sequence[Mutant], images: Path, jobs: int, enough: int) -> None:
    for mutant in mutants:
        try:
            verdicts = hunt.survey(mutant, images, jobs, enough)
        except (build.BuildError, StaleError) as error:
            sys.stdout.write(f"{mutant.id:26} {error}\n")
            continue
        words = " ".join(f"{verdict.case.id}({verdict.status.value})" for verdict in verdicts)
        sys.stdout.write(f"{mutant.id:26} {words or 'NOTHING FINDS IT'}\n")
        sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Carry out a command line; return the exit status."""
    options = _parser().parse_args(arguments)
    globs = options.only or ["*"]
    chosen = [mutant for mutant in MUTANTS if any(fnmatch.fnmatchcase(mutant.id, glob) for glob in globs)]
    if options.list:
        for mutant in chosen:
            sys.stdout.write(f"{mutant.id:26} {mutant.what}  [{', '.join(mutant.caught_by)}]\n")
        return 0
    why = _compiler()
    mutants = [mutant for mutant in chosen if not (why and mutant.image_edits)]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        if options.survey:
            _survey(mutants, images, options.jobs, options.enough)
            return 0
        bad = hunt.healthy(mutants, images, options.jobs)
        for verdict in bad:
            sys.stdout.write(f"without a bug {verdict.case.id} is {verdict.status.value}: {verdict.reason}\n")
        found = _hunt(mutants, images, options.jobs, options.repeat)
    if len(mutants) < len(chosen):
        sys.stdout.write(f"{len(chosen) - len(mutants)} seeded bugs of the images were not tried: {why}\n")
    sys.stdout.write(f"{found} of {len(mutants)} seeded bugs found\n")
    return 0 if found == len(mutants) and mutants and not bad else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
