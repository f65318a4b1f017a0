"""How results are written: most are numbers; some are addresses, descriptors, flags, or tell what came out of it."""

from typing import Final

from systrap.trace.call import Call, Returns
from systrap.trace.constants import PERSONALITY, SCHED
from systrap.trace.decode import fd_text, mode_text
from systrap.trace.names import Flags, Names

_U64: Final = (1 << 64) - 1


def hexadecimal(call: Call) -> str:
    """Write an address, or bits."""
    return hex(call.result & _U64) if call.result else "0"


def descriptor(call: Call) -> str:
    """Write a new descriptor."""
    return fd_text(call, call.result)


def octal(call: Call) -> str:
    """Write a mode (umask)."""
    return mode_text(call.result)


def nothing(call: Call) -> str:
    """Write that the call does not return."""
    return "?"


def timed_out(call: Call) -> str:
    """How many are ready; none means that time was up."""
    return str(call.result) if call.result else "0 (Timeout)"


def with_flags(table: Flags, label: str = "flags ") -> Returns:
    """Return the writer of a number whose bits have names."""

    def write(call: Call) -> str:
        if not call.result and not label:
            return "0"
        return f"{call.result:#x} ({label}{table.text(call.result)})" if call.result else f"0 ({label}{table.text(0)})"

    return write


def with_name(table: Names | Flags) -> Returns:
    """Return the writer of a number that has a name."""
    return lambda call: f"{call.result:#x} ({table.text(call.result)})" if call.result else f"0 ({table.text(0)})"


persona: Final = with_name(PERSONALITY)
policy: Final = with_name(SCHED)
