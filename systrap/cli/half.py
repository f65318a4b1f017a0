"""``python3 -m systrap.cli.half``: our sentry's use of shared memory, for ``conformance sentry`` (docs/halves.md).

The dispatcher and the contexts are those of the platform. What is missing is the stub: its memory is a file of the suite's,
and its threads are processes that play none but that get signals. So nothing here maps memory or makes threads.
"""

import errno
import os
import sys
from collections.abc import Callable
from threading import Lock, Thread
from typing import Final, cast

from systrap.cli import driver_state as state
from systrap.cli.driver_wire import (
    PROTOCOL,
    Fields,
    OperationError,
    ProtocolError,
    Reply,
    decode,
    encode,
    request_id,
    word,
)
from systrap.host import limits, mem
from systrap.host.auxv import auxiliary_vector
from systrap.host.sys import PAGE_SIZE
from systrap.platform import PlatformError
from systrap.platforms.systrap import abi, blob, fpu
from systrap.platforms.systrap.context import SystrapContext
from systrap.platforms.systrap.dispatcher import Dispatcher
from systrap.platforms.systrap.environment import Environment, Modes
from systrap.platforms.systrap.machine_code import SentryCode, read_cpuid
from systrap.platforms.systrap.stub_process import StubProcess
from systrap.platforms.systrap.subprocess import Subprocess
from systrap.version import VERSION

_AT_HWCAP2: Final = 26
_OPERATIONS: Final = {
    "hello": frozenset(("protocol", "suite")),
    "half.attach": frozenset(("memory", "queue", "contexts", "slots", "threads")),
    "half.new_context": frozenset[str](),
    "half.switch": frozenset(("context", "regs", "timeout_ms")),
    "half.interrupt": frozenset(("context",)),
    "bye": frozenset[str](),
}


class _NoEnvironment:
    """What a space asks of its surroundings besides its stub: here nothing is to be had."""

    cpuid = None


class PlayedStub(StubProcess):
    """A stub that somebody else plays, in a file of his."""

    __slots__ = ("_contexts", "_memory", "_slots")

    def __init__(self, fields: Fields) -> None:
        """Map the file and initialise the queue. Raises OSError, ProtocolError."""
        self._contexts, self._slots = fields.integer("contexts"), fields.integer("slots", 1, abi.MAX_CONTEXTS)
        queue = fields.integer("queue")
        length = self._contexts + self._slots * abi.CONTEXT_SIZE
        fd = os.open(fields.text("memory"), os.O_RDWR | os.O_CLOEXEC)
        try:
            base = mem.mmap(0, length, mem.PROT_READ | mem.PROT_WRITE, mem.MAP_SHARED, fd)
        finally:
            os.close(fd)
        self._memory = mem.view(base, length)
        # Not the words of StubProcess's constructor: there is no process, no slot in a memory file, no channel.
        self.environment = cast(Environment, _NoEnvironment())
        self.modes = Modes(user_dispatch=False, patching=False)
        self.owner = None
        self.dead = False
        self.death = None
        self.threads = dict(enumerate(fields.integers("threads"), 1))
        self.head = 0
        self.used_contexts = 0
        self.queue = self._memory[queue : queue + abi.QUEUE_RING].cast("I")
        self.queue_address = base + queue
        self.contexts_address = base + self._contexts
        abi.init_queue(self._memory[queue : queue + abi.QUEUE_RING + 8 * abi.QUEUE_ENTRIES])

    def context_slot(self, context_id: int) -> abi.ContextSlot:
        """See StubProcess."""
        if context_id >= self._slots:
            raise OperationError("limit", f"there are {self._slots} slots")
        at = self._contexts + context_id * abi.CONTEXT_SIZE
        return abi.ContextSlot(
            self._memory[at : at + abi.CONTEXT_SIZE], self.contexts_address + at - self._contexts, context_id
        )

    def create_thread(self) -> bool:
        """Have no more threads than there are."""
        return False

    def report(self, stack_id: int) -> str | None:
        """Threads say nothing."""
        return None

    def kill(self) -> None:
        """Take note: from here on the space is dead."""
        self.dead = True
        if self.owner is not None:
            self.owner.stub_died()


class Half:
    """The operations. Switches wait in threads of their own; everything else is done by the thread that reads."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._lock = Lock()
        self._space: Subprocess | None = None
        self._contexts: dict[int, SystrapContext] = {}
        self._code = SentryCode(blob.load("sentry"))
        hwcap2 = auxiliary_vector().get(_AT_HWCAP2, 0)
        self._fp_len = fpu.probe(lambda leaf, subleaf: read_cpuid(self._code, leaf, subleaf), hwcap2).fp_len
        self._dispatcher = Dispatcher(self._code, 1, 0)

    def answer(self, line: bytes) -> bool:
        """Carry out one request; False after bye."""
        try:
            request = decode(line)
        except ProtocolError as error:
            self.send(request_id(line), {"error": {"kind": "protocol", "message": str(error)}})
            return True
        try:
            reply = self._carry_out(request.op, request.fields, request.id)
        except ProtocolError as error:
            reply = {"error": {"kind": "protocol", "message": str(error)}}
        except OperationError as error:
            reply = {"error": {"kind": error.kind, "message": str(error)}}
        except (OSError, PlatformError) as error:
            reply = {"error": {"kind": "platform", "message": str(error)}}
        if reply is not None:
            self.send(request.id, reply)
        return request.op != "bye"

    def send(self, request: int | None, reply: Reply) -> None:
        """Write an answer. Any thread."""
        with self._lock:
            self._send(encode(request, reply))

    def _carry_out(self, op: str, fields: Fields, request: int) -> Reply | None:
        if op not in _OPERATIONS:
            raise ProtocolError(f"unknown operation {op!r}")
        fields.check(_OPERATIONS[op], frozenset())
        match op:
            case "hello":
                return {"result": self._hello(fields)}
            case "half.attach":
                stub = PlayedStub(fields)
                self._dispatcher = Dispatcher(self._code, len(stub.threads), 0)
                self._space = Subprocess(stub, self._dispatcher, lambda _space: None)
            case "half.new_context":
                return {"result": {"context": self._new_context()}}
            case "half.switch":
                self._switch(fields, request)
                return None
            case "half.interrupt":
                self._context(fields).interrupt()
        return {"result": {}}

    def _hello(self, fields: Fields) -> Reply:
        if fields.integer("protocol") != PROTOCOL:
            raise OperationError("version", f"this driver speaks protocol {PROTOCOL}")
        fields.text("suite")
        return {
            "protocol": PROTOCOL,
            "impl": {"name": "systrap-python (sentry half)", "version": VERSION, "language": "Python"},
            "arch": state.MACHINE.NAME,
            "page_size": PAGE_SIZE,
            "va_bits": (limits.task_size() - 1).bit_length(),
            "va_min": word(limits.min_user_address()),
            "va_max": word(limits.max_user_address()),
            "caps": ["async", "half.sentry"],
            "limits": {},
            "host": {"kernel": os.uname().release, "cpu": os.uname().machine},
        }

    def _attached(self) -> Subprocess:
        if self._space is None:
            raise OperationError("state", "no stub is attached")
        return self._space

    def _context(self, fields: Fields) -> SystrapContext:
        number = fields.integer("context")
        if number not in self._contexts:
            raise OperationError("handle", f"there is no context {number}")
        return self._contexts[number]

    def _new_context(self) -> int:
        """Make a context and bind it: in this half its slot must be known before it runs."""
        space = self._attached()
        context = SystrapContext(self._dispatcher, self._fp_len)
        state.MACHINE.start_regs(context.regs, 0, 0)
        number = context.enter(space).stub_id
        self._contexts[number] = context
        return number

    def _switch(self, fields: Fields, request: int) -> None:
        context, space = self._context(fields), self._attached()
        if context.running:
            raise OperationError("state", "the context is in a switch")
        fields.integer("timeout_ms", 1)
        state.set_regs(context, fields.fields("regs"))

        def wait() -> None:
            event = context.switch(space)
            self.send(request, {"event": state.write_event(context, event)})

        Thread(target=wait, name=f"switch-{request}", daemon=True).start()


def _send(line: bytes) -> None:
    os.write(1, line)


def main() -> int:
    """Serve until bye or the end of input."""
    try:
        half = Half(_send)
    except (OSError, PlatformError, blob.BlobError) as error:
        sys.stderr.write(f"systrap half: {error}\n")
        return errno.EPERM
    for line in sys.stdin.buffer:
        if line.strip() and not half.answer(line):
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
