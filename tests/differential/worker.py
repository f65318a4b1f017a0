"""The parent's end of a laboratory: a process that runs snippets on one variant.

Requests and answers are pickles. The answer to some snippets is a digest for each twin of each; the traces stay there until the
next run, for the case that a digest is wrong.
"""

import pickle
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import IO, Any, Final, NamedTuple

from tests.differential.snippet import Snippet
from tests.differential.trace import Note, Trace
from tests.differential.variants import Variant

DEADLINE: Final = 180.0
"""Seconds after which a worker that does not answer is given up."""


class Answer(NamedTuple):
    """What a worker says to some snippets. ``hang``: the traces of the last one, which did not end; the worker is gone."""

    digests: list[tuple[bytes, ...]]
    statistics: "Counter[str]"
    hang: list[Trace] | None


class UnusableError(Exception):
    """A variant does not run on this host; the text says why."""


class WorkerError(Exception):
    """A worker ended or does not answer."""


class Worker:
    """The parent's end."""

    def __init__(self, variant: Variant) -> None:
        """Start the process. Raises UnusableError."""
        self.variant = variant
        self.statistics: Counter[str] = Counter()
        self._process: subprocess.Popen[bytes] | None = None
        self._hung: tuple[int, list[Trace]] | None = None
        self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.differential.laboratory", self.variant.name]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = process
        refusal = self._receive(process)
        if refusal is not None:
            self.close()
            raise UnusableError(f"{self.variant.name}: {refusal}")
        return process

    def _receive(self, process: "subprocess.Popen[bytes]") -> Any:  # noqa: ANN401 - whatever the pickle holds
        answers: IO[bytes] | None = process.stdout
        assert answers is not None
        if not select.select([answers], [], [], DEADLINE)[0]:
            self.close()
            raise WorkerError(f"{self.variant.name} does not answer")
        try:
            return pickle.load(answers)
        except EOFError:
            self.close()
            raise WorkerError(f"{self.variant.name} ended with status {process.returncode}") from None

    def run(self, snippets: Sequence[Snippet]) -> Answer:
        """Run snippets. A hang ends the batch, and the process: the next request gets a new one. Raises WorkerError."""
        answer = self._ask(list(snippets))
        assert isinstance(answer, Answer)
        self.statistics += answer.statistics
        self._hung = None
        if answer.hang is not None:
            self._hung = (len(answer.digests) - 1, answer.hang)
            self.close()
        return answer

    def recall(self, index: int) -> list[Trace]:
        """Return the traces of a snippet of the last run(), twin by twin. Raises WorkerError."""
        if self._hung is not None:
            hung, traces = self._hung
            return traces if hung == index else [[Note("recall", b"gone with the process that hung")]]
        recalled: list[Trace] = self._ask(index)
        return recalled

    def trace(self, snippet: Snippet) -> list[Trace]:
        """Run one snippet, and return its traces. Raises WorkerError."""
        self.run([snippet])
        return self.recall(0)

    def _ask(self, request: object) -> Any:  # noqa: ANN401 - whatever the pickle holds
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise WorkerError(f"{self.variant.name} ended with status {process.returncode}") from None
        return self._receive(process)

    def close(self) -> None:
        """End the process, and with it its stubs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
