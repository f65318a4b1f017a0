"""The operations of the conformance protocol, on one platform: spaces, memory, contexts, switches."""

import hashlib
import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from systrap.cli import driver_faults as faults
from systrap.cli import driver_state as state
from systrap.cli import driver_words as words
from systrap.cli.driver_memory import GuestMemory, Segment
from systrap.cli.driver_wire import (
    MAX_DATA,
    PROTOCOL,
    Fields,
    OperationError,
    ProtocolError,
    Reply,
    UnsupportedError,
    word,
)
from systrap.host import limits
from systrap.host.sys import PAGE_SIZE
from systrap.memory import MemoryFile
from systrap.platform import Context, Platform
from systrap.version import VERSION

_OBJECT_SIZE: Final = 1 << 30
_MAX_OBJECTS: Final = 64
_MAX_LENGTH: Final = 1 << 30
_MAX_TIMEOUT_MS: Final = 600_000
_TIMEOUT_MS: Final = 10_000


class Guest:
    """A context of the driver's, and the switch it is in, if any.

    ``request`` is the id of that switch. ``interrupt_at`` and ``give_up_at`` are deadlines; ``late`` says that the second passed.
    """

    __slots__ = ("context", "give_up_at", "interrupt_at", "late", "memory", "number", "request")

    def __init__(self, number: int, context: Context, memory: GuestMemory) -> None:
        self.number = number
        self.context = context
        self.memory = memory
        self.request: int | None = None
        self.interrupt_at: float | None = None
        self.give_up_at: float | None = None
        self.late = False

    def deadlines(self) -> list[float]:
        """Return what there is to do for this guest, and when."""
        return [moment for moment in (self.interrupt_at, self.give_up_at) if moment is not None]


class Operations:
    """What requests can do. A method each: it returns the result, or None when the answer comes later.

    Methods raise ProtocolError, OperationError, UnsupportedError, and what the platform raises.
    """

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.finished = False
        self.guests: dict[int, Guest] = {}
        self._memory = MemoryFile("driver")
        self._objects: dict[str, MemoryFile] = {}
        self._spaces: dict[int, GuestMemory] = {}
        self._next = 1

    def close(self) -> None:
        """End everything."""
        self.platform.close()
        for file in (self._memory, *self._objects.values()):
            file.close()

    def _handle(self) -> int:
        self._next += 1
        return self._next - 1

    def _space(self, fields: Fields) -> GuestMemory:
        number = fields.integer("space")
        if number not in self._spaces:
            raise OperationError("handle", f"there is no space {number}")
        return self._spaces[number]

    def _guest(self, fields: Fields, running: bool = False) -> Guest:
        """Return the guest that is named. Raises OperationError when it runs, unless that is all right."""
        number = fields.integer("context")
        guest = self.guests.get(number)
        if guest is None:
            raise OperationError("handle", f"there is no context {number}")
        if guest.request is not None and not running:
            raise OperationError("state", f"context {number} is in a switch")
        return guest

    def hello(self, fields: Fields, _request: int) -> Reply:
        """Say who this is and what it can do."""
        asked = fields.integer("protocol")
        fields.text("suite")
        if asked != PROTOCOL:
            raise OperationError("version", f"this driver speaks protocol {PROTOCOL}", protocol=PROTOCOL)
        probe = self.platform.new_context()
        caps = [
            "async",
            "move",
            *(["fault.access"] if self.platform.name != "ptrace" else []),
            *(f"fp.{part}" for part in state.parts(probe)),
            *faults.caps(self.platform.name),
            *((words.CAP,) if words.has_words(probe) else ()),
        ]
        probe.release()
        return {
            "protocol": PROTOCOL,
            "impl": {"name": f"systrap-python ({self.platform.name})", "version": VERSION, "language": "Python"},
            "arch": state.MACHINE.NAME,
            "page_size": PAGE_SIZE,
            "va_bits": (limits.task_size() - 1).bit_length(),
            "va_min": word(self.platform.min_user_address()),
            "va_max": word(self.platform.max_user_address()),
            "caps": caps,
            "limits": {"map_bytes": _MAX_LENGTH, "objects": _MAX_OBJECTS, "object_bytes": _OBJECT_SIZE},
            "host": {"kernel": os.uname().release, "cpu": os.uname().machine},
        }

    def new_space(self, _fields: Fields, _request: int) -> Reply:
        """Make an empty space."""
        number = self._handle()
        self._spaces[number] = GuestMemory(self.platform.new_address_space(), self._memory)
        return {"space": number}

    def release_space(self, fields: Fields, _request: int) -> Reply:
        """Release a space that no context runs in."""
        memory = self._space(fields)
        if any(guest.memory is memory and guest.request is not None for guest in self.guests.values()):
            raise OperationError("state", "a context of this space is in a switch")
        del self._spaces[fields.integer("space")]
        memory.release()
        return {}

    def map(self, fields: Fields, _request: int) -> Reply:
        """Map anonymous memory, or part of a named object that spaces can share."""
        memory = self._space(fields)
        addr, length = self._range(fields)
        access = state.parse_access(fields.text("prot"))
        source = fields.fields("src")
        if source.has("anon"):
            source.check(frozenset(("anon",)), frozenset())
            if not source.truth("anon"):
                raise ProtocolError("map.src: anon is true, or not there")
            memory.map_anonymous(addr, length, access)
            return {}
        source.check(frozenset(("object", "offset")), frozenset())
        offset = source.word("offset")
        if offset % PAGE_SIZE:
            raise OperationError("range", "offset must be a multiple of the page size")
        memory.map(Segment(addr, addr + length, self._object(source.text("object")), offset, access))
        return {}

    def unmap(self, fields: Fields, _request: int) -> Reply:
        """Unmap a range."""
        memory = self._space(fields)
        memory.unmap(*self._range(fields))
        return {}

    def protect(self, fields: Fields, _request: int) -> Reply:
        """Change the protection of a mapped range."""
        memory = self._space(fields)
        addr, length = self._range(fields)
        memory.protect(addr, length, state.parse_access(fields.text("prot")))
        return {}

    def _range(self, fields: Fields) -> tuple[int, int]:
        addr, length = fields.word("addr"), fields.length("len")
        if addr % PAGE_SIZE or length % PAGE_SIZE or not 0 < length <= _MAX_LENGTH:
            raise OperationError(
                "range", f"addr and len are multiples of {PAGE_SIZE}, len from 1 page to {_MAX_LENGTH:#x}"
            )
        if addr < self.platform.min_user_address() or addr + length > self.platform.max_user_address():
            raise OperationError("range", "guests may use [va_min, va_max)")
        return addr, length

    def _object(self, name: str) -> MemoryFile:
        if name not in self._objects:
            if len(self._objects) == _MAX_OBJECTS:
                raise OperationError("limit", f"at most {_MAX_OBJECTS} objects")
            self._objects[name] = MemoryFile("driver-object", _OBJECT_SIZE)
        return self._objects[name]

    def write(self, fields: Fields, _request: int) -> Reply:
        """Write guest memory, whatever its protection."""
        data = fields.data("data")
        return _transferred(self._space(fields).write(fields.word("addr"), data), len(data))

    def read(self, fields: Fields, _request: int) -> Reply:
        """Read guest memory, whatever its protection."""
        length = fields.integer("len", 0, MAX_DATA)
        data = self._space(fields).read(fields.word("addr"), length)
        return {"data": data.hex(), **_transferred(len(data), length)}

    def fill(self, fields: Fields, _request: int) -> Reply:
        """Fill guest memory with a repeated pattern."""
        pattern, length = fields.data("pattern"), fields.length("len")
        if not pattern or length > _MAX_LENGTH:
            raise OperationError("range", f"pattern has a byte at least, len is at most {_MAX_LENGTH:#x}")
        data = (pattern * (length // len(pattern) + 1))[:length]
        return _transferred(self._space(fields).write(fields.word("addr"), data), length)

    def digest(self, fields: Fields, _request: int) -> Reply:
        """Return the SHA-256 of guest memory."""
        length = fields.length("len")
        if length > _MAX_LENGTH:
            raise OperationError("range", f"len is at most {_MAX_LENGTH:#x}")
        data = self._space(fields).read(fields.word("addr"), length)
        return {"sha256": hashlib.sha256(data).hexdigest(), **_transferred(len(data), length)}

    def new_context(self, fields: Fields, _request: int) -> Reply:
        """Make a context with a program's first registers, and those that are given."""
        memory = self._space(fields)
        context = self.platform.new_context()
        try:
            state.MACHINE.start_regs(context.regs, 0, 0)
            if fields.has("tls"):
                context.regs[state.MACHINE.TLS] = fields.word("tls")
            state.set_regs(context, fields.fields("regs"))
            if fields.has("fp"):
                given = fields.fields("fp")
                for part in given.names():
                    state.set_fp(context, part, given.data(part))
        except (ProtocolError, UnsupportedError):
            context.release()
            raise
        guest = Guest(self._handle(), context, memory)
        context.owner = guest
        self.guests[guest.number] = guest
        return {"context": guest.number}

    def release_context(self, fields: Fields, _request: int) -> Reply:
        """Release a context that is not in a switch."""
        guest = self._guest(fields)
        del self.guests[guest.number]
        guest.context.release()
        return {}

    def get_regs(self, fields: Fields, _request: int) -> Reply:
        """Return all registers."""
        return {"regs": state.get_regs(self._guest(fields).context)}

    def set_regs(self, fields: Fields, _request: int) -> Reply:
        """Set some registers, and return all."""
        context = self._guest(fields).context
        state.set_regs(context, fields.fields("regs"))
        return {"regs": state.get_regs(context)}

    def get_fp(self, fields: Fields, _request: int) -> Reply:
        """Return a part of the FP state."""
        context = self._guest(fields).context
        context.pull_full_state()
        return {"data": state.get_fp(context, fields.text("part")).hex()}

    def set_fp(self, fields: Fields, _request: int) -> Reply:
        """Set a part of the FP state."""
        context = self._guest(fields).context
        context.pull_full_state()
        state.set_fp(context, fields.text("part"), fields.data("data"))
        return {}

    def switch(self, fields: Fields, request: int) -> None:
        """Run a context. The answer is its next event."""
        guest = self._guest(fields)
        if fields.has("space"):
            guest.memory = self._space(fields)
        if guest.memory not in self._spaces.values():
            raise OperationError("state", "the space of this context was released")
        timeout = fields.integer("timeout_ms", 1, _MAX_TIMEOUT_MS) if fields.has("timeout_ms") else _TIMEOUT_MS
        now = time.monotonic()
        if fields.has("interrupt_after_us"):
            guest.interrupt_at = now + fields.integer("interrupt_after_us", 0, _MAX_TIMEOUT_MS * 1000) / 1e6
        guest.give_up_at = now + timeout / 1e3
        guest.late = False
        guest.request = request
        self.platform.submit(guest.context, guest.memory.space)

    def interrupt(self, fields: Fields, _request: int) -> Reply:
        """Interrupt a context's current switch, or its next."""
        self._guest(fields, running=True).context.interrupt()
        return {}

    def stats(self, _fields: Fields, _request: int) -> Reply:
        """Return counters of the platform and of this process."""
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            vmas = sum(1 for _ in maps)
        with open("/proc/self/statm", encoding="ascii") as statm:
            rss = int(statm.read().split()[1]) * PAGE_SIZE
        counters = self.platform.statistics()
        fds = len(os.listdir("/proc/self/fd"))
        own = {"stubs": len(self._spaces), "processes": faults.processes(), "fds": fds, "vmas": vmas, "rss": rss}
        return {**counters, **own}

    def kill_stub(self, fields: Fields, _request: int) -> Reply:
        """Kill the process behind a space, or one of its workers."""
        faults.kill(self._space(fields).space, fields.text("part"))
        return {}

    def freeze_stub(self, fields: Fields, _request: int) -> Reply:
        """Stop what runs a space."""
        faults.stop(self._space(fields).space)
        return {}

    def thaw_stub(self, fields: Fields, _request: int) -> Reply:
        """Let what runs a space go on."""
        faults.go_on(self._space(fields).space)
        return {}

    def words(self, fields: Fields, _request: int) -> Reply:
        """Return the words that sentry and stub share about a context."""
        return words.read(self._guest(fields).context)

    def bye(self, _fields: Fields, _request: int) -> Reply:
        """End after this answer."""
        self.finished = True
        return {}


class _Operation(NamedTuple):
    """An operation: the method, and the fields besides id and op."""

    carry_out: Callable[[Operations, Fields, int], Reply | None]
    required: frozenset[str]
    optional: frozenset[str]


def _op(
    carry_out: Callable[[Operations, Fields, int], Reply | None], required: str = "", optional: str = ""
) -> _Operation:
    return _Operation(carry_out, frozenset(required.split()), frozenset(optional.split()))


OPERATIONS: Final = {
    "hello": _op(Operations.hello, "protocol suite"),
    "new_space": _op(Operations.new_space),
    "release_space": _op(Operations.release_space, "space"),
    "map": _op(Operations.map, "space addr len prot src"),
    "unmap": _op(Operations.unmap, "space addr len"),
    "protect": _op(Operations.protect, "space addr len prot"),
    "write": _op(Operations.write, "space addr data"),
    "read": _op(Operations.read, "space addr len"),
    "fill": _op(Operations.fill, "space addr len pattern"),
    "digest": _op(Operations.digest, "space addr len"),
    "new_context": _op(Operations.new_context, "space regs", "tls fp"),
    "release_context": _op(Operations.release_context, "context"),
    "get_regs": _op(Operations.get_regs, "context"),
    "set_regs": _op(Operations.set_regs, "context regs"),
    "get_fp": _op(Operations.get_fp, "context part"),
    "set_fp": _op(Operations.set_fp, "context part data"),
    "switch": _op(Operations.switch, "context", "space timeout_ms interrupt_after_us"),
    "interrupt": _op(Operations.interrupt, "context"),
    "stats": _op(Operations.stats),
    "x.kill_stub": _op(Operations.kill_stub, "space part"),
    "x.freeze_stub": _op(Operations.freeze_stub, "space"),
    "x.thaw_stub": _op(Operations.thaw_stub, "space"),
    "x.words": _op(Operations.words, "context"),
    "bye": _op(Operations.bye),
}
"""The operations of the protocol: what is not here is unknown."""


def _transferred(count: int, wanted: int) -> Reply:
    """Return the outcome of a transfer: how much, and an error when that is less than was wanted."""
    if count == wanted:
        return {"n": count}
    return {"n": count, "error": {"kind": "unmapped", "message": f"memory ends after {count} of {wanted} bytes"}}
