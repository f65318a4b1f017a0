"""The first stack of a program: strings, auxiliary vector, environment and arguments, as the kernel lays them out."""

import errno
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from systrap import arch
from systrap.host.auxv import auxiliary_vector
from systrap.host.sys import PAGE_SIZE
from systrap.sentry.errors import SyscallError
from systrap.sentry.mm import MemoryManager
from systrap.sentry.mm_limits import RLIMIT_STACK, MemoryLimits

if TYPE_CHECKING:
    from systrap.sentry.credentials import Credentials

AT_NULL: Final = 0
AT_PHDR: Final = 3
AT_PHENT: Final = 4
AT_PHNUM: Final = 5
AT_PAGESZ: Final = 6
AT_BASE: Final = 7
AT_FLAGS: Final = 8
AT_ENTRY: Final = 9
AT_UID: Final = 11
AT_EUID: Final = 12
AT_GID: Final = 13
AT_EGID: Final = 14
AT_PLATFORM: Final = 15
AT_HWCAP: Final = 16
AT_CLKTCK: Final = 17
AT_SECURE: Final = 23
AT_RANDOM: Final = 25
AT_HWCAP2: Final = 26
AT_EXECFN: Final = 31
AT_MINSIGSTKSZ: Final = 51

_CLOCK_TICKS: Final = 100
_SEGMENT_HEADER_SIZE: Final = 56
_MIN_SIGNAL_STACK: Final = 2048
_ARG_MAX: Final = 6 << 20
_ARG_MIN: Final = 32 * PAGE_SIZE


class StackInfo(NamedTuple):
    """What the stack tells the program: arguments, environment, where its headers, interpreter and entry are, its name."""

    argv: "list[bytes]"
    env: "list[bytes]"
    headers_address: int
    headers_count: int
    base: int
    entry: int
    name: str


def build_stack(mm: MemoryManager, creds: "Credentials", top: int, info: StackInfo) -> int:
    """Write the stack below ``top``; return the stack pointer. Records in ``mm`` where /proc finds the strings."""
    name = os.fsencode(info.name) + b"\0"
    args = b"".join(text + b"\0" for text in info.argv)
    env = b"".join(text + b"\0" for text in info.env)
    # From the top: a null word, the file's name, environment, arguments; below them, aligned, what auxv points to.
    name_at = top - 8 - len(name)
    env_at = name_at - len(env)
    args_at = env_at - len(args)
    strings = args + env + name + bytes(8)
    platform = arch.current().NAME.encode() + b"\0"
    random_at = (args_at - 16 - len(platform) - _random_gap()) & ~15
    platform_at = random_at + 16
    auxv = _auxiliary_vector(creds, info, random_at, platform_at, name_at)
    words = struct.pack(
        f"<{len(info.argv) + len(info.env) + 3}Q",
        len(info.argv),
        *_pointers(args_at, info.argv),
        0,
        *_pointers(env_at, info.env),
        0,
    )
    sp = (random_at - len(words) - len(auxv)) & ~15
    block = words + auxv
    block += bytes(random_at - sp - len(block)) + os.urandom(16) + platform
    block += bytes(args_at - sp - len(block)) + strings
    mm.write(sp, block)
    mm.arg_start, mm.arg_end = args_at, args_at + len(args)
    mm.env_start, mm.env_end = env_at, env_at + len(env)
    mm.auxv = auxv
    return sp


def check_size(limits: MemoryLimits, argv: "list[bytes]", env: "list[bytes]") -> None:
    """E2BIG when arguments and environment take more than a quarter of the stack limit, within Linux's bounds."""
    size = sum(map(len, argv)) + sum(map(len, env)) + 9 * (len(argv) + len(env))
    if size > max(min(limits.soft(RLIMIT_STACK) // 4, _ARG_MAX), _ARG_MIN):
        raise SyscallError(errno.E2BIG)


def _random_gap() -> int:
    return int.from_bytes(os.urandom(2), "little") % 8192 & ~15


def _pointers(at: int, texts: "list[bytes]") -> "list[int]":
    """Return the address of each of the strings that lie one behind the other."""
    pointers: list[int] = []
    for text in texts:
        pointers.append(at)
        at += len(text) + 1
    return pointers


def _auxiliary_vector(creds: "Credentials", info: StackInfo, random_at: int, platform_at: int, name_at: int) -> bytes:
    """Return the auxiliary vector. There is no vDSO and no rseq, so neither is announced."""
    try:
        host = auxiliary_vector()
    except OSError:
        host = {}
    linux = arch.current().LINUX
    frame = linux.signal_frame or host.get(AT_MINSIGSTKSZ, _MIN_SIGNAL_STACK)
    secure = creds.uid != creds.euid or creds.gid != creds.egid
    entries = (
        (AT_MINSIGSTKSZ, frame),
        (AT_HWCAP, host.get(AT_HWCAP, 0) & linux.capabilities.hwcap),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, _CLOCK_TICKS),
        (AT_PHDR, info.headers_address),
        (AT_PHENT, _SEGMENT_HEADER_SIZE),
        (AT_PHNUM, info.headers_count),
        (AT_BASE, info.base),
        (AT_FLAGS, 0),
        (AT_ENTRY, info.entry),
        (AT_UID, creds.uid),
        (AT_EUID, creds.euid),
        (AT_GID, creds.gid),
        (AT_EGID, creds.egid),
        (AT_SECURE, int(secure)),
        (AT_RANDOM, random_at),
        (AT_HWCAP2, host.get(AT_HWCAP2, 0) & linux.capabilities.hwcap2),
        (AT_EXECFN, name_at),
        (AT_PLATFORM, platform_at),
        (AT_NULL, 0),
    )
    return b"".join(struct.pack("<QQ", kind, value) for kind, value in entries)
