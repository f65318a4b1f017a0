"""The CPU that guests are shown where CPUID faults: made-up hosts, and this one (P-051, S-110, S-047)."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.arch import x86_fp
from systrap.arch.x86_cpuid import (
    EAX,
    EBX,
    ECX,
    EDX,
    HIDDEN,
    NOTHING,
    SUBLEAVES,
    Feature,
    VirtualCpuid,
    Words,
)
from systrap.platforms.systrap import blob
from systrap.platforms.systrap.machine_code import SentryCode, read_cpuid

ALL = 0xFFFFFFFF
FEATURES = [feature for group in HIDDEN.values() for feature in group]
XCR0 = 0x602E7
"""x87, SSE, AVX, AVX-512, PKRU, AMX: what a big server enables."""


class MadeUp:
    """A CPU that answers everything with ones, but for the answers it is given. Counts what it is asked."""

    def __init__(self, answers: dict[tuple[int, int], Words] | None = None) -> None:
        self.answers = {(0, 0): (ALL, 1, 2, 3), (0x80000000, 0): (ALL, 1, 2, 3)} | (answers or {})
        self.asked: list[tuple[int, int]] = []

    def __call__(self, leaf: int, subleaf: int) -> Words:
        self.asked.append((leaf, subleaf))
        return self.answers.get((leaf, subleaf), (ALL, ALL, ALL, ALL))


@pytest.fixture(scope="module")
def code() -> Iterator[SentryCode]:
    code = SentryCode(blob.load("sentry"))
    yield code
    code.unmap()


def test_every_bit_is_named_once() -> None:
    places = [feature[:4] for feature in FEATURES]
    assert len(set(places)) == len(places)
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)
    for feature in FEATURES:
        assert feature.subleaf <= SUBLEAVES[feature.leaf]
        assert 0 <= feature.bit < 32


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_hidden_features_read_as_zero(feature: Feature) -> None:
    """S-047 for PKU and AMX; MPX, MWAIT, TSX and others besides."""
    answer = VirtualCpuid(MadeUp()).query(feature.leaf, feature.subleaf)
    assert answer[feature.register] & 1 << feature.bit == 0


@pytest.mark.parametrize(
    ("leaf", "subleaf", "register", "bit"),
    [
        (1, 0, ECX, 26), (1, 0, ECX, 27), (1, 0, ECX, 28), (1, 0, ECX, 30), (1, 0, EDX, 26), (7, 0, EBX, 0), (7, 0, EBX, 5),
        (7, 0, EBX, 16), (7, 0, ECX, 22), (7, 1, EAX, 4), (0x80000001, 0, EDX, 27), (0x80000001, 0, EDX, 29),
        (0x80000001, 0, ECX, 5),
    ],
    ids=["XSAVE", "OSXSAVE", "AVX", "RDRAND", "SSE2", "FSGSBASE", "AVX2", "AVX512F", "RDPID", "AVX-VNNI", "RDTSCP", "LM",
         "LZCNT"],
)  # fmt: skip
def test_what_works_in_guests_is_shown(leaf: int, subleaf: int, register: int, bit: int) -> None:
    assert VirtualCpuid(MadeUp()).query(leaf, subleaf)[register] & 1 << bit
    absent = VirtualCpuid(MadeUp({(leaf, subleaf): NOTHING}))
    assert absent.query(leaf, subleaf)[register] & 1 << bit == 0, "nothing is shown that the host has not"


def test_highest_leaves() -> None:
    """They are the host's or ours, whichever is lower; behind them are zeros, whatever the host says there."""
    big = VirtualCpuid(MadeUp())
    assert big.query(0, 0) == (0x24, 1, 2, 3)
    assert big.query(0x80000000, 0) == (0x8000001E, 1, 2, 3)
    assert big.query(0x24, 0) != NOTHING
    small = VirtualCpuid(MadeUp({(0, 0): (0xD, 4, 5, 6), (0x80000000, 0): (0x80000004, 0, 0, 0)}))
    assert small.query(0, 7) == (0xD, 4, 5, 6), "the subleaf of a leaf without any does not count"
    assert small.query(0x16, 0) == NOTHING
    assert small.query(0xD, 0) != NOTHING
    assert small.query(0x80000004, 0) != NOTHING
    assert small.query(0x80000008, 0) == NOTHING
    none = VirtualCpuid(MadeUp({(0x80000000, 0): NOTHING}))
    assert none.query(0x80000001, 0) == NOTHING


@pytest.mark.parametrize("leaf", [5, 6, 0xA, 0xF, 0x10, 0x12, 0x14, 0x19, 0x1A, 0x1D, 0x1E, 0x8000000A, 0x8000001F])
def test_leaves_that_do_not_hold_for_guests(leaf: int) -> None:
    """MWAIT, monitoring, control of resources, SGX, keys, tiles, virtualisation."""
    assert VirtualCpuid(MadeUp()).query(leaf, 0) == NOTHING


@pytest.mark.parametrize("leaf", [0x40000000, 0x40000001, 0x400000FF, 0xC0000000, 0xFFFFFFFF, 0x25, 0x7FFFFFFF])
def test_no_hypervisor_and_nothing_unknown(leaf: int) -> None:
    host = MadeUp()
    assert VirtualCpuid(host).query(leaf, 0) == NOTHING
    assert (leaf, 0) not in host.asked


def test_brand_is_the_hosts() -> None:
    brand = {(0x80000002 + i, 0): (i, i + 1, i + 2, i + 3) for i in range(3)}
    cpuid = VirtualCpuid(MadeUp(brand))
    assert {where: cpuid.query(*where) for where in brand} == brand


def test_no_answer_tells_which_cpu_was_asked() -> None:
    """Not by its APIC number, in none of the leaves that have it."""

    def cpu(number: int) -> VirtualCpuid:
        return VirtualCpuid(
            MadeUp(
                {
                    (1, 0): (1, number << 24 | 0x020800, 3, 4),
                    (0xB, 0): (1, 2, 0x100, number),
                    (0xB, 1): (5, 8, 0x201, number),
                    (0x1F, 0): (1, 2, 0x100, number),
                    (0x8000001E, 0): (number, number & 0xFF | 0x100, number & 0xFF | 0x300, 0),
                }
            )
        )

    one, other = cpu(3), cpu(17)
    for leaf in SUBLEAVES:
        for subleaf in (0, 1, 2, 9):
            assert one.query(leaf, subleaf) == other.query(leaf, subleaf)
    assert one.query(1, 0)[EBX] == 0x020800, "the other bytes are how many there are, and sizes"
    assert one.query(0xB, 1) == (5, 8, 0x201, 0)
    assert one.query(0xB, 0x109) == (0, 0, 9, 0)
    assert one.query(0x8000001E, 0) == (0, 0x100, 0x300, 0)


def test_answers_stay_the_same() -> None:
    """A guest that moves to another CPU, or asks later, gets what it got before."""
    host = MadeUp({(4, 0): (1, 2, 3, 4)})
    cpuid = VirtualCpuid(host)
    first = cpuid.query(4, 0)
    host.answers[4, 0] = (5, 6, 7, 8)
    assert cpuid.query(4, 0) == first == (1, 2, 3, 4)


def big_server(leaf: int, subleaf: int) -> Words:
    """Leaf 0xD of a CPU with AVX-512, PKRU and AMX, all enabled."""
    components: dict[int, Words] = {
        0: (XCR0, 11008, 11008, 0), 1: (0x1F, 11008, 0x9900, 7), 2: (256, 576, 0, 0), 5: (64, 1088, 0, 0),
        6: (512, 1152, 0, 0), 7: (1024, 1664, 0, 0), 9: (8, 2688, 0, 0), 11: (16, 0, 1, 0), 17: (64, 2752, 2, 0),
        18: (8192, 2816, 6, 0),
    }  # fmt: skip
    if leaf == 0xD:
        return components.get(subleaf, NOTHING)
    return (0x20, 1, 2, 3) if leaf == 0 else NOTHING


def test_components_of_the_extended_state() -> None:
    """S-047: x87 to AVX-512 are enumerated, PKRU, CET and AMX are not."""
    cpuid = VirtualCpuid(big_server)
    assert cpuid.query(0xD, 0)[EAX] == XCR0 & x86_fp.FEATURES
    assert cpuid.query(0xD, 0)[EDX] == 0
    for subleaf in (2, 5, 6, 7):
        assert cpuid.query(0xD, subleaf) == big_server(0xD, subleaf)
    for subleaf in (3, 4, 9, 11, 17, 18, 62, 63, ALL):
        assert cpuid.query(0xD, subleaf) == NOTHING


def test_components_that_the_host_has_not_enabled() -> None:
    def avx_only(leaf: int, subleaf: int) -> Words:
        return (7, 832, 2696, 0) if (leaf, subleaf) == (0xD, 0) else big_server(leaf, subleaf)

    cpuid = VirtualCpuid(avx_only)
    assert cpuid.query(0xD, 0) == (7, 832, 2696, 0)
    assert cpuid.query(0xD, 5) == NOTHING


def test_the_size_of_an_xsave_area_is_what_xsave_writes() -> None:
    """XCR0 cannot be hidden from XGETBV and XSAVE: a smaller size would let honest programs overrun their buffers."""
    cpuid = VirtualCpuid(big_server)
    assert cpuid.query(0xD, 0)[EBX : ECX + 1] == (11008, 11008)
    assert cpuid.query(0xD, 1) == (
        0b111,
        11008,
        0,
        0,
    ), "XSAVEOPT, XSAVEC, XGETBV1; neither XSAVES nor XFD nor what they do"


@given(st.integers(0, ALL), st.integers(0, ALL))
def test_any_question_has_an_answer(leaf: int, subleaf: int) -> None:
    answer = VirtualCpuid(MadeUp()).query(leaf, subleaf)
    assert len(answer) == 4
    assert all(0 <= word <= ALL for word in answer)


def test_a_guest_cannot_fill_our_memory_with_questions() -> None:
    cpuid = VirtualCpuid(MadeUp())
    for leaf in SUBLEAVES:
        for subleaf in range(70):
            cpuid.query(leaf, subleaf)
    for subleaf in range(1000, 3000):
        cpuid.query(4, subleaf)
        cpuid.query(subleaf, 0)
    assert len(cpuid._answers) <= sum(last + 1 for last in SUBLEAVES.values())


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86-64 has CPUID")
def test_this_host_less_something(code: SentryCode) -> None:
    """Nothing is invented: feature words are the host's or a part of them, and the vendor and brand are the host's."""
    cpuid = VirtualCpuid(lambda leaf, subleaf: read_cpuid(code, leaf, subleaf))
    assert cpuid.query(0, 0)[1:] == read_cpuid(code, 0, 0)[1:]
    for leaf, subleaf, registers in ((1, 0, (ECX, EDX)), (7, 0, (EBX, ECX, EDX)), (0x80000001, 0, (ECX, EDX))):
        shown, real = cpuid.query(leaf, subleaf), read_cpuid(code, leaf, subleaf)
        for register in registers:
            assert shown[register] & ~real[register] == 0
            assert shown[register] or not real[register]
    for leaf in (0x80000002, 0x80000003, 0x80000004):
        assert cpuid.query(leaf, 0) == read_cpuid(code, leaf, 0)
