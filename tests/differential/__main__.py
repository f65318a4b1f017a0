"""``python -m tests.differential --count 10000 --seed N``: compares the variants of systrap with ptrace on generated code."""

import argparse
import os
import secrets
import sys
import time

from tests.differential.campaign import campaign, start
from tests.differential.variants import ALL


def main() -> int:
    """Run the command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="snippets, each run on every variant")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SYSTRAP_SEED") or secrets.randbelow(1 << 32)))
    parser.add_argument("--first", type=int, default=0, help="index of the first snippet")
    parser.add_argument("--variants", default=",".join(ALL), help="comma-separated (default: all)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes that run at once")
    given = parser.parse_args()
    unknown = set(given.variants.split(",")) - ALL.keys()
    if unknown:
        parser.error(f"no such variants: {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    print(f"seed {given.seed}", flush=True)
    begin = time.monotonic()
    comparison = start([ALL[name] for name in given.variants.split(",")], given.jobs)
    try:
        for refusal in comparison.unusable:
            print(f"does not run here: {refusal}")
        reports = campaign(comparison, given.seed, given.first, given.count, _progress)
        for worker in (comparison.oracle, *comparison.workers):
            print(f"{worker.variant.name}: " + ", ".join(f"{k} {v}" for k, v in sorted(worker.statistics.items())))
        for text in reports:
            print(text)
    finally:
        comparison.close()
    verdict = f"{len(reports)} variants do not agree" if reports else f"{given.count} snippets agree"
    print(f"{verdict}; seed {given.seed}, {len(comparison.workers)} variants, {time.monotonic() - begin:.0f} s")
    return 1 if reports else 0


def _progress(done: int) -> None:
    if done % 1000 == 0:
        print(f"{done} …", flush=True)


if __name__ == "__main__":
    sys.exit(main())
