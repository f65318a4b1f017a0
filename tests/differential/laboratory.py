"""A process that runs snippets on one variant: ``python -m tests.differential.laboratory NAME``.

Requests come as pickles on standard input, answers go as pickles to what was standard output (see worker.py).
"""

import os
import pickle
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final

from systrap.platform import Context, RequirementError
from tests.differential.execution import Run
from tests.differential.fpstate import FpFormat
from tests.differential.memory import SpaceMemory, memory_file
from tests.differential.snippet import Snippet
from tests.differential.trace import Trace, digest
from tests.differential.variants import ALL, ORACLE, Variant
from tests.differential.worker import Answer

LIFE: Final = 25
"""Snippets that run in one address space before it is released."""


class Storm:
    """A thread that interrupts contexts while they run (P-074, P-077)."""

    def __init__(self) -> None:
        """Start the thread."""
        self._lock = threading.Lock()
        self._contexts: list[Context] = []
        self.sent = 0
        threading.Thread(target=self._run, daemon=True).start()

    def aim(self, contexts: Sequence[Context]) -> None:
        """Say whom to interrupt from now on. Those before are left alone when this returns."""
        with self._lock:
            self._contexts = list(contexts)

    def _run(self) -> None:
        random = Random(0)
        while True:
            time.sleep(random.choice((0.00002, 0.0001, 0.0005)))
            with self._lock:
                if self._contexts:
                    random.choice(self._contexts).interrupt()
                    self.sent += 1


class Laboratory:
    """One platform, and spaces that are used for some snippets each."""

    def __init__(self, variant: Variant) -> None:
        """Create the platform. Raises RequirementError."""
        self._variant = variant
        self._platform = variant.create()
        self._fp = FpFormat()
        self._file = memory_file()
        self._storm = Storm() if variant.storm else None
        self._memory: SpaceMemory | None = None
        self._left = 0

    def _space(self) -> SpaceMemory:
        if self._memory is None or self._left == 0:
            if self._memory is not None:
                self._memory.release()
            self._memory = SpaceMemory(self._platform, self._file)
            self._left = LIFE
        self._left -= 1
        return self._memory

    def run(self, snippets: Sequence[Snippet], statistics: "Counter[str]") -> tuple[list[list[Trace]], bool]:
        """Run snippets one after the other. Returns their traces, and whether the last one hangs."""
        traces = []
        for snippet in snippets:
            run = Run(self._platform, self._space(), snippet, self._fp)
            if self._storm is not None:
                self._storm.aim([twin.context for twin in run.twins])
            run.drive(statistics)
            if self._storm is not None:
                self._storm.aim([])
            traces.append(run.result(statistics, self._variant.patching))
            if run.hangs:
                return traces, True
        if self._storm is not None:
            statistics["interrupts"] += self._storm.sent
            self._storm.sent = 0
        return traces, False


def main() -> None:
    """Serve requests until standard input ends."""
    variant = {ORACLE.name: ORACLE, **ALL}[sys.argv[1]]
    # Whatever else is printed must not get into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        laboratory = Laboratory(variant)
    except RequirementError as error:
        pickle.dump(str(error), answers)
        answers.flush()
        return
    pickle.dump(None, answers)
    answers.flush()
    traces: list[list[Trace]] = []
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            os._exit(0)
        if isinstance(request, int):
            pickle.dump(traces[request], answers)
            answers.flush()
            continue
        statistics: Counter[str] = Counter()
        traces, hang = laboratory.run(request, statistics)
        digests = [tuple(digest(trace) for trace in twins) for twins in traces]
        pickle.dump(Answer(digests, statistics, traces[-1] if hang else None), answers)
        answers.flush()
        if hang:
            os._exit(1)


if __name__ == "__main__":
    main()
