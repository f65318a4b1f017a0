"""Decoders of what calls about processes, limits, CPUs and waiting pass by address, and of results that tell more."""

import struct
from typing import Final

from systrap.trace import constants as c
from systrap.trace import constants_more as m
from systrap.trace.call import Call, Decoder, UnreadableError, address, signed32
from systrap.trace.decode import RESULT, array, bracketed, fd_text, quote, record, structure
from systrap.trace.signals import sigset_text
from systrap.trace.structs import timespec, timeval, timeval_text

_INFINITY: Final = (1 << 64) - 1


def limit_text(value: int, infinity: str) -> str:
    """Return a limit, in kilobytes where it is a round number of these."""
    if value == _INFINITY:
        return infinity
    return f"{value >> 10}*1024" if value > 1024 and not value & 1023 else str(value)


def _limits(infinity: str) -> Decoder:
    return structure(
        struct.Struct("<QQ"),
        lambda call, f: f"{{rlim_cur={limit_text(f[0], infinity)}, rlim_max={limit_text(f[1], infinity)}}}",
    )


rlimit: Final = _limits("RLIM_INFINITY")
rlimit64: Final = _limits("RLIM64_INFINITY")


def _rusage(call: Call, f: tuple[int, ...]) -> str:
    times = f"ru_utime={timeval_text(call, f[:2])}, ru_stime={timeval_text(call, f[2:4])}"
    if not call.style.verbose:
        return f"{{{times}, ...}}"
    names = "maxrss ixrss idrss isrss minflt majflt nswap inblock oublock msgsnd msgrcv nsignals nvcsw nivcsw".split()
    return f"{{{times}, {', '.join(f'ru_{name}={value}' for name, value in zip(names, f[4:], strict=True))}}}"


rusage: Final = structure(struct.Struct("<18q"), _rusage)


def status_text(status: int) -> str:
    """Return a status of wait4 as the macros that tell what it means."""
    low = status & 0x7F
    if low == 0:
        return f"{{WIFEXITED(s) && WEXITSTATUS(s) == {status >> 8 & 0xFF}}}"
    if status == 0xFFFF:
        return "{WIFCONTINUED(s)}"
    if low == 0x7F:
        return f"{{WIFSTOPPED(s) && WSTOPSIG(s) == {m.SIGNALS.get(status >> 8 & 0xFF, status >> 8 & 0xFF)}}}"
    core = " && WCOREDUMP(s)" if status & 0x80 else ""
    return f"{{WIFSIGNALED(s) && WTERMSIG(s) == {m.SIGNALS.get(low, low)}{core}}}"


def wait_status(call: Call, value: int) -> str:
    """Where wait4 wrote the status; nothing is there when it found nobody."""
    if not value or not call.result:
        return address(value)
    try:
        status = int.from_bytes(call.memory.read(value, 4), "little")
    except UnreadableError:
        return address(value)
    return f"[{status_text(status)}]"


def _utsname(call: Call, f: tuple[bytes, ...]) -> str:
    names = ("sysname", "nodename", "release", "version", "machine", "domainname")
    texts = [f"{name}={quote(text.split(bytes(1))[0])}" for name, text in zip(names, f, strict=True)]
    return f"{{{', '.join(texts if call.style.verbose else texts[:2])}{'' if call.style.verbose else ', ...'}}}"


def utsname(call: Call, value: int) -> str:
    """Write the system's name and version."""
    try:
        found = call.memory.read(value, 390)
    except UnreadableError:
        return address(value)
    return _utsname(call, tuple(found[i : i + 65] for i in range(0, 390, 65)))


def _sysinfo(call: Call, f: tuple[int, ...]) -> str:
    names = "totalram freeram sharedram bufferram totalswap freeswap procs - totalhigh freehigh mem_unit".split()
    numbers = ", ".join(f"{name}={value}" for name, value in zip(names, f[4:], strict=True) if name != "-")
    return f"{{uptime={f[0]}, loads=[{f[1]}, {f[2]}, {f[3]}], {numbers}}}"


sysinfo: Final = structure(struct.Struct("<q3Q6QHH4xQQI4x"), _sysinfo)
sched_param: Final = structure(struct.Struct("<i"), lambda call, f: f"[{f[0]}]")
sched_attr: Final = record(
    "<IIQiIQQQ",
    "",
    "size sched_policy sched_flags sched_nice sched_priority sched_runtime sched_deadline sched_period",
    sched_policy=c.SCHED.text,
    sched_flags=lambda value: hex(value) if value else "0",
)
capability_header: Final = record("<Ii", "", "version pid", version=c.CAPABILITY_VERSION.text)


def capability_data(call: Call, value: int) -> str:
    """Write the three sets of capabilities, in their two halves."""
    try:
        halves = [struct.unpack("<III", call.memory.read(value + at, 12)) for at in (0, 12)] if value else []
    except UnreadableError:
        halves = []
    if not halves:
        return address(value)
    sets = [c.CAPABILITIES.text(low | high << 32) for low, high in zip(*halves, strict=True)]
    return f"{{effective={sets[0]}, permitted={sets[1]}, inheritable={sets[2]}}}"


def clone_args(call: Call, value: int) -> str:
    """Write the structure of clone3: what is set in it."""
    try:
        f = struct.unpack("<8Q", call.memory.read(value, 64))
    except UnreadableError:
        return address(value)
    flags = f[0]
    parts = [f"flags={c.CLONE.text(flags)}"]
    if flags & 0x1000:
        parts.append(f"pidfd={address(f[1])}")
    if flags & 0x1200000:
        parts.append(f"child_tid={address(f[2])}")
    if flags & 0x100000:
        parts.append(f"parent_tid={address(f[3])}")
    parts += [
        f"exit_signal={m.SIGNALS.get(f[4], f[4])}",
        f"stack={address(f[5])}",
        f"stack_size={f[6]:#x}" if f[6] else "stack_size=0",
    ]
    if flags & 0x80000:
        parts.append(f"tls={address(f[7])}")
    text = "{" + ", ".join(parts) + "}"
    if not call.error and flags & 0x100000:
        found = call.memory.read_partial(f[3], 4)
        if len(found) == 4:
            text += f" => {{parent_tid=[{int.from_bytes(found, 'little')}]}}"
    return text


def cpu_set(call: Call, value: int) -> str:
    """Write a set of CPUs (sched_setaffinity; sched_getaffinity tells by its result how much of it is there)."""
    length = call.result if call.name == "sched_getaffinity" else call.args[1]
    found = call.memory.read_partial(value, min(length, 1024)) if value else b""
    if not found:
        return address(value)
    bits = int.from_bytes(found, "little")
    return f"[{' '.join(str(i) for i in range(bits.bit_length()) if bits >> i & 1)}]"


# Waiting.


def poll_fds(call: Call, value: int) -> str:
    """Tell what poll waits for."""
    return (
        array(
            struct.Struct("<ihh"),
            1,
            lambda call, f: f"{{fd={fd_text(call, f[0])}"
            + (f", events={m.POLL.text(f[1] & 0xFFFF)}}}" if f[0] >= 0 else "}"),
        )(call, value)
        or ""
    )


def poll_result(call: Call) -> str:
    """How many descriptors are ready, and which."""
    if call.result <= 0:
        return "0 (Timeout)"
    found = call.memory.read_partial(call.args[0], min(call.args[1], 4096) * 8)
    ready = [
        f"{{fd={fd_text(call, number)}, revents={m.POLL.text(events & 0xFFFF)}}}"
        for number, _, events in struct.iter_unpack("<ihh", found[: len(found) & ~7])
        if events
    ]
    if call.name == "ppoll" and call.args[2]:
        left = timespec(call, call.args[2])
        return f"{call.result} ({bracketed(ready)}, left {left})"
    return f"{call.result} ({bracketed(ready)})"


def _members(call: Call, value: int) -> list[int] | None:
    count = max(0, min(signed32(call.args[0]), 1024))
    found = call.memory.read_partial(value, (count + 63) // 64 * 8)
    bits = int.from_bytes(found, "little")
    return [i for i in range(count) if bits >> i & 1] if found or not count else None


def fd_set(call: Call, value: int) -> str:
    """Write a set of descriptors of select."""
    if not value:
        return "NULL"
    members = _members(call, value)
    return address(value) if members is None else f"[{' '.join(fd_text(call, member) for member in members)}]"


def select_result(call: Call) -> str:
    """How many descriptors are ready, which of which set, and what is left of the time."""
    left = ""
    if call.args[4]:
        left = (timespec if call.name == "pselect6" else timeval)(call, call.args[4]) or ""
    if call.result <= 0:
        return "0 (Timeout)"
    parts = []
    for name, at in (("in", 1), ("out", 2), ("except", 3)):
        members = _members(call, call.args[at]) if call.args[at] else None
        if members:
            parts.append(f"{name} [{' '.join(fd_text(call, member) for member in members)}]")
    if left:
        parts.append(f"left {left}")
    return f"{call.result} ({', '.join(parts)})"


def _epoll_event(call: Call, f: tuple[int, ...]) -> str:
    return f"{{events={m.EPOLL.text(f[0])}, data={{u32={f[1] & 0xFFFFFFFF}, u64={f[1]}}}}}"


_EPOLL_EVENT: Final = struct.Struct("<IQ")
epoll_event: Final = structure(_EPOLL_EVENT, _epoll_event)
epoll_events: Final = array(_EPOLL_EVENT, RESULT, _epoll_event)


def signal_mask_argument(call: Call, value: int) -> str:
    """Write the sixth argument of pselect6: the address of a mask and its size."""
    if not value:
        return "NULL"
    try:
        mask, length = struct.unpack("<QQ", call.memory.read(value, 16))
        text = sigset_text(int.from_bytes(call.memory.read(mask, 8), "little")) if mask else "NULL"
    except UnreadableError:
        return address(value)
    return f"{{sigmask={text}, sigsetsize={length}}}"
