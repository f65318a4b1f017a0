"""Model: contexts go to a stub, its threads take them, spin, park and are woken.

Stands for 10-stub §4.1-4.4, §4.8 and I1 to I4 of §4.9, 20-platform §6.2 to §6.4; shows S-060, S-064, S-065, P-085.

Left out: registers and interrupts (interrupts.py), how the sentry hears of what came back (ready_ring.py, give_back.py), who
of several spinning threads leaves (spinning_queue.py; here chance says so), time.

Indices wrap early, so that index 0 comes up in the middle of a run, as it does after 2^32 entries.
"""

from collections.abc import Mapping
from typing import Final

from tests.models.catalogue import Bound, Mutant
from tests.models.checker import Kind
from tests.models.context_queue_stub import CLEARED, INVALID, NONE, QUEUE, SENTRY, SYSCALL, Config, take_token, thread
from tests.models.programs import (
    Jump,
    Op,
    Program,
    Value,
    Violation,
    Word,
    add,
    atomically,
    choose,
    futex_wake,
    load,
    store,
    swap,
)
from tests.models.system import SC, TSO, Memory, Process, System, View

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
    """Count `end` up, and look at `start`. The result is the index to write, None when there is no room."""

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
    """Leave a token and wake a thread, if there are more contexts than threads and tokens: the first half of kick."""
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
    """Make one more thread (submit's answer 1, Dispatcher._react); the host may refuse unless it is the first."""
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
    """Return sizes in which the protocol holds."""
    parked = Config(rounds=(1, 1), hogs=1, born=2, parked=True)
    return {
        "2 hand-overs": Bound(system(Config(rounds=(1, 1)))),
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
        "3 hand-overs": Bound(system(Config()), slow=True),
        "3 hand-overs, TSO": Bound(system(Config(), TSO), slow=True),
        "the ring alone, 3 threads": Bound(system(Config(3, (1, 1), ring_only=True, born=3)), slow=True),
        "3 hand-overs, spinning": Bound(system(Config(spin=True)), slow=True),
        "3 hand-overs, two submitters": Bound(system(Config(submitters=2)), slow=True),
        "3 threads, parked": Bound(system(Config(3, (1, 1), born=3, parked=True)), slow=True),
        "3 contexts": Bound(system(Config(rounds=(1, 1, 1), slots=4)), slow=True),
        "3 contexts, one a hog": Bound(system(Config(rounds=(1, 1, 1), slots=4, hogs=1)), slow=True),
        "a hog, fresh threads": Bound(system(Config(rounds=(1, 1), hogs=1, born=2)), slow=True),
    }


STARVED: Final[dict[str, Value]] = {"rounds": (1, 1), "hogs": 1, "born": 2, "parked": True}
"""Two threads that sleep, and a context that keeps one of them: the other context needs the other thread."""


def mutants() -> dict[str, Mutant]:
    """Return what goes wrong without each of the protocol's means."""

    def mutant(name: str, finds: Kind | None, **changes: Value) -> Mutant:
        slow = name in ("token_taken_back", "counted_before_its_token_is_taken")
        return Mutant(system(Config(**changes, mutant=name)), finds, slow)

    found: dict[str, tuple[Kind | None, dict[str, Value]]] = {
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
