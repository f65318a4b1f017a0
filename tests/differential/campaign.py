"""Compares variants with the oracle over many snippets, and shrinks what does not agree."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple, Protocol

from tests.differential.encoder import POPF
from tests.differential.fpstate import FpFormat
from tests.differential.generate import cpu_features, from_seed
from tests.differential.snippet import Layout, Loop, Node, Snippet, listing
from tests.differential.trace import Note, Trace, difference
from tests.differential.variants import ORACLE, Variant
from tests.differential.worker import Answer, UnusableError, Worker, WorkerError

BATCH: Final = 50
SHRINKING: Final = 45.0
"""Seconds that shrinking may take."""
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


class Runs(Protocol):
    """Who runs snippets on a variant: a Worker."""

    @property
    def variant(self) -> Variant:
        """Return which one."""

    @property
    def statistics(self) -> "Counter[str]":
        """Return what happened so far."""

    def run(self, snippets: Sequence[Snippet]) -> Answer:
        """See Worker."""

    def recall(self, index: int) -> list[Trace]:
        """See Worker."""

    def trace(self, snippet: Snippet) -> list[Trace]:
        """See Worker."""

    def close(self) -> None:
        """See Worker."""


def start(variants: Sequence[Variant], jobs: int = 2) -> "Comparison":
    """Start the oracle and some variants, each in a process of its own. Raises UnusableError if the oracle does not run."""
    oracle = Worker(ORACLE)
    workers = []
    unusable = []
    for variant in variants:
        try:
            workers.append(Worker(variant))
        except UnusableError as error:
            unusable.append(str(error))
    return Comparison(oracle, workers, unusable, jobs)


class Comparison:
    """The oracle and some variants. Those that this host cannot run are named in ``unusable``."""

    def __init__(self, oracle: Runs, workers: Sequence[Runs], unusable: Sequence[str] = (), jobs: int = 1) -> None:
        """``jobs``: how many of them run at once."""
        self.oracle = oracle
        self.workers = list(workers)
        self.unusable = list(unusable)
        self._jobs = jobs

    def compare(self, snippets: Sequence[Snippet]) -> list[Mismatch]:
        """Run snippets everywhere. Returns the first mismatch of each variant."""
        everybody = [self.oracle, *self.workers]
        if self._jobs == 1:
            wanted, *answers = [_digests(worker, snippets) for worker in everybody]
        else:
            with ThreadPoolExecutor(self._jobs) as pool:
                wanted, *answers = pool.map(lambda worker: _digests(worker, snippets), everybody)
        found = []
        for worker, digests in zip(self.workers, answers, strict=True):
            for index, snippet in enumerate(snippets):
                if _at(digests, index) != _at(wanted, index) or not _at(wanted, index):
                    mismatch = self._differs(worker, snippet, index, len(digests)) or self._differs(worker, snippet)
                    once = Mismatch(worker.variant, snippet, 0, [], [Note("differed", b"once, and not again")])
                    found.append(mismatch or once)
                    break
        return found

    def _differs(self, worker: Runs, snippet: Snippet, index: int = 0, known: int = 0) -> Mismatch | None:
        """Compare the traces of a snippet: those of the last run, if its digests are ``known``, or else of new runs."""
        recalled = index < known
        wanted = _guarded(lambda: self.oracle.recall(index) if recalled else self.oracle.trace(snippet))
        for _ in range(1 if recalled else ATTEMPTS):
            found = _guarded(lambda: worker.recall(index) if recalled else worker.trace(snippet))
            for twin, (a, b) in enumerate(zip(wanted, found, strict=False)):
                if a != b:
                    return Mismatch(worker.variant, snippet, twin, a, b)
        return None

    def shrink(self, mismatch: Mismatch) -> Mismatch:
        """Return the smallest snippet found on which the same variant still does not agree."""
        worker = next(worker for worker in self.workers if worker.variant == mismatch.variant)
        give_up = time.monotonic() + SHRINKING
        progress = True
        while progress and time.monotonic() < give_up:
            progress = False
            for smaller in reductions(mismatch.snippet):
                found = self._differs(worker, smaller) if Layout(smaller).fits() else None
                if found is not None:
                    mismatch, progress = found, True
                if progress or time.monotonic() > give_up:
                    break
        return mismatch

    def close(self) -> None:
        """End all processes."""
        for worker in (self.oracle, *self.workers):
            worker.close()


def _digests(worker: Runs, snippets: Sequence[Snippet]) -> list[tuple[bytes, ...]]:
    """Run snippets. Those that did not come back have no digests."""
    try:
        return worker.run(snippets).digests
    except WorkerError:
        return []


def _at(digests: Sequence[tuple[bytes, ...]], index: int) -> tuple[bytes, ...]:
    return digests[index] if index < len(digests) else ()


def _guarded(function: Callable[[], list[Trace]]) -> list[Trace]:
    """Return traces; a worker that ended is one, too."""
    try:
        return function()
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
        for by in _smaller_nodes(node):
            yield replaced(index, *by)
    if snippet.start:
        yield snippet._replace(start=0)
    if snippet.pull:
        yield snippet._replace(pull=False)


def _smaller_nodes(node: Node) -> Iterator[tuple[Node, ...]]:
    """Return what may stand for a loop or a unit. Units that load flags stay whole: they would load junk."""
    if isinstance(node, Loop):
        yield node.body
        if node.turns > 2:
            yield (node._replace(turns=2),)
        for inner in range(len(node.body)):
            if len(node.body) > 1:
                yield (node._replace(body=(*node.body[:inner], *node.body[inner + 1 :])),)
    elif POPF not in node.instrs and len(node.instrs) > 1:
        for inner in range(len(node.instrs)):
            yield (node._replace(instrs=(*node.instrs[:inner], *node.instrs[inner + 1 :])),)


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
