"""Doing one case on one driver, step by step, and comparing what comes with what the case expects."""

import fnmatch
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from conformance.case import Case, Mapping, Step
from conformance.client import Driver, Message, ProtocolViolationError
from conformance.match import Bindings, PatternError, mismatch, number, resolve, word

_CHUNK: Final = 2048
_LONG: Final = 32
"""Bytes that can be compared by eye."""
_NOTICEABLE: Final = 0.1
"""Seconds of waiting that tell an answer which was there already from one that came late."""
_LONGEST_MS: Final = 600_000
"""The longest timeout of a switch that the protocol has."""
_FORGIVEN: Final = 1
"""Interrupts in a case that nobody sent: a signal that comes late may end a run that it was not meant for."""


class FailedError(Exception):
    """What came is not what the case expects."""


class LateError(Exception):
    """The driver says that no event came in time."""


class UnsupportedError(Exception):
    """The driver says that it cannot do this."""


class SkippedError(Exception):
    """The driver says that it will not do this."""


class RefusedError(Exception):
    """The driver answered with an error where none is expected."""


def result_of(reply: Message) -> Message:
    """Return the result in a reply. Raises what the other kinds of reply mean."""
    unsupported, skipped, error = reply.get("unsupported"), reply.get("skipped"), reply.get("error")
    if isinstance(unsupported, dict):
        raise UnsupportedError(f"{unsupported.get('cap')}: {unsupported.get('reason')}")
    if isinstance(skipped, dict):
        raise SkippedError(f"{skipped.get('reason')} {skipped.get('issue', '')}".strip())
    if isinstance(error, dict):
        text = f"{error.get('kind')}: {error.get('message')}"
        if error.get("kind") == "timeout":
            raise LateError(text)
        raise RefusedError(text)
    result = reply.get("result")
    if not isinstance(result, dict):
        raise ProtocolViolationError(f"a reply without result: {reply}")
    return result


def _without_access(pattern: object) -> object:
    """Return what is expected of a driver that can only guess which access faulted: it does not claim "fault.access"."""
    if not isinstance(pattern, dict) or pattern.get("access") not in ("r", "w", "x"):
        return pattern
    return {**pattern, "access": {"in": ["r", "w", "x"]}}


def hex_difference(wanted: object, got: object) -> str | None:
    """Tell where long bytes in hex differ, with what stands there; None where comparing them as they are will do."""
    if not isinstance(wanted, str) or not isinstance(got, str) or len(wanted) != len(got) or len(wanted) <= 2 * _LONG:
        return None
    wrong = [i for i in range(0, len(wanted), 2) if wanted[i : i + 2] != got[i : i + 2]]
    if not wrong:
        return None
    part = slice(wrong[0], wrong[0] + 2 * _LONG)
    first = f"from byte {wrong[0] // 2:#x} of {len(wanted) // 2:#x} on ({len(wrong)} differ)"
    return f"{first}: expected {wanted[part]}…, got {got[part]}…"


class Run:
    """One case on one driver: its spaces and contexts, and the names bound so far."""

    def __init__(
        self, case: Case, driver: Driver, hello: Message, patience: float = 10.0, seed: int = 0, slow: float = 1.0
    ) -> None:
        """Run ``case``; an answer may take ``patience`` seconds. Random values depend on ``seed`` and the case only.

        ``slow`` multiplies the case's own timeouts.
        """
        self._case = case
        self._slow = slow
        self._patience = patience
        self._random = random.Random(f"{seed}/{case.id}")
        self._driver = driver
        caps = hello.get("caps")
        self._knows_access = isinstance(caps, list) and "fault.access" in caps
        self._bindings: Bindings = {name: hello.get(name) for name in ("page_size", "va_min", "va_max")}
        self._spaces: dict[str, object] = {}
        self._contexts: dict[str, object] = {}
        self._started: dict[str, int] = {}
        self._sent: dict[int, float] = {}
        self.forgiven = 0

    def go(self) -> None:
        """Do the case. Cleans up when it went well, or is not for this driver; otherwise the driver is to be ended anyway."""
        try:
            self._do()
        except (UnsupportedError, SkippedError):
            self._clean_up()
            raise
        self._clean_up()
        # One more answer, so that a second one to the request before it is found here, and not in the next case.
        result_of(self._driver.hello(self._patience))
        self._driver.check_quiet()

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
            self._driver.call("interrupt", self._patience, context=self._contexts[name])
            self._driver.wait(request, self._patience)
        for context in self._contexts.values():
            self._driver.call("release_context", self._patience, context=context)
        for space in self._spaces.values():
            self._driver.call("release_space", self._patience, space=space)

    def _call(self, op: str, **fields: object) -> Message:
        return result_of(self._driver.call(op, self._patience, **fields))

    def _map(self, mapping: Mapping) -> None:
        space = self._spaces[self._numbered(mapping.space)]
        address = number(resolve(mapping.addr, self._bindings))
        if address is None:
            raise PatternError(f"{mapping.addr} is no address")
        source: Message = {"object": mapping.object, "offset": mapping.offset} if mapping.object else {"anon": True}
        length = self._whole(mapping.length)
        self._call("map", space=space, addr=f"{address:#x}", len=length, prot=mapping.prot, src=source)
        address += mapping.at
        for start in range(0, len(mapping.data), _CHUNK):
            piece = mapping.data[start : start + _CHUNK]
            self._call("write", space=space, addr=f"{address + start:#x}", data=piece.hex())

    def _whole(self, length: object) -> object:
        """Return a length in whole pages of the driver: cases are written for 4096 bytes, and pages may be bigger."""
        page = self._bindings["page_size"]
        return -(-length // page) * page if isinstance(length, int) and isinstance(page, int) else length

    def _step(self, step: Step, where: str) -> None:
        if step.steps:
            for turn in range(step.times):
                self._bindings["turn"] = turn
                self._steps(step.steps, f"{where}, turn {turn}, step ")
            return
        try:
            if step.mapping is not None:
                self._map(step.mapping)
            else:
                STEPS[step.do](self, step.fields, where)
        except LateError as error:
            raise LateError(f"{where}: {error}") from error
        except RefusedError as error:
            raise RefusedError(f"{where}: {error}") from error

    def _expect(self, pattern: object, value: object, where: str) -> None:
        text = mismatch(pattern, value, self._bindings, where)
        if text:
            raise FailedError(text)

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
            regs = {str(name): word(self._value(value)) for name, value in values.items()}
            self._call("set_regs", context=context, regs=regs)

    def _value(self, value: object) -> object:
        """Return a value of a case: "$name" is replaced, and ``{ random = [low, high] }`` chosen."""
        if not isinstance(value, dict):
            return resolve(value, self._bindings)
        given = value.get("random")
        bounds = [number(bound) for bound in given] if isinstance(given, list) else []
        if value.keys() != {"random"} or len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
            raise PatternError(f"{value!r} is neither a number nor {{ random = [low, high] }}")
        return self._random.randint(bounds[0], bounds[1])

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
        reply = self._driver.call(str(fields["op"]), self._patience, **values)
        if "unsupported" in reply:
            result_of(reply)
        self._expect(fields.get("expect", "*"), reply, f"{where}: reply")

    def line(self, fields: Message, where: str) -> None:
        """Send a line that need not be a request, and compare the next reply."""
        self._driver.send_line(str(fields["text"]).encode())
        self._expect(fields.get("expect", "*"), self._driver.read_reply(self._patience), f"{where}: reply")

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
        after = fields.get("interrupt_after_us")
        extra = {} if after is None else {"interrupt_after_us": self._value(after)}
        if "space" in fields:
            extra["space"] = self._space(fields)
        request = self._driver.send("switch", context=context, timeout_ms=self._timeout(fields), **extra)
        self._sent[request] = time.monotonic()
        return request

    def _timeout(self, fields: Message) -> int:
        timeout = fields.get("timeout_ms", self._case.timeout_ms)
        granted = timeout if isinstance(timeout, int) else self._case.timeout_ms
        return min(int(granted * self._slow), _LONGEST_MS)

    def _compare(self, fields: Message, context: object, request: int, where: str) -> None:
        """Compare the event of a switch. One interrupt in a case that nobody sent is forgiven: the guest goes on."""
        reply = self._event_in_time(request, self._timeout(fields) / 1000)
        event = reply.get("event")
        if event is None:
            result_of(reply)
        patterns = fields.get("one_of", [fields.get("expect", "*")])
        if not isinstance(patterns, list):
            raise PatternError("one_of must be a list")
        if not self._knows_access:
            patterns = [_without_access(pattern) for pattern in patterns]
        texts = [mismatch(pattern, event, self._bindings, f"{where}: event") for pattern in patterns]
        if all(texts) and event == {"kind": "interrupted"} and self.forgiven < _FORGIVEN:
            self.forgiven += 1
            again = self._start(context, {"timeout_ms": self._timeout(fields)})
            self._compare(fields, context, again, where)
        elif all(texts):
            raise FailedError(f"{texts[0]}\nthe event: {json.dumps(event)}")

    def interrupt(self, fields: Message, _where: str) -> None:
        """Interrupt a context that is not running: its next switch."""
        self._call("interrupt", context=self._context(fields))

    def _event_in_time(self, request: int, seconds: float) -> Message:
        """Return the answer to a switch. An event that we still waited for when the switch's time was over is a timeout.

        A driver interrupts such a switch; what comes back then may be an event that was there all the time, and nobody was
        told of it: a wake-up was lost.
        """
        begun = time.monotonic()
        reply = self._driver.wait(request, seconds + self._patience)
        now = time.monotonic()
        if "event" in reply and now - self._sent.pop(request, now) > seconds and now - begun > _NOTICEABLE:
            raise LateError(f"the event came only after the {seconds:g} s of this switch: {json.dumps(reply['event'])}")
        return reply

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
                raise FailedError(f"{where}: {part} byte {at // 2}: expected {wanted[at : at + 2]}, got {got}")

    def memory(self, fields: Message, where: str) -> None:
        """Write memory, or compare it."""
        space, addr = self._space(fields), resolve(fields.get("addr"), self._bindings)
        if "write" in fields:
            self._call("write", space=space, addr=addr, data=fields["write"])
        if "expect" in fields:
            length = len(str(fields["expect"])) // 2 if "len" not in fields else fields["len"]
            data = self._call("read", space=space, addr=addr, len=length)["data"]
            text = hex_difference(fields["expect"], data)
            if text:
                raise FailedError(f"{where}: memory at {addr}: {text}")
            self._expect(fields["expect"], data, f"{where}: memory at {addr}")

    def unmap(self, fields: Message, _where: str) -> None:
        """Unmap a range."""
        addr = resolve(fields["addr"], self._bindings)
        self._call("unmap", space=self._space(fields), addr=addr, len=self._whole(fields["len"]))

    def protect(self, fields: Message, _where: str) -> None:
        """Change a range's protection."""
        addr, length, prot = (resolve(fields[name], self._bindings) for name in ("addr", "len", "prot"))
        self._call("protect", space=self._space(fields), addr=addr, len=self._whole(length), prot=prot)

    def release(self, fields: Message, _where: str) -> None:
        """Release a context or a space before the case's end."""
        if "context" in fields:
            self._call("release_context", context=self._contexts.pop(self._name(fields)))
        if "space" in fields:
            self._call("release_space", space=self._spaces.pop(self._numbered(str(fields["space"]))))


STEPS: Final[dict[str, Callable[[Run, Message, str], None]]] = {
    "switch": Run.switch,
    "parallel": Run.parallel,
    "start": Run.start,
    "wait": Run.wait,
    "request": Run.request,
    "line": Run.line,
    "pause": Run.pause,
    "new": Run.new,
    "interrupt": Run.interrupt,
    "regs": Run.regs,
    "fp": Run.fp,
    "memory": Run.memory,
    "unmap": Run.unmap,
    "protect": Run.protect,
    "release": Run.release,
}
"""What a step can do; "map" is done from its own record."""
