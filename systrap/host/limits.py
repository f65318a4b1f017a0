"""The range of user addresses on this host: probed once, the same in every run (20-platform §1.2, P-005, P-006)."""

import functools
import os
from typing import Final

from systrap.host.mem import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_NONE, mmap_result
from systrap.host.sys import PAGE_SIZE, errno_name

X86_64_SIZES: Final = ((1 << 56) - 4096, (1 << 47) - 4096)
"""Five levels of page tables, or four."""
AARCH64_SIZES: Final = (1 << 52, 1 << 48, 1 << 47, 1 << 42, 1 << 39)
"""What kernels are built for: 52 and 48 bits with any page size, 47 with 16K, 42 with 64K, 39 with 4K pages. (20-platform §1.2
has three of them. A host whose size is not in the list would be taken for a smaller one, and what lies above would stay
mapped in stubs: better one too many.)"""

_CANDIDATES: Final = AARCH64_SIZES if os.uname().machine == "aarch64" else X86_64_SIZES
_EINVAL: Final = 22
_ENOMEM: Final = 12


@functools.cache
def task_size() -> int:
    """Return the first address that no program can map. Raises OSError when the host answers in no known way."""
    for candidate in _CANDIDATES:
        # Misaligned on purpose: EINVAL says that only that is wrong, ENOMEM that the address is beyond the end.
        result = mmap_result(candidate - PAGE_SIZE - 1, 512, PROT_NONE, MAP_ANONYMOUS | MAP_PRIVATE | MAP_FIXED)
        if result == -_EINVAL:
            return candidate
        if result != -_ENOMEM:
            raise OSError(-result, f"probing the size of the address space at {candidate:#x}: {errno_name(-result)}")
    raise OSError(_ENOMEM, "the address space of this host has none of the known sizes")


def max_user_address() -> int:
    """Return the first address guests may not use: all but the top 128th, rounded to pages (P-006)."""
    size = task_size()
    return size - size // 128 // PAGE_SIZE * PAGE_SIZE


@functools.cache
def min_user_address() -> int:
    """Return the lowest address guests may map: vm.mmap_min_addr, at least one page (P-005). Raises OSError."""
    with open("/proc/sys/vm/mmap_min_addr", encoding="ascii") as file:
        return max(int(file.read()), PAGE_SIZE)
