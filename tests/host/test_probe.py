"""Facts of the real host, and experiments in children."""

import os
import signal
import time

import pytest

from systrap.host import probe
from systrap.host.probe import DIED, EXPERIMENTS, Host, in_child


def test_results_come_back_from_the_child() -> None:
    assert in_child(lambda: 0) == 0
    assert in_child(lambda: 38) == 38


def test_death_and_exceptions_are_results() -> None:
    def killed() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def broken() -> int:
        raise RuntimeError

    assert in_child(killed) == DIED
    assert in_child(broken) == DIED


def test_a_hanging_experiment_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def hanging() -> int:
        time.sleep(60)
        return 0

    monkeypatch.setattr(probe, "_TIMEOUT", 0.05)
    assert in_child(hanging) == probe.TIMED_OUT


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_experiments_end_with_an_errno_and_leave_us_alone(name: str) -> None:
    before = Host().read("/proc/self/status") or ""
    assert 0 <= Host().experiment(name) < 134
    after = Host().read("/proc/self/status") or ""
    for field in ("Seccomp:", "NoNewPrivs:", "TracerPid:"):
        assert [line for line in before.splitlines() if line.startswith(field)] == [
            line for line in after.splitlines() if line.startswith(field)
        ]


def test_facts() -> None:
    host = Host()
    assert host.auxiliary(6) == os.sysconf("SC_PAGESIZE")
    assert host.auxiliary(4242) is None
    assert host.read("/no/such/file") is None
    assert host.cpus() >= 1
    assert host.limit("NOFILE") != 0
    assert host.python() >= (3, 11, 0)
    assert len(host.uname()) == 2
    assert host.has_terminal() in (True, False)
