"""Guest programs, as bytes: a handful of x86-64 instructions with names."""

import struct


def mov_eax(value: int) -> bytes:
    return b"\xb8" + struct.pack("<I", value & 0xFFFFFFFF)


def movabs(register: int, value: int) -> bytes:
    """``register``: the hardware's number, 0 = rax, 3 = rbx, 8 = r8."""
    return bytes([0x48 | register >> 3, 0xB8 | register & 7]) + struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)


def jump(target: int, at: int) -> bytes:
    return b"\xe9" + struct.pack("<i", target - (at + 5))


SYSCALL = b"\x0f\x05"
INT80 = b"\xcd\x80"
SPIN = b"\xeb\xfe"
NOP = b"\x90"
STD = b"\xfd"
CLD = b"\xfc"
UD2 = b"\x0f\x0b"
INT3 = b"\xcc"
CPUID = b"\x0f\xa2"
SET_AC = b"\x9c\x81\x0c\x24\x00\x00\x04\x00\x9d"
"""pushfq; orl $0x40000, (%rsp); popfq"""
LOAD_RAX_FROM_RBX = b"\x48\x8b\x03"
STORE_RAX_TO_RBX = b"\x48\x89\x03"
DIVIDE_BY_ZERO = b"\x31\xc9\xf7\xf1"
"""xor %ecx, %ecx; div %ecx"""
LOAD_XMM0_FROM_RBX = b"\xf3\x0f\x6f\x03"
STORE_XMM0_TO_RDI = b"\xf3\x0f\x7f\x07"
READ_GS_BASE_TO_RAX = b"\xf3\x48\x0f\xae\xc8"


def trampoline(address: int, number: int, resume: int) -> bytes:
    """Return a trampoline as upstream's sentry writes it for a patched site (10-stub §6.2), 80 bytes."""
    code = struct.pack("<Q", address + 8)
    code += b"\x65\xc7\x04\x25\x2c\x00\x00\x00\x02\x00\x00\x00"  # movl $PREP, %gs:state
    code += b"\x65\x48\x89\x24\x25\x20\x00\x00\x00"  # mov %rsp, %gs:app_stack
    code += b"\x65\x48\x8b\x24\x25\x18\x00\x00\x00"  # mov %gs:syshandler_stack, %rsp
    code += movabs(0, resume)
    code += b"\x65\x48\x89\x04\x25\x08\x00\x00\x00"  # mov %rax, %gs:ret_addr
    code += mov_eax(number)
    code += b"\x65\xff\x24\x25\x10\x00\x00\x00"  # jmp *%gs:syshandler
    assert len(code) == 70
    return code.ljust(80, b"\x90")


def patched_site(entry: int) -> bytes:
    """Return what stands in place of ``mov $number, %eax; syscall``: 7 bytes."""
    return b"\xff\x24\x25" + struct.pack("<I", entry)
