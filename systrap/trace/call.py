"""One system call being looked at, and what a decoder is.

A decoder turns an argument register into text. What it reads of the guest's memory may change under its hands, or not be
there: it reads once, bounded, and shows the address where nothing is to be read.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

_U64: Final = (1 << 64) - 1


class UnreadableError(Exception):
    """There is no readable guest memory at an address."""


class Memory(Protocol):
    """A guest's memory, as it is now."""

    def read(self, addr: int, n: int) -> bytes:
        """Return ``n`` bytes. Raises UnreadableError."""

    def read_partial(self, addr: int, n: int) -> bytes:
        """Return what can be read of ``n`` bytes: all, a prefix, or nothing."""

    def read_string(self, addr: int, limit: int) -> bytes | None:
        """Return the bytes in front of the next NUL; None when ``limit`` bytes hold none. Raises UnreadableError."""


class Files(Protocol):
    """A guest's descriptors and directory, for ``-y``."""

    def describe(self, fd: int) -> str | None:
        """Return what /proc/self/fd shows for a descriptor; None when it is not open."""

    def directory(self) -> str:
        """Return the working directory."""


class Style(NamedTuple):
    """How calls are written.

    ``limit``: so many bytes of a string (-s); ``hexadecimal``: 1 for strings that hold unprintable bytes (-x), 2 for all (-xx);
    ``paths``: descriptors with their paths (-y); ``verbose``: nothing left out (-v).
    """

    limit: int = 32
    hexadecimal: int = 0
    paths: bool = False
    verbose: bool = False


class Call:
    """A call: its name, the six argument registers, and, once it ended, its result.

    ``error`` is the errno of a failed call, else 0. ``saved`` keeps what arguments that are read and written held at first.
    """

    __slots__ = ("args", "error", "files", "memory", "name", "result", "saved", "style")

    def __init__(self, name: str, args: tuple[int, ...], memory: Memory, files: Files, style: Style) -> None:
        self.name = name
        self.args = args
        self.memory = memory
        self.files = files
        self.style = style
        self.result = 0
        self.error = 0
        self.saved: dict[int, int] = {}

    def end(self, result: int) -> None:
        """Take the result: negative for an errno."""
        self.result = result
        self.error = -result if -4096 < result < 0 else 0


Decoder = Callable[[Call, int], str | None]
"""Returns an argument's text; None when it, and all behind it, are not arguments of this very call."""
Returns = Callable[[Call], str]
"""Returns what stands behind "= " of a call that did not fail."""


class Out(NamedTuple):
    """An argument that is known only when the call ended. Of a failed call the address is shown, unless ``always``.

    ``optional``: that there is such an argument at all depends on those in front of it.
    """

    decode: Decoder
    always: bool = False
    optional: bool = False


class InOut(NamedTuple):
    """An argument that points to a word which the call reads and writes, as accept's length: ``size`` bytes, ``at`` bytes on."""

    decode: Decoder
    size: int = 4
    at: int = 0


Argument = Decoder | Out | InOut


class Shape(NamedTuple):
    """What a call looks like: arguments known when it begins, those known when it ends, and its result.

    ``after``: decoders, and whether the address is shown instead when the call failed. ``saves``: which arguments are to be
    looked at when it begins, though they are written when it ends. ``joined``: the comma between the two kinds can be
    written at once.
    """

    before: tuple[Decoder, ...]
    after: tuple[tuple[Decoder, bool], ...]
    saves: tuple[tuple[int, InOut], ...]
    returns: Returns
    arguments: tuple[Argument, ...]
    joined: bool


def shape(*arguments: Argument, returns: Returns | None = None) -> Shape:
    """Describe a call by the decoders of its arguments, in order; ``returns`` is by default a decimal number."""
    first = next((i for i, argument in enumerate(arguments) if isinstance(argument, Out | InOut)), len(arguments))
    before = tuple(argument for argument in arguments[:first] if not isinstance(argument, Out | InOut))
    after = arguments[first:]
    optional = isinstance(after[0], Out) and after[0].optional if after else True
    return Shape(
        before,
        tuple(_known_later(argument) for argument in after),
        tuple((i, argument) for i, argument in enumerate(arguments) if isinstance(argument, InOut)),
        returns or number,
        arguments,
        bool(before) and not optional,
    )


def _known_later(argument: Argument) -> tuple[Decoder, bool]:
    if isinstance(argument, Out):
        return argument.decode, not argument.always
    return (argument.decode, False) if isinstance(argument, InOut) else (argument, False)


def number(call: Call) -> str:
    """Write a result as most are written."""
    return str(call.result)


def signed64(value: int) -> int:
    """Return a register as a signed number."""
    return value - (1 << 64) if value >> 63 else value


def signed32(value: int) -> int:
    """Return the lower half of a register as a signed number."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def address(value: int) -> str:
    """Write an address."""
    return hex(value & _U64) if value else "NULL"


def begin(call: Call, form: Shape) -> tuple[list[str], bool]:
    """Return the texts of the arguments that are known when a call begins, and whether more may follow."""
    texts: list[str] = []
    for decode, value in zip(form.before, call.args, strict=False):
        text = decode(call, value)
        if text is None:
            return texts, False
        texts.append(text)
    for i, word in form.saves:
        if call.args[i]:
            try:
                call.saved[i] = int.from_bytes(call.memory.read(call.args[i] + word.at, word.size), "little")
            except UnreadableError:
                continue
    return texts, True


def finish(call: Call, form: Shape) -> list[str]:
    """Return the texts of the arguments that are known only now that the call ended."""
    texts: list[str] = []
    failed = call.error
    for (decode, hides), value in zip(form.after, call.args[len(form.before) :], strict=False):
        text = address(value) if failed and hides else decode(call, value)
        if text is None:
            break
        texts.append(text)
    return texts
