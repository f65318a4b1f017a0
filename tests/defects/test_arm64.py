"""Defects of the original on arm64."""

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from blobs import build
from systrap.host.probe import TIMED_OUT, in_child
from systrap.platforms.systrap import abi, blob
from tests.defects.both_ways import DefectError, both_ways, demand, verdict
from tests.defects.mutants import MUTANTS, put_back

ROOT = Path(__file__).resolve().parents[2]
LISTINGS = sorted((ROOT / "blobs" / "listing").glob("aarch64-*-bootstrap.lst"))

FPSIMD, OTHER = 0x46508001, 0x11111111
WRAPPER = """
#include "frame.h"
u64 syndrome(const void *records) { return syndrome_of_frame(records); }
"""
WITHOUT_ARGUMENTS = (172, 173, 178)
"""getpid, getppid, gettid."""
NOP = 0xD503201F
STORE_ZERO = 0xF9000000 | abi.FPSTATE_CHANGED // 8 << 10 | 31
"""``str xzr, [x0, #fpstate_changed]``; the base register is in bits 5 to 9."""

GUEST = """
import sys
from systrap import platform
from systrap.platform import Options
from systrap.platforms.systrap import blob
from tests.arm64 import guest
from tests.platforms.kernel import SUBMIT, Kernel, is_syscall

image = blob.load("sysmsg")
load = blob.load
code = open(sys.argv[1], "rb").read()
blob.load = lambda name: blob.Image(name, code, image.exports, image.parameters) if name == "sysmsg" else load(name)
kernel = Kernel(platform.lookup("systrap").new(Options()), SUBMIT)
context, space = kernel.context(), kernel.space(guest.CALLS.bytes)
assert is_syscall(kernel.run(context, space))
print(context.slot._u32[int(sys.argv[2]) >> 2])
kernel.close()
"""


@both_ways
def test_a_record_without_a_size_ends_the_walk(tmp_path: Path, original: bool) -> None:
    """ARM-RECORD-WALK (S-053): the header of the frame is plain C, so it is compiled for this host."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("there is no gcc here")
    shutil.copytree(build.SOURCES, tmp_path / "src")
    if original:
        for edit in MUTANTS["ARM-RECORD-WALK"].edits:
            put_back(tmp_path / "src" / edit.file, edit)
    library = tmp_path / "frame.so"
    flags = ["-std=gnu11", "-O2", "-shared", "-fPIC", "-ffreestanding", "-xc", "-"]
    include = [f"-I{tmp_path}/src", f"-I{tmp_path}/src/aarch64"]
    subprocess.run([gcc, *flags, *include, "-o", str(library)], input=WRAPPER, text=True, check=True)
    syndrome = ctypes.CDLL(str(library)).syndrome
    syndrome.argtypes = (ctypes.c_void_p,)
    syndrome.restype = ctypes.c_uint64
    records = struct.pack("<II520xII", FPSIMD, 528, OTHER, 0).ljust(4096, b"\xff")
    frame = ctypes.create_string_buffer(records, 4096)
    with verdict(original):
        demand(in_child(lambda: int(syndrome(frame) != 0)) != TIMED_OUT, "the walk does not end")


@both_ways
def test_fp_state_that_was_captured_is_not_loaded_again(tmp_path: Path, original: bool) -> None:
    """ARM-FP-CHANGED: the flag of a context that came back says "as captured"; upstream's stays set for ever.

    The original is our image without the one store that clears it. No compiler is needed for that.
    """
    if os.uname().machine != "aarch64":
        pytest.skip("this needs an arm64 host")
    code = bytearray(blob.load("sysmsg").data)
    if original:
        stores = [at for at in range(0, len(code), 4) if is_clearing(int.from_bytes(code[at : at + 4], "little"))]
        assert len(stores) == 1, "the image changed, so must this test"
        code[stores[0] : stores[0] + 4] = NOP.to_bytes(4, "little")
    image = tmp_path / "sysmsg"
    image.write_bytes(code)
    command = [sys.executable, "-c", GUEST, str(image), str(abi.FPSTATE_CHANGED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    with verdict(original):
        demand(int(done.stdout) == 0, "FP registers would be loaded at each resume")


def is_clearing(word: int) -> bool:
    """Tell whether an instruction stores zero at the offset of fpstate_changed."""
    return word & ~(0x1F << 5) == STORE_ZERO


def without_x0(listing: str) -> list[str]:
    """Return the system calls that nothing sets x0 for: none between them and the label, call or branch before them."""
    found: list[str] = []
    is_set, number = False, 0
    for line in listing.splitlines():
        if re.match(r"^[0-9a-f]+ <(\w*_loop|begin\w*)>:", line):
            is_set = False
        elif re.search(r"\tsvc|\ssvc\s", line):
            if not is_set and number not in WITHOUT_ARGUMENTS:
                found.append(line)
            is_set = False
        elif asked := re.search(r"\bmov\s+x8, #(\d+)", line):
            number = int(asked[1])
        elif re.search(r"\b(mov|ldr|add|adr|orr)\s+[xw]0,", line) or re.search(r"\bldp\s+x0,", line):
            is_set = True
    return found


@pytest.mark.parametrize("path", LISTINGS, ids=lambda path: path.name)
def test_no_call_goes_on_with_the_result_of_the_last(path: Path) -> None:
    """ARM-X0: each system call of the bootstrap image has its first argument set for it; the loop of upstream is not there."""
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(r"\ssvc\s", text)) > 10
    assert without_x0(text) == []


def test_a_call_with_an_old_x0_is_found() -> None:
    """What the check above looks for, in a loop as upstream has it."""
    loop = (
        "0 <wake_loop>:\n 0: mov x8, #98\n 4: mov x0, x19\n 8: svc #0\n c: cbz x0, 0\n 10: mov x8, #98\n 14: svc #0\n"
    )
    assert len(without_x0(loop)) == 1
    with pytest.raises(DefectError):
        demand(without_x0(loop) == [], "x0 is the last result")
