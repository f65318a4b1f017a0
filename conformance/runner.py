"""Running cases against a driver: plan first, then a verdict for each, whatever happens to the driver."""

import fnmatch
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple

from conformance.case import Case, Mapping, Step
from conformance.client import (
    PROTOCOL,
    Driver,
    DriverCrashedError,
    DriverTimeoutError,
    Message,
    ProtocolViolationError,
)
from conformance.match import Bindings, PatternError, mismatch, number, resolve, word

SUITE: Final = "0.1.0"

_CALL_SECONDS: Final = 10.0
_SLACK: Final = 5.0
_CHUNK: Final = 2048
_FORGIVEN: Final = 1
"""Interrupts in a case that nobody sent: a signal that comes late may end a run that it was not meant for."""


class Status(Enum):
    """What became of a case."""

    PASS = "pass"
    FAIL = "fail"
    ERROR = "error"
    TIMEOUT = "timeout"
    CRASH = "crash"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"


GOOD: Final = frozenset((Status.PASS, Status.UNSUPPORTED, Status.SKIPPED))
"""Verdicts that let a run pass."""


class Verdict(NamedTuple):
    """A case's status, and why. ``transcript`` is the last of the talk, for anything that is not good."""

    case: Case
    status: Status
    reason: str = ""
    transcript: tuple[str, ...] = ()


class _FailedError(Exception):
    """What came is not what the case expects."""


class _UnsupportedError(Exception):
    """The driver says that it cannot do this."""


class _SkippedError(Exception):
    """The driver says that it will not do this."""


class _RefusedError(Exception):
    """The driver answered with an error where none is expected."""


class Runner:
    """Runs cases in order on one driver, and starts another when that one is lost."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._driver: Driver | None = None
        self._caps: frozenset[str] = frozenset()
        self.hello: Message = {}

    def run(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """Yield a verdict for every case. A driver that does not even greet gives errors."""
        for case in cases:
            yield self._run(case)

    def close(self) -> None:
        """End the driver."""
        driver, self._driver = self._driver, None
        if driver is not None:
            try:
                driver.bye()
            except (DriverCrashedError, DriverTimeoutError, ProtocolViolationError):
                self._caps = frozenset()
            driver.kill()

    def greet(self) -> Message:
        """Start a driver if there is none, and return what it says of itself. Raises what Driver raises, OSError."""
        if self._driver is None:
            self._driver = Driver(self._command)
            self.hello = _result(self._driver.call("hello", _CALL_SECONDS, protocol=PROTOCOL, suite=SUITE))
            caps = self.hello.get("caps")
            self._caps = frozenset(str(cap) for cap in caps) if isinstance(caps, list) else frozenset()
            self._caps |= _cpu_features()
        return self.hello

    def _run(self, case: Case) -> Verdict:
        status, reason = Status.UNKNOWN, "not run"
        lost = False
        try:
            hello = self.greet()
            assert self._driver is not None
            self._driver.recent.clear()
            missing = [cap for cap in case.need if cap not in self._caps]
            if hello.get("arch") != case.arch:
                return Verdict(case, Status.UNSUPPORTED, f"this is {hello.get('arch')}")
            if missing:
                return Verdict(case, Status.UNSUPPORTED, f"no {', '.join(missing)}")
            run = _Run(case, self._driver, hello, "fault.access" in self._caps)
            run.go()
            return Verdict(case, Status.PASS, "an interrupt that nobody sent was forgiven" if run.forgiven else "")
        except _FailedError as error:
            status, reason = Status.FAIL, str(error)
        except _UnsupportedError as error:
            status, reason = Status.UNSUPPORTED, str(error)
        except _SkippedError as error:
            status, reason = Status.SKIPPED, str(error)
        except (_RefusedError, PatternError) as error:
            status, reason = Status.ERROR, str(error)
        except DriverTimeoutError as error:
            status, reason, lost = Status.TIMEOUT, str(error), True
        except (ProtocolViolationError, OSError) as error:
            status, reason, lost = Status.ERROR, str(error), True
        except DriverCrashedError as error:
            status, reason, lost = Status.CRASH, str(error), True
        transcript = self._transcript() if status not in GOOD else ()
        if lost and self._driver is not None:
            self._driver.kill()
            self._driver = None
        return Verdict(case, status, reason, transcript)

    def _transcript(self) -> tuple[str, ...]:
        if self._driver is None:
            return ()
        return (*self._driver.recent, *(f"! {line}" for line in self._driver.stderr().splitlines()[-20:]))


def _without_access(pattern: object) -> object:
    """Return what is expected of a driver that can only guess which access faulted: it does not claim "fault.access"."""
    if not isinstance(pattern, dict) or pattern.get("access") not in ("r", "w", "x"):
        return pattern
    return {**pattern, "access": {"in": ["r", "w", "x"]}}


def _cpu_features() -> frozenset[str]:
    """Return what this machine's CPU has, as the capabilities that cases can need: "cpu.avx"."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        words = next((line.split() for line in file if line.startswith(("flags", "Features"))), [])
    return frozenset(f"cpu.{word}" for word in words)


def _result(reply: Message) -> Message:
    """Return the result in a reply. Raises what the other kinds of reply mean."""
    unsupported, skipped, error = reply.get("unsupported"), reply.get("skipped"), reply.get("error")
    if isinstance(unsupported, dict):
        raise _UnsupportedError(f"{unsupported.get('cap')}: {unsupported.get('reason')}")
    if isinstance(skipped, dict):
        raise _SkippedError(f"{skipped.get('reason')} {skipped.get('issue', '')}".strip())
    if isinstance(error, dict):
        text = f"{error.get('kind')}: {error.get('message')}"
        if error.get("kind") == "timeout":
            raise _FailedError(text)
        raise _RefusedError(text)
    result = reply.get("result")
    if not isinstance(result, dict):
        raise ProtocolViolationError(f"a reply without result: {reply}")
    return result


class _Run:
    """One case on one driver: its spaces and contexts, and the names bound so far."""

    def __init__(self, case: Case, driver: Driver, hello: Message, knows_access: bool) -> None:
        self._case = case
        self._knows_access = knows_access
        self.forgiven = 0
        self._driver = driver
        self._bindings: Bindings = {name: hello.get(name) for name in ("page_size", "va_min", "va_max")}
        self._spaces: dict[str, object] = {}
        self._contexts: dict[str, object] = {}
        self._started: dict[str, int] = {}

    def go(self) -> None:
        """Do the case, and clean up unless the driver is lost."""
        try:
            self._do()
        except (_FailedError, _UnsupportedError, _SkippedError, _RefusedError, PatternError):
            self._clean_up()
            raise
        self._clean_up()

    def _do(self) -> None:
        for name in self._case.spaces:
            self._new_space(name)
        for mapping in self._case.maps:
            self._map(mapping)
        for name, where in self._case.contexts.items():
            self._new_context(name, where)
        self._steps(self._case.steps, "step ")

    def _steps(self, steps: Sequence[Step], prefix: str) -> None:
        for index, step in enumerate(steps):
            for turn in range(step.repeat):
                if step.repeat > 1:
                    self._bindings["turn"] = turn
                self._step(step, f"{prefix}{index}" + (f", turn {turn}" if step.repeat > 1 else ""))

    def _new_space(self, name: str) -> None:
        self._spaces[name] = self._bindings[f"space.{name}"] = self._call("new_space")["space"]

    def _new_context(self, name: str, where: str) -> None:
        context = self._call("new_context", space=self._spaces[where], regs={})["context"]
        self._contexts[name] = self._bindings[f"context.{name}"] = context

    def _clean_up(self) -> None:
        for name, request in self._started.items():
            self._driver.call("interrupt", _CALL_SECONDS, context=self._contexts[name])
            self._driver.wait(request, _CALL_SECONDS)
        for context in self._contexts.values():
            self._driver.call("release_context", _CALL_SECONDS, context=context)
        for space in self._spaces.values():
            self._driver.call("release_space", _CALL_SECONDS, space=space)

    def _call(self, op: str, **fields: object) -> Message:
        return _result(self._driver.call(op, _CALL_SECONDS, **fields))

    def _map(self, mapping: Mapping) -> None:
        space = self._spaces[self._numbered(mapping.space)]
        address = number(resolve(mapping.addr, self._bindings))
        if address is None:
            raise PatternError(f"{mapping.addr} is no address")
        source: Message = {"object": mapping.object, "offset": mapping.offset} if mapping.object else {"anon": True}
        self._call("map", space=space, addr=f"{address:#x}", len=mapping.length, prot=mapping.prot, src=source)
        address += mapping.at
        for start in range(0, len(mapping.data), _CHUNK):
            piece = mapping.data[start : start + _CHUNK]
            self._call("write", space=space, addr=f"{address + start:#x}", data=piece.hex())

    def _step(self, step: Step, where: str) -> None:
        if step.mapping is not None:
            self._map(step.mapping)
        elif step.steps:
            for turn in range(step.times):
                self._bindings["turn"] = turn
                self._steps(step.steps, f"{where}, turn {turn}, step ")
        else:
            STEPS[step.do](self, step.fields, where)

    def _expect(self, pattern: object, value: object, where: str) -> None:
        text = mismatch(pattern, value, self._bindings, where)
        if text:
            raise _FailedError(text)

    def _context(self, fields: Message) -> object:
        return self._contexts[self._name(fields)]

    def _name(self, fields: Message) -> str:
        return self._numbered(str(fields.get("context", "main")))

    def _space(self, fields: Message) -> object:
        return self._spaces[self._numbered(str(fields.get("space", "main")))]

    def _numbered(self, name: str) -> str:
        """Return a name with the turn of the innermost repeat in place of "#"."""
        return name.replace("#", str(self._bindings.get("turn", 0)))

    def _set(self, context: object, fields: Message) -> None:
        values = fields.get("set")
        if isinstance(values, dict):
            regs = {str(name): word(resolve(value, self._bindings)) for name, value in values.items()}
            self._call("set_regs", context=context, regs=regs)

    # Steps.

    def switch(self, fields: Message, where: str) -> None:
        """Set registers, run, and compare the event."""
        context = self._context(fields)
        self._set(context, fields)
        if fields.get("interrupt_first"):
            self._call("interrupt", context=context)
        self._compare(fields, context, self._start(context, fields), where)

    def parallel(self, fields: Message, where: str) -> None:
        """Run several contexts at the same time, and compare each one's event. "$index" is a context's place among them."""
        given = fields["contexts"]
        if not isinstance(given, list):
            raise PatternError("contexts must be a list of names")
        names = [name for one in given for name in fnmatch.filter(self._contexts, str(one))]
        for index, name in enumerate(names):
            self._bindings["index"] = index
            self._set(self._contexts[name], fields)
        started = [self._start(self._contexts[name], fields) for name in names]
        for index, (name, request) in enumerate(zip(names, started, strict=True)):
            self._bindings["index"] = index
            self._compare(fields, self._contexts[name], request, f"{where}, context {name}")

    def start(self, fields: Message, _where: str) -> None:
        """Begin a switch; a later wait compares its event."""
        context = self._context(fields)
        self._set(context, fields)
        self._started[self._name(fields)] = self._start(context, fields)

    def wait(self, fields: Message, where: str) -> None:
        """Compare the event of a switch that was started."""
        self._compare(fields, self._context(fields), self._started.pop(self._name(fields)), where)

    def request(self, fields: Message, where: str) -> None:
        """Send a request as it is written, and compare the whole reply."""
        given = fields.get("fields", {})
        if not isinstance(given, dict):
            raise PatternError("fields must be a table")
        values = {str(name): resolve(value, self._bindings) for name, value in given.items()}
        reply = self._driver.call(str(fields["op"]), _CALL_SECONDS, **values)
        if "unsupported" in reply:
            _result(reply)
        self._expect(fields.get("expect", "*"), reply, f"{where}: reply")

    def line(self, fields: Message, where: str) -> None:
        """Send a line that need not be a request, and compare the next reply."""
        self._driver.send_line(str(fields["text"]).encode())
        self._expect(fields.get("expect", "*"), self._driver.read_reply(_CALL_SECONDS), f"{where}: reply")

    def pause(self, fields: Message, _where: str) -> None:
        """Let time pass."""
        milliseconds = fields["ms"]
        time.sleep(milliseconds / 1000 if isinstance(milliseconds, int) else 0)

    def new(self, fields: Message, _where: str) -> None:
        """Make another context, or else another space."""
        if "context" in fields:
            self._new_context(self._name(fields), self._numbered(str(fields.get("space", "main"))))
        else:
            self._new_space(self._numbered(str(fields["space"])))

    def _start(self, context: object, fields: Message) -> int:
        extra = {"interrupt_after_us": fields["interrupt_after_us"]} if "interrupt_after_us" in fields else {}
        return self._driver.send("switch", context=context, timeout_ms=self._timeout(fields), **extra)

    def _timeout(self, fields: Message) -> int:
        timeout = fields.get("timeout_ms", self._case.timeout_ms)
        return timeout if isinstance(timeout, int) else self._case.timeout_ms

    def _compare(self, fields: Message, context: object, request: int, where: str) -> None:
        """Compare the event of a switch. One interrupt in a case that nobody sent is forgiven: the guest goes on."""
        reply = self._driver.wait(request, self._timeout(fields) / 1000 + _SLACK)
        event = reply.get("event")
        if event is None:
            _result(reply)
            raise ProtocolViolationError(f"a switch was answered without an event: {reply}")
        patterns = fields.get("one_of", [fields.get("expect", "*")])
        if not isinstance(patterns, list):
            raise PatternError("one_of must be a list")
        if not self._knows_access:
            patterns = [_without_access(pattern) for pattern in patterns]
        texts = [mismatch(pattern, event, self._bindings, f"{where}: event") for pattern in patterns]
        if all(texts) and event == {"kind": "interrupted"} and self.forgiven < _FORGIVEN:
            self.forgiven += 1
            self._compare(
                fields, context, self._driver.send("switch", context=context, timeout_ms=self._timeout(fields)), where
            )
        elif all(texts):
            raise _FailedError(f"{texts[0]} (the event: {event})")

    def interrupt(self, fields: Message, _where: str) -> None:
        """Interrupt a context that is not running: its next switch."""
        self._call("interrupt", context=self._context(fields))

    def regs(self, fields: Message, where: str) -> None:
        """Set registers, and compare them."""
        context = self._context(fields)
        self._set(context, fields)
        self._expect(fields.get("expect", "*"), self._call("get_regs", context=context)["regs"], f"{where}: regs")

    def fp(self, fields: Message, where: str) -> None:
        """Set a part of the FP state, or compare its start."""
        context, part = self._context(fields), fields.get("part", "legacy")
        start = fields.get("at", 0)
        start = 2 * start if isinstance(start, int) else 0
        if "set" in fields:
            before = str(self._call("get_fp", context=context, part=part)["data"])[:start] if start else ""
            self._call("set_fp", context=context, part=part, data=before + str(fields["set"]))
        if "expect" in fields:
            data = str(self._call("get_fp", context=context, part=part)["data"])
            wanted = "." * start + str(fields["expect"])
            at = next((i for i in range(0, len(wanted), 2) if wanted[i : i + 2] not in ("..", data[i : i + 2])), None)
            if at is not None:
                got = data[at : at + 2]
                raise _FailedError(f"{where}: {part} byte {at // 2}: expected {wanted[at : at + 2]}, got {got}")

    def memory(self, fields: Message, where: str) -> None:
        """Write memory, or compare it."""
        space, addr = self._space(fields), resolve(fields.get("addr"), self._bindings)
        if "write" in fields:
            self._call("write", space=space, addr=addr, data=fields["write"])
        if "expect" in fields:
            length = len(str(fields["expect"])) // 2 if "len" not in fields else fields["len"]
            data = self._call("read", space=space, addr=addr, len=length)["data"]
            self._expect(fields["expect"], data, f"{where}: memory at {addr}")

    def unmap(self, fields: Message, _where: str) -> None:
        """Unmap a range."""
        addr = resolve(fields["addr"], self._bindings)
        self._call("unmap", space=self._space(fields), addr=addr, len=fields["len"])

    def protect(self, fields: Message, _where: str) -> None:
        """Change a range's protection."""
        arguments = {name: resolve(fields[name], self._bindings) for name in ("addr", "len", "prot")}
        self._call("protect", space=self._space(fields), **arguments)

    def release(self, fields: Message, _where: str) -> None:
        """Release a context or a space before the case's end."""
        if "context" in fields:
            self._call("release_context", context=self._contexts.pop(self._name(fields)))
        if "space" in fields:
            self._call("release_space", space=self._spaces.pop(self._numbered(str(fields["space"]))))


STEPS: Final[dict[str, Callable[[_Run, Message, str], None]]] = {
    "switch": _Run.switch,
    "parallel": _Run.parallel,
    "start": _Run.start,
    "wait": _Run.wait,
    "request": _Run.request,
    "line": _Run.line,
    "pause": _Run.pause,
    "new": _Run.new,
    "interrupt": _Run.interrupt,
    "regs": _Run.regs,
    "fp": _Run.fp,
    "memory": _Run.memory,
    "unmap": _Run.unmap,
    "protect": _Run.protect,
    "release": _Run.release,
}
"""What a step can do; "map" is done from its own record."""
