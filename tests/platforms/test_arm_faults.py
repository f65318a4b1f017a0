"""What a syndrome of arm64 says about a fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systrap.platform import Access
from systrap.platforms.arm_faults import access_of_syndrome

TRANSLATION_FAULT = 0x7
PERMISSION_FAULT = 0xF
LONG_INSTRUCTION = 1 << 25


@pytest.mark.parametrize(
    ("esr", "access"),
    [
        (0x20 << 26 | LONG_INSTRUCTION | TRANSLATION_FAULT, Access.EXECUTE),
        (0x20 << 26 | LONG_INSTRUCTION | PERMISSION_FAULT, Access.EXECUTE),
        (0x24 << 26 | LONG_INSTRUCTION | TRANSLATION_FAULT, Access.READ),
        (0x24 << 26 | LONG_INSTRUCTION | 1 << 6 | PERMISSION_FAULT, Access.WRITE),
        (0x24 << 26 | LONG_INSTRUCTION | 1 << 8 | 1 << 6 | PERMISSION_FAULT, Access.READ),  # cache maintenance
        (0, Access.NONE),  # no syndrome in the frame
        (0x15 << 26, Access.NONE),  # svc
        (0x21 << 26 | TRANSLATION_FAULT, Access.NONE),  # the kernel's own
        (0x25 << 26 | 1 << 6, Access.NONE),
        (0x3C << 26 | 0xDEAD, Access.NONE),  # brk
    ],
)
def test_access_of_a_syndrome(esr: int, access: Access) -> None:
    """S-053, P-043: the class tells fetches from data, bit 6 writes from reads, bit 8 takes cache maintenance out."""
    assert access_of_syndrome(esr) is access


@given(st.integers(0, (1 << 64) - 1))
def test_any_word_is_decoded(esr: int) -> None:
    """S-141: the word lies in memory that guests can write. Only the two classes of user aborts are accesses."""
    access = access_of_syndrome(esr)
    assert (access is not Access.NONE) == (esr >> 26 & 0x3F in (0x20, 0x24))
    assert access is not Access.WRITE or esr & 1 << 6
