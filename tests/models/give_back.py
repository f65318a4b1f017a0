"""Model: a context comes back to a sentry that polls for a while and then sleeps on its state.

Stands for 10-stub §4.1 and 20-platform §6.4, §6.6; shows S-062, S-063.

This is upstream's sentry, which changes sentry_fast_path while the context is out there. Ours sets it before it hands the
context over (release_context in submit.c) and needs no such care; but our stub has to serve upstream's sentry, too.
Upstream's 10 ms time-out is left out: it is what hides the miss.
"""

from dataclasses import dataclass
from typing import Final

from tests.models.catalogue import Bound, Mutant
from tests.models.checker import Kind
from tests.models.programs import Jump, Program, choose, fence, futex_wait, futex_wake, load, store, swap, wait_until
from tests.models.system import SC, TSO, Memory, Process, System, View

NONE, SYSCALL = "NONE", "SYSCALL"
NOTIFY_FUTEX: Final = 0
NOTIFY_POLLING: Final = 1


@dataclass(frozen=True)
class Config:
    """Bounds, and which mutant."""

    rounds: int = 2
    mutant: str = ""


def stub_thread(cfg: Config, left: int) -> Program:
    """give_back, notify_sentry (give_back.c): the context comes back, as often as it is handed over."""
    if left == 0:
        return None
    yield wait_until(lambda state: state == NONE, "state")
    if cfg.mutant == "fast_path_read_first":
        how = yield load("sentry_fast_path")
        yield swap("state", SYSCALL)
    else:
        if cfg.mutant == "state_store_without_seq_cst":
            yield store("state", SYSCALL)
        else:
            yield swap("state", SYSCALL)
        how = yield load("sentry_fast_path")
    if how == NOTIFY_FUTEX:
        yield futex_wake("state")
    return Jump(stub_thread, (cfg, left - 1))


def sentry(cfg: Config, left: int) -> Program:
    """wait_on_state, sleep_on_state (20-platform §6.4, §6.6)."""
    if left == 0:
        return None
    yield store("sentry_fast_path", NOTIFY_POLLING)
    yield swap("state", NONE)
    while (yield load("state")) == NONE and (yield choose("dispatcher", "poll", "slow")) == "poll":
        pass
    if cfg.mutant != "sentry_forgets_to_say_so":
        yield store("sentry_fast_path", NOTIFY_FUTEX)
    yield from sleep_on_state(cfg)
    return Jump(sentry, (cfg, left - 1))


def sleep_on_state(cfg: Config) -> Program:
    """Sleep. The kernel's futex_wait has a full barrier before it reads the word; the mutant is a futex without it."""
    barrier = cfg.mutant != "futex_wait_without_barrier"
    if barrier:
        yield fence()
    while (yield load("state")) == NONE:
        yield futex_wait([("state", NONE)], barrier)


def system(cfg: Config, memory: Memory = SC) -> System:
    """Return the model."""
    processes = [Process("thread", stub_thread, (cfg, cfg.rounds)), Process("sentry", sentry, (cfg, cfg.rounds))]

    def done(view: View) -> bool:
        return view.ended("thread", "sentry")

    return System({"state": SYSCALL, "sentry_fast_path": NOTIFY_POLLING}, processes, done, memory=memory)


def bounds() -> dict[str, Bound]:
    """Return sizes in which the protocol holds."""
    return {
        "10 hand-overs": Bound(system(Config(10))),
        "10 hand-overs, TSO": Bound(system(Config(10), TSO)),
    }


def mutants() -> dict[str, Mutant]:
    """Return what goes wrong without each of the protocol's means."""
    names = (
        "state_store_without_seq_cst",
        "futex_wait_without_barrier",
        "fast_path_read_first",
        "sentry_forgets_to_say_so",
    )
    return {name: Mutant(system(Config(2, name), TSO), Kind.STUCK) for name in names}
