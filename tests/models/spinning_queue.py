"""Model: who of several spinning threads leaves (10-stub §4.4, §4.5; S-067, S-068, S-070, S-071).

Each thread spins a few times. A spin ends when the thread finds work, when spinning was switched off, or when the oldest entry
has expired: chance says which. Time is a counter that each look at it advances; whether an entry is old enough is chance, too.

Checked: nobody waits for ever for an entry that does not come; who leaves always takes an entry with him, so that at the
end none is left (len = end - start = 0); an entry's slot is not given to another before it is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.models.catalogue import Bound, Mutant
from tests.models.checker import Kind
from tests.models.programs import Jump, Op, Program, Value, Word, add, atomically, cas, choose, load, store
from tests.models.system import SC, TSO, Memory, Process, System, View

MAX_ENQUEUES: Final = 2
UNCONDITIONAL, DEEP_SLEEP = 0, 1


@dataclass(frozen=True)
class Config:
    """Bounds, and which mutant."""

    threads: int = 2
    rounds: int = 1
    slots: int = 2
    mutant: str = ""


def counter() -> Op:
    """Read the time: a new one at each look, never 0."""
    return atomically("counter", ["time"], lambda time: (time, (time + 1,)))


def push(cfg: Config, times_re_enqueued: int) -> Program:
    """spinning_queue_push (spinning_queue.c)."""
    if times_re_enqueued >= MAX_ENQUEUES:
        return False
    if cfg.mutant == "len_from_indices":
        start = yield load("start")
        if (yield load("end")) - start >= cfg.slots:
            return False
        del start
    elif (yield add("len", 1)) >= cfg.slots:
        yield add("len", -1)
        return False
    index = (yield add("end", 1)) % cfg.slots
    yield store(("num_times_re_enqueued", index), times_re_enqueued)
    now = yield counter()
    yield store(("start_times", index), now)
    return True


def pop(cfg: Config) -> Program:
    """spinning_queue_pop (spinning_queue.c)."""
    yield add("end", -1)
    if cfg.mutant != "len_from_indices":
        yield add("len", -1)


def remove_first(cfg: Config, timeout: int) -> Program:
    """spinning_queue_remove_first (spinning_queue.c)."""
    times = None
    while times is None:
        times = yield from try_remove_first(cfg, timeout)
    if times == "young":
        return False
    if cfg.mutant != "len_from_indices":
        yield add("len", -1)
    if timeout == UNCONDITIONAL:
        return True
    return not (yield from push(cfg, times + 1))


def try_remove_first(cfg: Config, timeout: int) -> Program:
    """One turn of its loop: None (again), "young", or how often the removed entry had been put back."""
    start = yield load("start")
    since = yield load(("start_times", start % cfg.slots))
    if since == 0:
        return None
    if timeout != UNCONDITIONAL and (yield choose("ticks_since", "expired", "young")) == "young":
        return "young"
    if cfg.mutant == "start_before_clear":
        return (yield from start_before_clear(cfg, start))
    if (yield load("start")) != start:
        return None
    times = yield load(("num_times_re_enqueued", start % cfg.slots))
    if not (yield cas(("start_times", start % cfg.slots), since, 0)):
        return None
    del start, since
    yield add("start", 1)
    return times


def start_before_clear(cfg: Config, start: int) -> Program:
    """Claim the entry by moving `start` on, and clear its slot afterwards: the mutant."""
    if not (yield cas("start", start, start + 1)):
        return None
    times = yield load(("num_times_re_enqueued", start % cfg.slots))
    yield store(("start_times", start % cfg.slots), 0)
    return times


def thread(cfg: Config, left: int) -> Program:
    """Spin (context_queue.c), as often as asked."""
    if left == 0:
        return None
    if (yield from push(cfg, 0)):
        yield from spin(cfg)
    return Jump(thread, (cfg, left - 1))


def spin(cfg: Config) -> Program:
    """Its loop; leave_spinning."""
    while True:
        what = yield choose("spin", "work", "switched off", "nothing")
        if what == "work":
            yield from pop(cfg)
            return
        if what == "switched off":
            yield from remove_first(cfg, UNCONDITIONAL)
            return
        del what
        if (yield from remove_first(cfg, DEEP_SLEEP)):
            return


def words(cfg: Config) -> Mapping[Word, Value]:
    """Return the queue as it is at first."""
    found: dict[Word, Value] = {"len": 0, "start": 0, "end": 0, "time": 1}
    for slot in range(cfg.slots):
        found |= {("start_times", slot): 0, ("num_times_re_enqueued", slot): 0}
    return found


def system(cfg: Config, memory: Memory = SC) -> System:
    """Return the model."""
    threads = [Process(f"thread {n}", thread, (cfg, cfg.rounds)) for n in range(cfg.threads)]

    def done(view: View) -> bool:
        return view.ended(*(process.name for process in threads))

    def invariant(view: View) -> str | None:
        if view["len"] > cfg.slots + cfg.threads:
            return "more entries than there can be"
        if done(view) and (view["len"], view["end"] - view["start"]) != (0, 0):
            return f"nobody spins, and len = {view['len']}, end - start = {view['end'] - view['start']}"
        return None

    return System(words(cfg), threads, done, invariant, memory)


def bounds() -> dict[str, Bound]:
    """Return sizes in which the protocol holds."""
    return {
        "2 threads": Bound(system(Config())),
        "2 threads, TSO": Bound(system(Config(), TSO)),
        "2 threads, room for one": Bound(system(Config(slots=1))),
        "3 threads, room for one": Bound(system(Config(threads=3, slots=1))),
        "3 threads, room for two": Bound(system(Config(threads=3)), slow=True),
        "2 threads, 2 rounds": Bound(system(Config(rounds=2)), slow=True),
    }


def mutants() -> dict[str, Mutant]:
    """Return what goes wrong without each of the protocol's means."""
    return {
        "start_before_clear": Mutant(system(Config(mutant="start_before_clear")), Kind.TRAPPED),
        "len_from_indices": Mutant(system(Config(slots=1, mutant="len_from_indices")), Kind.TRAPPED),
    }
