"""S-020: the offsets of the Python mirror and of the C headers are the same, asked from a compiler that built neither.

(For arm64 the only compiler that everybody has is the one that builds the images.)
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blobs import build
from systrap.arch import arm_fp
from systrap.platforms.systrap import abi, layout
from tests.blobs.machine import Block

SOURCES = Path(__file__).resolve().parents[2] / "blobs" / "src"

FIELDS = {
    "sysmsg": {
        "self": abi.SYSMSG_SELF,
        "syshandler": abi.SYSMSG_SYSHANDLER,
        "syshandler_stack": abi.SYSMSG_SYSHANDLER_STACK,
        "state": abi.SYSMSG_STATE,
        "context": abi.SYSMSG_CONTEXT,
        "err": abi.SYSMSG_ERR,
        "err_additional": abi.SYSMSG_ERR_ADDITIONAL,
        "err_line": abi.SYSMSG_ERR_LINE,
        "thread_id": abi.SYSMSG_THREAD_ID,
    },
    "context_queue": {
        "end": abi.QUEUE_END,
        "start": abi.QUEUE_START,
        "fast_path_disabled": abi.QUEUE_FAST_PATH_DISABLED,
        "num_awake_contexts": abi.QUEUE_AWAKE_CONTEXTS,
        "sentry_cpu": abi.QUEUE_SENTRY_CPU,
        "num_active_threads": abi.QUEUE_ACTIVE_THREADS,
        "num_spinning_threads": abi.QUEUE_SPINNING_THREADS,
        "num_threads_to_wakeup": abi.QUEUE_THREADS_TO_WAKEUP,
        "num_active_contexts": abi.QUEUE_ACTIVE_CONTEXTS,
        "used_fast_path": abi.QUEUE_USED_FAST_PATH,
        "ring": abi.QUEUE_RING,
    },
    "ready_ring": {
        "tail": abi.RING_TAIL,
        "bell": abi.RING_BELL,
        "waiting": abi.RING_WAITING,
        "slots": abi.RING_SLOTS,
    },
    "dispatch_block": {
        "queue": Block.QUEUE,
        "context": Block.CONTEXT,
        "context_id": Block.CONTEXT_ID,
        "max_threads": Block.MAX_THREADS,
        "threads": Block.THREADS,
        "notify": Block.NOTIFY,
        "ready_space": Block.READY_SPACE,
        "ready_context": Block.READY_CONTEXT,
        "nr_spaces": Block.NR_SPACES,
        "next_space": Block.NEXT_SPACE,
        "spin": Block.SPIN,
        "deadline": Block.DEADLINE_SEC,
        "wake": Block.WAKE,
        "wake_seen": Block.WAKE_SEEN,
        "poll_ns": Block.POLL_NS,
        "stub_spin_off": Block.STUB_SPIN_OFF,
        "spin_limit": Block.SPIN_LIMIT,
        "outstanding": Block.OUTSTANDING,
        "used_spin": Block.USED_SPIN,
        "thread_space": Block.THREAD_SPACE,
        "kicks": Block.KICKS,
        "period": Block.PERIOD,
        "handshake": Block.HANDSHAKE,
        "spaces": Block.SPACES,
        "stub_latency": Block.STUB_LATENCY,
        "sentry_latency": Block.SENTRY_LATENCY,
    },
}

SHAPES = {"x86_64": abi.X86_64_SHAPE, "aarch64": abi.AARCH64_SHAPE}


def context_fields(shape: abi.ContextShape) -> dict[str, int]:
    """Return the fields of thread_context, which are elsewhere on another CPU."""
    fields = {name: offset for name, offset in shape._asdict().items() if name not in ("ptregs_size", "size")}
    return {"fpstate": 0, "fpstate_changed": abi.FPSTATE_CHANGED, "ptregs": abi.PTREGS, **fields}


SIZES = {
    "struct sysmsg": abi.SYSMSG_SIZE,
    "struct siginfo": abi.SIGINFO_SIZE,
    "struct context_queue": layout.QUEUE_SIZE,
    "struct ready_ring": layout.RING_SIZE,
}

CONSTANTS = {
    "INVALID_ID": abi.INVALID_ID,
    "FPSTATE_SIZE": abi.FPSTATE_SIZE,
    "CONTEXT_SLOT_SIZE": abi.CONTEXT_SIZE,
    "RING_ENTRIES": abi.QUEUE_ENTRIES,
    "NOTIFY_FUTEX": abi.NOTIFY_FUTEX,
    "NOTIFY_POLLING": abi.NOTIFY_NONE,
    "NOTIFY_READY_RING": abi.NOTIFY_RING,
    "MAX_CONTEXT_ID": layout.CONTEXT_SLOTS - 1,
    **{f"THREAD_{state.name}": state for state in abi.ThreadState},
    **{f"ERROR_{error.name}": error for error in abi.StubError},
    "CONTEXT_SYSCALL": abi.ContextState.SYSCALL,
    "CONTEXT_FAULT": abi.ContextState.FAULT,
    "CONTEXT_SYSCALL_TRAP": abi.ContextState.SYSCALL_TRAP,
    "CONTEXT_SYSCALL_NEED_TRAP": abi.ContextState.SYSCALL_NEED_TRAP,
}


def assertions(shape: abi.ContextShape) -> list[str]:
    structs = {**FIELDS, "thread_context": context_fields(shape)}
    expressions = [
        f"OFFSET_OF(struct {struct}, {field}) == {offset}"
        for struct, fields in structs.items()
        for field, offset in fields.items()
    ]
    sizes = {**SIZES, "struct ptregs": shape.ptregs_size, "struct thread_context": shape.size}
    expressions += [f"sizeof({name}) == {size}" for name, size in sizes.items()]
    return expressions + [f"(u32){name} == {int(value)}u" for name, value in CONSTANTS.items()]


def compiler(cpu: str) -> list[str]:
    """Return a compiler for a CPU."""
    if cpu == "aarch64":
        try:
            build.check_compiler()
        except build.BuildError as error:
            pytest.skip(str(error))
        return [sys.executable, "-m", "ziglang", "clang", "--target=aarch64-linux-gnu", "-nostdinc"]
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("there is no gcc here")
    return [gcc]


def compile_c(text: str, cpu: str = "x86_64", page: int = 4096) -> str:
    """Let a compiler read C against our headers; answers what it complains about."""
    parameters = [f"-DPAGE_SIZE={page}", f"-DTHREAD_AREA_SIZE={layout.area_shape(page).size}"]
    folders = [f"-I{SOURCES}", f"-I{SOURCES}/{cpu}"]
    flags = ["-std=gnu11", "-fsyntax-only", "-ffreestanding", "-w", *parameters, *folders, "-xc", "-"]
    return subprocess.run([*compiler(cpu), *flags], input=text, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("cpu", SHAPES)
def test_python_and_c_agree(cpu: str) -> None:
    """S-020, on both CPUs."""
    text = '#include "dispatch.h"\n'
    for expression in assertions(SHAPES[cpu]):
        text += f'_Static_assert({expression}, "{expression}");\n'
    assert compile_c(text, cpu) == ""


@pytest.mark.parametrize("cpu", SHAPES)
def test_the_check_would_notice(cpu: str) -> None:
    expression = "OFFSET_OF(struct sysmsg, state) == 48"
    assert "static assertion failed" in compile_c(f'#include "abi.h"\n_Static_assert({expression}, "");\n', cpu)


@pytest.mark.parametrize("page", [4096, 16384, 65536])
def test_arm64_images_are_built_for_the_areas_of_the_layout(page: int) -> None:
    """10-stub §1.3: what the build passes is what layout.py lays out."""
    (arch,) = [found for found in build.ARCHES if found.cpu == "aarch64" and found.parameters["PAGE_SIZE"] == page]
    assert arch.parameters["THREAD_AREA_SIZE"] == layout.area_shape(page).size


def test_arm64_floating_point_state() -> None:
    """10-stub §2.2, §2.6: 520 bytes in the context, 528 in the frame's record."""
    text = '#include "frame.h"\n'
    text += f'_Static_assert(FPSIMD_STATE_SIZE == {arm_fp.USED}, "");\n'
    text += f'_Static_assert(sizeof(struct fpsimd_record) == {arm_fp.SIZE}, "");\n'
    assert compile_c(text, "aarch64") == ""
