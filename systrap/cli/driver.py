"""``systrap driver``: the conformance protocol on stdin and stdout (conformance/README.md, conformance.md B2.2).

One thread reads lines, one does everything else: it waits for guests in next_ready(), and is woken for each line. So a switch
blocks nothing; its answer comes when its event does, and other requests are answered meanwhile.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from threading import Thread
from typing import Final

from systrap import platform as platforms
from systrap.cli import driver_state as state
from systrap.cli.driver_ops import OPERATIONS, Guest, Operations
from systrap.cli.driver_wire import (
    Fields,
    OperationError,
    ProtocolError,
    Reply,
    UnsupportedError,
    decode,
    encode,
    request_id,
)
from systrap.cli.options import EXIT_FAILED, Option, UsageError, describe, parse
from systrap.cli.switches import SWITCHES, chosen_platform
from systrap.platform import Context, EventKind, MapError, Platform, PlatformError

_HELP: Final = """\
Serve the conformance protocol: one JSON object per line on stdin, one answer per line on stdout.

usage: python3 -m systrap driver [options]

{options}

Exit status: 0 after bye or the end of stdin.
"""

_GRACE: Final = 2.0
_CHUNK: Final = 65536


class Driver:
    """Requests in, answers out: the protocol's loop around its operations."""

    def __init__(self, platform: Platform, send: Callable[[bytes], None]) -> None:
        """Serve ``platform``; ``send`` writes a line."""
        self._platform = platform
        self._operations = Operations(platform)
        self._send = send
        self._lines: deque[bytes | None] = deque()

    def receive(self, line: bytes | None) -> None:
        """Take a line from the reading thread; None is the end of input. Any thread."""
        self._lines.append(line)
        self._platform.wake()

    def serve(self) -> None:
        """Answer until bye, or the end of input."""
        while True:
            while self._lines:
                line = self._lines.popleft()
                if line is None:
                    return
                self._answer(line)
                if self._operations.finished:
                    return
            deadlines = [moment for guest in self._operations.guests.values() for moment in guest.deadlines()]
            context = self._platform.next_ready(min(deadlines, default=None))
            if context is not None:
                self._came_back(context)
            self._watch()

    def close(self) -> None:
        """End everything."""
        self._operations.close()

    def _answer(self, line: bytes) -> None:
        """Carry out one request and answer it, unless the answer comes later."""
        try:
            request = decode(line)
        except ProtocolError as error:
            self._send(encode(request_id(line), {"error": {"kind": "protocol", "message": str(error)}}))
            return
        reply = self._carry_out(request.id, request.op, request.fields)
        if reply is not None:
            self._send(encode(request.id, reply))

    def _carry_out(self, number: int, op: str, fields: Fields) -> Reply | None:
        """Return the answer of an operation, whatever comes of it; None when it comes later."""
        operation = OPERATIONS.get(op)
        try:
            if operation is None:
                raise ProtocolError(f"unknown operation {op!r}")
            fields.check(operation.required, operation.optional)
            result = operation.carry_out(self._operations, fields, number)
        except ProtocolError as error:
            return _error("protocol", str(error))
        except OperationError as error:
            return _error(error.kind, str(error), **error.detail)
        except UnsupportedError as error:
            return {"unsupported": {"cap": error.cap, "reason": str(error)}}
        except MapError as error:
            return _error("map", str(error), errno=error.errno)
        except (OSError, MemoryError, PlatformError) as error:
            return _error("platform", str(error))
        return None if result is None else {"result": result}

    # Switches that are under way.

    def _came_back(self, context: Context) -> None:
        """Answer a switch with its event."""
        guest = context.owner
        if not isinstance(guest, Guest) or guest.request is None:
            return
        if guest.late and context.event.kind == EventKind.INTERRUPTED:
            self._settle(guest, _error("timeout", "no event came in time; the context was interrupted"))
        else:
            self._settle(guest, {"event": state.write_event(context, context.event)})

    def _settle(self, guest: Guest, reply: Reply) -> None:
        request, guest.request = guest.request, None
        guest.interrupt_at = guest.give_up_at = None
        self._send(encode(request, reply))

    def _watch(self) -> None:
        """Do what deadlines ask for: interrupt as ordered, interrupt what takes too long, and give up."""
        now = time.monotonic()
        for guest in self._operations.guests.values():
            if guest.interrupt_at is not None and guest.interrupt_at <= now:
                guest.interrupt_at = None
                guest.context.interrupt()
            if guest.give_up_at is None or guest.give_up_at > now:
                continue
            if guest.late:
                raise OperationError("timeout", f"context {guest.number} does not answer to an interrupt")
            guest.late = True
            guest.give_up_at = now + _GRACE
            guest.context.interrupt()


def _error(kind: str, message: str, **detail: object) -> Reply:
    error: Reply = {"kind": kind, "message": message}
    if detail:
        error["detail"] = detail
    return {"error": error}


def _send(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _read_lines(driver: Driver) -> None:
    """Pass every line of stdin on, and then its end.

    Not through sys.stdin: its buffer's lock would be held here while the interpreter ends after bye.
    """
    rest = b""
    while True:
        chunk = os.read(0, _CHUNK)
        *lines, rest = (rest + chunk).split(b"\n")
        if not chunk:
            lines.append(rest)
        for line in lines:
            if line.strip():
                driver.receive(line)
        if not chunk:
            driver.receive(None)
            return


def main(arguments: list[str]) -> int:
    """Carry out ``systrap driver``."""
    options = (
        *SWITCHES,
        Option("--help", "show this text", short="-h"),
    )
    parsed = parse(options, arguments)
    if parsed.given("--help"):
        sys.stdout.write(_HELP.format(options=describe(options)))
        return 0
    if parsed.rest:
        raise UsageError(f"what is {parsed.rest[0]} for? driver takes options only")
    try:
        name, platform_options = chosen_platform(parsed)
        platform = platforms.lookup(name).new(platform_options)
    except PlatformError as error:
        sys.stderr.write(f"systrap driver: {error}\n")
        return EXIT_FAILED
    driver = Driver(platform, _send)
    Thread(target=_read_lines, args=(driver,), name="stdin", daemon=True).start()
    try:
        driver.serve()
    except (OperationError, PlatformError) as error:
        sys.stderr.write(f"systrap driver: {error}\n")
        return EXIT_FAILED
    finally:
        driver.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
