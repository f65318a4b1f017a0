"""Bytes in front of ``b8 imm32`` that make it the tail of another instruction, and such that do not (10-stub §6.5, S-080)."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from systrap.platforms.systrap.instruction_tails import LOOK_BACK, TAILS, tail_of
from tests.programs.support import need_program

NUMBER = bytes.fromhex("27000000")
"""The four bytes behind the b8: getpid."""

TAILS_OF_OTHERS = {
    # opcode
    "41": "mov    $0x27,%r8d",
    # ModRM, disp32
    "41 8b": "mov    0x27(%r8),%edi",
    "49 8b": "mov    0x27(%r8),%rdi",
    "45 8b": "mov    0x27(%r8),%r15d",
    "8b": "mov    0x27(%rax),%edi",
    "8d": "lea    0x27(%rax),%edi",
    "48 8d": "lea    0x27(%rax),%rdi",
    "41 89": "mov    %edi,0x27(%r8)",
    "64 8b": "mov    %fs:0x27(%rax),%edi",
    "64 48 8b": "mov    %fs:0x27(%rax),%rdi",
    "64 48 01": "add    %rdi,%fs:0x27(%rax)",
    "65 03": "add    %gs:0x27(%rax),%edi",
    "41 39": "cmp    %edi,0x27(%r8)",
    "49 63": "movslq 0x27(%r8),%rdi",
    "41 d9": "fnstcw 0x27(%r8)",
    "41 f7": "idivl  0x27(%r8)",
    "41 d3": "sarl   %cl,0x27(%r8)",
    "0f b6": "movzbl 0x27(%rax),%edi",
    "41 0f b6": "movzbl 0x27(%r8),%edi",
    "0f 10": "movups 0x27(%rax),%xmm7",
    "41 0f 44": "cmove  0x27(%r8),%edi",
    "f0 41 0f b1": "lock cmpxchg %edi,0x27(%r8)",
    "66 0f 38 00": "pshufb 0x27(%rax),%xmm7",
    "c5 fa 10": "vmovss 0x27(%rax),%xmm7",
    "c4 c1 7a 10": "vmovss 0x27(%r8),%xmm7",
    "c4 e2 7d 18": "vbroadcastss 0x27(%rax),%ymm7",
    "62 f1 7c 48 10": "vmovups 0x27(%rax),%zmm7",
    "62 d1 7c 48 10": "vmovups 0x27(%r8),%zmm7",
    "62 d2 7d 48 18": "vbroadcastss 0x27(%r8),%zmm7",
    # SIB, disp32 or imm32
    "8b 84": "mov    0x27(%rax,%rdi,4),%eax",
    "48 8b 94": "mov    0x27(%rax,%rdi,4),%rdx",
    "42 8b bc": "mov    0x27(%rax,%r15,4),%edi",
    "ff a4": "jmp    *0x27(%rax,%rdi,4)",
    "c5 f8 10 8c": "vmovups 0x27(%rax,%rdi,4),%xmm1",
    "c7 04": "movl   $0x27,(%rax,%rdi,4)",
    "48 c7 04": "movq   $0x27,(%rax,%rdi,4)",
    "81 3c": "cmpl   $0x27,(%rax,%rdi,4)",
    "69 04": "imul   $0x27,(%rax,%rdi,4),%eax",
    "f7 04": "testl  $0x27,(%rax,%rdi,4)",
    # disp8, imm32
    "c7 45": "movl   $0x27,-0x48(%rbp)",
    "48 c7 45": "movq   $0x27,-0x48(%rbp)",
    "c7 44 24": "movl   $0x27,-0x48(%rsp)",
    "48 c7 44 24": "movq   $0x27,-0x48(%rsp)",
    "41 c7 44 24": "movl   $0x27,-0x48(%r12)",
    "81 7b": "cmpl   $0x27,-0x48(%rbx)",
    "81 64 24": "andl   $0x27,-0x48(%rsp)",
    "69 43": "imul   $0x27,-0x48(%rbx),%eax",
    "f7 43": "testl  $0x27,-0x48(%rbx)",
    # disp32, imm32: the displacement's last byte
    "c7 85 00 f0 ff": "movl   $0x27,-0x47001000(%rbp)",
    "48 c7 84 24 00 00 00": "movq   $0x27,-0x48000000(%rsp)",
    "c7 05 00 00 00": "movl   $0x27,-0x48000000(%rip)",
    "81 bb 10 00 00": "cmpl   $0x27,-0x47fffff0(%rbx)",
    # disp32, imm16: its second byte, and zeros for imm16
    "66 c7 83 10": "movw   $0x0,0x27b810(%rbx)",
    "66 c7 05 10": "movw   $0x0,0x27b810(%rip)",
    "66 41 c7 83 10": "movw   $0x0,0x27b810(%r11)",
    "66 c7 84 24 10": "movw   $0x0,0x27b810(%rsp)",
    "66 81 bb 10": "cmpw   $0x0,0x27b810(%rbx)",
    # disp32, imm8: its first byte, and a zero for imm8
    "80 3d": "cmpb   $0x0,0x27b8(%rip)",
    "80 bf": "cmpb   $0x0,0x27b8(%rdi)",
    "83 3d": "cmpl   $0x0,0x27b8(%rip)",
    "48 83 bf": "cmpq   $0x0,0x27b8(%rdi)",
    "c6 05": "movb   $0x0,0x27b8(%rip)",
    "c6 83": "movb   $0x0,0x27b8(%rbx)",
    "c6 84 24": "movb   $0x0,0x27b8(%rsp)",
    "c6 04 25": "movb   $0x0,0x27b8",
    "f0 0f ba 2d": "lock btsl $0x0,0x27b8(%rip)",
    "66 0f 70 05": "pshufd $0x0,0x27b8(%rip),%xmm0",
    "66 0f 3a 0f 05": "palignr $0x0,0x27b8(%rip),%xmm0",
    "c5 f9 70 05": "vpshufd $0x0,0x27b8(%rip),%xmm0",
    "c4 e3 7d 06 05": "vperm2f128 $0x0,0x27b8(%rip),%ymm0,%ymm0",
    "62 f3 fd 48 03 84 24": "valignq $0x0,0x27b8(%rsp),%zmm0,%zmm0",
    # 64-bit immediates and addresses: the fourth byte
    "48 b8 11 22 33": "movabs $0x27b8332211,%rax",
    "49 bf 11 22 33": "movabs $0x27b8332211,%r15",
    "48 a1 11 22 33": "movabs 0x27b8332211,%rax",
    "a3 11 22 33": "movabs %eax,0x27b8332211",
}
"""What stands in front of the b8, and the instruction that is meant then, as objdump writes it."""

NOT_REPRESENTABLE = {
    "42": "mov with REX.X",
    "46": "mov with REX.XR",
    "64": "mov with a segment",
    "65": "mov with a segment",
    "66": "mov $0x27,%ax and two bytes more",
    "66 41": "mov $0x27,%r8w and two bytes more",
    "d5 10": "mov $0x27,%r16d: REX2, which this binutils need not know",
    "d5 01": "mov $0x27,%r8d by REX2",
    "d5 11 8b": "mov 0x27(%r24),%edi by REX2",
}
"""Others that are refused: a disassembler shows a mov to eax, two instructions, or nothing."""

PREDECESSORS = {
    "90": "nop",
    "0f 1f 00": "nopl   (%rax)",
    "0f 1f 40 00": "nopl   0x0(%rax)",
    "0f 1f 80 00 00 00 00": "nopl   0x0(%rax)",
    "66 0f 1f 44 00 00": "nopw   0x0(%rax,%rax,1)",
    "66 2e 0f 1f 84 00 00 00 00 00": "cs nopw 0x0(%rax,%rax,1)",
    "f3 0f 1e fa": "endbr64",
    "0f 05": "syscall",
    "b8 27 00 00 00 0f 05": "",
    "c3": "ret",
    "cc": "int3",
    "50": "push   %rax",
    "53": "push   %rbx",
    "55": "push   %rbp",
    "5f": "pop    %rdi",
    "41 54": "push   %r12",
    "41 5f": "pop    %r15",
    "c9": "leave",
    "fc": "cld",
    "0f a2": "cpuid",
    "0f 31": "rdtsc",
    "0f 0b": "ud2",
    "89 c7": "mov    %eax,%edi",
    "89 f7": "mov    %esi,%edi",
    "89 fe": "mov    %edi,%esi",
    "48 89 c6": "mov    %rax,%rsi",
    "48 89 e6": "mov    %rsp,%rsi",
    "49 89 ca": "mov    %rcx,%r10",
    "4d 89 c2": "mov    %r8,%r10",
    "44 89 ef": "mov    %r13d,%edi",
    "89 c7 89 f2": "",
    "48 89 c7 53": "",
    "31 ff": "xor    %edi,%edi",
    "31 f6": "xor    %esi,%esi",
    "31 d2": "xor    %edx,%edx",
    "31 c0": "xor    %eax,%eax",
    "45 31 d2": "xor    %r10d,%r10d",
    "45 31 c0": "xor    %r8d,%r8d",
    "85 c0": "test   %eax,%eax",
    "48 85 ff": "test   %rdi,%rdi",
    "74 10": "je     ",
    "75 f0": "jne    ",
    "0f 84 10 01 00 00": "je     ",
    "eb 08": "jmp    ",
    "e8 10 20 00 00": "call   ",
    "bf 01 00 00 00": "mov    $0x1,%edi",
    "be 80 00 00 00": "mov    $0x80,%esi",
    "ba ff ff ff 7f": "mov    $0x7fffffff,%edx",
    "41 ba 08 00 00 00": "mov    $0x8,%r10d",
    "48 c7 c7 ff ff ff ff": "mov    $0xffffffffffffffff,%rdi",
    "40 80 f6 81": "xor    $0x81,%sil",
    "81 f6 89 01 00 00": "xor    $0x189,%esi",
    "83 e6 80": "and    $0xffffff80,%esi",
    "48 83 ec 18": "sub    $0x18,%rsp",
    "48 8b 7c 24 08": "mov    0x8(%rsp),%rdi",
    "48 8d 74 24 10": "lea    0x10(%rsp),%rsi",
    "48 8d 35 10 20 00 00": "lea    0x2010(%rip),%rsi",
    "48 8b bb d0 02 00 00": "mov    0x2d0(%rbx),%rdi",
    "64 8b 3c 25 d0 02 00 00": "mov    %fs:0x2d0,%edi",
    "c7 44 24 08 01 00 00 00": "movl   $0x1,0x8(%rsp)",
    "48 98": "cltq",
    "99": "cltd",
}
"""Instructions that stand in front of system calls in real code. No text: more than one."""


def code(text: str) -> bytes:
    return bytes.fromhex(text)


def disassemble(content: bytes, folder: Path) -> list[tuple[int, str]]:
    """Return length and text of the instructions that objdump finds."""
    (folder / "code.bin").write_bytes(content)
    command = [need_program("objdump"), "-D", "-w", "-b", "binary", "-m", "i386:x86-64", str(folder / "code.bin")]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^ +[0-9a-f]+:\t((?:[0-9a-f]{2} )+) *\t?(.*)$", listing, re.MULTILINE)
    return [(len(bytes.fromhex(raw)), text.split("#")[0].strip()) for raw, text in found]


@pytest.mark.parametrize("before", [*TAILS_OF_OTHERS, *NOT_REPRESENTABLE])
def test_refused(before: str) -> None:
    """S-080: whatever stands in front of that instruction, and if nothing can be read there."""
    for further in (b"", bytes(LOOK_BACK), b"\x90" * LOOK_BACK, b"\xff" * LOOK_BACK):
        assert tail_of((further + code(before))[-LOOK_BACK:]) is not None


@pytest.mark.parametrize("before", PREDECESSORS)
def test_accepted(before: str) -> None:
    """Else patching would be of no use."""
    for further in (b"", bytes(LOOK_BACK), b"\x90" * LOOK_BACK):
        assert tail_of((further + code(before))[-LOOK_BACK:]) is None


def test_nothing_in_front() -> None:
    """A site where memory begins."""
    assert tail_of(b"") is None


def test_corpus_says_what_it_means(tmp_path: Path) -> None:
    """Each of these really is one instruction that ends with b8 27 00 00 00."""
    for before, text in TAILS_OF_OTHERS.items():
        content = code(before) + b"\xb8" + NUMBER
        found = disassemble(content, tmp_path)
        assert found == [(len(content), text)], before


def test_predecessors_are_instructions(tmp_path: Path) -> None:
    for before, text in PREDECESSORS.items():
        found = disassemble(code(before), tmp_path)
        assert sum(length for length, _ in found) == len(code(before))
        if text:
            assert len(found) == 1
            assert found[0][1].startswith(text.strip()), before


def test_every_rule_is_needed() -> None:
    """No rule is shadowed by the others for the whole corpus."""
    corpus = [code(before) for before in (*TAILS_OF_OTHERS, *NOT_REPRESENTABLE)]
    for tail in TAILS:
        others = [other for other in TAILS if other is not tail]
        assert any(not any(other.matches(before) for other in others) for before in corpus), tail.name


# Against a real library.


class Instruction(NamedTuple):
    """One instruction of a listing: its bytes, the bytes before it, and what it is."""

    content: bytes
    before: bytes
    text: str


def listing(path: str) -> Iterator[Instruction]:
    """Yield the instructions of a file's code."""
    command = [need_program("objdump"), "-d", "-w", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before = b""
    for raw, name in re.findall(r"^ +[0-9a-f]+:\t((?:[0-9a-f]{2} )+) *\t?(.*)$", text, re.MULTILINE):
        content = bytes.fromhex(raw)
        yield Instruction(content, before[-LOOK_BACK:], name)
        before = (before + content)[-2 * LOOK_BACK - 8 :]


def library(name: str) -> str:
    """Return where a shared library of this process is, or skip."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if re.search(rf"/{re.escape(name)}[^/]*$", line):
            return line.split(maxsplit=5)[5]
    pytest.skip(f"no {name} here")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_libc() -> None:
    """§6.5: more than 95 % of the call sites of libc.so.6 are accepted, and none in the middle of another instruction.

    The one exception is b8 as ModRM relative to plain rax: that cannot have been executed (see _modrm).
    """
    sites = accepted = 0
    torn: list[str] = []
    previous: Instruction | None = None
    for found in listing(library("libc.so.6")):
        if (
            found.content == b"\x0f\x05"
            and previous is not None
            and previous.content[0] == 0xB8
            and len(previous.content) == 5
        ):
            sites += 1
            accepted += tail_of(previous.before) is None
        inner = len(found.content) - 5
        if inner > 0 and found.content[inner] == 0xB8 and found.content[-1] == 0:
            before = (found.before + found.content[:inner])[-LOOK_BACK:]
            if tail_of(before) is None and not re.search(r"0x[0-9a-f]+\(%rax\)", found.text):
                torn.append(found.text)
        previous = found
    print(f"libc.so.6: {accepted} of {sites} call sites accepted")
    assert sites > 300
    assert accepted > 0.95 * sites
    assert torn == []
