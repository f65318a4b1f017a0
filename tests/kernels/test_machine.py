"""Machines, booted: output, status, user, deadline, and nothing that stays. Skipped where no machine can be had."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernels import machine
from tests.kernels.catalog import EMULATORS, kernel
from tests.kernels.debian import UnavailableError
from tests.kernels.image import PROJECT, Image
from tests.programs.leftovers import is_alive

pytestmark = pytest.mark.slow

KERNEL = kernel("aarch64-6.1")
PATIENCE = 300.0


@pytest.fixture(scope="module")
def files() -> Image:
    try:
        return machine.prepare(KERNEL)
    except UnavailableError as error:
        pytest.skip(str(error))


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_gone(pid: int) -> bool:
    """Wait until a process is no more."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_command_as_a_user(files: Image) -> None:
    out, err = bytearray(), bytearray()
    script = 'id -u; uname -m; test -f systrap/__main__.py; echo "$A" >&2; head -c 100000 /dev/zero; exit 7'
    job = machine.Job(["/bin/sh", "-c", script], "user", {"A": "b c"})
    with machine.Machine(KERNEL, files, job) as booted:
        outcome = booted.attend(PATIENCE, out.extend, err.extend)
    assert outcome.status == 7
    assert out.startswith(b"1000\naarch64\n")
    assert out.count(0) == 100000
    assert err == b"b c\n"
    assert outcome.release.startswith("6.1.")
    assert 0 < outcome.boot <= outcome.seconds


def test_a_command_that_is_not_there(files: Image) -> None:
    err = bytearray()
    with machine.Machine(KERNEL, files, machine.Job(["/no/such/thing"])) as booted:
        assert booted.attend(PATIENCE, bytearray().extend, err.extend).status == 127
    assert b"No such file" in err


def test_a_deadline_ends_the_machine(files: Image) -> None:
    before = set(children_of(os.getpid()))
    with machine.Machine(KERNEL, files, machine.Job(["/bin/sleep", "1000"])) as booted:
        (qemu,) = set(children_of(os.getpid())) - before
        assert booted.attend(2, bytearray().extend, bytearray().extend).status is None
    assert is_gone(qemu)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_a_signal(files: Image, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.kernels", "run", "--kernel", KERNEL.name, "--", "/bin/sleep", "1000"]
    with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (found := [pid for pid in children_of(process.pid) if is_qemu(pid)]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        process.wait(60)
        assert is_gone(found[0])


def is_qemu(pid: int) -> bool:
    """Tell whether a process is the emulator."""
    try:
        return EMULATORS[KERNEL.arch].program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
