"""How dear tracing is: one program natively, under us untraced and traced, and under strace, in turn, several rounds.

``python -m tests.trace.compare [--rounds N] [-- PROGRAM ARGUMENT...]``. It reports, and judges nothing: times on a shared
machine are worth only what their ratios within a round are.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
STRACE = "/usr/bin/strace"
PROGRAM = ["/usr/bin/find", "/usr/lib/python3", "/usr/share/doc", "-name", "*.py"]


def ways(log: str) -> dict[str, list[str]]:
    """Return the commands that a program is put behind."""
    ours = [sys.executable, "-m", "systrap"]
    return {
        "native": [],
        "systrap run": [*ours, "run", "--"],
        "systrap trace -o FILE": [*ours, "trace", "-o", log, "--"],
        "systrap trace -c": [*ours, "trace", "-c", "-o", log, "--"],
        "systrap run --trace-out": [*ours, "run", "--trace-out", log, "--"],
        "strace -f -o FILE": [STRACE, "-f", "-o", log, "--"],
        "strace -f -c": [STRACE, "-f", "-c", "-o", log, "--"],
    }


def cpu() -> float:
    """Return the CPU time of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(program: list[str], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run everything in turn; return seconds of the clock and of CPUs by way."""
    times: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = ways(os.path.join(folder, "log"))
        if not os.path.exists(STRACE):
            commands = {name: command for name, command in commands.items() if "strace" not in name}
        for _ in range(rounds):
            for name, command in commands.items():
                start, before = time.perf_counter(), cpu()
                subprocess.run([*command, *program], cwd=ROOT, stdout=subprocess.DEVNULL, check=True, timeout=600)
                times.setdefault(name, []).append((time.perf_counter() - start, cpu() - before))
    return times


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("program", nargs="*", default=PROGRAM)
    arguments = parser.parse_args()
    times = measure(arguments.program, arguments.rounds)
    load = os.getloadavg()[0]
    print(
        f"{' '.join(arguments.program)}: {arguments.rounds} rounds, {len(os.sched_getaffinity(0))} CPUs, load {load:.1f}"
    )
    base = times.get("strace -f -o FILE")
    for name, found in times.items():
        clock, used = [a for a, _ in found], [b for _, b in found]
        line = (
            f"{name:26} min {min(clock):7.3f} s, median {statistics.median(clock):7.3f} s, CPU min {min(used):6.3f} s"
        )
        if base is not None and found is not base:
            ratios = [a / b for (a, _), (b, _) in zip(found, base, strict=True)]
            line += f"; of strace -f -o: {statistics.median(ratios):5.2f} (median of rounds)"
        print(line)


if __name__ == "__main__":
    main()
