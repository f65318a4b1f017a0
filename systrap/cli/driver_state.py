"""Registers, FP state and events of the conformance driver: from and to their written form."""

import struct
from typing import Final

from systrap import arch
from systrap.arch import arm_fp, x86_fp
from systrap.arch.aarch64 import AArch64
from systrap.arch.x86_64 import X86_64
from systrap.cli.driver_wire import Fields, ProtocolError, Reply, UnsupportedError, word
from systrap.platform import Access, Context, Event, EventKind, SignalInfo

MACHINE: Final = arch.host()

_INDEX: Final = {name: index for index, name in enumerate(MACHINE.REG_NAMES)}
_ACCESS: Final = {"r": Access.READ, "w": Access.WRITE, "x": Access.EXECUTE}
_ACCESS_NAMES: Final = {Access.READ: "r", Access.WRITE: "w", Access.EXECUTE: "x", Access.NONE: "?"}
_FAULTS: Final = frozenset((4, 5, 7, 8, 11))

# Parts of the FP state, by machine: where they lie in the image, and the bits of XSTATE_BV that say they are not in their
# initial state. On arm64 there are no such bits: what the image holds is what there is.
_PARTS: Final[dict[str, tuple[int, int, int]]] = {
    X86_64.NAME: {"legacy": (0, 464, 3), "ymm": (576, 256, 4)},
    AArch64.NAME: {"fpsimd": (0, arm_fp.USED, 0)},
}[MACHINE.NAME]
_XSTATE_BV: Final = 512
_XMM: Final = (160, 416)


def get_regs(context: Context) -> Reply:
    """Return all registers by name."""
    regs = context.regs
    return {name: word(regs[index]) for name, index in _INDEX.items()}


def set_regs(context: Context, fields: Fields) -> None:
    """Set the registers that are named. Raises ProtocolError before any is set."""
    values = []
    for name in fields.names():
        if name not in _INDEX:
            raise ProtocolError(f"there is no register {name!r}")
        values.append((_INDEX[name], fields.word(name)))
    for index, value in values:
        context.regs[index] = value


def parse_access(text: str) -> Access:
    """Return the access that "rwx" and the like name; "" is none."""
    access = Access.NONE
    for letter in text:
        if letter not in _ACCESS or access & _ACCESS[letter]:
            raise ProtocolError(f"prot must be made of r, w and x, each once; it is {text!r}")
        access |= _ACCESS[letter]
    return access


def parts(context: Context) -> list[str]:
    """Return the names of the parts of the FP state that this host has."""
    return [name for name, (start, size, _) in _PARTS.items() if start + size <= len(context.fp)]


def get_fp(context: Context, part: str) -> bytes:
    """Return a part of the FP state, after a pull. Raises UnsupportedError, ProtocolError."""
    start, size, bits = _part(context, part)
    data = bytearray(context.fp[start : start + size])
    present = _present(context) if bits else 0
    if part == "legacy":
        initial = x86_fp.initial(x86_fp.LEGACY_SIZE)
        if not present & 1:
            data[:24] = initial[:24]
            data[32 : _XMM[0]] = initial[32 : _XMM[0]]
        if not present & 2:
            data[slice(*_XMM)] = bytes(_XMM[1] - _XMM[0])
    elif bits and not present & bits:
        data = bytearray(size)
    return bytes(data)


def set_fp(context: Context, part: str, data: bytes) -> None:
    """Change a part of the FP state, from its start. Raises UnsupportedError, ProtocolError."""
    start, size, bits = _part(context, part)
    if len(data) > size:
        raise ProtocolError(f"the part {part!r} has {size} bytes")
    whole = get_fp(context, part)
    context.fp[start : start + size] = data + whole[len(data) :]
    if bits and len(context.fp) > _XSTATE_BV:
        struct.pack_into("<Q", context.fp, _XSTATE_BV, _present(context) | bits)
    context.full_state_changed()


def _present(context: Context) -> int:
    """Return the components that are not in their initial state; without XSAVE, those of the legacy area."""
    if len(context.fp) <= _XSTATE_BV:
        return 3
    (present,) = struct.unpack_from("<Q", context.fp, _XSTATE_BV)
    return int(present)


def _part(context: Context, part: str) -> tuple[int, int, int]:
    if part not in _PARTS:
        raise UnsupportedError(f"fp.{part}", f"this driver knows {', '.join(_PARTS)}")
    if part not in parts(context):
        raise UnsupportedError(f"fp.{part}", "this CPU has no such registers")
    return _PARTS[part]


def write_event(context: Context, event: Event) -> Reply:
    """Return the written form of an event."""
    regs = context.regs
    ip = word(regs[MACHINE.IP])
    if event.kind == EventKind.SYSCALL:
        args = [word(regs[index]) for index in MACHINE.ARGS]
        return {"kind": "syscall", "nr": word(regs[MACHINE.SYSCALL_NR]), "args": args, "ip": ip}
    if event.kind == EventKind.INTERRUPTED:
        return {"kind": "interrupted"}
    if event.kind == EventKind.DEATH:
        return {"kind": "death", "reason": "stub", "detail": str(event.error)}
    return _write_signal(event.info or SignalInfo(0, 0, 0), event.access, ip)


def _write_signal(info: SignalInfo, access: Access, ip: str) -> Reply:
    if info.signo not in _FAULTS:
        return {"kind": "signal", "signo": info.signo, "code": info.code}
    reply: Reply = {"kind": "fault", "signo": int(info.signo), "code": info.code, "addr": word(info.addr), "ip": ip}
    reply["access"] = _ACCESS_NAMES.get(access, "?")
    if info.trapno or info.err:
        reply["arch"] = {"trapno": info.trapno, "err": word(info.err)}
    return reply
