"""Bad input, crashes and signals from outside: what a user is told, and what is left behind."""

import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs.support import TIMEOUT, command, environment, execute, guest, need_platform, need_program

PLATFORM = "systrap"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a directory that guests can see: not below /tmp, which is the guest's own."""
    base = Path("/var/tmp")
    path = base / f"systrap-test-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir(mode=0o755)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=False)


def executable(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(0o755)
    return str(path)


def one_line(err: bytes) -> str:
    lines = err.decode().splitlines()
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize("platform", ["systrap", "ptrace"])
def test_a_missing_program_is_127(platform: str) -> None:
    for program in ("/no/such/program", "nosuchprogram"):
        ours = guest(platform, (program,))
        assert ours.status == 127
        assert program in one_line(ours.err)
        assert ours.out == b""


def test_a_directory_is_126() -> None:
    ours = guest(PLATFORM, ("/etc",))
    assert ours.status == 126
    assert "/etc" in one_line(ours.err)


def test_not_executable_is_126() -> None:
    ours = guest(PLATFORM, ("/etc/passwd",))
    assert ours.status == 126
    assert "/etc/passwd" in one_line(ours.err)


def test_text_without_hash_bang_is_126(folder: Path) -> None:
    program = executable(folder / "text", b"just words\n")
    ours = guest(PLATFORM, (program,))
    assert ours.status == 126
    assert "not an ELF" in one_line(ours.err)


def test_an_empty_program_is_126(folder: Path) -> None:
    assert guest(PLATFORM, (executable(folder / "empty", b""),)).status == 126


def test_another_machines_program_is_126(folder: Path) -> None:
    image = bytearray(Path("/bin/true").read_bytes())
    struct.pack_into("<H", image, 18, 243)
    ours = guest(PLATFORM, (executable(folder / "other", bytes(image)),))
    assert ours.status == 126
    assert "RISC-V" in one_line(ours.err)


def test_a_32_bit_program_is_126(folder: Path) -> None:
    image = bytearray(Path("/bin/true").read_bytes())
    image[4] = 1
    assert guest(PLATFORM, (executable(folder / "i386", bytes(image)),)).status == 126


@pytest.mark.parametrize("length", [10, 64, 100, 3000])
def test_a_truncated_program_is_126(folder: Path, length: int) -> None:
    program = executable(folder / "cut", Path("/bin/bash").read_bytes()[:length])
    ours = guest(PLATFORM, (program,))
    assert ours.status == 126
    assert program in one_line(ours.err)


def test_an_unreadable_program_is_126(folder: Path) -> None:
    program = Path(executable(folder / "secret", Path("/bin/true").read_bytes()))
    program.chmod(0)
    prefix: list[str] = []
    if os.getuid() == 0:
        # Root can read everything: somebody else tries.
        prefix = [need_program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]
        if execute([*prefix, "/usr/bin/test", "-r", __file__]).status:
            pytest.skip("this checkout can be read by root only")
    ours = execute([*prefix, *command(PLATFORM, (str(program),))])
    assert ours.status == 126
    assert str(program) in one_line(ours.err)


def test_a_missing_interpreter_is_named(folder: Path) -> None:
    ours = guest(PLATFORM, (executable(folder / "script", b"#!/no/interpreter\n"),))
    assert ours.status in (126, 127)
    assert "/no/interpreter" in one_line(ours.err)


def test_bad_options_are_125() -> None:
    need_platform(PLATFORM)
    for options in (["--cwd", "/no/such"], ["--rw", "/no/such"], ["--env", "=x"], ["--platform", "none"], ["--nope"]):
        ours = guest(PLATFORM, ("/bin/true",), options=options)
        assert ours.status == 125, options
        assert b"Traceback" not in ours.err


def test_a_crash_is_explained() -> None:
    ours = guest(PLATFORM, ("/usr/bin/python3", "-S", "-c", "import ctypes; ctypes.string_at(0x1234)"))
    assert ours.status == 128 + signal.SIGSEGV
    text = ours.err.decode()
    assert "SIGSEGV" in text
    assert "0x1234" in text
    assert "libc" in text or "python" in text, text


def test_a_deliberate_signal_is_no_crash_report() -> None:
    ours = guest(PLATFORM, ("/bin/sh", "-c", "kill -TERM $$"))
    assert ours.status == 128 + signal.SIGTERM


def test_environment_and_directory() -> None:
    options = ["--clear-env", "--env", "A=1", "-E", "B=two words", "--cwd", "/etc"]
    ours = guest(PLATFORM, ("/bin/sh", "-c", "/usr/bin/env | /usr/bin/sort; /bin/pwd"), options=options)
    assert ours.out.decode().splitlines()[:2] == ["A=1", "B=two words"]
    assert ours.out.endswith(b"/etc\n")


def test_changes_stay_in_memory_unless_allowed(folder: Path) -> None:
    (folder / "old").write_text("old")
    script = f"cd {folder}; echo new > made; echo changed > old; rm -f gone; cat made old"
    (folder / "gone").write_text("still here")
    ours = guest(PLATFORM, ("/bin/sh", "-c", script))
    assert (ours.status, ours.out) == (0, b"new\nchanged\n"), ours.err
    assert sorted(p.name for p in folder.iterdir()) == ["gone", "old"]
    assert (folder / "old").read_text() == "old"
    ours = guest(PLATFORM, ("/bin/sh", "-c", script), options=["--rw", str(folder)])
    assert (ours.status, ours.out) == (0, b"new\nchanged\n"), ours.err
    assert sorted(p.name for p in folder.iterdir()) == ["made", "old"]
    assert (folder / "old").read_text() == "changed\n"


def test_a_log_goes_to_a_file(folder: Path) -> None:
    log = folder / "log"
    ours = guest(PLATFORM, ("/bin/echo", "x"), options=["--trace", "-o", str(log)])
    assert (ours.status, ours.out, ours.err) == (0, b"x\n", b"")
    assert "write(" in log.read_text()
    assert re.search(r"exit_group\(0\) += \?\n", log.read_text())


def started(argv: tuple[str, ...], ready: bytes = b"ready\n") -> "subprocess.Popen[bytes]":
    """Start a guest and wait for the line that says it is ready."""
    need_platform(PLATFORM)
    child = subprocess.Popen(
        command(PLATFORM, argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == ready
    return child


def test_sigterm_ends_the_guest_and_everything_with_it() -> None:
    child = started(("/bin/bash", "-c", "sleep 100 & echo ready; wait"))
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=TIMEOUT)
    assert child.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_sigterm_ends_guests_that_would_not_end() -> None:
    """SIGTERM is for the run as a whole: what guests think of it does not count."""
    child = started(("/bin/bash", "-c", "trap '' TERM; echo ready; sleep 100 & wait"))
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=TIMEOUT)
    assert child.returncode == 128 + signal.SIGTERM


def test_sigint_goes_to_the_guest() -> None:
    child = started(("/bin/bash", "-c", "trap 'echo interrupted' INT; echo ready; sleep 0.5; sleep 0.5; echo end"))
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=TIMEOUT)
    assert b"interrupted\n" in out
    assert child.returncode == 0


def test_three_interrupts_end_everything() -> None:
    child = started(("/bin/bash", "-c", "trap '' INT; echo ready; while :; do sleep 1; done"))
    for _ in range(3):
        child.send_signal(signal.SIGINT)
        time.sleep(0.2)
    child.communicate(timeout=TIMEOUT)
    assert child.returncode in (-signal.SIGINT, 128 + signal.SIGINT, 128 + signal.SIGKILL)


def test_a_closed_output_is_sigpipe() -> None:
    need_platform(PLATFORM)
    line = " ".join(command(PLATFORM, ("/usr/bin/yes",))) + " | head -1; echo ${PIPESTATUS[0]}"
    done = subprocess.run(
        [need_program("bash"), "-c", line], capture_output=True, env=environment(), timeout=TIMEOUT, check=False
    )
    assert done.stdout == b"y\n141\n", done


def test_closed_descriptors_stay_closed() -> None:
    need_platform(PLATFORM)
    line = " ".join(command(PLATFORM, ("/bin/ls", "/proc/self/fd"))) + " <&-"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, env=environment(), timeout=TIMEOUT, check=False)
    native = subprocess.run(["/bin/sh", "-c", "/bin/ls /proc/self/fd <&-"], capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (native.stdout, native.returncode)
