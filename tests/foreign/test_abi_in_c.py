"""The shared structures against a C definition written from the specification alone (spec_abi.h); S-020.

Compiled, never run: the comparison is a list of static assertions, so any C compiler will do.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from struct import calcsize
from typing import Final

import pytest

from systrap.arch import x86_64
from systrap.platforms.systrap import abi

HERE: Final = Path(__file__).parent
SOURCES: Final = HERE.parents[1] / "blobs" / "src"

FLAGS: Final = ("-std=gnu11", "-ffreestanding", "-fsyntax-only", "-DPAGE_SIZE=4096", "-DTHREAD_AREA_SIZE=32768",
                f"-I{HERE}", f"-I{SOURCES}", f"-I{SOURCES / 'x86_64'}", "-x", "c", "-")  # fmt: skip

STRUCTS: Final = {
    "spec_sysmsg": "sysmsg",
    "spec_ptregs": "ptregs",
    "spec_siginfo": "siginfo",
    "spec_context": "thread_context",
    "spec_queue": "context_queue",
    "spec_spinning_queue": "spinning_queue",
    "spec_arch_state": "arch_state",
}
"""The specification's structures, and what they are called in blobs/src."""

OTHER_NAMES: Final = {("spec_queue", "ringbuffer"): "ring"}

PYTHON: Final = {
    "spec_sysmsg": {
        "self": abi.SYSMSG_SELF, "syshandler": abi.SYSMSG_SYSHANDLER, "syshandler_stack": abi.SYSMSG_SYSHANDLER_STACK,
        "state": abi.SYSMSG_STATE, "context": abi.SYSMSG_CONTEXT, "err": abi.SYSMSG_ERR,
        "err_additional": abi.SYSMSG_ERR_ADDITIONAL, "err_line": abi.SYSMSG_ERR_LINE, "thread_id": abi.SYSMSG_THREAD_ID,
    },
    "spec_context": {
        "fpstate": 0, "fpstate_changed": abi.FPSTATE_CHANGED, "ptregs": abi.PTREGS, "siginfo": abi.SIGINFO, "signo": abi.SIGNO,
        "state": abi.STATE, "interrupt": abi.INTERRUPT, "thread_id": abi.THREAD_ID, "last_thread_id": abi.LAST_THREAD_ID,
        "sentry_fast_path": abi.SENTRY_FAST_PATH, "acked_time": abi.ACKED_TIME,
        "state_changed_time": abi.STATE_CHANGED_TIME, "tls": abi.TLS, "debug": abi.DEBUG, "err": abi.ERR,
    },
    "spec_queue": {
        "end": abi.QUEUE_END, "start": abi.QUEUE_START, "fast_path_disabled": abi.QUEUE_FAST_PATH_DISABLED,
        "num_awake_contexts": abi.QUEUE_AWAKE_CONTEXTS, "num_active_threads": abi.QUEUE_ACTIVE_THREADS,
        "num_spinning_threads": abi.QUEUE_SPINNING_THREADS, "num_threads_to_wakeup": abi.QUEUE_THREADS_TO_WAKEUP,
        "num_active_contexts": abi.QUEUE_ACTIVE_CONTEXTS, "used_fast_path": abi.QUEUE_USED_FAST_PATH,
        "ringbuffer": abi.QUEUE_RING,
    },
    "spec_ptregs": {name: 8 * index for index, name in enumerate(x86_64.NAMES)},
    "spec_arch_state": {"xsave_mode": 0, "fp_len": 4, "fsgsbase": 8},
}  # fmt: skip
"""Offsets by which the sentry reads and writes."""

SIZES: Final = {
    "spec_sysmsg": abi.SYSMSG_SIZE,
    "spec_ptregs": abi.PTREGS_SIZE,
    "spec_siginfo": abi.SIGINFO_SIZE,
    "spec_queue": abi.QUEUE_RING + 8 * abi.QUEUE_ENTRIES,
    "spec_arch_state": 12,
}

SIGINFO_PREFIX: Final = {"signo": "<", "error": "<i", "code": "<ii", "addr": "<iii4x"}
"""What stands before each field in abi's format of the siginfo."""


def find_compilers() -> list[list[str]]:
    """Return every C compiler that is there."""
    found = [[name] for name in ("cc", "gcc", "clang", "tcc") if shutil.which(name)]
    zig = [sys.executable, "-m", "ziglang", "clang"]
    if subprocess.run([*zig, "--version"], capture_output=True, check=False).returncode == 0:
        found.append([*zig, "--target=x86_64-linux-gnu", "-nostdinc"])
    return found


@pytest.fixture(scope="module")
def compilers() -> list[list[str]]:
    found = find_compilers()
    if not found:
        pytest.skip("no C compiler here")
    return found


def errors(compiler: list[str], assertions: list[str]) -> list[str]:
    """Return the assertions that do not hold. Fails when the text does not compile for another reason."""
    lines = [
        '#include "spec_abi.h"',
        '#include "abi.h"',
        "#define AT(type, field) __builtin_offsetof(struct type, field)",
    ]
    lines += [f'_Static_assert({text}, "not: {text}");' for text in assertions]
    done = subprocess.run([*compiler, *FLAGS], input="\n".join(lines), capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if " error:" in line]
    failed = [text for text in assertions if any(f"not: {text}" in line for line in said)]
    assert len(said) == len(failed), done.stderr
    assert (done.returncode == 0) == (not said), done.stderr
    return failed


def fields() -> dict[str, list[str]]:
    """Return the members of each structure in spec_abi.h, by their names."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / "spec_abi.h").read_text(), flags=re.DOTALL)
    result = {}
    for name, body in re.findall(r"^struct (\w+) \{(.*?)^\};", text, flags=re.DOTALL | re.MULTILINE):
        declared = re.sub(r"SPEC_LINE|\[\w+\]", "", body)
        result[name] = [
            member.split()[-1].lstrip("*") for line in declared.split(";") if line.strip() for member in line.split(",")
        ]
    return result


def test_nothing_is_forgotten() -> None:
    """Every structure and every offset of abi.py is compared."""
    found = fields()
    assert set(found) == set(STRUCTS)
    assert len(found["spec_ptregs"]) == 27
    assert len(found["spec_context"]) == 16
    for struct, members in PYTHON.items():
        assert set(members) <= set(found[struct])
    compared = {value for members in PYTHON.values() for value in members.values()}
    for name, value in vars(abi).items():
        if re.fullmatch(r"(SYSMSG|QUEUE)_[A-Z_]+", name) and name not in (
            "SYSMSG_SIZE",
            "QUEUE_ENTRIES",
            "QUEUE_FIRST_INDEX",
        ):
            assert value in compared, name


def test_the_sentrys_offsets(compilers: list[list[str]]) -> None:
    """S-020: abi.py, field by field."""
    assertions = [
        f"AT({struct}, {field}) == {offset}" for struct, members in PYTHON.items() for field, offset in members.items()
    ]
    assertions += [f"sizeof(struct {struct}) == {size}" for struct, size in SIZES.items()]
    assertions.append(f"sizeof(struct spec_context) == {abi.ERR + 8}")
    assertions.append(f"SPEC_CONTEXT_SLOT == {abi.CONTEXT_SIZE}")
    assertions.append(f"sizeof(((struct spec_context *)0)->fpstate) == {abi.FPSTATE_SIZE}")
    for field, prefix in SIGINFO_PREFIX.items():
        assert abi._SIGINFO.format.startswith(prefix)
        assertions.append(f"AT(spec_siginfo, {field}) == {calcsize(prefix)}")
    assertions += [
        f"SPEC_INVALID_ID == {abi.INVALID_ID}u",
        f"SPEC_MAX_CONTEXTS == {abi.MAX_CONTEXTS}",
        f"SPEC_RING_ENTRIES == {abi.QUEUE_ENTRIES}",
        *(f"SPEC_CONTEXT_{state.name} == {state.value}" for state in abi.ContextState),
        *(f"SPEC_THREAD_{state.name} == {state.value}" for state in abi.ThreadState),
        *(f"SPEC_{error.name} == {error.value}" for error in abi.StubError),
    ]
    for compiler in compilers:
        assert errors(compiler, assertions) == []


def test_the_images_offsets(compilers: list[list[str]]) -> None:
    """S-020: blobs/src/abi.h, every field and every size."""
    assertions = [f"sizeof(struct {ours}) == sizeof(struct {spec})" for spec, ours in STRUCTS.items()]
    for struct, members in fields().items():
        for field in members:
            name = OTHER_NAMES.get((struct, field), field)
            assertions.append(f"AT({struct}, {field}) == AT({STRUCTS[struct]}, {name})")
            size = "sizeof(((struct {} *)0)->{})"
            assertions.append(f"{size.format(struct, field)} == {size.format(STRUCTS[struct], name)}")
    assertions += [f"SPEC_{error.name} == ERROR_{error.name}" for error in abi.StubError]
    assertions += [f"SPEC_THREAD_{state.name} == THREAD_{state.name}" for state in abi.ThreadState]
    assertions += [f"SPEC_CONTEXT_{s.name} == CONTEXT_{s.name}" for s in abi.ContextState if s <= 4]
    assertions += [
        "SPEC_INVALID_ID == INVALID_ID",
        "SPEC_RING_ENTRIES == RING_ENTRIES",
        "SPEC_MAX_CONTEXTS == MAX_CONTEXT_ID",
    ]
    for compiler in compilers:
        assert errors(compiler, assertions) == []


def test_a_wrong_offset_is_noticed(compilers: list[list[str]]) -> None:
    for compiler in compilers:
        assert errors(compiler, ["AT(spec_context, state) == 3944", "AT(spec_context, err) == 4008"]) == [
            "AT(spec_context, err) == 4008"
        ]
