"""Statements that only a whole guest can show: programs of a few instructions, run as a user would."""

import struct
from pathlib import Path

import pytest

from systrap.host import limits
from tests.blobs.guest import INT80, SYSCALL, mov_eax, movabs
from tests.programs.support import PLATFORMS, guest, need_platform

LOAD_ADDRESS = 0x400000
MMAP, EXIT_GROUP = 9, 231
RDI = 7
ENOSYS = 38

EXIT_WITH_EAX = b"\x89\xc7" + mov_eax(EXIT_GROUP) + SYSCALL
"""mov %eax, %edi; exit_group"""
ADD_ENOSYS = b"\x48\x83\xc0" + bytes([ENOSYS])
"""add $38, %rax: 0 if it was -ENOSYS"""


def elf(code: bytes) -> bytes:
    """Return a static program of one segment that begins with its first instruction."""
    start = 64 + 56
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\x00")
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, LOAD_ADDRESS + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = start + len(code)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000)
    return header + code


@pytest.fixture(params=PLATFORMS)
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of each platform that runs here."""
    need_platform(str(request.param))
    return str(request.param)


def status(name: str, folder: Path, *code: bytes) -> int:
    """Run code as a guest program, and return its exit status."""
    program = folder / "program"
    program.write_bytes(elf(b"".join(code)))
    program.chmod(0o755)
    return guest(name, (str(program),)).status


def test_the_32_bit_gate_is_closed(name: str, tmp_path: Path) -> None:
    """S-032, P-050: getpid of i386 is ENOSYS; where the host has no such gate at all, it is a fault."""
    assert status(name, tmp_path, mov_eax(20), INT80, ADD_ENOSYS, EXIT_WITH_EAX) in (0, 128 + 11)


def test_x32_numbers_are_unknown(name: str, tmp_path: Path) -> None:
    """S-033: getpid with the bit of x32 is ENOSYS."""
    assert status(name, tmp_path, mov_eax(0x40000027), SYSCALL, ADD_ENOSYS, EXIT_WITH_EAX) == 0


@pytest.mark.parametrize("entry", [0x000, 0x400, 0x800], ids=["gettimeofday", "time", "getcpu"])
def test_calls_of_the_vsyscall_page(name: str, tmp_path: Path, entry: int) -> None:
    """S-049, P-049: the page is not there for guests, and its three calls work."""
    # sub $32, %rsp; mov %rsp, %rdi; xor %esi, %esi; xor %edx, %edx
    prepare = b"\x48\x83\xec\x20" + b"\x48\x89\xe7" + b"\x31\xf6" + b"\x31\xd2"
    # mov $entry, %rax; call *%rax
    call = movabs(0, 0xFFFFFFFFFF600000 + entry) + b"\xff\xd0"
    # cmp $1000000000, %rax; setle %al; movzbl %al, %eax
    later_than_2001 = b"\x48\x3d\x00\xca\x9a\x3b" + b"\x0f\x9e\xc0" + b"\x0f\xb6\xc0"
    check = later_than_2001 if entry == 0x400 else b""
    assert status(name, tmp_path, prepare, call, check, EXIT_WITH_EAX) == 0


@pytest.mark.parametrize(("beyond", "fails"), [(-4096, 0), (0, 1), (1 << 46, 1)], ids=["below", "at", "above"])
def test_where_the_address_space_of_a_guest_ends(name: str, tmp_path: Path, beyond: int, fails: int) -> None:
    """S-001, P-006: a page right below MaxUser can be had, none at MaxUser or above."""
    # mov $4096, %esi; mov $3, %edx; mov $(PRIVATE|ANONYMOUS|FIXED), %r10d; xor %r9d, %r9d
    arguments = b"\xbe\x00\x10\x00\x00" + b"\xba\x03\x00\x00\x00" + b"\x41\xba\x32\x00\x00\x00" + b"\x45\x31\xc9"
    # cmp %rdi, %rax; setne %al; movzbl %al, %eax
    compare = b"\x48\x39\xf8" + b"\x0f\x95\xc0" + b"\x0f\xb6\xc0"
    at = movabs(RDI, limits.max_user_address() + beyond)
    code = (at, arguments, b"\x49\xc7\xc0\xff\xff\xff\xff", mov_eax(MMAP), SYSCALL, compare, EXIT_WITH_EAX)
    assert status(name, tmp_path, *code) == fails
