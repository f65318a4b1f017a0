"""static_program.c, natively and as a guest: signal frames, restarts, thread-local storage, flags and structures as C sees them.

An emulated machine has no compiler, so the program is made before, on any host that has that of the images:
``python3 -m tests.arm64.test_static_program`` leaves it beside its source, where the test finds it.
"""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from blobs import build
from tests.programs.support import same_as_native

SOURCE = Path(__file__).with_name("static_program.c")
PROGRAM = SOURCE.with_suffix(".aarch64")


def compile_program(target: Path) -> None:
    """Make the program. Raises build.BuildError where there is no compiler, and what subprocess raises."""
    build.check_compiler()
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static", "-O1", "-Wall"]
    subprocess.run([*command, "-Wextra", "-Werror", "-o", str(target), str(SOURCE)], check=True)


@pytest.mark.slow
def test_it_is_static_and_has_thread_local_storage(tmp_path: Path) -> None:
    """What makes it a test of the loader as well: no interpreter, a PT_TLS segment. On any host with the compiler."""
    try:
        compile_program(tmp_path / "program")
    except build.BuildError as error:
        pytest.skip(str(error))
    elf = (tmp_path / "program").read_bytes()
    (machine,) = struct.unpack_from("<H", elf, 18)
    table, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    kinds = {struct.unpack_from("<I", elf, table + index * size)[0] for index in range(count)}
    assert machine == 183
    assert 7 in kinds
    assert 3 not in kinds


def test_same_as_native() -> None:
    """S-031, S-051, S-053, P-043: compared line by line with the native run."""
    if os.uname().machine != "aarch64":
        pytest.skip("this needs an arm64 host")
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM.name} was not made before (python3 -m tests.arm64.test_static_program)")
    ours = same_as_native("systrap", (str(PROGRAM),))
    text = ours.out.decode().splitlines()
    assert ours.status == 0
    assert "signal 11 code 1 address 1238 saved 1238 class 24 write 1 fp 528 link 0" in text
    assert "handled 1, d8 4045000000000000" in text
    assert "read -1 Interrupted system call" in text


if __name__ == "__main__":
    compile_program(PROGRAM)
