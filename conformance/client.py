"""A driver process and the protocol spoken with it: JSON lines, answers in any order (docs/protocol.md).

Whatever a driver does, nothing here waits longer than it was told, keeps more than a little in memory, or is confused about
which answer belongs to which request. Its three pipes are served together, so a driver that is stuck writing one of them does
not stop us from reading another.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from conformance.protocol import PROTOCOL, SUITE, problem_of

Message = dict[str, object]

MAX_LINE: Final = 1 << 20
"""Bytes of a line; the longest that a driver has any reason to write is well below 16 KiB."""

_MAX_UNREAD: Final = 16 << 20
_MAX_LOG: Final = 64 * 1024
_EXIT_SECONDS: Final = 5.0
_SEND_SECONDS: Final = 10.0
_CHUNK: Final = 65536
_REMEMBERED: Final = 20
_SHOWN: Final = 400


class DriverCrashedError(Exception):
    """The driver ended, or closed its output."""


class DriverTimeoutError(Exception):
    """The driver did not answer in time."""


class ProtocolViolationError(Exception):
    """The driver said something that is not in the protocol."""


class Driver:
    """One driver process. Requests get an id here; answers are kept until somebody waits for theirs."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the driver, in a session of its own. Raises OSError."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            list(command), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input, self._output, self._errors = self._process.stdin, self._process.stdout, self._process.stderr
        for stream in (self._input, self._output, self._errors):
            os.set_blocking(stream.fileno(), False)
        self._buffer = b""
        self._log = b""
        self._log_ended = False
        self._next = 1
        self._asked: dict[int, str] = {}
        self._answered: dict[int, str] = {}
        self._replies: dict[int, Message] = {}
        self.recent: deque[str] = deque(maxlen=_REMEMBERED)

    @property
    def pid(self) -> int:
        """Return the process id, which is the id of a session and of a process group, too."""
        return self._process.pid

    def kill_alone(self) -> None:
        """Kill the driver, and nothing that it started; the rest of kill() is still to be done."""
        self._process.kill()
        self._process.wait()

    def hello(self, timeout: float) -> Message:
        """Greet, and return the whole answer. Raises as wait() does."""
        return self.call("hello", timeout, protocol=PROTOCOL, suite=SUITE)

    def send(self, op: str, **fields: object) -> int:
        """Send a request and return its id. Raises DriverCrashedError, DriverTimeoutError, ProtocolViolationError."""
        number = self._next
        self._next += 1
        self._asked[number] = op
        self.send_line(json.dumps({"id": number, "op": op, **fields}).encode())
        return number

    def send_line(self, line: bytes) -> None:
        """Send a line as it is. Raises as send() does."""
        self.recent.append(f"> {line[:_SHOWN].decode(errors='replace')}")
        deadline = time.monotonic() + _SEND_SECONDS
        rest = line + b"\n"
        while rest:
            rest = self._move(deadline, rest)

    def wait(self, number: int, timeout: float) -> Message:
        """Return the answer to a request. Raises DriverTimeoutError, DriverCrashedError, ProtocolViolationError."""
        deadline = time.monotonic() + timeout
        while number not in self._replies:
            try:
                reply = self.read_reply(deadline - time.monotonic())
            except DriverTimeoutError as error:
                raise DriverTimeoutError(f"no answer to {self._asked[number]} within {timeout:g} s") from error
            self._take(reply)
        return self._replies.pop(number)

    def _take(self, reply: Message) -> None:
        """Keep an answer to something that was asked. Raises ProtocolViolationError."""
        answered = reply.get("id")
        # JSON's true is no 1, whatever Python thinks of it.
        if not isinstance(answered, int) or isinstance(answered, bool) or answered not in self._asked:
            again = self._answered.get(answered) if type(answered) is int else None
            what = f"a second answer to {again}" if again else "an answer to nothing that was asked"
            raise ProtocolViolationError(f"{what}: {json.dumps(reply):.200}")
        op = self._answered[answered] = self._asked.pop(answered)
        found = problem_of(op, reply)
        if found:
            raise ProtocolViolationError(f"{found} ({json.dumps(reply):.200})")
        self._replies[answered] = reply

    def call(self, op: str, timeout: float, **fields: object) -> Message:
        """Send a request and return its answer."""
        return self.wait(self.send(op, **fields), timeout)

    def read_reply(self, timeout: float) -> Message:
        """Return the next line as an object, whatever it answers. Raises as wait() does."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            self._move(deadline)
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.recent.append(f"< {line[:_SHOWN].decode(errors='replace')}")
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProtocolViolationError(f"not JSON: {line[:200]!r}") from error
        if not isinstance(value, dict):
            raise ProtocolViolationError(f"not an object: {line[:200]!r}")
        return {str(name): field for name, field in value.items()}

    def check_quiet(self) -> None:
        """Make sure that nothing was said that nobody asked for. Raises ProtocolViolationError, DriverCrashedError."""
        while b"\n" in self._buffer or select.select([self._output], [], [], 0)[0]:
            self._take(self.read_reply(_EXIT_SECONDS))
        if self._buffer:
            raise ProtocolViolationError(f"half a line: {self._buffer[:200]!r}")

    def _move(self, deadline: float, outgoing: bytes = b"") -> bytes:
        """Wait for the pipes once and serve what is ready; return what of ``outgoing`` is left."""
        sources = [self._output] if self._log_ended else [self._output, self._errors]
        left = deadline - time.monotonic()
        readable, writable, _ = select.select(sources, [self._input] if outgoing else [], [], max(left, 0))
        if not readable and not writable and left <= 0:
            raise DriverTimeoutError("the driver reads no more" if outgoing else "no answer in time")
        if self._errors in readable:
            self._read_log()
        if self._output in readable:
            self._read_output()
        if writable:
            try:
                outgoing = outgoing[os.write(self._input.fileno(), outgoing) :]
            except BlockingIOError:
                return outgoing
            except OSError as error:
                raise DriverCrashedError(self._how_it_ended()) from error
        return outgoing

    def _read_output(self) -> None:
        chunk = os.read(self._output.fileno(), _CHUNK)
        if not chunk:
            raise DriverCrashedError(self._how_it_ended())
        self._buffer += chunk
        end = self._buffer.rfind(b"\n") + 1
        if len(self._buffer) - end > MAX_LINE or len(self._buffer) > _MAX_UNREAD:
            self.recent.append(f"< {self._buffer[:_SHOWN].decode(errors='replace')}")
            raise ProtocolViolationError(f"a flood: {len(self._buffer)} bytes, and no end of a line that was asked for")

    def _read_log(self) -> None:
        chunk = os.read(self._errors.fileno(), _CHUNK)
        self._log_ended = not chunk
        self._log = (self._log + chunk)[-_MAX_LOG:]

    def _how_it_ended(self) -> str:
        """Say what became of a driver that closed a pipe."""
        cut = ", in the middle of a line" if self._buffer and not self._buffer.endswith(b"\n") else ""
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return f"the driver closed a pipe{cut}, and lives on"
        if status < 0:
            return f"the driver was killed by {signal.Signals(-status).name}{cut}"
        return f"the driver ended with status {status}{cut}"

    def stderr(self) -> str:
        """Return the end of what the driver wrote to stderr."""
        while not self._log_ended and select.select([self._errors], [], [], 0)[0]:
            self._read_log()
        return self._log[-4000:].decode(errors="replace")

    def bye(self) -> int:
        """Ask the driver to end, and return its exit status. Raises as wait() does."""
        self.call("bye", _EXIT_SECONDS)
        return self.exit_status("bye")

    def end_input(self) -> int:
        """Close the driver's stdin, and return its exit status. Raises DriverTimeoutError."""
        self._input.close()
        return self.exit_status("the end of its input")

    def exit_status(self, after: str) -> int:
        """Wait for the driver's end. Raises DriverTimeoutError."""
        try:
            return self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DriverTimeoutError(f"the driver did not end after {after}") from error

    def kill(self) -> None:
        """End the driver and its process group, whatever it does."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._process.poll()
        self._process.wait()
        for stream in (self._input, self._output, self._errors):
            stream.close()
