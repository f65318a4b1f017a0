"""Runs the stress: one thread with submit() and next_ready(), or many with switch(); others interrupt and kill beside it."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from systrap.platform import Platform
from tests.stress.world import Actor, StressError, World

LIMIT: Final = 5.0
"""Seconds within which every run has to end: none goes on longer than until the next interrupt."""
KILLING: Final = 1.0
_TICK: Final = 0.05
SPACES: Final = 4
CONTEXTS: Final = 64


class Load(NamedTuple):
    """How much: ``contexts`` in each of ``spaces``, for ``seconds``; ``threads``: 0 means submit(), others use switch()."""

    seconds: float
    contexts: int = CONTEXTS
    spaces: int = SPACES
    threads: int = 0
    kill: bool = True


class Usage(NamedTuple):
    """What a process holds."""

    descriptors: int
    children: int
    mappings: int
    memory_kib: int


def usage() -> Usage:
    """Return what this process holds now. Memory: of the memfds it has open, since that is where guests and stubs live."""
    children: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        children.update((task / "children").read_text().split())
    descriptors = os.listdir("/proc/self/fd")
    files: dict[int, int] = {}
    for name in descriptors:
        try:
            status = os.stat(f"/proc/self/fd/{name}")
            if "memfd:" in os.readlink(f"/proc/self/fd/{name}"):
                files[status.st_ino] = status.st_blocks // 2
        except OSError:
            continue  # The listing's own descriptor.
    mappings = Path("/proc/self/maps").read_text(errors="replace").count("\n")
    return Usage(len(descriptors), len(children), mappings, sum(files.values()))


class Stress:
    """One run. ``run()`` raises StressError with the seed and the story of the actor that failed."""

    def __init__(self, platform: Platform, seed: int, load: Load) -> None:
        """Make the world and its actors."""
        self.platform = platform
        self.load = load
        self.seed = seed
        self.world = World(platform, seed, load.spaces)
        self.actors = [Actor(self.world, number) for number in range(load.contexts * load.spaces)]
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._longest = 0.0

    def run(self) -> "Counter[str]":
        """Run for the time given, let everybody come back, and release everything. Returns what happened how often."""
        helpers = [self._start(self._interrupt, "interrupter")]
        if self.load.kill:
            helpers.append(self._start(self._kill, "killer"))
        try:
            if self.load.threads:
                self._run_threads()
            else:
                self._run_submit()
        finally:
            self._stop.set()
            for helper in helpers:
                helper.join()
        if self._failures:
            raise self._failures[0]
        self.world.stopping = True
        for actor in self.actors:
            actor.end()
        for space in self.world.spaces:
            space.release()
        self.world.counts["longest wait in ms"] = int(self._longest * 1000)
        return self.world.counts

    def close(self) -> None:
        """Free the memory of the guests."""
        self.world.file.close()

    def _start(self, function: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(function,), name=name, daemon=True)
        thread.start()
        return thread

    def _guarded(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            self._failures.append(error)

    def _fail(self, actor: Actor, error: Exception) -> StressError:
        story = ", ".join(actor.history)
        return StressError(f"seed {self.seed}, actor {actor.number}: {error}\nlast: {story}")

    # One thread.

    def _run_submit(self) -> None:
        by_context: dict[int, Actor] = {}

        def submit(actor: Actor) -> None:
            by_context[id(actor.context)] = actor
            actor.submitted = time.monotonic()
            actor.running = True
            self.platform.submit(actor.context, actor.space.space)

        for actor in self.actors:
            submit(actor)
        end = time.monotonic() + self.load.seconds
        looked = 0.0
        while by_context and not self._failures:
            now = time.monotonic()
            if now - looked > _TICK:
                looked = now
                self._look_for_hangs(now)
            ready = self.platform.next_ready(now + _TICK)
            if ready is None:
                continue
            actor = by_context.pop(id(ready))
            self._back(actor)
            if now < end:
                submit(actor)

    def _back(self, actor: Actor) -> None:
        """Take in what came back for an actor."""
        actor.running = False
        self._longest = max(self._longest, time.monotonic() - actor.submitted)
        try:
            actor.take(actor.context.event)
        except StressError as error:
            raise self._fail(actor, error) from error

    def _look_for_hangs(self, now: float) -> None:
        late = [actor for actor in self.actors if actor.running and now - actor.submitted > LIMIT]
        if late:
            raise self._fail(late[0], StressError(f"{len(late)} contexts did not come back within {LIMIT} s"))

    # Many threads.

    def _run_threads(self) -> None:
        count = self.load.threads
        threads = [
            self._start(lambda mine=self.actors[number::count]: self._serve(mine), f"server-{number}")  # type: ignore[misc]
            for number in range(count)
        ]
        while any(thread.is_alive() for thread in threads) and not self._failures:
            self._look_for_hangs(time.monotonic())
            time.sleep(_TICK)

    def _serve(self, actors: list[Actor]) -> None:
        """Run some actors by turns, each until its next event."""
        end = time.monotonic() + self.load.seconds
        random = Random(actors[0].number)
        while time.monotonic() < end and not self._failures:
            actor = random.choice(actors)
            actor.submitted = time.monotonic()
            actor.running = True
            event = actor.context.switch(actor.space.space)
            actor.context.event = event
            self._back(actor)

    # Beside them.

    def _interrupt(self) -> None:
        """Interrupt whoever, whatever it is doing; at the end everybody, until the run is over."""
        random = Random(self.seed)
        while not self._stop.is_set():
            random.choice(self.actors).context.interrupt()
            self.world.count("interrupts sent")
            time.sleep(random.choice((0.0001, 0.0003, 0.001)))
            now = time.monotonic()
            for actor in self.actors:
                # Spinning guests are only ever ended by us. Chance alone may keep one waiting.
                if actor.running and now - actor.submitted > LIMIT / 10:
                    actor.context.interrupt()

    def _kill(self) -> None:
        random = Random(self.seed + 1)
        while not self._stop.wait(KILLING):
            self.world.kill_one(random)
            if random.random() < 0.5:
                self.world.retire_one(random)


def settle(before: Usage, slack: Usage, patience: float = 10.0) -> Usage | None:
    """Wait until this process holds no more than before. Returns what it holds if it never does."""
    deadline = time.monotonic() + patience
    while True:
        now = usage()
        if all(n <= b + s for n, b, s in zip(now, before, slack, strict=True)):
            return None
        if time.monotonic() > deadline:
            return now
        time.sleep(0.05)
