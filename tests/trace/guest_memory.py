"""Guest memory and descriptors for decoders, without a guest."""

from systrap.trace.call import Call, Style, UnreadableError, begin, finish
from systrap.trace.calls import CALLS

BASE = 0x10000


class Memory:
    """One readable range at BASE; everything else is not there."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def put(self, data: bytes) -> int:
        """Add bytes and return their address, a multiple of 16."""
        self.data += bytes(-len(self.data) % 16)
        at = BASE + len(self.data)
        self.data += data
        return at

    def read(self, addr: int, n: int) -> bytes:
        start = addr - BASE
        if start < 0 or n < 0 or start + n > len(self.data):
            raise UnreadableError
        return bytes(self.data[start : start + n])

    def read_partial(self, addr: int, n: int) -> bytes:
        start = addr - BASE
        return bytes(self.data[start : start + max(n, 0)]) if start >= 0 else b""

    def read_string(self, addr: int, limit: int) -> bytes | None:
        found = self.read_partial(addr, limit)
        if not found:
            raise UnreadableError
        index = found.find(0)
        if index < 0:
            if len(found) < limit:
                raise UnreadableError
            return None
        return found[:index]


class Files:
    """Descriptors with a name each."""

    def describe(self, fd: int) -> str | None:
        return f"/file/{fd}" if fd < 10 else None

    def directory(self) -> str:
        return "/here"


def text(name: str, *args: int, result: int = 0, memory: Memory | None = None, style: Style | None = None) -> str:
    """Return a call as a line shows it, without what stands around it."""
    form = CALLS[name]
    padded = (*(value & (1 << 64) - 1 for value in args), 0, 0, 0, 0, 0, 0)[:6]
    call = Call(name, padded, memory or Memory(), Files(), style or Style())
    head, more = begin(call, form)
    call.end(result)
    tail = finish(call, form) if more else []
    shown = form.returns(call) if not call.error else f"error {call.error}"
    return f"{name}({', '.join(head + tail)}) = {shown}"
