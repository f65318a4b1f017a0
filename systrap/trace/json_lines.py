"""``--json``: what is told, as one JSON object a line.

``{"type": "call", "pid": 2, "name": "openat", "number": 257, "raw": [...], "args": ["AT_FDCWD", ...], "result": 3,
"returned": "3", "error": null, "began_ns": ..., "seconds": ..., "waited_seconds": ...}``; also of type signal, attached, exited.
"""

import time
from typing import TextIO

from systrap.trace import signals
from systrap.trace.constants_more import ERRNO_TEXT, ERRORS
from systrap.trace.log import Made


class JsonLines:
    """Writes lines of JSON; a call is told when it ended."""

    def __init__(self, out: TextIO) -> None:
        import json

        self._out = out
        self._dumps = json.dumps
        # began_ns is in time of day, as other logs are.
        self._epoch = time.time_ns() - time.monotonic_ns()

    def _write(self, record: dict[str, object]) -> None:
        self._out.write(self._dumps(record, ensure_ascii=True) + "\n")

    def waits(self, made: Made) -> None:
        """See log.Sink."""

    def ended(self, made: Made) -> None:
        """See log.Sink."""
        call, result = made.call, made.result
        error = None
        if call.error:
            restart = ERRNO_TEXT.get(call.error)
            error = restart[0] if restart is not None else ERRORS.get(call.error, str(call.error))
        self._write(
            {
                "type": "call",
                "pid": made.tid,
                "name": call.name,
                "number": made.nr,
                "raw": [hex(value) for value in call.args[: len(made.form.arguments)]],
                "args": made.head + made.tail,
                "result": result,
                "returned": None if result is None or call.error else made.form.returns(call),
                "error": error,
                "note": made.note.strip() or None,
                "began_ns": made.began + self._epoch,
                "seconds": (made.ended - made.began) / 1e9,
                "waited_seconds": made.waited / 1e9,
            }
        )

    def signal(self, tid: int, signo: int, info: bytes) -> None:
        """See log.Sink."""
        self._write({"type": "signal", "pid": tid, "name": signals.name(signo), "info": signals.siginfo_text(info)})

    def attached(self, tid: int) -> None:
        """See log.Sink."""
        self._write({"type": "attached", "pid": tid})

    def exited(self, tid: int, status: int) -> None:
        """See log.Sink."""
        low = status & 0x7F
        self._write(
            {
                "type": "exited",
                "pid": tid,
                "status": None if low else status >> 8 & 0xFF,
                "signal": signals.name(low) if low else None,
                "core": bool(status & 0x80),
            }
        )

    def flush(self) -> None:
        """See log.Sink."""
        self._out.flush()
