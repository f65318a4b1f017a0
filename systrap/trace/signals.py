"""Signals as text: numbers, sets, actions, and what a siginfo tells."""

import struct
from typing import Final

from systrap.trace import constants_more as m
from systrap.trace.call import Call, Decoder, UnreadableError, address, signed32
from systrap.trace.decode import structure

_ALL: Final = (1 << 64) - 1
_FAULTS: Final = (4, 5, 7, 8, 11)
_HANDLERS: Final = {0: "SIG_DFL", 1: "SIG_IGN"}


def name(signo: int) -> str:
    """Return a signal's name, or its number."""
    return m.SIGNALS.get(signo, str(signo))


def signal(call: Call, value: int) -> str:
    """Write a signal's number."""
    return name(signed32(value))


def sigset_text(bits: int) -> str:
    """Return a set of signals by their short names; one that holds most of them by those that it lacks."""
    inverted = bits.bit_count() >= 42
    shown = ~bits & _ALL if inverted else bits
    words = [name(i + 1).removeprefix("SIG") for i in range(64) if shown >> i & 1]
    return f"{'~' if inverted else ''}[{' '.join(words)}]"


sigset: Final = structure(struct.Struct("<Q"), lambda call, f: sigset_text(f[0]))


def _action(call: Call, f: tuple[int, ...]) -> str:
    handler, flags, restorer, mask = f
    text = f"sa_handler={_HANDLERS.get(handler) or address(handler)}"
    tail = f", sa_restorer={address(restorer)}" if flags & 0x04000000 else ""
    return f"{{{text}, sa_mask={sigset_text(mask)}, sa_flags={m.SA.text(flags)}{tail}}}"


action: Final = structure(struct.Struct("<QQQQ"), _action)


def _stack(call: Call, f: tuple[int, ...]) -> str:
    return f"{{ss_sp={address(f[0])}, ss_flags={m.SS.text(f[1])}, ss_size={f[2]}}}"


stack: Final = structure(struct.Struct("<QI4xQ"), _stack)


def code_name(signo: int, code: int) -> str:
    """Return the name of a si_code."""
    return m.SI_CODES.get(code) or m.SI_CODES_OF.get(signo, {}).get(code) or f"{code & 0xFFFFFFFF:#x}"


def siginfo_text(raw: bytes) -> str:
    """Return the 128 bytes of a siginfo as text: the fields that count for this signal and code."""
    signo, number, code = struct.unpack_from("<iii", raw)
    parts = [f"si_signo={name(signo)}", f"si_code={code_name(signo, code)}"]
    if number:
        parts.append(f"si_errno={m.ERRORS.get(number, number)}")
    if signo == 17 and code > 0 and code != 0x80:
        pid, uid, status = struct.unpack_from("<iIi", raw, 16)
        utime, stime = struct.unpack_from("<qq", raw, 32)
        shown = str(status) if code == 1 else name(status)
        parts.append(f"si_pid={pid}, si_uid={uid}, si_status={shown}, si_utime={utime}, si_stime={stime}")
    elif signo in _FAULTS and code > 0:
        if code != 0x80 or signo in (7, 11):
            parts.append(f"si_addr={address(*struct.unpack_from('<Q', raw, 16))}")
    elif code == -2:
        timer, overrun, value = struct.unpack_from("<iiQ", raw, 16)
        parts.append(f"si_timerid={timer:#x}, si_overrun={overrun}, si_int={signed32(value)}, si_ptr={address(value)}")
    elif code != 0x80:
        pid, uid, value = struct.unpack_from("<iIQ", raw, 16)
        parts.append(f"si_pid={pid}, si_uid={uid}")
        if code == -1:
            parts.append(f"si_int={signed32(value)}, si_ptr={address(value)}")
    return f"{{{', '.join(parts)}}}"


def siginfo(call: Call, value: int) -> str:
    """Write the address of a siginfo."""
    if not value:
        return "NULL"
    try:
        return siginfo_text(call.memory.read(value, 128))
    except UnreadableError:
        return address(value)


def _sigevent(call: Call, f: tuple[int, ...]) -> str:
    value, signo, notify, tid = f
    tail = f", sigev_notify_thread_id={tid}" if notify == 4 else ""
    shown = f"{{sival_int={signed32(value)}, sival_ptr={address(value)}}}"
    return f"{{sigev_value={shown}, sigev_signo={name(signo)}, sigev_notify={m.SIGEV.text(notify)}{tail}}}"


sigevent: Final[Decoder] = structure(struct.Struct("<QiiI"), _sigevent)
