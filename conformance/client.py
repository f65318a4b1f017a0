"""A driver process and the protocol spoken with it: JSON lines, replies in any order (README.md)."""

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

PROTOCOL: Final = 1

Message = dict[str, object]

_EXIT_SECONDS: Final = 5.0
_CHUNK: Final = 65536
_REMEMBERED: Final = 20


class DriverCrashedError(Exception):
    """The driver ended, or closed its output."""


class DriverTimeoutError(Exception):
    """The driver did not answer in time."""


class ProtocolViolationError(Exception):
    """The driver said something that is not in the protocol."""


class Driver:
    """One driver process. Requests get an id here; replies are kept until somebody waits for theirs."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the driver, in a session of its own. Raises OSError."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill()
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                list(command), stdin=pipe, stdout=pipe, stderr=self._log, bufsize=0, start_new_session=True
            )
        except OSError:
            self._log.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin
        self._output = self._process.stdout
        self._buffer = b""
        self._next = 1
        self._asked: set[int] = set()
        self._replies: dict[int, Message] = {}
        self.recent: deque[str] = deque(maxlen=_REMEMBERED)

    def send(self, op: str, **fields: object) -> int:
        """Send a request and return its id. Raises DriverCrashedError."""
        number = self._next
        self._next += 1
        line = json.dumps({"id": number, "op": op, **fields})
        self.send_line(line.encode())
        self._asked.add(number)
        return number

    def send_line(self, line: bytes) -> None:
        """Send a line as it is. Raises DriverCrashedError."""
        self.recent.append(f"> {line[:400].decode(errors='replace')}")
        try:
            self._input.write(line + b"\n")
            self._input.flush()
        except OSError as error:
            raise DriverCrashedError(f"the driver takes no more input: {error}") from error

    def wait(self, number: int, timeout: float) -> Message:
        """Return the reply to a request. Raises DriverTimeoutError, DriverCrashedError, ProtocolViolationError."""
        deadline = time.monotonic() + timeout
        while number not in self._replies:
            reply = self.read_reply(deadline - time.monotonic())
            answered = reply.get("id")
            if not isinstance(answered, int) or answered not in self._asked:
                raise ProtocolViolationError(f"a reply to nothing that was asked: {reply}")
            self._asked.discard(answered)
            self._replies[answered] = reply
        return self._replies.pop(number)

    def call(self, op: str, timeout: float, **fields: object) -> Message:
        """Send a request and return its reply."""
        return self.wait(self.send(op, **fields), timeout)

    def read_reply(self, timeout: float) -> Message:
        """Return the next line as an object. Raises as wait() does."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._output], [], [], left)[0]:
                raise DriverTimeoutError("no reply in time")
            chunk = os.read(self._output.fileno(), _CHUNK)
            if not chunk:
                raise DriverCrashedError(f"the driver ended with status {self._process.wait()}")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.recent.append(f"< {line[:400].decode(errors='replace')}")
        try:
            value: object = json.loads(line)
        except ValueError as error:
            raise ProtocolViolationError(f"not JSON: {line[:200]!r}") from error
        if not isinstance(value, dict):
            raise ProtocolViolationError(f"not an object: {line[:200]!r}")
        return {str(name): field for name, field in value.items()}

    def stderr(self) -> str:
        """Return the end of what the driver wrote to stderr."""
        self._log.seek(0)
        return self._log.read()[-4000:].decode(errors="replace")

    def bye(self) -> int:
        """Ask the driver to end, and return its exit status. Raises as wait() does."""
        self.call("bye", _EXIT_SECONDS)
        return self._process.wait(_EXIT_SECONDS)

    def kill(self) -> None:
        """End the driver and its process group, whatever it does."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._process.poll()
        self._process.wait()
        self._input.close()
        self._output.close()
        self._log.close()
