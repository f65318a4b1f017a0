"""Guest code for the platform tests: x86-64 machine code, with the assembly it came from under each."""

from typing import Final

CALLS: Final = bytes.fromhex("0f05ebfc")
"""1: syscall; jmp 1b"""
ARGUMENTS: Final = bytes.fromhex("b8f4010000bf11000000be22000000ba3300000041ba4400000041b85500000041b9660000000f050f0b")
"""mov eax, 500; mov edi, 0x11; mov esi, 0x22; mov edx, 0x33; mov r10d, 0x44; mov r8d, 0x55; mov r9d, 0x66; syscall; ud2"""
LOAD: Final = bytes.fromhex("4c8b170f050f0b")
"""mov r10, [rdi]; syscall; ud2"""
STORE: Final = bytes.fromhex("4889070f050f0b")
"""mov [rdi], rax; syscall; ud2"""
JUMP: Final = bytes.fromhex("ffe7")
"""jmp rdi"""
SPIN: Final = bytes.fromhex("48ffc0ebfb")
"""1: inc rax; jmp 1b"""
LOAD_SPIN: Final = bytes.fromhex("488b07ebfb")
"""1: mov rax, [rdi]; jmp 1b"""
COUNT_SPIN: Final = bytes.fromhex("48ff07ebfb")
"""1: inc qword ptr [rdi]; jmp 1b"""
HALT: Final = bytes.fromhex("f4")
"""hlt"""
ILLEGAL: Final = bytes.fromhex("0f0b")
"""ud2"""
BREAKPOINT: Final = bytes.fromhex("cccc")
"""int3; int3"""
DIVIDE: Final = bytes.fromhex("31d231c0f7f0")
"""xor edx, edx; xor eax, eax; div eax"""
NOPS: Final = bytes.fromhex("9090900f05")
"""nop; nop; nop; syscall"""
VSYSCALL: Final = bytes.fromhex("48c7c0000060ffffd00f05")
"""mov rax, 0xffffffffff600000; call rax; syscall"""
INT80: Final = bytes.fromhex("b814000000cd800f05")
"""mov eax, 20; int 0x80; syscall"""
STORE_FP: Final = bytes.fromhex("0f111f0fae5f10d97f140f050f0b")
"""movups [rdi], xmm3; stmxcsr [rdi + 16]; fnstcw [rdi + 20]; syscall; ud2"""
KEEP_XMM: Final = bytes.fromhex("0f101f0f050f115f100f050f0b")
"""movups xmm3, [rdi]; syscall; movups [rdi + 16], xmm3; syscall; ud2"""
KEEP_YMM: Final = bytes.fromhex("c5fc102f0f05c5fc116f200f050f0b")
"""vmovups ymm5, [rdi]; syscall; vmovups [rdi + 32], ymm5; syscall; ud2"""
KEEP_ZMM: Final = bytes.fromhex("62e17c48100fc5f8901f0f0562e17c48114f01c5f8919f800000000f050f0b")
"""vmovups zmm17, [rdi]; kmovw k3, [rdi]; syscall; vmovups [rdi + 64], zmm17; kmovw [rdi + 128], k3; syscall; ud2"""
SET_CONTROL: Final = bytes.fromhex("0fae17d96f040f050fae5f08d97f0c0f050f0b")
"""ldmxcsr [rdi]; fldcw [rdi + 4]; syscall; stmxcsr [rdi + 8]; fnstcw [rdi + 12]; syscall; ud2"""
BASES: Final = bytes.fromhex("64488b04250000000065488b1c25000000000f050f0b")
"""mov rax, fs:[0]; mov rbx, gs:[0]; syscall; ud2"""
SET_BASES: Final = bytes.fromhex("f3480faed7f3480faede0f05f3480faec0f3480faecb0f050f0b")
"""wrfsbase rdi; wrgsbase rsi; syscall; rdfsbase rax; rdgsbase rbx; syscall; ud2"""
LOAD_THEN_JUMP: Final = bytes.fromhex("488b07ffe6")
"""mov rax, [rdi]; jmp rsi"""
COUNT_CALLS: Final = bytes.fromhex("49ffc4b8270000000f05ebf4")
"""1: inc r12; mov eax, 39; syscall; jmp 1b"""
