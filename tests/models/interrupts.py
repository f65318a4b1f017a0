"""Model: interrupts, thread states and floating point state.

Stands for 10-stub §3.1, §3.3, §3.5, §5 and 20-platform §5.5; shows S-038, S-039, S-040, S-041, S-042, S-045, S-060, P-061, P-070,
P-072, P-073, P-074.

A context's general registers are reduced to where it stands and whether they are whole; its floating point state is a
version that its guest counts up whenever it runs. The run queue is one step (context_queue.py looks into it), and so is the
moment between two instructions of the guest: a guest counts up, then makes a system call (at a patched site or not), or computes
until it is interrupted.

Checked: a request to interrupt is answered, whatever the guest does; a guest never runs with registers that are not its own
or only half restored; a context is given back by who has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.models.catalogue import Bound, Mutant
from tests.models.checker import Kind
from tests.models.interrupts_stub import (
    COMPUTES,
    INITIALIZING,
    INVALID,
    NONE,
    PATCHED,
    SYSCALL,
    TRAPPED,
    Config,
    sighandler,
    thread,
)
from tests.models.programs import (
    Jump,
    Op,
    Program,
    Value,
    Violation,
    Word,
    atomically,
    kill,
    load,
    store,
    swap,
)
from tests.models.system import SC, TSO, Memory, Process, System, View

# ---- the sentry: dispatcher.py, context.py ----


def task(cfg: Config, context: int, left: int) -> Program:
    """Dispatcher.submit and Dispatcher._take, for one context. Several of them at once is more than the sentry does."""
    if left == 0:
        return None
    if (yield load(("interrupted", context))):
        yield store(("interrupted", context), 0)
        return Jump(task, (cfg, context, left - 1))
    yield swap(("running", context), 1)
    yield store(("state", context), NONE, ghost={("owner", context): "queue"})
    yield atomically("enqueue", ["queue"], lambda queue: (None, ((*queue, context),)))
    if (yield load(("interrupted", context))):
        yield from interrupt(cfg, context)
    if (yield collect(context)) != INVALID:
        raise Violation(f"context {context} names a thread after it came back (S-060)")
    yield swap(("running", context), 0)
    yield swap(("interrupt", context), 0)
    yield swap(("interrupted", context), 0)
    return Jump(task, (cfg, context, left - 1))


def collect(context: int) -> Op:
    """Wait until the context is back; the result is the thread it names."""
    words: tuple[Word, ...] = (("state", context), ("thread_id", context))
    return atomically(
        "collect", words, lambda state, thread_id: (thread_id, (state, thread_id)) if state != NONE else None
    )


def interrupt(cfg: Config, context: int) -> Program:
    """Dispatcher.interrupt."""
    thread_id: Value = INVALID
    if cfg.mutant == "thread_looked_up_before_the_flag":
        thread_id = yield load(("thread_id", context))
    if cfg.mutant == "flag_stored_without_barrier":
        yield store(("interrupt", context), 1)
    else:
        yield swap(("interrupt", context), 1)
    if cfg.mutant != "thread_looked_up_before_the_flag":
        thread_id = yield load(("thread_id", context))
    if thread_id != INVALID:
        yield kill(thread_id)


def interrupter(cfg: Config, left: int) -> Program:
    """SystrapContext.interrupt of context 0, from another thread of the sentry."""
    if left == 0:
        return None
    yield swap(("interrupted", 0), 1)
    if (yield load(("running", 0))):
        yield from interrupt(cfg, 0)
    return Jump(interrupter, (cfg, left - 1))


# ---- the whole ----


def words(cfg: Config) -> Mapping[Word, Value]:
    """Return contexts, threads, the queue, and what only the model knows (owner, version)."""
    found: dict[Word, Value] = {"queue": ()}
    for context in range(len(cfg.rounds)):
        found |= {
            ("state", context): SYSCALL,
            ("interrupt", context): 0,
            ("thread_id", context): INVALID,
            ("last_thread_id", context): INVALID,
            ("fpstate_changed", context): 1,
            ("fpstate", context): (context, 0),
            ("registers", context): "guest",
            ("running", context): 0,
            ("interrupted", context): 0,
            ("owner", context): "sentry",
            ("version", context): 0,
        }
    for me in range(cfg.threads):
        found |= {
            ("thread_state", me): INITIALIZING,
            ("context", me): None,
            ("cpu_fp", me): None,
            ("app_stack", me): None,
        }
    return found


def system(cfg: Config, memory: Memory = SC, threads: Sequence[Process] = ()) -> System:
    """Return the model. All is well where no request is open; a guest may compute for ever if nobody wants it back.

    ``threads``: those of another handler (user_resume.py).
    """
    threads = threads or [Process(f"thread {n}", thread, (cfg, n), sighandler) for n in range(cfg.threads)]
    tasks = [Process(f"task {n}", task, (cfg, n, left)) for n, left in enumerate(cfg.rounds)]

    def done(view: View) -> bool:
        return view.ended("interrupter") and all(is_answered(view, c) for c in range(len(cfg.rounds)))

    def is_answered(view: View, context: int) -> bool:
        return view.ended(f"task {context}") or (
            view[("state", context)] == NONE and not view[("interrupted", context)]
        )

    return System(
        words(cfg), [*threads, *tasks, Process("interrupter", interrupter, (cfg, cfg.requests))], done, memory=memory
    )


def bounds() -> dict[str, Bound]:
    """Return sizes in which the protocol holds."""
    return {
        "1 thread, one context, 3 rounds": Bound(system(Config(1, (3,)))),
        "2 threads, one context, trapped": Bound(system(Config(guests=(TRAPPED, COMPUTES)))),
        "2 threads, one context, patched": Bound(system(Config(guests=(PATCHED, COMPUTES)))),
        "1 thread, 2 contexts": Bound(system(Config(1, (1, 1)))),
        "1 thread, 2 contexts, patched": Bound(system(Config(1, (2, 1), guests=(PATCHED,))), slow=True),
        "1 thread, one context, TSO": Bound(system(Config(1, (2,)), TSO)),
        "2 threads, one context, 4 rounds, trapped": Bound(system(Config(2, (4,), guests=(TRAPPED,))), slow=True),
        "2 threads, one context": Bound(system(Config()), slow=True),
        "2 threads, one context, TSO": Bound(system(Config(), TSO), slow=True),
        "2 requests": Bound(system(Config(requests=2)), slow=True),
        "2 threads, 2 contexts": Bound(system(Config(2, (1, 1), guests=(PATCHED, TRAPPED))), slow=True),
    }


def mutants() -> dict[str, Mutant]:
    """Return what goes wrong without each of the protocol's means."""
    leak = Config(1, (2, 1), guests=(PATCHED,))
    calls = Config(2, (3,), 0, (TRAPPED,))
    found = {
        "fp_not_captured_but_unchanged": (Kind.BROKEN, leak, SC),
        "fp_forgotten_when_it_bounces": (Kind.BROKEN, replace(calls, rounds=(4,), requests=1), SC),
        "last_thread_not_compared": (Kind.BROKEN, calls, SC),
        "old_context_not_compared": (Kind.BROKEN, replace(leak, requests=0), SC),
        "always_live": (Kind.BROKEN, Config(1, (3,), guests=(PATCHED,)), SC),
        "signal_counts_in_stub_code": (Kind.BROKEN, Config(1), SC),
        "prep_not_first": (Kind.BROKEN, Config(guests=(PATCHED,)), SC),
        "no_second_look": (Kind.STUCK, Config(1), SC),
        "flag_before_state": (Kind.STUCK, Config(1), SC),
        "thread_looked_up_before_the_flag": (Kind.STUCK, Config(1), SC),
        "no_locked_instruction": (Kind.STUCK, Config(1), TSO),
        "flag_stored_without_barrier": (Kind.STUCK, Config(1), TSO),
    }
    slow = ("fp_not_captured_but_unchanged", "fp_forgotten_when_it_bounces")
    return {
        name: Mutant(system(replace(cfg, mutant=name), memory), finds, name in slow)
        for name, (finds, cfg, memory) in found.items()
    }
