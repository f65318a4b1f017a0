"""Model: contexts come back over ready rings, and the sentry sleeps on their bells (docs/images.md; S-063, P-085).

Left out: deadlines and signals (they only end a sleep early), the polling without futex_waitv, the bound on fruitless
wake-ups, spinning (looks that find nothing change nothing), a ring that overflows (it has more slots than there are contexts).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.models.catalogue import Bound, Mutant
from tests.models.checker import Kind
from tests.models.programs import (
    Jump,
    Program,
    Value,
    Violation,
    Word,
    add,
    fence,
    futex_wait,
    futex_wake,
    load,
    store,
    swap,
    wait_until,
)
from tests.models.system import SC, TSO, Memory, Process, System, View

FOUND_WAKE: Final = "wake"
NOTHING: Final = "nothing"


@dataclass(frozen=True)
class Config:
    """Bounds, and which mutant. ``spaces``: for each stub thread, the address space it belongs to (from 0 on)."""

    spaces: tuple[int, ...] = (0, 0)
    rounds: int = 2
    slots: int = 3
    wakes: int = 1
    mutant: str = ""

    @property
    def rings(self) -> range:
        """The address spaces."""
        return range(max(self.spaces) + 1)

    @property
    def modulus(self) -> int:
        """Where indices wrap."""
        return 4 * self.slots


# ---- the stub: give_back.c ----


def stub_thread(cfg: Config, me: int, left: int) -> Program:
    """Be a thread that gives its context (which has its number) back whenever it is submitted."""
    if left == 0:
        return None
    yield wait_until(bool, ("submitted", me))
    yield swap(("submitted", me), False)
    yield from push_ready(cfg, cfg.spaces[me], me)
    return Jump(stub_thread, (cfg, me, left - 1))


def push_ready(cfg: Config, ring: int, context: int) -> Program:
    """push_ready (give_back.c)."""
    if cfg.mutant == "bell_before_slot":
        yield from ring_bell(cfg, ring)
    index = yield add(("tail", ring), 1)
    number = index if cfg.mutant == "entry_with_index" else index + 1
    yield store(("slot", ring, index % cfg.slots), (number % cfg.modulus, context))
    del index, number
    if cfg.mutant == "bell_before_slot":
        return
    if cfg.mutant != "no_fence_in_push_ready":
        yield fence()
    yield from ring_bell(cfg, ring)


def ring_bell(cfg: Config, ring: int) -> Program:
    """Ring the bell if the sentry sleeps: the second half of push_ready."""
    if (yield load(("waiting", ring))) == 0:
        return
    if cfg.mutant != "wakes_without_ringing":
        yield add(("bell", ring), 1)
    yield futex_wake(("bell", ring))


def waker(cfg: Config, left: int) -> Program:
    """Dispatcher._ring: another thread of the sentry wants next_ready to return."""
    if left == 0:
        return None
    yield add("wake", 1, ghost={"wakes_sent": cfg.wakes - left + 1})
    yield futex_wake("wake")
    return Jump(waker, (cfg, left - 1))


# ---- the sentry: next_ready.c, dispatcher.py ----


def take_entry(cfg: Config, ring: int, head: int) -> Program:
    """take_entry (next_ready.c). The context, or None."""
    number, context = yield load(("slot", ring, head % cfg.slots))
    expected = head if cfg.mutant == "entry_with_index" else (head + 1) % cfg.modulus
    return context if number == expected else None


def look(cfg: Config, heads: tuple[int, ...], seen: int) -> Program:
    """Look (next_ready.c): FOUND_WAKE and what `wake` is now, a ring and a context, or NOTHING."""
    wake = yield load("wake")
    if wake != seen:
        return FOUND_WAKE, wake
    ring = 0
    while ring <= cfg.rings[-1]:
        context = yield from take_entry(cfg, ring, heads[ring])
        if context is not None:
            return ring, context
        ring += 1
    return NOTHING, 0


def sleep_on_bells(cfg: Config, heads: tuple[int, ...], seen: int) -> Program:
    """sleep_on_bells (next_ready.c)."""
    bells = yield from fill_waiters(cfg)
    found = NOTHING, 0
    if cfg.mutant == "last_look_before_announcing":
        found = yield from look(cfg, heads, seen)
    yield from announce(cfg, 1)
    if cfg.mutant != "no_fence_in_sleep_on_bells":
        yield fence()
    if cfg.mutant not in ("last_look_before_announcing", "no_last_look"):
        found = yield from look(cfg, heads, seen)
    if cfg.mutant == "bells_read_after_the_last_look":
        bells = yield from fill_waiters(cfg)
    if found[0] == NOTHING:
        yield futex_wait([("wake", seen), *((("bell", r), bells[r]) for r in cfg.rings)])
    yield from announce(cfg, 0)
    return found


def fill_waiters(cfg: Config) -> Program:
    """fill_waiters (next_ready.c): the bells as they are now."""
    bells: tuple[int, ...] = ()
    while len(bells) <= cfg.rings[-1]:
        bell = yield load(("bell", len(bells)))
        bells = (*bells, bell)
        del bell
    return bells


def announce(cfg: Config, waiting: int) -> Program:
    """Announce (next_ready.c)."""
    ring = 0
    while ring <= cfg.rings[-1]:
        yield store(("waiting", ring), waiting)
        ring += 1


def next_ready(cfg: Config, heads: tuple[int, ...], seen: int) -> Program:
    """next_ready (next_ready.c)."""
    found = yield from look(cfg, heads, seen)
    while found[0] == NOTHING:
        found = yield from sleep_on_bells(cfg, heads, seen)
        if found[0] == NOTHING:
            found = yield from look(cfg, heads, seen)
    return found


def sentry(cfg: Config, heads: tuple[int, ...], seen: int, left: tuple[int, ...]) -> Program:
    """Dispatcher.next_ready: count what comes back, and submit it again. ``left``: how often each is to come yet."""
    if not any(left) and (yield load("wakes_sent")) == cfg.wakes and seen == cfg.wakes:
        return None
    where, what = yield from next_ready(cfg, heads, seen)
    if where == FOUND_WAKE:
        return Jump(sentry, (cfg, heads, what, left))
    if cfg.spaces[what] != where or left[what] == 0 or (yield load(("submitted", what))):
        raise Violation(f"ring {where} tells of context {what}, which is not out there")
    heads = tuple((head + (ring == where)) % cfg.modulus for ring, head in enumerate(heads))
    left = tuple(count - (context == what) for context, count in enumerate(left))
    if left[what]:
        yield swap(("submitted", what), True)
    return Jump(sentry, (cfg, heads, seen, left))


# ---- the whole ----


def words(cfg: Config) -> Mapping[Word, Value]:
    """Return rings of zeros, and which contexts are submitted (only the model knows)."""
    found: dict[Word, Value] = {"wake": 0, "wakes_sent": 0}
    for ring in cfg.rings:
        found |= {("tail", ring): 0, ("bell", ring): 0, ("waiting", ring): 0}
        found |= {("slot", ring, slot): (0, 0) for slot in range(cfg.slots)}
    found |= {("submitted", context): True for context in range(len(cfg.spaces))}
    return found


def system(cfg: Config, memory: Memory = SC) -> System:
    """Return the model. The work is done when all contexts came back as often as they were given back."""
    threads = [Process(f"thread {n}", stub_thread, (cfg, n, cfg.rounds)) for n in range(len(cfg.spaces))]
    left = (cfg.rounds,) * len(cfg.spaces)
    others = [
        Process("sentry", sentry, (cfg, (0,) * len(cfg.rings), 0, left)),
        Process("waker", waker, (cfg, cfg.wakes)),
    ]

    def done(view: View) -> bool:
        return view.ended("sentry", "waker", *(thread.name for thread in threads))

    return System(words(cfg), [*threads, *others], done, memory=memory)


def bounds() -> dict[str, Bound]:
    """Return sizes in which the protocol holds."""
    return {
        "2 threads, one space": Bound(system(Config(rounds=1))),
        "2 threads, one space, 2 rounds": Bound(system(Config(wakes=0))),
        "2 threads, one space, TSO": Bound(system(Config(rounds=1), TSO)),
        "2 spaces": Bound(system(Config((0, 1), rounds=1))),
        "2 spaces, TSO": Bound(system(Config((0, 1), rounds=1, wakes=0), TSO)),
        "one context, the ring goes round, TSO": Bound(system(Config((0,), rounds=5), TSO)),
        "2 threads, one space, 2 rounds, TSO": Bound(system(Config(), TSO), slow=True),
        "3 threads, 2 spaces": Bound(system(Config((0, 0, 1), rounds=1)), slow=True),
    }


def mutants() -> dict[str, Mutant]:
    """Return what goes wrong without each of the protocol's means."""
    one = Config((0,), rounds=2, wakes=0)

    def mutant(name: str, finds: Kind, cfg: Config = one) -> Mutant:
        changed = Config(cfg.spaces, cfg.rounds, cfg.slots, cfg.wakes, name)
        return Mutant(system(changed, TSO), finds)

    return {
        "no_fence_in_push_ready": mutant("no_fence_in_push_ready", Kind.STUCK),
        "no_fence_in_sleep_on_bells": mutant("no_fence_in_sleep_on_bells", Kind.STUCK),
        "bells_read_after_the_last_look": mutant("bells_read_after_the_last_look", Kind.STUCK),
        "last_look_before_announcing": mutant("last_look_before_announcing", Kind.STUCK),
        "no_last_look": mutant("no_last_look", Kind.STUCK),
        "wakes_without_ringing": mutant("wakes_without_ringing", Kind.STUCK),
        "bell_before_slot": mutant("bell_before_slot", Kind.STUCK),
        "entry_with_index": mutant("entry_with_index", Kind.BROKEN),
    }
