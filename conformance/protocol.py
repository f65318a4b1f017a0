"""The wire protocol as tables: operations, answers, events, kinds of errors. docs/protocol.md and schemas/ are written from them.

The runner checks every answer against these tables (``problem_of``). Changes of meaning need another PROTOCOL number; fields
and operations that older drivers can do without do not, since a runner asks for capabilities first.
"""

from dataclasses import dataclass
from typing import Final

from conformance.shapes import (
    ByName,
    Choice,
    Either,
    Exactly,
    Field,
    Hex,
    Integer,
    ListOf,
    Matching,
    Record,
    Shape,
    Table,
    Text,
    Word,
)

PROTOCOL: Final = 1
"""Version of the protocol: an integer, offered in hello."""

SUITE: Final = "0.3.0"
"""Version of cases and runner. Patch: a wrong case was put right. Minor: new cases. Major: cases changed their meaning."""

SPEC: Final = "2"
"""Edition of docs/spec.md, whose statements the cases name."""

WORD: Final = Word()
LENGTH: Final = Either((Integer(), Word()))
PROT: Final = Matching('letters of "rwx"', r"(?!.*(.).*\1)[rwx]*")
SPACE: Final = Field("space", Integer(), "handle of a space")
CONTEXT: Final = Field("context", Integer(), "handle of a context")
ADDR: Final = Field("addr", WORD, "guest address")
LEN: Final = Field("len", LENGTH, "bytes")
PROTECTION: Final = Field("prot", PROT, 'each at most once; "" is no access')
REGS: Final = Field("regs", ByName(WORD), "registers by name, as in the kernel's struct user_regs_struct")
PART: Final = Field("part", Text(1), "part of the FP state")
COUNT: Final = Field("n", Integer(), "bytes that were transferred")

ERROR_KINDS: Final = {
    "protocol": "not a request: bad JSON, an unknown operation, a field that is missing, unknown or of the wrong kind",
    "version": "another version of the protocol was asked for",
    "handle": "no such space or context",
    "state": "not now: the context is in a switch, or its space is gone",
    "range": "addresses or lengths that cannot be",
    "limit": "more than the driver can have; see `limits` of hello",
    "map": "the host refused a mapping; `detail.errno` says why",
    "timeout": "no event came in time: the context was interrupted, and may be switched again",
    "platform": "anything else that the platform or the host refused",
}

_ERROR: Final = Record(
    (
        Field("kind", Choice(tuple(ERROR_KINDS)), "for programs"),
        Field("message", Text(1), "for people"),
        Field("detail", Record(), "more, by name", required=False),
    )
)
_SHORT: Final = Field(
    "error",
    Record((Field("kind", Text(1)), Field("message", Text(1)))),
    "why the transfer is short: it stands in the result, beside `n`",
    required=False,
)


@dataclass(frozen=True)
class Operation:
    """A request and its result. ``event``: the answer is an event instead. ``cap``: only with this capability.

    ``open``: the result is whatever the driver has to say.
    """

    name: str
    note: str
    fields: tuple[Field, ...] = ()
    result: tuple[Field, ...] = ()
    event: bool = False
    cap: str = ""
    open: bool = False

    def request(self) -> Record:
        """Return the shape of a whole request."""
        head = (Field("id", Integer(), "any, not used before"), Field("op", Choice((self.name,))))
        return Record((*head, *self.fields), closed=True)


@dataclass(frozen=True)
class Event:
    """What ends a switch."""

    kind: str
    note: str
    fields: tuple[Field, ...] = ()

    def shape(self) -> Record:
        """Return the shape of the event object."""
        return Record((Field("kind", Choice((self.kind,))), *self.fields))


_SOURCE: Final = Either(
    (
        Record((Field("anon", Exactly(True), "zeros, the space's own"),), closed=True),
        Record(
            (Field("object", Text(1), "memory that spaces share by name"), Field("offset", WORD, "of a page in it")),
            closed=True,
        ),
    )
)
_IMPLEMENTATION: Final = Record(
    (
        Field("name", Text(1), "of the implementation"),
        Field("version", Text(1), "of the implementation"),
        Field("language", Text(1), "that it is written in"),
        Field("homepage", Text(), "where it lives", required=False),
        Field("issues", Text(), "where to tell of defects", required=False),
    )
)
_HELLO: Final = (
    Field("protocol", Exactly(PROTOCOL), "any other version is refused by an error of kind `version`"),
    Field("impl", _IMPLEMENTATION, "who this is, all strings"),
    Field("arch", Text(1), "of guests, as `uname -m` says it"),
    Field("page_size", Integer(1), "a power of two, 4096 at least"),
    Field("va_bits", Integer(1, 64), "of addresses that guests can use"),
    Field("va_min", WORD, "guests may map `[va_min, va_max)`"),
    Field("va_max", WORD, "at most 2 to the power of `va_bits`"),
    Field("caps", ListOf(Text(1)), "its [capabilities](#capabilities)"),
    Field("limits", ByName(Integer()), "`map_bytes`, `objects`, `object_bytes`, `contexts`, `spaces`: what is known"),
    Field("host", ByName(Text()), "`kernel`, `cpu`"),
)

CAPS: Final = {
    "async": "other requests are served while a switch is under way, and answers may come out of order",
    "fp.legacy": "x86-64: the first 464 bytes of the FXSAVE area (x87, MXCSR, XMM)",
    "fp.ymm": "x86-64: the 256 bytes of upper halves of YMM0…15",
    "fp.opmask": "x86-64: the 64 bytes of mask registers (AVX-512)",
    "fp.zmm": "x86-64: the 512 bytes of upper halves of ZMM0…15",
    "fp.zmm16": "x86-64: the 1024 bytes of ZMM16…31",
    "fp.fpsimd": "arm64: fpsr, fpcr and v0…v31, 520 bytes",
    "fault.access": "`access` of a fault is what the CPU told, also where nothing is mapped; without it cases take any",
    "move": "`switch` takes a `space`: a context can go on in another one than it was made for",
    "x.kill_stub": "the operation of that name: processes can be killed, to see what becomes of the guests",
    "x.freeze_stub": "the operations `x.freeze_stub` and `x.thaw_stub`",
    "x.words": "the operation of that name: cases can look at the ABI between sentry and stub",
}

OPERATIONS: Final = {
    operation.name: operation
    for operation in (
        Operation(
            "hello",
            "Who are you? The first request to a driver, and allowed again later.",
            (
                Field("protocol", Integer(), "the version that the runner speaks"),
                Field("suite", Text(1), "version of the suite, for logs"),
            ),
            _HELLO,
        ),
        Operation("new_space", "Make an empty address space.", (), (SPACE,)),
        Operation("release_space", "Give a space back; no context of it is in a switch.", (SPACE,)),
        Operation(
            "map",
            "Map memory in place of whatever was there. `addr`, `len` and `offset` are page multiples.",
            (
                SPACE,
                ADDR,
                LEN,
                PROTECTION,
                Field("src", _SOURCE, '`{"anon": true}`: zeros of its own; or part of an object, shared'),
            ),
        ),
        Operation("unmap", "Take a range away. Not an error where nothing is.", (SPACE, ADDR, LEN)),
        Operation(
            "protect", "Change the protection of a range that is mapped throughout.", (SPACE, ADDR, LEN, PROTECTION)
        ),
        Operation(
            "write",
            "Put bytes into guest memory, whatever its protection.",
            (SPACE, ADDR, Field("data", Hex())),
            (COUNT, _SHORT),
        ),
        Operation(
            "read",
            "Read guest memory, whatever its protection.",
            (SPACE, ADDR, Field("len", Integer(0, 4096))),
            (Field("data", Hex()), COUNT, _SHORT),
        ),
        Operation(
            "fill",
            "Repeat a pattern over guest memory.",
            (SPACE, ADDR, LEN, Field("pattern", Hex(), "at least a byte")),
            (COUNT, _SHORT),
        ),
        Operation(
            "digest",
            "Digest guest memory.",
            (SPACE, ADDR, LEN),
            (Field("sha256", Hex(exact=32)), COUNT, _SHORT),
        ),
        Operation(
            "new_context",
            "Make a context. Registers that are not named are those of a fresh program: zeros, but for flags and segments.",
            (
                SPACE,
                REGS,
                Field("tls", WORD, "thread pointer", required=False),
                Field("fp", ByName(Hex()), "FP state by part", required=False),
            ),
            (CONTEXT,),
        ),
        Operation("release_context", "Give a context back; it is not in a switch.", (CONTEXT,)),
        Operation("get_regs", "Read all registers.", (CONTEXT,), (REGS,)),
        Operation("set_regs", "Change the registers that are named, and read all.", (CONTEXT, REGS), (REGS,)),
        Operation(
            "get_fp", "Read a part of the FP state.", (CONTEXT, PART), (Field("data", Hex(), "all of the part"),)
        ),
        Operation(
            "set_fp",
            "Change a part of the FP state, from its start on.",
            (CONTEXT, PART, Field("data", Hex())),
        ),
        Operation(
            "switch",
            "Run guest code until something happens. Without `async` the driver serves nothing else meanwhile.",
            (
                CONTEXT,
                Field("space", Integer(), "go on there from now on; only with the capability `move`", required=False),
                Field(
                    "timeout_ms",
                    Integer(1, 600_000),
                    "without an event in this time: `error` of kind `timeout`",
                    required=False,
                ),
                Field(
                    "interrupt_after_us",
                    Integer(),
                    "interrupt the context then, from within the driver",
                    required=False,
                ),
            ),
            event=True,
        ),
        Operation("interrupt", "End a context's switch, or its next one at once.", (CONTEXT,)),
        Operation(
            "stats",
            "Counters by any names; which ones cases look at is told [above](#what-the-operations-mean).",
            open=True,
        ),
        Operation(
            "x.kill_stub",
            "Kill the host process behind a space, or one of its workers, where those are processes of their own.",
            (SPACE, Field("part", Choice(("process", "worker")))),
            cap="x.kill_stub",
        ),
        Operation("x.freeze_stub", "Stop what runs a space (SIGSTOP).", (SPACE,), cap="x.freeze_stub"),
        Operation("x.thaw_stub", "Let it go on (SIGCONT).", (SPACE,), cap="x.freeze_stub"),
        Operation(
            "x.words",
            "Read the words that a stub shares with its sentry, in systrap's layout; docs/halves.md has their names.",
            (CONTEXT,),
            (Field("slot", ByName(WORD)), Field("queue", ByName(WORD)), Field("thread", ByName(WORD))),
            cap="x.words",
        ),
        Operation("bye", "End with status 0 after this answer."),
    )
}

HALF_OPERATIONS: Final = {
    operation.name: operation
    for operation in (
        Operation(
            "half.attach",
            "Use this memory as what is shared with a stub: initialise the queue. Once.",
            (
                Field("memory", Text(1), "path of the file: map it shared, from its start"),
                Field("queue", Integer(), "offset of the context queue"),
                Field("contexts", Integer(), "offset of the slots"),
                Field("slots", Integer(1), "how many there are"),
                Field("threads", ListOf(Integer(1)), "host threads that stand for stub threads 1, 2, …"),
            ),
            cap="half.sentry",
        ),
        Operation("half.new_context", "Take a slot for a context.", (), (CONTEXT,), cap="half.sentry"),
        Operation(
            "half.switch",
            "Hand a context over, with these registers changed, and wait for its event.",
            (CONTEXT, REGS, Field("timeout_ms", Integer(1), "after which nobody waits any more")),
            event=True,
            cap="half.sentry",
        ),
        Operation("half.interrupt", "Interrupt a context that is in a switch.", (CONTEXT,), cap="half.sentry"),
    )
}
"""What a driver of a sentry alone is asked besides hello and bye (docs/halves.md)."""

_IP: Final = Field("ip", WORD, "instruction pointer, as the guest will see it when it is resumed")
_ARCH: Final = Record(
    (
        Field("trapno", Integer(), "the exception's number", required=False),
        Field("err", WORD, "its error code", required=False),
    )
)

EVENTS: Final = {
    event.kind: event
    for event in (
        Event(
            "syscall",
            "The guest made a system call; `ip` is behind the instruction.",
            (
                Field("nr", WORD, "its number, as the guest gave it: all 64 bits"),
                Field("args", ListOf(WORD, 6), "in the order of the architecture: rdi, rsi, rdx, r10, r8, r9; x0…x5"),
                _IP,
            ),
        ),
        Event(
            "fault",
            "An instruction of the guest faulted; `ip` is at the instruction, or behind a trap.",
            (
                Field("signo", Integer(1, 64), "4 SIGILL, 5 SIGTRAP, 7 SIGBUS, 8 SIGFPE, 11 SIGSEGV"),
                Field(
                    "code",
                    Integer(-(1 << 31), (1 << 31) - 1),
                    "si_code, as Linux has it: 1 SEGV_MAPERR, 2 SEGV_ACCERR…",
                ),
                Field("addr", WORD, "si_addr: of the access, or of the instruction"),
                Field(
                    "access", Choice(("r", "w", "x", "?")), "read, write, fetch; `?` when it was none, or nobody knows"
                ),
                _IP,
                Field("arch", _ARCH, "what the CPU said", required=False),
            ),
        ),
        Event(
            "signal",
            "A signal that no fault of this guest caused.",
            (
                Field("signo", Integer(1, 64)),
                Field("code", Integer(-(1 << 31), (1 << 31) - 1), "si_code"),
                Field("value", WORD, "si_value, of signals that have one", required=False),
            ),
        ),
        Event("interrupted", "`interrupt` was asked for. May come without it: then it is called spurious."),
        Event(
            "death",
            "The space cannot run guests any more.",
            (
                Field("reason", Text(1), "in a word, for programs"),
                Field("detail", Text(), "for people", required=False),
            ),
        ),
    )
}

ANSWERS: Final[dict[str, tuple[Shape, str]]] = {
    "result": (Record(), "what the operation's table says"),
    "event": (Either(tuple(event.shape() for event in EVENTS.values())), "only of `switch`"),
    "error": (_ERROR, "the operation failed, and nothing was done"),
    "unsupported": (
        Record(
            (
                Field("cap", Text(1), "what is missing"),
                Field("reason", Text(1), "why"),
                Field("issue", Text(), required=False),
            )
        ),
        "neither good nor bad: this implementation or host has no such thing",
    ),
    "skipped": (
        Record((Field("reason", Text(1)), Field("issue", Text(), required=False))),
        "known not to work; an issue should say more",
    ),
}
"""What an answer holds besides ``id``: exactly one of these."""


def answer_shape(name: str) -> Record:
    """Return the shape of an answer that holds ``name``."""
    shape, note = ANSWERS[name]
    number = Field("id", Integer(), "the request's")
    return Record((number, Field(name, shape, note)), closed=True)


def problem_of(op: str, answer: Table) -> str | None:
    """Tell what is wrong with an answer to a request, or return None. ``op`` need not be in the table."""
    names = sorted(answer.keys() & ANSWERS.keys())
    if len(names) != 1:
        return f"an answer holds exactly one of {', '.join(ANSWERS)}; this one holds {', '.join(names) or 'none'}"
    name = names[0]
    operation = OPERATIONS.get(op) or HALF_OPERATIONS.get(op)
    if name == "event":
        if operation is None or not operation.event:
            return f"{op} was answered by an event"
        return _event_problem(answer)
    found = answer_shape(name).problem(answer, "answer")
    if found or name != "result" or operation is None:
        return found
    if operation.event:
        return f"{op} was answered by a result, not by an event"
    return Record(operation.result).problem(answer["result"], f"result of {op}")


def _event_problem(answer: Table) -> str | None:
    """Check an event by its kind, so that the text names the field which is wrong."""
    event = answer["event"]
    kind = event.get("kind") if isinstance(event, dict) else None
    if not isinstance(kind, str) or kind not in EVENTS:
        return f"event.kind must be one of {', '.join(EVENTS)}, the event is {event!r:.80}"
    return Record((Field("id", Integer()), Field("event", EVENTS[kind].shape())), closed=True).problem(answer, "answer")
