"""Memory of the sentry itself at chosen addresses: raw mmap, munmap, mprotect, mseal, and views of raw memory."""

import ctypes
from typing import Final

from systrap.host.sys import NR, check, syscall

PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_FIXED_NOREPLACE: Final = 0x100000


def mmap(addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """Map memory and return its address. Raises OSError."""
    return check(mmap_result(addr, length, prot, flags, fd, offset), f"mmap of {length:#x} bytes at {addr:#x}")


def mmap_result(addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """Map memory; return its address or −errno, for callers that expect failure (probes)."""
    return syscall(NR["mmap"], addr, length, prot, flags, fd, offset)


def munmap(addr: int, length: int) -> None:
    """Unmap memory. No view of it may be used afterwards. Raises OSError."""
    check(syscall(NR["munmap"], addr, length), f"munmap of {length:#x} bytes at {addr:#x}")


def mprotect(addr: int, length: int, prot: int) -> None:
    """Change the protection of mapped memory. Raises OSError."""
    check(syscall(NR["mprotect"], addr, length, prot), f"mprotect of {length:#x} bytes at {addr:#x}")


def mseal(addr: int, length: int) -> bool:
    """Seal a mapped range against any later change. Returns False where the kernel has no mseal (< 6.10)."""
    result = syscall(NR["mseal"], addr, length, 0)
    if result == -38:
        return False
    check(result, f"mseal of {length:#x} bytes at {addr:#x}")
    return True


def view(addr: int, length: int) -> "memoryview[int]":
    """Return a writable byte view of ``length`` bytes of raw memory at ``addr``.

    The caller must keep the memory mapped for as long as any view of it lives: Python cannot survive the SIGSEGV.
    """
    return memoryview((ctypes.c_ubyte * length).from_address(addr)).cast("B")


def address_of(buffer: "memoryview[int] | bytearray") -> int:
    """Return the address of a writable buffer's first byte."""
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(buffer))
