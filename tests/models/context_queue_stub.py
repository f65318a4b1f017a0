"""The stub's half of the context queue's model (see context_queue.py): context_queue.c, give_back.c, switch.c."""

from dataclasses import dataclass
from typing import Final

from tests.models.programs import (
    Jump,
    Op,
    Program,
    Value,
    Violation,
    Word,
    add,
    atomically,
    cas,
    choose,
    futex_wait,
    load,
    store,
    swap,
    wait_until,
)

NONE, SYSCALL = "NONE", "SYSCALL"
INVALID: Final = "INVALID"
CLEARED: Final = (0, INVALID)
"""A slot without an entry, as the sentry and dequeue leave it: the index in its upper half is 0."""

SENTRY, QUEUE = "sentry", "queue"
STILL_ACTIVE: Final = -1
RETRY: Final = "retry"


@dataclass(frozen=True)
class Config:
    """Bounds, and which mutant.

    ``rounds``: how often each context is submitted. The last ``hogs`` contexts never come back; the others must all the same.
    ``born``: so many threads are there from the beginning; submit asks for the others; ``parked``: they have parked already.
    ``ring_only``: nobody parks or is kicked, threads look again and again.
    """

    threads: int = 2
    rounds: tuple[int, ...] = (2, 1)
    slots: int = 3
    submitters: int = 1
    born: int = 0
    parked: bool = False
    hogs: int = 0
    spin: bool = False
    spin_toggles: bool = False
    creation_fails: bool = False
    ring_only: bool = False
    mutant: str = ""

    @property
    def contexts(self) -> int:
        """How many there are."""
        return len(self.rounds)

    def is_hog(self, context: int) -> bool:
        """Tell whether a context never comes back."""
        return context >= self.contexts - self.hogs

    @property
    def modulus(self) -> int:
        """Where indices wrap: 2^32, a multiple of the slots."""
        return 4 * self.slots

    @property
    def first(self) -> int:
        """The first index, the last before the wrap."""
        return self.modulus - 1


def take_token(cfg: Config) -> Program:
    """take_token (context_queue.c); 10-stub §4.3."""
    tokens = yield load("num_threads_to_wakeup")
    while tokens != 0:
        if cfg.mutant == "token_taken_without_cas":
            yield store("num_threads_to_wakeup", tokens - 1)
            return True
        if (yield cas("num_threads_to_wakeup", tokens, tokens - 1)):
            return True
        tokens = yield load("num_threads_to_wakeup")
    return False


def join_active_threads(cfg: Config) -> Program:
    """join_active_threads (context_queue.c): a thread's first signal. As in park, the token goes first."""
    if cfg.mutant == "counted_before_its_token_is_taken":
        yield add("num_active_threads", 1)
    yield from take_token(cfg)
    if cfg.mutant != "counted_before_its_token_is_taken":
        yield add("num_active_threads", 1)


def claim(me: int, slot: Word, entry: Value) -> Op:
    """Make the context of an entry this thread's: the compare-and-swap of dequeue. The result is who had it, None: it failed."""
    context = entry[1]

    def run(now: Value, owner: Value) -> tuple[Value, tuple[Value, ...]]:
        return (owner, (CLEARED, me)) if now == entry else (None, (now, owner))

    return atomically("cas", (slot, ("owner", context)), run)


def dequeue(cfg: Config, me: int) -> Program:
    """dequeue, own_context (context_queue.c); 10-stub §4.2. The context, or None."""
    context = RETRY
    while context == RETRY:
        context = yield from try_dequeue(cfg, me)
    return context


def try_dequeue(cfg: Config, me: int) -> Program:
    """One turn of dequeue's loop."""
    start = yield load("start")
    if (yield load("end")) == start:
        return None
    slot = start % cfg.slots
    entry = yield load(("ring", slot))
    if entry[0] != start and cfg.mutant != "entry_without_index":
        return RETRY
    del start
    if entry[1] == INVALID:
        if cfg.mutant == "no_look_at_the_id":
            raise Violation("BAD_CONTEXT_ID")
        return RETRY
    if cfg.mutant == "start_before_claim":
        yield count_start(cfg)
    owner = yield claim(me, ("ring", slot), entry)
    if owner is None:
        return RETRY
    if owner != QUEUE:
        raise Violation(f"context {entry[1]} is run by {owner} already")
    context = entry[1]
    del owner, slot, entry
    if cfg.mutant != "start_before_claim":
        yield count_start(cfg)
    yield store(("thread_id", context), me)
    return context


def count_start(cfg: Config) -> Op:
    """Count `start` up."""
    return atomically("add", ("start",), lambda start: (None, ((start + 1) % cfg.modulus,)))


def spin(cfg: Config, me: int) -> Program:
    """Spin (context_queue.c); 10-stub §4.4. A context, or what `active` is now: chance says when the time is up."""
    while True:
        context = yield from dequeue(cfg, me)
        if context is not None:
            return context, STILL_ACTIVE
        if cfg.spin_toggles and (yield load("fast_path_disabled")) != 0:
            return None, STILL_ACTIVE
        active = yield from leave_as_surplus()
        if active != STILL_ACTIVE:
            return None, active
        if (yield choose("spinning_queue_remove_first", "expired", "young")) == "expired":
            return None, STILL_ACTIVE


def leave_as_surplus() -> Program:
    """Part of spin: more threads than contexts awake (S-069)."""
    threads = yield load("num_active_threads")
    awake = yield load("num_awake_contexts")
    if awake < threads and (yield cas("num_active_threads", threads, threads - 1)):
        return threads - 1
    return STILL_ACTIVE


def park(cfg: Config, me: int) -> Program:
    """Park, back_to_work (context_queue.c); S-064."""
    while True:
        if not (yield from take_token(cfg)):
            yield futex_wait([("num_threads_to_wakeup", 0)])
            continue
        if cfg.mutant == "counted_before_it_has_work":
            yield add("num_active_threads", 1)
        context = yield from dequeue(cfg, me)
        if context is not None:
            if cfg.mutant != "counted_before_it_has_work":
                yield add("num_active_threads", 1)
            return context
        if cfg.mutant == "counted_before_it_has_work":
            yield add("num_active_threads", -1)


def get_context(cfg: Config, me: int) -> Program:
    """get_context (context_queue.c); 10-stub §4.3."""
    active = STILL_ACTIVE
    context = yield from dequeue(cfg, me)
    while context is None and cfg.ring_only:
        context = yield from dequeue(cfg, me)
    if context is None and cfg.spin and (yield load("fast_path_disabled")) == 0:
        context, active = yield from spin(cfg, me)
    if context is not None:
        return context
    if cfg.mutant == "last_look_before_it_is_counted_out":
        context = yield from dequeue(cfg, me)
        if context is not None:
            return context
    if active == STILL_ACTIVE:
        active = yield add("num_active_threads", -1)
        active -= 1
    if cfg.mutant not in ("no_last_look", "last_look_before_it_is_counted_out"):
        context = yield from last_look(cfg, me, active)
        if context is not None:
            return context
    return (yield from park(cfg, me))


def last_look(cfg: Config, me: int, active: int) -> Program:
    """B2 and B3 of the argument at the head of context_queue.c."""
    if (yield load("num_active_contexts")) <= active:
        return None
    context = yield from dequeue(cfg, me)
    if context is not None:
        yield add("num_active_threads", 1)
    return context


def give_back(me: int, context: int) -> Program:
    """give_back (give_back.c); 10-stub §4.1. Panics are left out."""
    yield add("num_active_contexts", -1)
    yield store(("thread_id", context), INVALID)
    yield swap(("state", context), SYSCALL, ghost={("owner", context): SENTRY})


def thread(cfg: Config, me: int) -> Program:
    """Be a sysmsg thread: from its creation to its first context."""
    if cfg.parked and me < cfg.born:
        context = yield from park(cfg, me)
        return Jump(work, (cfg, me, context))
    yield wait_until(bool, ("born", me))
    yield from join_active_threads(cfg)
    context = yield from get_context(cfg, me)
    return Jump(work, (cfg, me, context))


def work(cfg: Config, me: int, context: int) -> Program:
    """switch_context (switch.c), without interrupts: a context, which makes a system call or runs for ever, and the next."""
    if cfg.is_hog(context):
        yield wait_until(lambda: False)
    yield from give_back(me, context)
    del context
    following = yield from get_context(cfg, me)
    return Jump(work, (cfg, me, following))
