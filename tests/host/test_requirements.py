"""Verdicts about made-up hosts: what blocks whom, and that every bad finding says what to do."""

import pytest

from systrap.host.cpu_requirements import arm_signal_stack
from systrap.host.probe import DIED, EXPERIMENTS, TIMED_OUT, Host
from systrap.host.requirements import (
    MACHINES,
    REQUIREMENTS,
    Result,
    Verdict,
    blocking,
    examine,
    outcome,
    version,
)
from systrap.platforms.systrap.layout import area_shape
from tests.host.fake import FakeHost


def finding(host: Host, name: str) -> tuple[Verdict, str, str]:
    requirement = next(r for r in REQUIREMENTS if r.id == name and host.uname()[1] in (*r.machines, "riscv64"))
    return tuple(requirement.probe(host))  # type: ignore[return-value]  # the three fields of a Finding


def test_a_good_host_has_no_complaints() -> None:
    assert [r.requirement.id for r in examine(FakeHost()) if r.finding.verdict is not Verdict.OK] == []


def test_ids_are_unique_and_everything_is_explained() -> None:
    for machine in MACHINES:
        asked = [r.id for r in REQUIREMENTS if machine in r.machines]
        assert len(set(asked)) == len(asked)
    assert {r.id for r in REQUIREMENTS} >= {"architecture", "page size", "FP state"}
    for requirement in REQUIREMENTS:
        assert requirement.protects
        assert requirement.needed_by


STACK_48 = (
    "aaaad2c50000-aaaad2d00000 r-xp 00000000 00:02 1 /bin/x\nfffff22c8000-fffff22ea000 rw-p 00000000 00:00 0 [stack]"
)
STACK_39 = "7ffc2c8000-7ffc2ea000 rw-p 00000000 00:00 0 [stack]"

CASES: list[tuple[str, FakeHost, Verdict, str]] = [
    ("architecture", FakeHost(machine="aarch64"), Verdict.OK, "aarch64"),
    ("architecture", FakeHost(machine="riscv64"), Verdict.MISSING, "riscv64"),
    ("kernel", FakeHost(release="3.10.0-1160.el7"), Verdict.MISSING, "older than 5.3"),
    ("kernel", FakeHost(release="5.10.0"), Verdict.DEGRADED, "5.10.0"),
    ("kernel", FakeHost(release="strange"), Verdict.MISSING, "strange"),
    ("python", FakeHost(python=(3, 9, 2)), Verdict.MISSING, "3.9.2"),
    ("/proc", FakeHost(files={"/proc/self/status": None}), Verdict.MISSING, "not mounted"),
    ("no_new_privs", FakeHost(failing={"no_new_privs": 1}), Verdict.MISSING, "Operation not permitted"),
    ("seccomp", FakeHost(failing={"seccomp_filter": 22}), Verdict.MISSING, "Invalid argument"),
    ("seccomp", FakeHost(failing={"seccomp_filter": DIED}), Verdict.MISSING, "killed"),
    (
        "seccomp",
        FakeHost(files={"/proc/sys/kernel/seccomp/actions_avail": "allow kill"}),
        Verdict.MISSING,
        "without the action trap",
    ),
    ("user notify", FakeHost(failing={"user_notify": 16}), Verdict.DEGRADED, "listens already"),
    ("user notify", FakeHost(failing={"user_notify": 22}), Verdict.DEGRADED, "no seccomp listener"),
    ("user dispatch", FakeHost(failing={"user_dispatch": 22}), Verdict.DEGRADED, "seccomp alone"),
    (
        "ptrace",
        FakeHost(failing={"ptrace": 1}, files={"/proc/sys/kernel/yama/ptrace_scope": "3"}),
        Verdict.MISSING,
        "Yama scope 3",
    ),
    (
        "ptrace",
        FakeHost(failing={"ptrace": 1}, files={"/proc/sys/kernel/yama/ptrace_scope": "2"}),
        Verdict.MISSING,
        "CAP_SYS_PTRACE",
    ),
    ("ptrace", FakeHost(failing={"ptrace": 1}), Verdict.MISSING, "Operation not permitted"),
    (
        "memfd",
        FakeHost(failing={"memfd_execute": 13}, files={"/proc/sys/vm/memfd_noexec": "2"}),
        Verdict.MISSING,
        "vm.memfd_noexec = 2",
    ),
    ("memfd", FakeHost(failing={"memfd_execute": TIMED_OUT}), Verdict.MISSING, "did not end"),
    ("address room", FakeHost(failing={"memfd_large": 12}, limits={"AS": 1 << 30}), Verdict.MISSING, "RLIMIT_AS"),
    ("address room", FakeHost(failing={"memfd_large": 12}), Verdict.MISSING, "Cannot allocate memory"),
    ("page size", FakeHost(auxiliary={6: 65536}), Verdict.MISSING, "65536"),
    ("page size", FakeHost(machine="aarch64", auxiliary={6: 65536}), Verdict.OK, "65536"),
    ("page size", FakeHost(machine="aarch64", auxiliary={6: 16384}), Verdict.OK, "16384"),
    ("address bits", FakeHost(machine="aarch64", files={"/proc/self/maps": STACK_48}), Verdict.OK, "48 bits"),
    ("address bits", FakeHost(machine="aarch64", files={"/proc/self/maps": STACK_39}), Verdict.OK, "39 bits"),
    ("address bits", FakeHost(machine="aarch64", files={"/proc/self/maps": None}), Verdict.DEGRADED, "does not tell"),
    ("FP state", FakeHost(machine="aarch64", auxiliary={16: 0xFF, 51: 4720}), Verdict.OK, "4720 bytes"),
    ("FP state", FakeHost(machine="aarch64", auxiliary={16: 0xFC, 51: 4720}), Verdict.MISSING, "no FP"),
    ("FP state", FakeHost(machine="aarch64", auxiliary={16: 0xFF, 51: 13424}), Verdict.DEGRADED, "13424 bytes (SVE"),
    ("FP state", FakeHost(machine="aarch64", auxiliary={16: 0xFF, 51: 13424, 6: 16384}), Verdict.OK, "13424"),
    ("FP state", FakeHost(machine="aarch64", auxiliary={16: 0xFF, 51: 0}), Verdict.DEGRADED, "AT_MINSIGSTKSZ"),
    ("ptrace", FakeHost(machine="aarch64"), Verdict.OK, "can be traced"),
    ("address bits", FakeHost(files={"/proc/cpuinfo": "flags: xsave"}), Verdict.DEGRADED, "does not tell"),
    ("FP state", FakeHost(files={"/proc/cpuinfo": "flags: fpu"}), Verdict.DEGRADED, "no XSAVE"),
    ("FP state", FakeHost(auxiliary={51: 0}), Verdict.DEGRADED, "AT_MINSIGSTKSZ"),
    ("FP state", FakeHost(auxiliary={51: 11952}), Verdict.DEGRADED, "AMX"),
    ("FSGSBASE", FakeHost(auxiliary={26: 0}), Verdict.DEGRADED, "no FSGSBASE"),
    ("CPUID faulting", FakeHost(failing={"cpuid_fault": 19}), Verdict.DEGRADED, "No such device"),
    ("rseq", FakeHost(rseq=None), Verdict.OK, "none that it tells of"),
    ("mseal", FakeHost(failing={"mseal": 38}), Verdict.DEGRADED, "not implemented"),
    ("futex_waitv", FakeHost(failing={"futex_waitv": 38}), Verdict.DEGRADED, "each stub in turn"),
    ("membarrier", FakeHost(failing={"membarrier": 38}), Verdict.DEGRADED, "ENOSYS"),
    ("mappings", FakeHost(files={"/proc/sys/vm/max_map_count": "1000"}), Verdict.DEGRADED, "1000"),
    ("processes", FakeHost(files={"/sys/fs/cgroup/user.slice/pids.max": "120"}), Verdict.DEGRADED, "room for 5 more"),
    ("processes", FakeHost(limits={"NPROC": 10}), Verdict.DEGRADED, "room for 10 more"),
    ("descriptors", FakeHost(limits={"NOFILE": 256}), Verdict.DEGRADED, "256"),
    ("CPUs", FakeHost(cpus=1), Verdict.OK, "sleeps"),
    ("CPUs", FakeHost(files={"/sys/fs/cgroup/cpu.max": "50000 100000"}), Verdict.OK, "quota"),
    ("terminal", FakeHost(terminal=False), Verdict.OK, "none"),
]


@pytest.mark.parametrize(("name", "host", "verdict", "words"), CASES)
def test_verdicts(name: str, host: FakeHost, verdict: Verdict, words: str) -> None:
    found, text, remedy = finding(host, name)
    assert found is verdict
    assert words in text
    assert bool(remedy) == (verdict is not Verdict.OK)


def test_every_experiment_is_asked_for() -> None:
    asked: set[str] = set()

    class Recorder(FakeHost):
        def experiment(self, name: str) -> int:
            asked.add(name)
            return 0

    examine(Recorder())
    assert asked == set(EXPERIMENTS)


def test_the_room_for_frames_is_the_stubs() -> None:
    """10-stub §4: what doctor compares with is the signal stack that stubs really have."""
    for page in (4096, 16384, 65536):
        assert arm_signal_stack(page) == area_shape(page).signal_stack_size


def test_rows_of_other_machines_are_not_shown() -> None:
    rows = {
        machine: {r.requirement.id for r in examine(FakeHost(machine=machine))} for machine in (*MACHINES, "riscv64")
    }
    assert rows["x86_64"] - rows["aarch64"] == {"FSGSBASE", "CPUID faulting"}
    assert rows["aarch64"] <= rows["x86_64"]
    assert rows["riscv64"] == rows["aarch64"] - {"address bits", "FP state"}


def test_a_good_arm64_host_runs_guests() -> None:
    results = examine(FakeHost(machine="aarch64", auxiliary={16: 0xFF, 51: 4720}, files={"/proc/self/maps": STACK_48}))
    assert blocked(results, "systrap") == []
    assert [r.requirement.id for r in results if r.finding.verdict is not Verdict.OK] == []


def blocked(results: list[Result], platform: str) -> list[str]:
    return [r.requirement.id for r in blocking(results, platform)]


def test_what_blocks_whom() -> None:
    no_ptrace = examine(FakeHost(failing={"ptrace": 1}))
    assert blocked(no_ptrace, "systrap") == []
    assert blocked(no_ptrace, "ptrace") == ["ptrace"]
    no_seccomp = examine(FakeHost(failing={"seccomp_filter": 22, "user_notify": 22}))
    assert blocked(no_seccomp, "systrap") == ["seccomp"]
    assert blocked(no_seccomp, "ptrace") == []


def test_a_filter_around_us_is_named_as_the_cause() -> None:
    host = FakeHost(failing={"seccomp_filter": 1}, files={"/proc/self/status": "Seccomp:\t2"})
    assert "container" in finding(host, "seccomp")[2]


def test_versions() -> None:
    assert version("6.18.44-fc-v595") == (6, 18)
    assert version("4.18.0-553.el8") == (4, 18)
    assert version("") == (0, 0)
    assert version("7") == (0, 0)


def test_outcomes_in_words() -> None:
    assert outcome(1) == "Operation not permitted"
    assert outcome(DIED) == "the attempt was killed"
