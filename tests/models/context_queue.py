"""Model: contexts go to a stub, its threads take them, spin, park and are woken (10-stub §4.1-4.3, §4.8, I1-I4; S-060, S-065, P-085).

Left out: registers and interrupts (interrupts.py), how the sentry hears of what came back (ready_ring.py, give_back.py), who
of several spinning threads leaves (spinning_queue.py; here chance says so), time.

Indices wrap early, so that index 0 comes up in the middle of a run, as it does after 2^32 entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.models.catalogue import Bound, Mutant
from tests.models.checker import Kind
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
    futex_wake,
    load,
    store,
    swap,
    wait_until,
)
from tests.models.system import SC, TSO, Memory, Process, System, View

NONE, SYSCALL = "NONE", "SYSCALL"
INVALID: Final = "INVALID"
CLEARED: Final = (0, INVALID)
"""A slot without an entry, as the sentry and dequeue leave it: the index in its upper half is 0."""

SENTRY, QUEUE = "sentry", "queue"
STILL_ACTIVE: Final = -1
RETRY: Final = "retry"


@dataclass(frozen=True)
class Config:
    """Bounds, and which mutant. ``rounds``: how often each context is submitted. The last ``hogs`` contexts never come
    back; the others must all the same. ``born``: so many threads are there from the beginning; submit asks for the others;
    ``parked``: they have parked already. ``ring_only``: nobody parks or is kicked, threads look again and again.
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


# ---- the stub: context_queue.c, give_back.c, switch.c ----


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
    """The compare-and-swap of dequeue, which makes the context this thread's; the result tells who had it, None: it failed."""
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
    """start += 1"""
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
    """A sysmsg thread: from its creation to its first context."""
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


# ---- the sentry: submit.c, dispatcher.py ----


def enqueue(cfg: Config, context: int) -> Program:
    """Enqueue (submit.c); 10-stub §4.8."""
    yield add("num_active_contexts", 1)
    end = yield take_index(cfg)
    if end is None:
        raise Violation("the queue says it is full")
    entry = (end if cfg.mutant != "entry_without_index" else 0, context)
    yield swap(("ring", end % cfg.slots), entry)


def take_index(cfg: Config) -> Op:
    """The counting of `end`, and the look at `start`: None when there is no room."""

    def run(end: Value, start: Value) -> tuple[Value, tuple[Value, ...]]:
        after = (end + 1) % cfg.modulus
        return (end if after % cfg.slots != start % cfg.slots else None), (after, start)

    return atomically("add", ("end", "start"), run)


def kick(cfg: Config) -> Program:
    """Kick (submit.c); 20-platform §6.3. Ours makes a thread for each context if it may, also when no token is needed."""
    expected, contexts = yield from leave_token(cfg)
    if cfg.mutant == "thread_created_with_a_token_only" and expected > contexts:
        return
    yield from create_thread(cfg, expected if cfg.mutant == "thread_created_by_the_guess" else contexts)


def leave_token(cfg: Config) -> Program:
    """The first half of kick: a token, and a wake-up, if there are more contexts than threads and tokens."""
    token = cfg.mutant in ("token_counted_in_its_own_decision", "token_taken_back")
    if token:
        yield add("num_threads_to_wakeup", 1)
    expected = yield from threads_expected(cfg)
    if cfg.mutant == "token_taken_back":
        expected -= 1
    contexts = yield load("num_active_contexts")
    if expected > contexts:
        if cfg.mutant == "token_taken_back":
            yield from take_token(cfg)
        return expected, contexts
    if not token:
        yield add("num_threads_to_wakeup", 1)
    yield futex_wake("num_threads_to_wakeup")
    return expected, contexts


def threads_expected(cfg: Config) -> Program:
    """How many threads would be there with one more: first those that are active, then the tokens."""
    if cfg.mutant == "tokens_read_first":
        tokens = yield load("num_threads_to_wakeup")
        active = yield load("num_active_threads")
    else:
        active = yield load("num_active_threads")
        tokens = yield load("num_threads_to_wakeup")
    return active + tokens + 1


def create_thread(cfg: Config, wanted: int) -> Program:
    """The answer 1 of submit, and Dispatcher._react: one more thread, which the host may refuse unless it is the first."""
    threads = yield load("threads")
    if threads >= cfg.threads or threads >= wanted:
        return
    if threads > 0 and cfg.creation_fails and (yield choose("create_thread", "created", "refused")) == "refused":
        return
    yield swap(("born", threads), True, ghost={"threads": threads + 1})


def submit(cfg: Config, context: int) -> Program:
    """Submit (submit.c). Answers whether a thread was certainly told."""
    yield store(("state", context), NONE, ghost={("owner", context): QUEUE})
    if cfg.mutant == "kick_before_enqueue":
        yield from kick(cfg)
    spin_off = not cfg.spin
    if cfg.spin_toggles:
        spin_off = yield choose("stub_fast_path", True, False)
        yield store("fast_path_disabled", int(spin_off))
    yield from enqueue(cfg, context)
    if cfg.mutant == "kick_before_enqueue" or cfg.ring_only:
        return True
    if spin_off or (yield load("num_active_threads")) == 0:
        yield from kick(cfg)
        return True
    return cfg.mutant == "no_late_kick"


def sentry(cfg: Config, me: int, left: tuple[int, ...], out: tuple[int, ...], unkicked: tuple[int, ...]) -> Program:
    """One turn of the sentry: submit a context, or collect one. ``left``: rounds; ``out``: contexts that are out there."""
    mine = range(me, cfg.contexts, cfg.submitters)
    idle = tuple(c for c in mine if c not in out and left[c] > 0)
    awaited = tuple(c for c in out if not cfg.is_hog(c))
    if not idle and not awaited:
        return None
    context = yield choose("next", *idle, *(("collect",) if awaited else ()))
    if context != "collect":
        yield from lock(cfg)
        told = yield from submit(cfg, context)
        yield from unlock(cfg)
        left = tuple(rounds - (c == context) for c, rounds in enumerate(left))
        return Jump(sentry, (cfg, me, left, tuple(sorted((*out, context))), unkicked if told else (*unkicked, context)))
    if unkicked and (yield choose("time", "handshake is over", "early")) == "handshake is over":
        yield from late_kick(cfg, unkicked[0])
        return Jump(sentry, (cfg, me, left, out, unkicked[1:]))
    context = yield collect(awaited, bool(unkicked))
    if context is None:
        return Jump(sentry, (cfg, me, left, out, unkicked))
    rest = tuple(c for c in out if c != context)
    return Jump(sentry, (cfg, me, left, rest, tuple(c for c in unkicked if c != context)))


def late_kick(cfg: Config, context: int) -> Program:
    """20-platform §6.4: a context that nobody has acknowledged in time needs a thread that is told, unless it has one."""
    if (yield load(("owner", context))) == QUEUE:
        yield from lock(cfg)
        yield from kick(cfg)
        yield from unlock(cfg)


def collect(out: tuple[int, ...], impatient: bool) -> Op:
    """Dispatcher._take: wait for a context to come back (None: not now, if the caller has something else to do)."""

    def run(*states: Value) -> tuple[Value, tuple[Value, ...]] | None:
        for context, state in zip(out, states, strict=True):
            if state != NONE:
                return context, states
        return (None, states) if impatient else None

    return atomically("collect", [("state", c) for c in out], run)


def lock(cfg: Config) -> Program:
    """Dispatcher._lock: around each submit."""
    if cfg.submitters > 1 and cfg.mutant != "token_taken_back":
        yield atomically("lock", ["lock"], lambda held: None if held else (None, (True,)))


def unlock(cfg: Config) -> Program:
    """See lock."""
    if cfg.submitters > 1 and cfg.mutant != "token_taken_back":
        yield atomically("unlock", ["lock"], lambda _: (None, (False,)))


# ---- the whole ----


def words(cfg: Config) -> Mapping[Word, Value]:
    """Return the queue as it is at first, the contexts, and what only the model knows (owner, born)."""
    found: dict[Word, Value] = {
        "start": cfg.first,
        "end": cfg.first,
        "num_active_contexts": 0,
        "num_active_threads": 0,
        "num_threads_to_wakeup": 0,
        "num_awake_contexts": cfg.contexts,
        "fast_path_disabled": int(not cfg.spin),
        "threads": cfg.born,
        "lock": False,
    }
    found |= {("ring", slot): CLEARED for slot in range(cfg.slots)}
    found |= {("born", number): number < cfg.born for number in range(cfg.threads)}
    for context in range(cfg.contexts):
        found |= {("state", context): SYSCALL, ("owner", context): SENTRY, ("thread_id", context): INVALID}
    return found


def system(cfg: Config, memory: Memory = SC) -> System:
    """Return the model. The work is done when all rounds are, and every thread sleeps, works for a hog, or was never made."""
    sentries = [Process(f"sentry {n}", sentry, (cfg, n, cfg.rounds, (), ())) for n in range(cfg.submitters)]
    threads = [Process(f"thread {n}", thread, (cfg, n)) for n in range(cfg.threads)]
    names = [process.name for process in sentries]

    def at_rest(view: View) -> bool:
        procs = [view.proc(process.name) for process in threads]
        return all(proc.asleep or (proc.node.op is not None and proc.node.op.name == "wait_until") for proc in procs)

    def done(view: View) -> bool:
        return (
            view.ended(*names)
            and (cfg.ring_only or at_rest(view))
            and all(view[("owner", c)] != QUEUE for c in range(cfg.contexts))
        )

    def invariant(view: View) -> str | None:
        for context in range(cfg.contexts):
            if view[("owner", context)] == SENTRY and view[("thread_id", context)] != INVALID:
                return f"the sentry has context {context}, and it names a thread (S-060)"
        if cfg.ring_only or not done(view):
            return None
        expected = {"num_active_contexts": cfg.hogs, "num_active_threads": cfg.hogs, "start": view["end"]}
        wrong = [name for name, value in expected.items() if view[name] != value]
        return f"at the end {wrong} are wrong" if wrong else None

    return System(words(cfg), [*sentries, *threads], done, invariant, memory)


def bounds() -> dict[str, Bound]:
    """Sizes in which the protocol holds."""
    parked = Config(rounds=(1, 1), hogs=1, born=2, parked=True)
    return {
        "3 hand-overs": Bound(system(Config())),
        "2 hand-overs, TSO": Bound(system(Config(rounds=(1, 1)), TSO)),
        "the host may refuse a thread": Bound(system(Config(rounds=(1, 1), creation_fails=True))),
        "spinning": Bound(system(Config(rounds=(1, 1), spin=True))),
        "spinning, on and off": Bound(system(Config(rounds=(1, 1), spin=True, spin_toggles=True))),
        "two submitters": Bound(system(Config(rounds=(1, 1), submitters=2))),
        "a hog": Bound(system(Config(hogs=1))),
        "a hog, spinning": Bound(system(Config(rounds=(1, 1), hogs=1, spin=True))),
        "a hog, threads parked": Bound(system(parked)),
        "a hog, threads parked, TSO": Bound(system(parked, TSO)),
        "the ring alone": Bound(system(Config(rounds=(2, 2), ring_only=True, born=2))),
        "3 threads, 2 hand-overs": Bound(system(Config(threads=3, rounds=(1, 1)))),
        "3 hand-overs, TSO": Bound(system(Config(), TSO), slow=True),
        "the ring alone, 3 threads": Bound(system(Config(threads=3, rounds=(3, 2), ring_only=True, born=3)), slow=True),
        "3 hand-overs, spinning": Bound(system(Config(spin=True)), slow=True),
        "3 hand-overs, two submitters": Bound(system(Config(submitters=2)), slow=True),
        "4 hand-overs": Bound(system(Config(rounds=(2, 2))), slow=True),
        "3 contexts": Bound(system(Config(rounds=(1, 1, 1), slots=4)), slow=True),
        "3 contexts, one a hog": Bound(system(Config(rounds=(1, 1, 1), slots=4, hogs=1)), slow=True),
        "a hog, fresh threads": Bound(system(Config(rounds=(1, 1), hogs=1, born=2)), slow=True),
    }


STARVED: Final = {"rounds": (1, 1), "hogs": 1, "born": 2, "parked": True}
"""Two threads that sleep, and a context that keeps one of them: the other context needs the other thread."""


def mutants() -> dict[str, Mutant]:
    """What goes wrong without each of the protocol's means."""

    def mutant(name: str, finds: Kind | None, **changes: Value) -> Mutant:
        return Mutant(system(Config(**changes, mutant=name)), finds)

    found = {
        "no_last_look": (Kind.STUCK, {"rounds": (1, 1)}),
        "last_look_before_it_is_counted_out": (Kind.STUCK, {"rounds": (1, 1)}),
        "counted_before_it_has_work": (Kind.STUCK, {"hogs": 1}),
        "counted_before_its_token_is_taken": (Kind.STUCK, STARVED | {"parked": False}),
        "token_taken_without_cas": (Kind.STUCK, STARVED),
        "token_counted_in_its_own_decision": (Kind.STUCK, {"rounds": (1, 1)}),
        "token_taken_back": (Kind.STUCK, STARVED | {"submitters": 2}),
        "tokens_read_first": (Kind.STUCK, STARVED),
        "kick_before_enqueue": (Kind.STUCK, {"rounds": (1, 1)}),
        "no_late_kick": (Kind.STUCK, {"rounds": (1, 1), "hogs": 1, "spin": True}),
        "thread_created_by_the_guess": (Kind.STUCK, {"hogs": 1}),
        "thread_created_with_a_token_only": (Kind.STUCK, {"hogs": 1}),
        "start_before_claim": (Kind.STUCK, {"rounds": (1, 1)}),
        "no_look_at_the_id": (Kind.BROKEN, {"rounds": (1, 1)}),
        "entry_without_index": (Kind.TRAPPED, {"rounds": (2, 2), "ring_only": True, "born": 2}),
    }
    return {name: mutant(name, finds, **changes) for name, (finds, changes) in found.items()}
