"""Compares variants with the oracle over many snippets, and shrinks what does not agree."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from tests.differential.fpstate import FpFormat
from tests.differential.generate import cpu_features, from_seed
from tests.differential.snippet import Layout, Loop, Node, Snippet, Unit, listing
from tests.differential.trace import Note, Trace, difference
from tests.differential.variants import ORACLE, Variant
from tests.differential.worker import UnusableError, Worker, WorkerError

BATCH: Final = 50
SHRINKING: Final = 400
"""Runs that shrinking may take."""
ATTEMPTS: Final = 3
"""Times a smaller snippet is run before it counts as agreeing: what depends on timing does not always show."""


class Mismatch(NamedTuple):
    """A variant that does not agree with the oracle on a snippet. ``twin``: the first one whose traces differ."""

    variant: Variant
    snippet: Snippet
    twin: int
    wanted: Trace
    found: Trace

    def difference(self) -> str:
        """Say where the traces begin to differ."""
        return f"twin {self.twin}, " + difference(self.wanted, self.found, FpFormat())


class Comparison:
    """The oracle and some variants, each in a process of its own. Variants this host cannot run are in ``unusable``."""

    def __init__(self, variants: Sequence[Variant], jobs: int = 2) -> None:
        """Start the processes. Raises UnusableError when the oracle does not run."""
        self.oracle = Worker(ORACLE)
        self.workers: list[Worker] = []
        self.unusable: list[str] = []
        self._jobs = jobs
        for variant in variants:
            try:
                self.workers.append(Worker(variant))
            except UnusableError as error:
                self.unusable.append(str(error))

    def compare(self, snippets: Sequence[Snippet]) -> list[Mismatch]:
        """Run snippets everywhere. Returns the first mismatch of each variant."""
        with ThreadPoolExecutor(self._jobs) as pool:
            wanted_answer, *answers = pool.map(
                lambda worker: _run(worker, snippets), [self.oracle, *self.workers]
            )
        wanted = wanted_answer[0]
        found = []
        for worker, (digests, traces) in zip(self.workers, answers, strict=True):
            for index, snippet in enumerate(snippets):
                mine = digests[index] if index < len(digests) else ()
                if mine != (wanted[index] if index < len(wanted) else None):
                    last = traces[index] if index < len(traces) else None
                    found.append(self._explain(worker, snippet, last))
                    break
        return found

    def _explain(self, worker: Worker, snippet: Snippet, traces: list[Trace] | None) -> Mismatch:
        """Run a snippet again for its traces. What does not show again is reported all the same."""
        wanted = _traces(self.oracle, snippet)
        for _ in range(ATTEMPTS):
            found = traces or _traces(worker, snippet)
            traces = None
            for twin, (a, b) in enumerate(zip(wanted, found, strict=False)):
                if a != b:
                    return Mismatch(worker.variant, snippet, twin, a, b)
        return Mismatch(worker.variant, snippet, 0, [], [Note("differed", b"once, and not again")])

    def shrink(self, mismatch: Mismatch) -> Mismatch:
        """Return the smallest snippet found on which the same variant still does not agree."""
        worker = next(worker for worker in self.workers if worker.variant == mismatch.variant)
        runs = 0
        progress = True
        while progress and runs < SHRINKING:
            progress = False
            for smaller in reductions(mismatch.snippet):
                runs += 1
                found = self._differs(worker, smaller)
                if found is not None:
                    mismatch, progress = found, True
                    break
                if runs >= SHRINKING:
                    break
        return mismatch

    def _differs(self, worker: Worker, snippet: Snippet) -> Mismatch | None:
        if not Layout(snippet).fits():
            return None
        wanted = _traces(self.oracle, snippet)
        for _ in range(ATTEMPTS):
            for twin, (a, b) in enumerate(zip(wanted, _traces(worker, snippet), strict=False)):
                if a != b:
                    return Mismatch(worker.variant, snippet, twin, a, b)
        return None

    def close(self) -> None:
        """End all processes."""
        for worker in (self.oracle, *self.workers):
            worker.close()


def _run(worker: Worker, snippets: Sequence[Snippet]) -> tuple[list[tuple[bytes, ...]], list[list[Trace]]]:
    try:
        answer = worker.run(snippets)
    except WorkerError as error:
        return [], [[[Note("worker", str(error).encode())]]]
    return answer.digests, answer.traces


def _traces(worker: Worker, snippet: Snippet) -> list[Trace]:
    try:
        return worker.run([snippet], want_traces=True).traces[0]
    except WorkerError as error:
        return [[Note("worker", str(error).encode())]]


def reductions(snippet: Snippet) -> Iterator[Snippet]:
    """Return snippets that are a little smaller: fewer units, twins, turns; then fewer instructions."""
    nodes = snippet.nodes

    def replaced(index: int, *by: Node) -> Snippet:
        return snippet._replace(nodes=(*nodes[:index], *by, *nodes[index + 1 :]))

    if len(nodes) > 3:
        half = len(nodes) // 2
        yield snippet._replace(nodes=nodes[:half])
        yield snippet._replace(nodes=nodes[half:])
    if snippet.twins > 1:
        yield snippet._replace(twins=snippet.twins - 1)
    for index in range(len(nodes)):
        yield replaced(index)
    for index, node in enumerate(nodes):
        if isinstance(node, Loop):
            yield replaced(index, *node.body)
            if node.count > 2:
                yield replaced(index, node._replace(count=2))
            for inner in range(len(node.body)):
                if len(node.body) > 1:
                    yield replaced(index, node._replace(body=(*node.body[:inner], *node.body[inner + 1 :])))
        elif not node.name.startswith("away"):
            for inner in range(len(node.instrs)):
                if len(node.instrs) > 1:
                    yield replaced(index, node._replace(instrs=(*node.instrs[:inner], *node.instrs[inner + 1 :])))
    if snippet.start:
        yield snippet._replace(start=0)
    if snippet.pull:
        yield snippet._replace(pull=False)


def report(mismatch: Mismatch, original: Snippet, origin: str, rerun: str) -> str:
    """Return everything a reader needs of a mismatch."""
    snippet = mismatch.snippet
    return "\n".join((
        f"MISMATCH of {mismatch.variant.name} with {ORACLE.name}: {origin}",
        f"original code: {Layout(original).code.hex()}",
        f"shrunk to:     {Layout(snippet).code.hex()}",
        listing(snippet),
        mismatch.difference(),
        f"again: {rerun}",
    ))  # fmt: skip


def campaign(
    comparison: Comparison, seed: int, first: int, count: int, progress: Callable[[int], None] | None = None
) -> list[str]:
    """Compare ``count`` snippets of a seed. Returns a report for the first mismatch of each variant, and then stops."""
    features = cpu_features()
    for start in range(first, first + count, BATCH):
        indices = range(start, min(start + BATCH, first + count))
        snippets = [from_seed(seed, index, features) for index in indices]
        mismatches = comparison.compare(snippets)
        if mismatches:
            return [_report(comparison, mismatch, snippets, seed, start) for mismatch in mismatches]
        if progress is not None:
            progress(indices[-1] + 1 - first)
    return []


def _report(comparison: Comparison, mismatch: Mismatch, snippets: Sequence[Snippet], seed: int, start: int) -> str:
    index = start + next(i for i, snippet in enumerate(snippets) if snippet is mismatch.snippet)
    rerun = f"python -m tests.differential --seed {seed} --first {index} --count 1 --variants {mismatch.variant.name}"
    original = mismatch.snippet
    return report(comparison.shrink(mismatch), original, f"seed {seed}, index {index}", rerun)


def is_unit(node: Node) -> bool:
    """Tell units from loops."""
    return isinstance(node, Unit)
