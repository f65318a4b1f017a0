"""How many CPUs may be used: quotas of both versions of cgroups (S-072, P-084)."""

import os
from pathlib import Path

import pytest

from systrap.host import cpus


def make(root: Path, membership: str, files: dict[str, str]) -> float | None:
    """Lay out a cgroup tree and read it."""
    (root / "membership").write_text(membership)
    for name, content in files.items():
        path = root / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return cpus.cgroup_quota(str(root / "membership"), str(root / "mount"))


def test_no_quota(tmp_path: Path) -> None:
    assert make(tmp_path, "0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "max 100000\n"}) is None
    assert cpus.cgroup_quota(str(tmp_path / "is not there"), str(tmp_path)) is None


def test_the_smallest_quota_on_the_way_counts(tmp_path: Path) -> None:
    files = {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "150000 100000\n", "cpu.max": "max 100000"}
    assert make(tmp_path, "0::/a/b\n", files) == 1.5


def test_version_one(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}
    assert make(tmp_path, "4:memory:/job\n3:cpu,cpuacct:/job\n", files) == 0.5


@pytest.mark.parametrize("content", ["", "nonsense", "1 2 3", "100000 0", "-1 100000"])
def test_nonsense_is_no_quota(tmp_path: Path, content: str) -> None:
    assert make(tmp_path, "0::/\n", {"cpu.max": content}) is None


def test_at_least_one_cpu_and_at_most_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: 0.2)
    assert cpus.usable_cpus() == 1
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: 10_000.0)
    assert cpus.usable_cpus() == len(os.sched_getaffinity(0))
