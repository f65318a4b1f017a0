"""How many CPUs this process may really use at once: its affinity, cut by the CPU quota of its cgroups."""

import math
import os
from collections.abc import Callable, Iterable


def usable_cpus() -> int:
    """Return the number of CPUs, at least 1 (S-072)."""
    cpus = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return cpus if quota is None else min(cpus, max(1, math.floor(quota)))


def cgroup_quota(membership: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> float | None:
    """Return the smallest CPU quota between this process's cgroup and the root, in CPUs; None where there is none."""
    try:
        with open(membership, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    found: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _on_the_way(mount, path, _quota_v2)
        elif "cpu" in controllers.split(","):
            found += _on_the_way(os.path.join(mount, controllers), path, _quota_v1)
    return min(found, default=None)


def _on_the_way(root: str, path: str, read: Callable[[str], float | None]) -> Iterable[float]:
    """Yield the quota of each cgroup from ``path`` up to the root that has one."""
    while True:
        quota = read(os.path.join(root, path.strip("/")))
        if quota is not None:
            yield quota
        if path in ("", "/"):
            return
        path = os.path.dirname(path)


def _quota_v2(folder: str) -> float | None:
    """Read cpu.max: "max 100000", or microseconds in each period."""
    fields = _fields(os.path.join(folder, "cpu.max"))
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def _quota_v1(folder: str) -> float | None:
    """Read the two files of version 1; a quota of -1 is none."""
    fields = [*_fields(os.path.join(folder, "cpu.cfs_quota_us")), *_fields(os.path.join(folder, "cpu.cfs_period_us"))]
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def _fields(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isdecimal() and period.isdecimal()) or int(period) == 0:
        return None
    return int(quota) / int(period)
