"""Several drivers at once: a plan of cases in, a verdict for each out, in the order in which they end."""

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from conformance.client import Message
from conformance.runner import PATIENCE, Runner
from conformance.verdict import Item, Status, Verdict


class How(NamedTuple):
    """How a plan is run."""

    command: Sequence[str]
    jobs: int = 1
    patience: float = PATIENCE
    seed: int = 0
    second_look: bool = False
    slow: float = 1.0


def default_jobs() -> int:
    """Return as many drivers as there are CPUs for us, at most eight: each runs guests of its own."""
    return min(len(os.sched_getaffinity(0)), 8)


class Pool:
    """Runs a plan. ``hello`` is what a driver said of itself, once one did."""

    def __init__(self, how: How) -> None:
        self._how = how
        self._stop = threading.Event()
        self.hello: Message = {}

    def run(self, plan: Sequence[Item]) -> Iterator[Verdict]:
        """Yield exactly one verdict for each case of the plan: UNKNOWN for those that stop() came before, or that we lost."""
        todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
        done: queue.SimpleQueue[Verdict | None] = queue.SimpleQueue()
        for item in plan:
            todo.put(item)
        count = max(1, min(self._how.jobs, len(plan)))
        threads = [threading.Thread(target=self._work, args=(todo, done), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        left = {item.id: item for item in plan}
        while count:
            verdict = done.get()
            if verdict is None:
                count -= 1
                continue
            del left[verdict.case.id]
            yield verdict
        for thread in threads:
            thread.join()
        for item in left.values():
            yield Verdict(item, Status.UNKNOWN, "not run")

    def stop(self) -> None:
        """Begin no more cases. Any thread."""
        self._stop.set()

    def _work(self, todo: "queue.SimpleQueue[Item]", done: "queue.SimpleQueue[Verdict | None]") -> None:
        """Run cases with a driver of this thread's own, until none is left."""
        how = self._how
        runner = Runner(how.command, how.patience, how.seed, how.second_look, how.slow)
        try:
            while not self._stop.is_set():
                item = todo.get_nowait()
                done.put(runner.verdict(item))
                self.hello = self.hello or runner.hello
        except queue.Empty:
            return
        finally:
            # Whatever happens in here, a mistake of the suite's included: the end is told, and the rest is not run.
            runner.close()
            done.put(None)
