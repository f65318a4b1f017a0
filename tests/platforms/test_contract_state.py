"""FP state: what runs keep, and what the sentry sees and changes of it (20-platform §5.4, P-060…P-065)."""

import struct

import pytest

from systrap.arch import x86_fp
from systrap.platform import AddressSpace, Context
from tests.platforms import guest
from tests.platforms.kernel import CODE, DATA, Kernel, R, X, is_syscall, reg, set_reg

XMM3 = 160 + 3 * 16
FCW, MXCSR, XSTATE_BV = 0, 24, 512
SSE, AVX, AVX512 = 2, 4, 0xE0


def cpu_has(flag: str) -> bool:
    """Tell whether the host's CPU has a feature."""
    with open("/proc/cpuinfo", encoding="ascii") as file:
        return any(flag in line.split() for line in file if line.startswith("flags"))


def step(kernel: Kernel, context: Context, space: AddressSpace) -> None:
    """Run to the next system call."""
    event = kernel.run(context, space)
    assert is_syscall(event), event


def set_xmm3(context: Context, value: bytes) -> None:
    """Edit xmm3 in the sentry's copy."""
    context.fp[XMM3 : XMM3 + 16] = value
    if len(context.fp) > XSTATE_BV:
        context.fp[XSTATE_BV] |= SSE | 1
    context.full_state_changed()


def test_initial_state(kernel: Kernel) -> None:
    """# P-060: a new context starts as a new program does, without a word from the sentry."""
    space = kernel.space(guest.STORE_FP)
    offset = kernel.map(space, DATA, b"\xff" * 32)
    step(kernel, kernel.context(rdi=DATA), space)
    assert kernel.read(offset, 16) == bytes(16)
    assert struct.unpack("<IH", kernel.read(offset + 16, 6)) == (0x1F80, 0x037F)


def test_first_run_loads_the_image(kernel: Kernel) -> None:
    """# P-060."""
    space = kernel.space(guest.STORE_FP)
    offset = kernel.map(space, DATA)
    context = kernel.context(rdi=DATA)
    set_xmm3(context, b"sixteen bytes!!!")
    struct.pack_into("<I", context.fp, MXCSR, 0x1FA0)
    step(kernel, context, space)
    assert kernel.read(offset, 16) == b"sixteen bytes!!!"
    assert struct.unpack("<I", kernel.read(offset + 16, 4)) == (0x1FA0,)


def test_state_survives_calls(kernel: Kernel) -> None:
    """# P-061: without pulls, with other contexts of the space running in between."""
    space = kernel.space(guest.KEEP_XMM)
    contexts, offsets = [], []
    for number in range(6):
        address = DATA + number * 4096
        offsets.append(kernel.map(space, address, bytes([0x40 + number]) * 16))
        contexts.append(kernel.context(rdi=address))
    kernel.run_all([(context, space) for context in contexts])
    kernel.run_all([(context, space) for context in reversed(contexts)])
    for number, offset in enumerate(offsets):
        assert kernel.read(offset + 16, 16) == bytes([0x40 + number]) * 16


def test_pull(kernel: Kernel) -> None:
    """# P-062."""
    space = kernel.space(guest.KEEP_XMM)
    kernel.map(space, DATA, b"pulled register!")
    context = kernel.context(rdi=DATA)
    step(kernel, context, space)
    context.pull_full_state()
    assert context.fp[XMM3 : XMM3 + 16] == b"pulled register!"
    before = bytes(context.fp)
    context.pull_full_state()
    assert context.fp == before


def test_second_pull_is_a_no_op(kernel: Kernel) -> None:
    """# P-062."""
    space = kernel.space(guest.KEEP_XMM)
    kernel.map(space, DATA, b"pulled register!")
    context = kernel.context(rdi=DATA)
    step(kernel, context, space)
    context.pull_full_state()
    context.fp[XMM3] = 0
    context.pull_full_state()
    assert context.fp[XMM3] == 0


def test_change_is_loaded(kernel: Kernel) -> None:
    """# P-063."""
    space = kernel.space(guest.KEEP_XMM)
    offset = kernel.map(space, DATA, b"what the guest h")
    context = kernel.context(rdi=DATA)
    step(kernel, context, space)
    context.pull_full_state()
    set_xmm3(context, b"what sentry said")
    context.pull_full_state()
    assert context.fp[XMM3 : XMM3 + 16] == b"what sentry said"
    step(kernel, context, space)
    assert kernel.read(offset + 16, 16) == b"what sentry said"


def test_unchanged_copy_is_not_loaded(kernel: Kernel) -> None:
    """# P-063: only full_state_changed() makes the sentry's copy count."""
    space = kernel.space(guest.KEEP_XMM)
    offset = kernel.map(space, DATA, b"what the guest h")
    context = kernel.context(rdi=DATA)
    step(kernel, context, space)
    context.pull_full_state()
    context.fp[XMM3] = 0
    step(kernel, context, space)
    assert kernel.read(offset + 16, 16) == b"what the guest h"


def test_control_words(kernel: Kernel) -> None:
    """# P-064."""
    space = kernel.space(guest.SET_CONTROL)
    offset = kernel.map(space, DATA, struct.pack("<IH", 0x1F80 | 0x6000, 0x0C7F))
    context = kernel.context(rdi=DATA)
    step(kernel, context, space)
    context.pull_full_state()
    assert struct.unpack_from("<H", context.fp, FCW) == (0x0C7F,)
    assert struct.unpack_from("<I", context.fp, MXCSR) == (0x7F80,)
    step(kernel, context, space)
    assert struct.unpack("<IH", kernel.read(offset + 8, 6)) == (0x7F80, 0x0C7F)


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize(
    ("flag", "code", "length"),
    [("avx2", guest.KEEP_YMM, 32), ("avx512f", guest.KEEP_ZMM, 64)],
    ids=["ymm", "zmm"],
)
def test_wide_registers(kernel: Kernel, flag: str, code: bytes, length: int, push: bool) -> None:
    """# P-064, also through the sentry's copy and back."""
    if not cpu_has(flag):
        pytest.skip(f"this CPU has no {flag}")
    space = kernel.space(code)
    pattern = bytes(range(1, length + 1))
    offset = kernel.map(space, DATA, pattern)
    context = kernel.context(rdi=DATA)
    step(kernel, context, space)
    other = kernel.context(rdi=DATA + length)
    step(kernel, other, space)
    if push:
        context.pull_full_state()
        context.full_state_changed()
    step(kernel, context, space)
    assert kernel.read(offset + length, length) == pattern
    if flag == "avx512f":
        assert kernel.read(offset + 2 * length, 2) == pattern[:2]


def test_copy_to_a_new_context(kernel: Kernel) -> None:
    """# P-060: what clone does with the parent's state."""
    space = kernel.space(guest.KEEP_XMM)
    offset = kernel.map(space, DATA, b"parent and child")
    parent = kernel.context(rdi=DATA)
    step(kernel, parent, space)
    parent.pull_full_state()
    child = kernel.context(ip=reg(parent, "rip"), rdi=DATA)
    child.fp[:] = parent.fp
    child.full_state_changed()
    step(kernel, child, space)
    assert kernel.read(offset + 16, 16) == b"parent and child"


def test_exec_resets_the_state(kernel: Kernel) -> None:
    """# P-060, P-063: an initial image, in another space."""
    space, other = kernel.space(guest.KEEP_XMM), kernel.space(guest.STORE_FP)
    kernel.map(space, DATA, b"before the exec.")
    offset = kernel.map(other, DATA)
    context = kernel.context(rdi=DATA)
    step(kernel, context, space)
    context.fp[:] = x86_fp.initial(len(context.fp))
    context.full_state_changed()
    set_reg(context, "rip", CODE)
    step(kernel, context, other)
    assert kernel.read(offset, 16) == bytes(16)
    assert struct.unpack("<IH", kernel.read(offset + 16, 6)) == (0x1F80, 0x037F)


def test_state_does_not_leak_between_contexts(kernel: Kernel) -> None:
    """# P-060: a context that takes over what another one ran on starts clean."""
    space = kernel.space(guest.KEEP_XMM)
    kernel.map(space, DATA, b"secret of first.")
    first = kernel.context(rdi=DATA)
    step(kernel, first, space)
    first.release()
    space.map_file(CODE, kernel.file, kernel.page(guest.STORE_FP), 4096, R | X)
    offset = kernel.map(space, DATA, b"x" * 16)
    step(kernel, kernel.context(rdi=DATA), space)
    assert kernel.read(offset, 16) == bytes(16)
