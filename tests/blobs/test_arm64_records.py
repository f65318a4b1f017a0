"""The records of an arm64 signal frame (blobs/src/aarch64/frame.h), compiled for this host: the header is plain C."""

import ctypes
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

SOURCES = Path(__file__).resolve().parents[2] / "blobs" / "src"

FPSIMD, ESR, EXTRA, SVE, ZA, TPIDR2 = 0x46508001, 0x45535201, 0x45585401, 0x53564501, 0x54366345, 0x54504902
SIZE = 4096
STATE = 520
GUARD = b"\xa5" * 64

WRAPPER = """
#include "frame.h"
void *first(void *records) { return fpsimd_of_frame(records); }
void replace(void *fpsimd, const u64 *state) { replace_fpsimd_state(fpsimd, state); }
u64 syndrome(const void *records) { return syndrome_of_frame(records); }
"""


class Functions(NamedTuple):
    """frame.h's functions."""

    first: Callable[[int], int | None]
    replace: Callable[[int, int], None]
    syndrome: Callable[[int], int]


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Functions:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("there is no gcc here")
    library = tmp_path_factory.mktemp("frame") / "frame.so"
    command = [gcc, "-std=gnu11", "-O2", "-shared", "-fPIC", "-ffreestanding", "-Wall", "-Wextra", "-Werror",
               f"-I{SOURCES}", f"-I{SOURCES}/aarch64", "-xc", "-", "-o", str(library)]  # fmt: skip
    subprocess.run(command, input=WRAPPER, text=True, check=True)
    loaded = ctypes.CDLL(str(library))
    address = ctypes.c_void_p
    for name, result, arguments in (
        ("first", address, [address]),
        ("replace", None, [address, address]),
        ("syndrome", ctypes.c_uint64, [address]),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return Functions(loaded.first, loaded.replace, loaded.syndrome)


class Frame:
    """The 4096 bytes of records, with something in front and behind that nobody may touch."""

    def __init__(self, content: bytes) -> None:
        assert len(content) <= SIZE
        self._memory = bytearray(GUARD + content.ljust(SIZE, b"\0") + GUARD)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + len(GUARD)

    @property
    def records(self) -> bytes:
        assert self._memory[: len(GUARD)] == GUARD
        assert self._memory[-len(GUARD) :] == GUARD
        return bytes(self._memory[len(GUARD) : -len(GUARD)])


def record(magic: int, payload: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", magic, 8 + len(payload) if size is None else size) + payload


def fpsimd(fill: int = 0x11) -> bytes:
    return record(FPSIMD, bytes([fill]) * STATE)


def esr(value: int) -> bytes:
    return record(ESR, struct.pack("<Q", value))


def sve(fill: int = 0x22) -> bytes:
    return record(SVE, bytes([fill]) * (8 + 66 * 16))


def syndrome_by_the_book(content: bytes) -> int:
    """Do the walk again, as plainly as can be."""
    data, at = content.ljust(SIZE, b"\0"), 0
    while at + 16 <= SIZE:
        magic, size = struct.unpack_from("<II", data, at)
        if (magic, size) == (ESR, 16):
            return int.from_bytes(data[at + 8 : at + 16], "little")
        if magic in (0, EXTRA) or size < 8 or size % 16 or at + size > SIZE:
            return 0
        at += size
    return 0


# ---- the first record ----


def test_a_frame_begins_with_fpsimd(frame: Functions) -> None:
    """S-050."""
    whole = Frame(fpsimd() + esr(7))
    assert frame.first(whole.address) == whole.address


@pytest.mark.parametrize(
    "wrong",
    [record(SVE, bytes(520)), record(FPSIMD, bytes(520), 0), record(FPSIMD, bytes(520), 544), esr(1) + fpsimd(), b""],
    ids=["another record", "size 0", "another size", "not the first", "no record"],
)
def test_another_frame_is_refused(frame: Functions, wrong: bytes) -> None:
    """S-050: sighandler.c panics with FPSTATE_BAD_HEADER then."""
    assert frame.first(Frame(wrong).address) is None


# ---- restoring ----


@pytest.mark.parametrize(
    "behind",
    [b"", esr(3), sve(), esr(3) + sve() + record(ZA, bytes(56)), record(EXTRA, bytes(24)), record(TPIDR2, bytes(8))],
    ids=["nothing", "syndrome", "SVE", "syndrome, SVE, ZA", "EXTRA", "TPIDR2"],
)
def test_the_list_ends_behind_the_new_state(frame: Functions, behind: bytes) -> None:
    """S-051: whatever the interrupted context had there, the kernel does not see it; no other byte changes."""
    whole = Frame(fpsimd() + behind)
    before = whole.records
    state = bytes(range(256)) * 2 + b"\xfe" * 8
    source = ctypes.create_string_buffer(state, STATE)
    frame.replace(whole.address, ctypes.addressof(source))
    assert whole.records[:8] == before[:8]
    assert whole.records[8:528] == state
    assert whole.records[528:536] == bytes(8)
    assert whole.records[536:] == before[536:]
    assert frame.syndrome(whole.address) == 0


# ---- the walk ----


@pytest.mark.parametrize("value", [0, 1, 0x92000047, (1 << 64) - 1])
def test_the_syndrome_is_found(frame: Functions, value: int) -> None:
    """S-053: behind FPSIMD, as kernels have it, or later."""
    assert frame.syndrome(Frame(fpsimd() + esr(value)).address) == value
    assert frame.syndrome(Frame(fpsimd() + sve() + record(TPIDR2, bytes(8)) + esr(value)).address) == value


@pytest.mark.parametrize(
    "content",
    [
        fpsimd(),
        fpsimd() + bytes(8) + esr(9),
        fpsimd() + record(EXTRA, bytes(24)) + esr(9),
        fpsimd() + record(SVE, bytes(8), 0) + esr(9),
        fpsimd() + record(SVE, bytes(8), 4) + esr(9),
        fpsimd() + record(SVE, bytes(16), 24) + esr(9),
        fpsimd() + record(SVE, bytes(8), 0xFFFFFFF0) + esr(9),
        fpsimd() + record(SVE, bytes(8), SIZE) + esr(9),
        fpsimd() + record(ESR, struct.pack("<Q", 9), 32),
    ],
    ids=["no syndrome", "behind the end", "behind EXTRA", "size 0", "size 4", "not aligned", "wraps around", "beyond the frame",
         "another size"],
)  # fmt: skip
def test_what_makes_no_sense_ends_the_walk(frame: Functions, content: bytes) -> None:
    """S-053, ARM-RECORD-WALK: no size makes it turn for ever, or leave the frame."""
    assert frame.syndrome(Frame(content).address) == 0


def test_a_syndrome_in_the_last_bytes(frame: Functions) -> None:
    """S-053: the bound is that of the record, neither a byte less nor one more."""
    filler = record(SVE, bytes(SIZE - 528 - 16 - 8))
    assert frame.syndrome(Frame(fpsimd() + filler + esr(5)).address) == 5
    exact = record(SVE, bytes(SIZE - 528 - 8))
    assert frame.syndrome(Frame(fpsimd() + exact).address) == 0


MAGICS = st.sampled_from([FPSIMD, ESR, EXTRA, SVE, ZA, TPIDR2, 0, 1]) | st.integers(0, (1 << 32) - 1)
SIZES = st.sampled_from([0, 8, 16, 24, 32, 528, 544, 2048, 4080, 4096]) | st.integers(0, (1 << 32) - 1)
HEADERS = st.tuples(MAGICS, SIZES, st.integers(0, 600))


@given(st.lists(HEADERS, max_size=40))
@example([(SVE, 16, 8)] * 40)
def test_any_frame_is_walked_to_an_end(frame: Functions, headers: list[tuple[int, int, int]]) -> None:
    """S-053: guest threads of the same address space can write the frame meanwhile; the answer is that of the plain walk."""
    content = b"".join(record(magic, bytes([magic & 0xFF]) * length, size) for magic, size, length in headers)[:SIZE]
    whole = Frame(content)
    before = whole.records
    assert frame.syndrome(whole.address) == syndrome_by_the_book(content)
    assert whole.records == before
