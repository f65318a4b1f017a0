"""What a case file cannot say about a driver: greeting, framing, exactly one answer, honest capabilities, an orderly end.

Each check starts drivers of its own. They are tier 0 with the case files of that tier, and most of what ``smoke`` runs.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from conformance.client import Driver, Message
from conformance.protocol import CAPS, PROTOCOL
from conformance.steps import FailedError, UnsupportedError, result_of

_LOOP: Final = {"x86_64": "ebfe", "aarch64": "00000014"}
_BURST: Final = 64
_DEEP: Final = 50_000
_PAGE_AT: Final = 0x10000000


class Session(NamedTuple):
    """A driver that was greeted, and how long it may take to answer."""

    driver: Driver
    hello: Message
    patience: float

    def ask(self, op: str, **fields: object) -> Message:
        """Return the result of an operation. Raises what an answer of another kind means."""
        return result_of(self.driver.call(op, self.patience, **fields))

    def fails(self, kind: str, op: str, **fields: object) -> None:
        """Make sure that an operation fails in the way that it has to."""
        reply = self.driver.call(op, self.patience, **fields)
        error = reply.get("error")
        got = error.get("kind") if isinstance(error, dict) else None
        demand(
            got == kind, f"{op} {json.dumps(fields)}: expected an error of kind {kind}, got {json.dumps(reply):.200}"
        )

    def caps(self) -> list[str]:
        """Return the capabilities that the driver claims."""
        caps = self.hello["caps"]
        return [str(cap) for cap in caps] if isinstance(caps, list) else []


def demand(truth: bool, text: str) -> None:
    """Raise FailedError unless something is so."""
    if not truth:
        raise FailedError(text)


def hello(session: Session) -> None:
    """See that the answer to hello makes sense, and is the same each time."""
    said, caps = session.hello, session.caps()
    size, bits = said["page_size"], said["va_bits"]
    assert isinstance(size, int)
    assert isinstance(bits, int)
    demand(size >= 4096 and size & (size - 1) == 0, f"page_size {size} is no page size")
    low, high = int(str(said["va_min"]), 16), int(str(said["va_max"]), 16)
    demand(0 < low < high <= 1 << bits, f"[{low:#x}, {high:#x}) is no range in {bits} bits")
    demand(len(set(caps)) == len(caps), f"a capability is there twice: {caps}")
    demand(session.ask("hello", protocol=PROTOCOL, suite="again") == said, "the second hello was answered differently")


def version(session: Session) -> None:
    """Ask for a version that nobody speaks: it is refused, and the driver serves on."""
    session.fails("version", "hello", protocol=PROTOCOL + 1000, suite="x")
    session.ask("hello", protocol=PROTOCOL, suite="x")


def once(session: Session) -> None:
    """Send requests without waiting: each gets one answer."""
    requests = [session.driver.send("new_space") for _ in range(_BURST)]
    spaces = [result_of(session.driver.wait(request, session.patience))["space"] for request in reversed(requests)]
    demand(len(set(map(str, spaces))) == _BURST, f"{_BURST} new spaces have these handles: {spaces}")
    for space in spaces:
        session.ask("release_space", space=space)
    session.driver.check_quiet()


def ids(session: Session) -> None:
    """Ids are echoed as they came, in whatever order they are."""
    for number in (1 << 52, 77_777, 0):
        session.driver.send_line(json.dumps({"op": "hello", "id": number, "protocol": PROTOCOL, "suite": "x"}).encode())
        reply = session.driver.read_reply(session.patience)
        demand(reply.get("id") == number, f"the request had the id {number}, the answer {reply.get('id')!r}")


def framing(session: Session) -> None:
    """Lines count, not writes: a long line, and several lines at once."""
    size = session.hello["page_size"]
    assert isinstance(size, int)
    length = max(size, 4096)
    space = session.ask("new_space")["space"]
    session.ask("map", space=space, addr=f"{_PAGE_AT:#x}", len=length, prot="rw", src={"anon": True})
    data = bytes(index * 7 % 256 for index in range(4096)).hex()
    demand(
        session.ask("write", space=space, addr=f"{_PAGE_AT:#x}", data=data)["n"] == 4096, "4096 bytes were not written"
    )
    back = session.ask("read", space=space, addr=f"{_PAGE_AT:#x}", len=4096)["data"]
    demand(back == data, "4096 bytes came back changed")
    three = [json.dumps({"id": number, "op": "get_regs", "context": 1 << 40}) for number in (900_001, 900_002, 900_003)]
    session.driver.send_line("\n".join(three).encode())
    answered = sorted(str(session.driver.read_reply(session.patience).get("id")) for _ in three)
    demand(answered == ["900001", "900002", "900003"], f"three requests in one write were answered as {answered}")


def hard_lines(session: Session) -> None:
    """Lines that no parser likes are refused like any other that is no request, and the driver serves on."""
    for line in (
        b"\xff\xfe{}",
        b"[" * _DEEP,
        b'{"id":' * _DEEP,
        b"9" * 65536,
        b'"' + b"x" * 65536 + b'"',
        b"{}",
        b"null",
    ):
        session.driver.send_line(line)
        reply = session.driver.read_reply(session.patience)
        error = reply.get("error")
        kind = error.get("kind") if isinstance(error, dict) else None
        good = kind == "protocol" and reply.get("id", 0) is None
        demand(
            good, f"{line[:20]!r}… ({len(line)} bytes): expected an error of kind protocol with id null, got {reply}"
        )
    session.ask("hello", protocol=PROTOCOL, suite="x")


def claims(session: Session) -> None:
    """Every capability that is claimed is there, and what is not claimed is "unsupported"."""
    caps = session.caps()
    space = session.ask("new_space")["space"]
    context = session.ask("new_context", space=space, regs={})["context"]
    for cap in dict.fromkeys((*caps, *CAPS)):
        if not cap.startswith("fp."):
            continue
        reply = session.driver.call("get_fp", session.patience, context=context, part=cap.removeprefix("fp."))
        answered = next(iter(reply.keys() & {"result", "error", "unsupported", "skipped"}), "event")
        wanted = "result" if cap in caps else "unsupported"
        demand(answered == wanted, f"{cap} is {'' if cap in caps else 'not '}claimed, but get_fp says {answered}")


def together(session: Session) -> None:
    """With the capability async, requests are answered during a switch, and an interrupt ends it."""
    code = _LOOP.get(str(session.hello["arch"]))
    if "async" not in session.caps() or code is None:
        raise UnsupportedError("async is not claimed")
    space = session.ask("new_space")["space"]
    session.ask(
        "map", space=space, addr=f"{_PAGE_AT:#x}", len=session.hello["page_size"], prot="rx", src={"anon": True}
    )
    session.ask("write", space=space, addr=f"{_PAGE_AT:#x}", data=code)
    ip = "rip" if session.hello["arch"] == "x86_64" else "pc"
    context = session.ask("new_context", space=space, regs={ip: f"{_PAGE_AT:#x}"})["context"]
    switch = session.driver.send("switch", context=context, timeout_ms=60_000)
    session.ask("hello", protocol=PROTOCOL, suite="x")
    session.fails("state", "get_regs", context=context)
    session.ask("interrupt", context=context)
    event = session.driver.wait(switch, session.patience).get("event")
    demand(event == {"kind": "interrupted"}, f"the interrupted loop ended with {event!r}")


def orderly_end(session: Session) -> None:
    """After bye the driver ends with status 0."""
    session.ask("new_space")
    status = session.driver.bye()
    demand(status == 0, f"the driver ended with status {status} after bye")


def end_of_input(session: Session) -> None:
    """At the end of its input the driver ends with status 0, although spaces are left."""
    session.ask("new_space")
    status = session.driver.end_input()
    demand(status == 0, f"the driver ended with status {status} at the end of its input")


class Check(NamedTuple):
    """A check: what a case is, with a function for steps. Any architecture."""

    id: str
    title: str
    carry_out: Callable[[Session], None]
    require: tuple[str, ...] = ()
    level: str = "must"
    tier: int = 0
    arch: str = "any"
    need: tuple[str, ...] = ()

    def go(self, command: Sequence[str], patience: float) -> None:
        """Run the check on a driver of its own. Raises what Driver and the steps of cases raise."""
        with greeted(command, patience) as session:
            self.carry_out(session)


@contextmanager
def greeted(command: Sequence[str], patience: float) -> Iterator[Session]:
    """Start a driver, greet it, and end it. Errors carry its last lines as ``transcript``, in their notes."""
    driver = Driver(command)
    try:
        yield Session(driver, result_of(driver.hello(patience)), patience)
    except Exception as error:
        for line in transcript_of(driver):
            error.add_note(line)
        raise
    finally:
        driver.kill()


def transcript_of(driver: Driver) -> tuple[str, ...]:
    """Return the last of what was said, and of the driver's log."""
    return (*driver.recent, *(f"! {line}" for line in driver.stderr().splitlines()[-20:]))


CHECKS: Final = (
    Check("DRV-HELLO-001", "the answer to hello makes sense, and stays the same", hello),
    Check("DRV-VERSION-001", "another version of the protocol is refused, politely", version),
    Check("DRV-ONCE-001", "64 requests in a row get one answer each", once),
    Check("DRV-ID-001", "ids are echoed, in whatever order they come", ids),
    Check("DRV-FRAMING-001", "long lines, and several lines in one write", framing),
    Check("DRV-LINES-001", "lines that are hard to read are refused, and the driver serves on", hard_lines),
    Check("DRV-CLAIMS-001", "what is claimed is there, what is not claimed is unsupported", claims),
    Check("DRV-ASYNC-001", "requests are answered during a switch, and an interrupt ends it", together),
    Check("DRV-BYE-001", "after bye the driver ends with status 0", orderly_end),
    Check("DRV-EOF-001", "at the end of its input the driver ends with status 0", end_of_input),
)
