"""/sys: the few facts about CPUs and memory that programs look for there."""

import os

from systrap.sentry.fs.inode import Inode
from systrap.sentry.fs.synthetic import tree


def _cpus() -> bytes:
    """Return the CPUs this process may use, as a list of ranges."""
    numbers = sorted(os.sched_getaffinity(0))
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges).encode() + b"\n"


def mount_root() -> Inode:
    """Return the root of /sys."""
    cpus = {"possible": _cpus, "present": _cpus, "online": _cpus, "kernel_max": lambda: b"8191\n"}
    huge = {"enabled": lambda: b"always madvise [never]\n", "hpage_pmd_size": lambda: b"2097152\n"}
    return tree(
        "/sys",
        {
            "devices": {"system": {"cpu": cpus, "node": {"online": lambda: b"0\n", "possible": lambda: b"0\n"}}},
            "kernel": {"mm": {"transparent_hugepage": huge}},
            "fs": {"cgroup": {}},
            "class": {"net": {}},
            "block": {},
        },
    )
