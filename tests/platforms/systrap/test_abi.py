"""The shared structures, against a definition of their own, and accessors that believe nothing."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.host import mem
from systrap.platform import Access, RequirementError
from systrap.platforms.systrap import abi, fpu


def test_offsets_follow_from_the_fields() -> None:
    """S-020: each field begins where the one before ends, with C's alignment."""
    context = struct.Struct("@3584sQ216s128sqIIIII4xQQQQQ")
    fields = [
        abi.FPSTATE_CHANGED, abi.PTREGS, abi.SIGINFO, abi.SIGNO, abi.STATE, abi.INTERRUPT, abi.THREAD_ID,
        abi.LAST_THREAD_ID, abi.SENTRY_FAST_PATH, abi.ACKED_TIME, abi.STATE_CHANGED_TIME, abi.TLS, abi.DEBUG, abi.ERR,
    ]  # fmt: skip
    sizes = [8, 216, 128, 8, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8]
    position = 3584
    for field, size in zip(fields, sizes, strict=True):
        assert field == position
        position += size
    assert context.size == position == 4008
    assert struct.calcsize("@QQQQQII Q iiii Q I4x".replace(" ", "")) == abi.SYSMSG_SIZE


def test_offsets_of_both_cpus() -> None:
    """S-020: the numbers of 10-stub §2.2 for amd64 and arm64; on both the context fits its slot (S-025)."""
    x86, arm = abi.X86_64_SHAPE, abi.AARCH64_SHAPE
    assert (x86.siginfo, x86.signo, x86.state, x86.interrupt) == (0xEE0, 0xF60, 0xF68, 0xF6C)
    assert (arm.siginfo, arm.signo, arm.state, arm.interrupt) == (0xF18, 0xF98, 0xFA0, 0xFA4)
    assert (x86.thread_id, x86.last_thread_id, x86.sentry_fast_path) == (0xF70, 0xF74, 0xF78)
    assert (arm.thread_id, arm.last_thread_id, arm.sentry_fast_path) == (0xFA8, 0xFAC, 0xFB0)
    assert (x86.acked_time, x86.state_changed_time, x86.tls, x86.debug, x86.err) == (0xF80, 0xF88, 0xF90, 0xF98, 0xFA0)
    assert (arm.acked_time, arm.state_changed_time, arm.tls, arm.debug, arm.err) == (0xFB8, 0xFC0, 0xFC8, 0xFD0, 0xFD8)
    assert (x86.ptregs_size, x86.size, arm.ptregs_size, arm.size) == (216, 4008, 272, 4064)
    assert max(x86.size, arm.size) <= abi.CONTEXT_SIZE


def test_the_thread_pointer_of_a_slot() -> None:
    """S-052: a word of its own; nothing else of the slot moves."""
    slot = make_slot()
    slot.set_tls(0xFFFF_0000_1234_5678)
    assert slot.tls() == 0xFFFF_0000_1234_5678
    assert not any(slot.regs)
    assert slot.state() == 0
    assert slot.fault_word() == 0


def make_slot() -> abi.ContextSlot:
    memory = memoryview(bytearray(4096))
    return abi.ContextSlot(memory, mem.address_of(memory), 7)


def test_a_new_slot_has_nothing_of_its_last_owner() -> None:
    """S-026: fpstate_changed 1, no thread, state NONE, everything else zero."""
    memory = memoryview(bytearray(b"\xff" * 4096))
    slot = abi.ContextSlot(memory, mem.address_of(memory), 0)
    slot.reset()
    assert slot.state() == abi.ContextState.NONE
    assert slot.thread_id() == abi.INVALID_ID
    assert not slot.acked()
    assert struct.unpack_from("<Q", memory, abi.FPSTATE_CHANGED) == (1,)
    assert not any(slot.regs)


@pytest.mark.parametrize(
    ("err", "access"),
    [(4, Access.READ), (5, Access.READ), (6, Access.WRITE), (7, Access.WRITE), (0x14, Access.EXECUTE),
     (0x15, Access.EXECUTE), (0x16, Access.WRITE), (0, Access.NONE), (1, Access.NONE)],
)  # fmt: skip
def test_access_of_a_page_fault(err: int, access: Access) -> None:
    """S-036, P-043: write before execute before read."""
    assert abi.access_of_fault(err) is access


@given(st.binary(min_size=512, max_size=512))
def test_accessors_survive_any_contents(data: bytes) -> None:
    """S-141: whatever a guest writes, reading it raises nothing."""
    memory = memoryview(bytearray(data[:128] + bytes(3584 - 128) + data))
    slot = abi.ContextSlot(memory, mem.address_of(memory), 0)
    info = slot.siginfo()
    assert 0 <= slot.state() < 1 << 32
    assert -(1 << 31) <= info.signo < 1 << 31
    abi.stub_report(memory)


def test_a_stub_says_why_it_gave_up() -> None:
    """S-140, P-106: each code in words, with its line; unknown ones as they are."""
    memory = memoryview(bytearray(4096))
    assert abi.stub_report(memory) is None
    for error in abi.StubError:
        struct.pack_into("<iii", memory, abi.SYSMSG_ERR, error - (1 << 32) if error >> 31 else error, 5, 77)
        said = abi.stub_report(memory)
        assert said is not None
        assert error.name in said
        assert "line 77" in said
    struct.pack_into("<iii", memory, abi.SYSMSG_ERR, 42, 0, 0)
    assert "unknown stub error 0x2a" in (abi.stub_report(memory) or "")


def test_the_queue_starts_near_the_wrap() -> None:
    """S-021: indices, empty slots, fast path off."""
    memory = memoryview(bytearray(b"\xee" * (abi.QUEUE_RING + 8 * abi.QUEUE_ENTRIES)))
    abi.init_queue(memory)
    words = memory[: abi.QUEUE_RING].cast("I")
    assert words[abi.QUEUE_END >> 2] == words[abi.QUEUE_START >> 2] == 0xFFFFBFFF
    assert words[abi.QUEUE_FAST_PATH_DISABLED >> 2] == 1
    assert sum(words) == 2 * 0xFFFFBFFF + 1
    assert set(struct.unpack_from(f"<{abi.QUEUE_ENTRIES}Q", memory, abi.QUEUE_RING)) == {abi.INVALID_ID}


def test_fp_state_that_does_not_fit_is_refused() -> None:
    """S-023."""

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return {(1, 0): (0, 0, 3 << 26, 0), (0xD, 0): (0, 3584, 0, 0)}.get((leaf, subleaf), (0, 0, 0, 0))

    with pytest.raises(RequirementError, match="3584"):
        fpu.probe(cpuid, 0)


@pytest.mark.parametrize(("hwcap2", "expected"), [(0, 0), (2, 1), (1, 0)])
def test_fsgsbase_needs_the_kernels_word(hwcap2: int, expected: int) -> None:
    """S-024."""

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return (0, 1, 0, 0) if leaf == 7 else (0, 0, 0, 0)

    assert fpu.probe(cpuid, hwcap2) == (fpu.FXSAVE, 512, expected)


def test_tile_data_is_left_out_of_the_size() -> None:
    """S-047: AMX is not saved; where it is enabled the size is what comes before it."""

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        table = {
            (1, 0): (0, 0, 3 << 26, 0),
            (0xD, 0): (0, 2752 + 8192, 0, 0),
            (0xD, 18): (8192, 2752, 0, 0),
            (0xD, 1): (1, 0, 0, 0),
        }
        return table.get((leaf, subleaf), (0, 0, 0, 0))

    assert fpu.probe(cpuid, 2) == (fpu.XSAVEOPT, 2752, 0)
