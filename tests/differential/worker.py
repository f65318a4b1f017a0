"""The parent's end of a laboratory: a process that runs snippets on one variant.

Requests and answers are pickles. The answer to some snippets is a digest for each twin of each; the traces come along when they
are asked for, or when a snippet did not end.
"""

import pickle
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import IO, Final, NamedTuple

from tests.differential.snippet import Snippet
from tests.differential.trace import Trace
from tests.differential.variants import Variant

DEADLINE: Final = 180.0
"""Seconds after which a worker that does not answer is given up."""


class Answer(NamedTuple):
    """What a worker says to some snippets. ``hang``: the last one did not end, and the worker is gone."""

    digests: list[tuple[bytes, ...]]
    statistics: "Counter[str]"
    hang: bool
    traces: list[list[Trace]]


class UnusableError(Exception):
    """This variant does not run on this host; the text says why."""


class WorkerError(Exception):
    """A worker ended or does not answer."""


class Worker:
    """The parent's end."""

    def __init__(self, variant: Variant) -> None:
        """Start the process. Raises UnusableError."""
        self.variant = variant
        self.statistics: Counter[str] = Counter()
        self._process: subprocess.Popen[bytes] | None = None
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

    def _receive(self, process: "subprocess.Popen[bytes]") -> object:
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

    def run(self, snippets: Sequence[Snippet], want_traces: bool = False) -> Answer:
        """Run snippets. A hang ends the batch, and the process: the next request gets a new one. Raises WorkerError."""
        process = self._process or self._start()
        assert process.stdin is not None
        pickle.dump((list(snippets), want_traces), process.stdin)
        process.stdin.flush()
        answer = self._receive(process)
        assert isinstance(answer, Answer)
        self.statistics += answer.statistics
        if answer.hang:
            self.close()
        return answer

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
