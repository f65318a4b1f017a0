"""Decoders of structures: times, files' attributes, lists of buffers. Those of processes are in structs_process.py."""

import struct
import time
from typing import Final

from systrap.trace import constants as c
from systrap.trace import constants_more as m
from systrap.trace.call import Call, Decoder, address
from systrap.trace.decode import array, bracketed, length_of, memory_text, quote, record, structure

_KIND: Final = 0o170000
_SPECIAL: Final = (0o20000, 0o60000)


# Times.


def _timespec(call: Call, fields: tuple[int, ...]) -> str:
    return f"{{tv_sec={fields[0]}, tv_nsec={fields[1]}}}"


def timeval_text(call: Call, fields: tuple[int, ...]) -> str:
    """Write seconds and microseconds."""
    return f"{{tv_sec={fields[0]}, tv_usec={fields[1]}}}"


PAIR: Final = struct.Struct("<qq")
timespec: Final = structure(PAIR, _timespec)
timeval: Final = structure(PAIR, timeval_text)
itimerspec: Final = structure(
    struct.Struct("<qqqq"),
    lambda call, f: f"{{it_interval={_timespec(call, f[:2])}, it_value={_timespec(call, f[2:])}}}",
)
itimerval: Final = structure(
    struct.Struct("<qqqq"),
    lambda call, f: f"{{it_interval={timeval_text(call, f[:2])}, it_value={timeval_text(call, f[2:])}}}",
)
timezone: Final = record("<ii", "tz_", "minuteswest dsttime")


def _ticks(value: int) -> str:
    return f"{value} /* {value / 100:.2f} s */" if value else "0"


tms: Final = record(
    "<qqqq", "tms_", "utime stime cutime cstime", utime=_ticks, stime=_ticks, cutime=_ticks, cstime=_ticks
)
timex: Final = structure(
    struct.Struct("<I4xqqqqi4xqqqqqq"),
    lambda call, f: f"{{modes={m.ADJTIMEX.text(f[0]) if f[0] else 0}, offset={f[1]}, freq={f[2]}, maxerror={f[3]}, "
                    f"esterror={f[4]}, "
                    f"status={f[5]}, constant={f[6]}, precision={f[7]}, tolerance={f[8]}, time={timeval_text(call, f[9:11])}, "
                    f"tick={f[11]}, ...}}",
)  # fmt: skip


def _utime_now(fields: tuple[int, ...]) -> str:
    special = {0x3FFFFFFF: "UTIME_NOW", 0x3FFFFFFE: "UTIME_OMIT"}.get(fields[1])
    return special or f"{{tv_sec={fields[0]}, tv_nsec={fields[1]}}}{_comment(*fields)}"


timespecs: Final = structure(struct.Struct("<qqqq"), lambda call, f: f"[{_utime_now(f[:2])}, {_utime_now(f[2:])}]")


def _pair_of_times(call: Call, f: tuple[int, ...]) -> str:
    first, second = (f"{timeval_text(call, f[i : i + 2])}{_comment(f[i], f[i + 1] * 1000)}" for i in (0, 2))
    return f"[{first}, {second}]"


timevals: Final = structure(struct.Struct("<qqqq"), _pair_of_times)


def remaining(call: Call, value: int) -> str:
    """Tell what is left of a sleep: written only when a signal ended it."""
    return timespec(call, value) or "" if call.error == 4 or call.error > 511 else address(value)


def _stamp(seconds: int, nanoseconds: int = 0) -> str:
    """Write a point in time, and behind it what people read."""
    return f"{seconds}{_comment(seconds, nanoseconds)}"


def _comment(seconds: int, nanoseconds: int) -> str:
    """Return a point in time as people read it, as a comment; nothing for the beginning of time."""
    if not seconds and not nanoseconds:
        return ""
    try:
        local = time.localtime(seconds)
    except (OverflowError, ValueError, OSError):
        return ""
    fraction = f".{nanoseconds:09d}" if nanoseconds else ""
    return f" /* {time.strftime('%Y-%m-%dT%H:%M:%S', local)}{fraction}{time.strftime('%z', local)} */"


utimbuf: Final = record("<qq", "", "actime modtime", actime=_stamp, modtime=_stamp)


# Attributes of files.


def mode_text(mode: int) -> str:
    """Return a file's mode: its type by name, then the bits."""
    kind = c.FILE_TYPE.get(mode & _KIND)
    parts = [kind if kind is not None else f"{mode & _KIND:#o}"] if mode & _KIND else []
    for bit, name in ((0o4000, "S_ISUID"), (0o2000, "S_ISGID"), (0o1000, "S_ISVTX")):
        if mode & bit:
            parts.append(name)
    bits = mode & 0o777
    parts.append(f"0{bits:o}" if bits > 0o77 else f"0{bits:02o}")
    return "|".join(parts)


def file_mode(call: Call, value: int) -> str:
    """Write a mode with a type (mknod)."""
    return mode_text(value & 0xFFFF)


def device_text(device: int) -> str:
    """Return a device number as makedev() takes it."""
    major = device >> 8 & 0xFFF | device >> 32 & ~0xFFF
    minor = device & 0xFF | device >> 12 & 0xFFFFFF00
    return f"makedev({hex(major) if major else 0}, {hex(minor) if minor else 0})"


def _stat(call: Call, f: tuple[int, ...]) -> str:
    mode = f[3]
    shown = f"st_rdev={device_text(f[6])}" if mode & _KIND in _SPECIAL else f"st_size={f[7]}"
    if not call.style.verbose:
        return f"{{st_mode={mode_text(mode)}, {shown}, ...}}"
    return (
        f"{{st_dev={device_text(f[0])}, st_ino={f[1]}, st_mode={mode_text(mode)}, st_nlink={f[2]}, st_uid={f[4]}, st_gid={f[5]}, "
        f"st_blksize={f[8]}, st_blocks={f[9]}, {shown}, st_atime={_stamp(f[10], f[11])}, st_atime_nsec={f[11]}, "
        f"st_mtime={_stamp(f[12], f[13])}, st_mtime_nsec={f[13]}, st_ctime={_stamp(f[14], f[15])}, st_ctime_nsec={f[15]}}}"
    )


stat: Final = structure(struct.Struct("<QQQIII4xQqqqqqqqqq"), _stat)


def _statx(call: Call, f: tuple[int, ...]) -> str:
    head = (
        f"stx_mask={c.STATX_MASK.text(f[0])}, "
        + (f"stx_blksize={f[1]}, " if call.style.verbose else "")
        + f"stx_attributes={c.STATX_ATTRIBUTES.text(f[2])}, "
        + (f"stx_nlink={f[3]}, stx_uid={f[4]}, stx_gid={f[5]}, " if call.style.verbose else "")
    )
    body = f"stx_mode={mode_text(f[6])}, " + (f"stx_ino={f[7]}, " if call.style.verbose else "") + f"stx_size={f[8]}"
    if not call.style.verbose:
        return f"{{{head}{body}, ...}}"
    stamps = ", ".join(
        f"stx_{name}={{tv_sec={_stamp(f[i], f[i + 1])}, tv_nsec={f[i + 1]}}}"
        for i, name in ((11, "atime"), (13, "btime"), (15, "ctime"), (17, "mtime"))
    )
    return f"{{{head}{body}, stx_blocks={f[9]}, stx_attributes_mask={c.STATX_ATTRIBUTES.text(f[10])}, {stamps}}}"


statx: Final = structure(struct.Struct("<IIQIIIH2xQQQQ qI4xqI4xqI4xqI4x"), _statx)


def _statfs(call: Call, f: tuple[int, ...]) -> str:
    names = ("f_bsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree")
    numbers = ", ".join(f"{name}={value}" for name, value in zip(names, f[1:7], strict=True))
    fsid = f"{{val=[{f[7] & 0xFFFFFFFF:#x}, {f[8] & 0xFFFFFFFF:#x}]}}"
    tail = f"f_fsid={fsid}, f_namelen={f[9]}, f_frsize={f[10]}, f_flags={c.ST_FLAGS.text(f[11])}"
    return f"{{f_type={c.FS_MAGIC.text(f[0])}, {numbers}, {tail}}}"


statfs: Final = structure(struct.Struct("<qqQQQQQiiqqq"), _statfs)
open_how: Final = structure(
    struct.Struct("<QQQ"),
    lambda call, f: f"{{flags={c.OPEN.text(f[0])}"
                    + (f", mode={mode_text(f[1])}" if f[0] & 0o20200100 else "")
                    + f", resolve={c.RESOLVE.text(f[2])}}}",
)  # fmt: skip
flock: Final = structure(
    struct.Struct("<hh4xqqi4x"),
    lambda call, f: f"{{l_type={c.LOCK_TYPE.text(f[0])}, l_whence={c.WHENCE.text(f[1])}, l_start={f[2]}, l_len={f[3]}"
                    + (f", l_pid={f[4]}" if call.args[1] in (5, 36) else "") + "}",
)  # fmt: skip


def directory_entries(head: struct.Struct, name_at: int, type_at_end: bool) -> Decoder:
    """Return the decoder of what getdents wrote: how many entries, or each of them."""

    def decode(call: Call, value: int) -> str:
        found = call.memory.read_partial(value, min(call.result, 1 << 20))
        texts, at = [], 0
        while at + head.size <= len(found):
            fields = head.unpack_from(found, at)
            length = fields[2]
            if length < name_at or at + length > len(found):
                break
            name = found[at + name_at : at + length].split(b"\0")[0]
            kind = found[at + length - 1] if type_at_end else fields[3]
            texts.append(f"{{d_ino={fields[0]}, d_off={fields[1]}, d_reclen={length}, d_type={c.DIRENT_TYPE.text(kind)}, "
                         f"d_name={quote(name)}}}")  # fmt: skip
            at += length
        if call.style.verbose:
            return bracketed(texts)
        return f"{address(value)} /* {len(texts)} entries */"

    return decode


dirents64: Final = directory_entries(struct.Struct("<QqHB"), 19, False)
dirents: Final = directory_entries(struct.Struct("<QqH"), 18, True)


# Buffers.

_IOVEC: Final = struct.Struct("<QQ")


def iovec(where: int, limit: int | None = None) -> Decoder:
    """Return the decoder of an iovec array with its length in the argument at ``where``; ``limit``: what was transferred."""

    def decode(call: Call, value: int) -> str:
        left = length_of(call, limit) if limit is not None else 1 << 62

        def write(call: Call, fields: tuple[int, ...]) -> str:
            nonlocal left
            base, length = fields
            shown = min(length, left)
            left -= shown
            return f"{{iov_base={memory_text(call, base, shown)}, iov_len={length}}}"

        return array(_IOVEC, where, write)(call, value) or ""

    return decode


def iovec_addresses(where: int) -> Decoder:
    """Return the decoder of an iovec array whose buffers belong to somebody else."""
    return array(_IOVEC, where, lambda call, f: f"{{iov_base={address(f[0])}, iov_len={f[1]}}}")
