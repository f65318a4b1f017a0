"""Whole runs, traced: the same calls as strace reports natively, in the same words but for what docs/tracing.md lists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trace.native import ROOT, STRACE, Line, calls, environment, processes, traced_by_us, traced_natively

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the guest kernel runs on x86-64 here")
needs_strace = pytest.mark.skipif(not os.path.exists(STRACE), reason="strace is not installed")

VDSO = {"clock_gettime", "gettimeofday", "time", "getcpu"}
"""Natively answered in the vDSO; guests have none."""
IDS = {"set_tid_address", "getpid", "gettid", "getppid", "clone", "vfork", "wait4", "kill", "rt_sigreturn", "setpgid"}
"""Ids are a guest's own. rt_sigreturn shows what rax held, which may be one."""
OURS = {"getrandom", "sysinfo", "statfs", "uname", "prlimit64", "getrusage", "sched_getaffinity"}
"""What tells of this very system: its words are compared in test_decode.py."""
PROGRAMS = {
    "true": ["/bin/true"],
    "ls": ["/bin/ls", "-l", "/etc/hostname", "/no/such"],
    "cat": ["/bin/cat", "/etc/passwd", "/etc"],
    "python": ["/usr/bin/python3", "-I", "-S", "-c", "import os; os.stat('/etc'); print(len(os.listdir('/usr')))"],
    "pipeline": ["/bin/sh", "-c", "cat /etc/passwd | sort | head -3; (exit 3); echo $?"],
    "git": ["git", "-C", str(ROOT), "rev-parse", "--git-dir"],
}  # fmt: skip


def comparable(lines: list[str]) -> list[Line]:
    """Return the calls that must be the same.

    Not those of the vDSO, and not ld.so's early memory, which a vDSO asks for; rseq fails here.
    """
    found = [call for call in calls(lines) if call.name not in VDSO | {"rseq"}]
    early = Line("mmap", "NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0", "ADDR")
    return [call for call in found if call != early]


def words(call: Line) -> str:
    """Return a call's text where it must be the same, else its name."""
    if call.name in IDS | OURS or "/proc/" in call.arguments or "st_rdev" in call.arguments:
        return call.name
    if call.name == "statx" or call.name.startswith("read"):
        # Mount ids are not told here; /proc's files have other contents.
        return re.sub(r"\|STATX_MNT_ID|nodev.*", "", f"{call.name}({call.arguments})")
    return f"{call.name}({call.arguments}) = {call.result}"


def program_of(lines: list[str]) -> str:
    """Return the first line in which a process runs a program; a process that runs none is told by its end."""
    return next((line.partition(", 0x")[0] for line in lines if line.startswith("execve(")), lines[-1])


def without_pipes(lines: list[str]) -> set[str]:
    """Return the calls of a process, but for those that depend on what its neighbours did before."""
    found = [
        call for call in comparable(lines) if call.name not in ("read", "write", "wait4", "rt_sigreturn", "getrandom")
    ]
    return {words(call) for call in found}


@needs_strace
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_calls_as_under_strace(name: str, tmp_path: Path) -> None:
    if name == "git" and not any(os.path.exists(f"{folder}/git") for folder in ("/usr/bin", "/bin")):
        pytest.skip("git is not installed")
    native = sorted(processes(traced_natively(PROGRAMS[name], tmp_path / "native")), key=program_of)
    ours = sorted(processes(traced_by_us(PROGRAMS[name], tmp_path / "ours")), key=program_of)
    assert [program_of(lines) for lines in ours] == [program_of(lines) for lines in native]
    for theirs, mine in zip(native, ours, strict=True):
        # Which wait of a shell finds which child, and how much of a pipe is there when it is read, is a matter of who is faster.
        if name == "pipeline":
            assert without_pipes(mine) == without_pipes(theirs)
        else:
            assert [call.name for call in comparable(mine)] == [call.name for call in comparable(theirs)]
            assert [words(call) for call in comparable(mine)] == [words(call) for call in comparable(theirs)]
        assert [line for line in mine if line.startswith("+++")] == [line for line in theirs if line.startswith("+++")]


@needs_strace
@pytest.mark.parametrize(
    "options",
    [
        ["-e", "trace=%file"],
        ["-Z"],
        ["-e", "!%memory,read", "-s", "5"],
        ["-e", "/^f", "-x"],
        ["-e", "trace=%desc", "-a", "10"],
    ],
)
def test_the_same_lines_with_options(options: list[str], tmp_path: Path) -> None:
    program = PROGRAMS["ls"]
    native = processes(traced_natively(program, tmp_path / "native", options))[0]
    ours = processes(traced_by_us(program, tmp_path / "ours", options))[0]
    assert [words(call) for call in comparable(ours)] == [words(call) for call in comparable(native)]


def run(*arguments: str, command: str = "trace") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "systrap", command, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment(), check=False,
    )  # fmt: skip


def test_the_first_line_and_the_last() -> None:
    done = run("-e", "trace=execve,exit_group", "--", "/bin/sh", "-c", "exit 5")
    assert done.returncode == 5
    lines = done.stderr.splitlines()
    assert re.fullmatch(
        r'execve\("/bin/sh", \["/bin/sh", "-c", "exit 5"\], 0x[0-9a-f]+ /\* \d+ vars \*/\) = 0', lines[0]
    )
    assert re.fullmatch(r"exit_group\(5\) +=\ \?", lines[1])
    assert lines[2] == "+++ exited with 5 +++"


def test_an_injected_error_is_what_the_program_sees() -> None:
    done = run("-e", "inject=openat:error=EMFILE:when=3+", "-e", "trace=openat", "--", "/bin/cat", "/etc/passwd")
    assert done.returncode == 1
    assert "Too many open files" in done.stderr
    assert '"/etc/passwd", O_RDONLY) = -1 EMFILE (Too many open files) (INJECTED)' in done.stderr


def test_an_injected_signal_kills() -> None:
    done = run("-e", "inject=write:signal=TERM", "-e", "trace=write", "--", "/bin/echo", "word")
    assert done.returncode == 128 + 15
    assert "--- SIGTERM {si_signo=SIGTERM, si_code=SI_KERNEL} ---" in done.stderr
    assert "+++ killed by SIGTERM +++" in done.stderr


def test_json_and_summary(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run("--json", "-y", "-o", str(log), "--", "/bin/cat", "/etc/hostname").returncode == 0
    records = [json.loads(line) for line in log.read_text().splitlines()]
    opened = [r for r in records if r["type"] == "call" and r["name"] == "openat"]
    assert any(r["args"][1] == '"/etc/hostname"' and r["returned"].endswith("</etc/hostname>") for r in opened)
    assert records[-1] == {"type": "exited", "pid": 2, "status": 0, "signal": None, "core": False}
    done = run("-c", "-S", "calls", "--", "/bin/cat", "/etc/hostname")
    table = done.stderr.splitlines()
    counts = [int(line.split()[3]) for line in table[2:-2]]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len([r for r in records if r["type"] == "call"])


def test_a_file_for_each_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run("-ff", "-o", str(log), "-e", "trace=exit_group", "--", "/bin/sh", "-c", "(exit 3); true").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.2", "log.3"]
    assert "+++ exited with 3 +++" in (tmp_path / "log.3").read_text()


def test_a_child_that_ends_does_not_break_off_the_wait_for_it() -> None:
    """The SIGCHLD of the child that wait4 waits for comes after its result, as natively: no EINTR without SA_RESTART."""
    program = (
        "import os, signal; signal.signal(signal.SIGCHLD, lambda *_: None)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    import time; time.sleep(0.1); os._exit(0)\n"
        "os.waitpid(pid, 0)"
    )
    done = run("-e", "trace=wait4", "--", "/usr/bin/python3", "-I", "-S", "-c", program)
    assert done.returncode == 0
    assert "ERESTART" not in done.stderr, done.stderr
    result = done.stderr.index("WEXITSTATUS(s) == 0}], 0, NULL) = 3")
    assert result < done.stderr.index("--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=3")


def test_nothing_of_tracing_is_loaded_by_a_plain_run() -> None:
    program = (
        "import sys; sys.argv[1:] = ['run', '--', '/bin/true']\n"
        "import os; real = os._exit\n"
        "from systrap.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "loaded = [name for name in sys.modules if name.startswith('systrap.trace') or 'traced' in name]\n"
        "assert not loaded, loaded\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, env=environment(), check=False)
    assert done.returncode == 0
