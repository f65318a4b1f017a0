"""Linux's interface on both architectures, next to the kernel's headers: flags, structures, numbers, capabilities."""

import re
import struct

import pytest

from systrap.arch import arm_hwcap, linux
from systrap.arch.linux import Linux
from systrap.sentry.syscalls import numbers
from tests.arch.headers import evaluate, header

SIDES = [("x86_64", linux.X86_64), ("aarch64", linux.AARCH64)]
FIELD_NAMES = {name: f"st_{name}" for name in linux.X86_64.stat.fields}


@pytest.mark.parametrize(("machine", "side"), SIDES)
def test_open_flags(machine: str, side: Linux) -> None:
    names = ["O_DIRECT", "O_LARGEFILE", "O_DIRECTORY", "O_NOFOLLOW", "O_TMPFILE"]
    found = evaluate(machine, ["asm/fcntl.h"], names)
    ours = [side.o_direct, side.o_largefile, side.o_directory, side.o_nofollow, 0o20000000 | side.o_directory]
    assert found == ours


@pytest.mark.parametrize(("machine", "side"), SIDES)
def test_stat(machine: str, side: Linux) -> None:
    """Each field where C has it, and as wide: one field set, and only its bytes are."""
    fields = [FIELD_NAMES[name] for name in side.stat.fields] + [
        "st_atime",
        "st_atime_nsec",
        "st_mtime",
        "st_mtime_nsec",
    ]
    fields += ["st_ctime", "st_ctime_nsec"]
    source = "asm/stat.h" if machine == "x86_64" else "asm-generic/stat.h"
    questions = ["sizeof(struct stat)"]
    questions += [f"offsetof(struct stat, {name})" for name in fields]
    questions += [f"sizeof(((struct stat *)0)->{name})" for name in fields]
    size, *answers = evaluate(machine, [source], questions)
    assert side.stat.layout.size == size
    offsets, widths = answers[: len(fields)], answers[len(fields) :]
    for index, (offset, width) in enumerate(zip(offsets, widths, strict=True)):
        value = 0x7172_7374_7576_7778 & (1 << 8 * width) - 1
        packed = side.stat.layout.pack(*(value if other == index else 0 for other in range(len(fields))))
        expected = bytearray(size)
        expected[offset : offset + width] = value.to_bytes(width, "little")
        assert packed == bytes(expected), fields[index]


@pytest.mark.parametrize(("machine", "side"), SIDES)
def test_epoll_event(machine: str, side: Linux) -> None:
    """Packed on x86-64 only."""
    questions = [
        "sizeof(struct epoll_event)",
        "offsetof(struct epoll_event, events)",
        "offsetof(struct epoll_event, data)",
    ]
    size, events, data = evaluate(machine, ["linux/eventpoll.h"], questions)
    packed = side.epoll_event.pack(0x11223344, 0x5566778899AABBCC)
    assert len(packed) == size
    assert struct.unpack_from("<I", packed, events) == (0x11223344,)
    assert struct.unpack_from("<Q", packed, data) == (0x5566778899AABBCC,)


@pytest.mark.parametrize(("machine", "side"), SIDES)
def test_smallest_alternate_stack(machine: str, side: Linux) -> None:
    assert evaluate(machine, ["asm/signal.h"], ["MINSIGSTKSZ"]) == [side.min_altstack]


def test_the_code_that_handlers_return_to() -> None:
    """Unwinders know it by its words: mov x8, #__NR_rt_sigreturn; svc #0. The entry is a word behind a nop."""
    side = linux.AARCH64
    number = numbers.AARCH64["rt_sigreturn"]
    assert side.sigreturn[side.sigreturn_entry :] == struct.pack("<2I", 0xD2800008 | number << 5, 0xD4000001)
    assert linux.X86_64.sigreturn == b""


@pytest.mark.parametrize(("machine", "table"), [("x86_64", numbers.X86_64), ("aarch64", numbers.AARCH64)])
def test_numbers(machine: str, table: dict[str, int]) -> None:
    """Each name has the header's number, and no number has two names."""
    names = list(table)
    assert evaluate(machine, ["asm/unistd_64.h"], [f"__NR_{name}" for name in names]) == list(table.values())
    assert len(set(table.values())) == len(table)


def test_every_number_up_to_the_last_has_a_name() -> None:
    """arm64's table has no holes but those of asm-generic: reserved for other architectures, and before 424."""
    used = set(numbers.AARCH64.values())
    holes = {number for number in range(max(used)) if number not in used}
    assert holes == {*range(244, 260), *range(295, 424), 38} - used


def test_capabilities_are_the_headers() -> None:
    """Each name of /proc/cpuinfo belongs to the bit that the kernel gives it, and none of the header's is forgotten."""
    ours = {(0, name): bit for name, bit in arm_hwcap._FEATURES.items()}
    ours |= {(1, name): bit for name, bit in arm_hwcap._FEATURES2.items()}
    ours |= {(word, name): bit for group in arm_hwcap.HIDDEN.values() for name, (word, bit) in group.items()}
    by_header_name = {(word, name.upper().replace("_", "")): bit for (word, name), bit in ours.items()}
    text = header("aarch64", "asm/hwcap.h")
    found = {
        (int(word == "HWCAP2"), name.replace("_", "")): int(bit)
        for word, name, bit in re.findall(r"^#define (HWCAP2?)_(\w+)\s+\(1U?L? << (\d+)\)", text, re.MULTILINE)
    }
    assert len(found) > 90
    assert {key: by_header_name.get(key) for key in found} == found


def test_what_is_hidden_is_hidden_whole() -> None:
    """No bit is both; of SVE, SME and what needs a protection of its own nothing is shown (S-051)."""
    capabilities = linux.AARCH64.capabilities
    for features in arm_hwcap.HIDDEN.values():
        for name, (word, bit) in features.items():
            assert not (capabilities.hwcap, capabilities.hwcap2)[word] >> bit & 1, name
            assert name.encode() in capabilities.hidden
    shown = {*arm_hwcap._FEATURES, *arm_hwcap._FEATURES2}
    assert not [name for name in shown if name.startswith(("sve", "sme", "mte"))]
    assert not shown & {name.decode() for name in capabilities.hidden}
    assert {"fp", "asimd", "atomics", "aes", "crc32"} <= shown
