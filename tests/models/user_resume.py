"""Model: the handler that blocks nothing (blobs/src/x86_64/signal.S), the other one of the two that interrupts.py is about.

Stands for signal.S, sighandler.c with ``user_resume``, clone_source.c; shows S-038, S-040, S-041, S-042, S-045, P-072, P-073,
P-074 where S-030's mask is replaced: SIGCHLD is blocked in its own handler only, and may come at every step of another signal's.

The sentry, guest code and the stub's half of the hand-over are those of interrupts.py. New is what happens between a trap and the
guest's next instruction: the entry, which marks the thread; two ways out, by resume_guest and by rt_sigreturn, which take several
steps each; and a call that the handler rewinds, so that the same context goes on. A handler's frame is what its program keeps in
variables: the floating point registers at that time. The kernel empties them when it enters a handler.

Checked besides what interrupts.py checks: no more than two signals lie on a thread's signal stack. (The fault of a probe is a
third; it comes and goes while the thread is marked, and sends nobody anywhere.)
"""

from dataclasses import replace
from typing import Final

from tests.models import interrupts
from tests.models.catalogue import Bound, Mutant
from tests.models.checker import Kind
from tests.models.interrupts_stub import (
    COMPUTES,
    FAULT,
    GUEST_CODE,
    INITIALIZING,
    NONE,
    PATCHED,
    PREP,
    REWOUND,
    RUNNING,
    SYSCALL,
    TRAPPED,
    Config,
    resume,
    rewound_guest,
    switch_context,
    thread,
)
from tests.models.programs import SIGNAL, Jump, Op, Program, Value, Word, atomically, fence, load, store
from tests.models.system import SC, TSO, Memory, Process, System, View

EMPTY: Final = "empty"
BEHIND: Final = "behind a call that nobody was told of"
NESTED: Final = 2


def enter_handler(cfg: Config, me: int) -> Program:
    """Do the kernel's part and __export_sighandler's (signal.S): the frame's floating point registers, and the thread's state.

    From the store on the thread is in stub code.
    """
    frame = yield empty_fp(me)
    state = yield load(("thread_state", me))
    if state == RUNNING and cfg.mutant != "no_mark_at_entry":
        yield store(("thread_state", me), PREP)
    return frame, state


def empty_fp(me: int) -> Op:
    """Have the floating point registers emptied; the result is what the frame holds."""
    return atomically("kernel enters the handler", [("cpu_fp", me)], lambda cpu: (cpu, (EMPTY,)))


def sighandler(cfg: Config, me: int, interrupted: str, signal: str) -> Program:
    """Sighandler (sighandler.c), entered from the function ``interrupted``."""
    frame, state = yield from enter_handler(cfg, me)
    if state == INITIALIZING:
        following = yield from switch_context(cfg, me, None, NONE)
        return (yield from sigreturn(cfg, me, following, frame))
    if signal == SIGNAL and (state != RUNNING or is_dropped(cfg, interrupted)):
        if state == RUNNING and cfg.mutant != "none_not_put_back":
            yield store(("thread_state", me), RUNNING)
        yield store(("cpu_fp", me), frame)
        return None
    context = yield load(("context", me))
    live = signal != SIGNAL or interrupted in GUEST_CODE
    if live:
        yield save(context, interrupted if signal == SIGNAL else BEHIND, frame)
    if signal == REWOUND and not (yield from leave_to_guest(cfg, me, context, state)):
        yield store(("cpu_fp", me), frame)
        return Jump(rewound_guest, (cfg, me, context))
    new_state = SYSCALL if signal == "SIGSYS" else FAULT
    if new_state == SYSCALL:
        # The sentry is told of the call, and makes the registers such as they are behind it.
        yield store(("registers", context), "guest")
    yield store(("fpstate_changed", context), int(not live))
    following = yield from switch_context(cfg, me, context, new_state)
    del context, state, live, interrupted, new_state
    if signal == SIGNAL:
        return (yield from sigreturn(cfg, me, following, frame))
    return (yield from resume_guest(cfg, me, following))


def is_dropped(cfg: Config, interrupted: str) -> bool:
    """Tell whether SIGCHLD does not count, although the thread is not marked: another signal was here first."""
    if cfg.mutant == "dropped_on_the_way_out":
        return interrupted not in GUEST_CODE
    return interrupted == "enter_handler" and cfg.mutant != "entry_taken_for_a_way_out"


def save(context: int, where: str, frame: Value) -> Op:
    """save_guest (sighandler.c)."""
    found: tuple[Word, ...] = (("registers", context), ("fpstate", context))
    return atomically("save", found, lambda *_: (None, (where, frame)))


def leave_to_guest(cfg: Config, me: int, context: int, state: str) -> Program:
    """leave_to_guest (sighandler.c): the call is rewound. True if the context has to be given back all the same."""
    if state != RUNNING:
        return False
    if cfg.mutant != "not_in_memory_before_none":
        yield store(("registers", context), "rewound_guest")
    yield store(("thread_state", me), RUNNING)
    if cfg.mutant == "no_look_when_it_stays" or not (yield load(("interrupt", context))):
        return False
    yield store(("thread_state", me), PREP)
    return True


def sigreturn(cfg: Config, me: int, context: int, frame: Value) -> Program:
    """restore_guest (sighandler.c), which writes into the frame, and rt_sigreturn, which loads all of it at once."""
    changed = yield load(("fpstate_changed", context))
    where = yield load(("registers", context))
    yield load_fp(me, context, None if changed else frame)
    return resume(cfg, me, context, where)


def resume_guest(cfg: Config, me: int, context: int) -> Program:
    """resume_guest (signal.S): xrstor, then the other registers."""
    changed = cfg.mutant != "fp_loaded_if_changed" or (yield load(("fpstate_changed", context)))
    if changed:
        yield load_fp(me, context, None)
    where = yield load(("registers", context))
    if cfg.mutant == "way_out_writes_the_context":
        yield store(("registers", context), "loaded")
    yield fence()
    return resume(cfg, me, context, where)


def load_fp(me: int, context: int, frame: Value) -> Op:
    """Load the floating point registers: from the frame, or (None) from the context."""
    found: tuple[Word, ...] = (("fpstate", context), ("cpu_fp", me))
    return atomically("load_fp", found, lambda saved, _: (None, (saved, saved if frame is None else frame)))


def system(cfg: Config, memory: Memory = SC) -> System:
    """Return the model: interrupts.py's, with this handler."""
    blocks_itself = cfg.mutant != "sigchld_nests_in_its_handler"
    threads = [
        Process(f"thread {n}", thread, (cfg, n), sighandler, nests=True, blocks_itself=blocks_itself)
        for n in range(cfg.threads)
    ]
    names = [process.name for process in threads]

    def signal_stack(view: View) -> str | None:
        if any(len(view.proc(name).frames) > 1 + NESTED for name in names):
            return "more signals on a signal stack than there is room for"
        return None

    return replace(interrupts.system(cfg, memory, threads), invariant=signal_stack)


def bounds() -> dict[str, Bound]:
    """Return sizes in which the regime holds."""
    rewound = Config(1, (2,), guests=(REWOUND, COMPUTES))
    return {
        "1 thread, one context, trapped": Bound(system(Config(1, (2,), guests=(TRAPPED, COMPUTES)))),
        "1 thread, one context, rewound": Bound(system(rewound)),
        "1 thread, one context, rewound, 2 requests": Bound(system(replace(rewound, requests=2)), slow=True),
        "1 thread, one context, all, TSO": Bound(
            system(Config(1, (2,), guests=(PATCHED, TRAPPED, REWOUND, COMPUTES)), TSO), slow=True
        ),
        "1 thread, 2 contexts, trapped": Bound(system(Config(1, (1, 1), guests=(TRAPPED, COMPUTES))), slow=True),
        "2 threads, one context, trapped": Bound(system(Config(2, (2,), guests=(TRAPPED, COMPUTES))), slow=True),
        "2 threads, one context, patched": Bound(system(Config(2, (2,), guests=(PATCHED, COMPUTES))), slow=True),
    }


def mutants() -> dict[str, Mutant]:
    """Return what goes wrong without each of the regime's means."""
    trapped = Config(1, (2,), guests=(TRAPPED, COMPUTES))
    rewound = replace(trapped, guests=(REWOUND, COMPUTES))
    found = {
        "no_mark_at_entry": (Kind.BROKEN, trapped),
        "entry_taken_for_a_way_out": (Kind.BROKEN, trapped),
        "none_not_put_back": (Kind.STUCK, replace(rewound, requests=2)),
        "dropped_on_the_way_out": (Kind.STUCK, trapped),
        "not_in_memory_before_none": (Kind.BROKEN, rewound),
        "no_look_when_it_stays": (Kind.STUCK, rewound),
        "fp_loaded_if_changed": (Kind.BROKEN, trapped),
        "way_out_writes_the_context": (Kind.BROKEN, replace(trapped, rounds=(3,))),
        "sigchld_nests_in_its_handler": (Kind.BROKEN, trapped),
    }
    return {name: Mutant(system(replace(cfg, mutant=name)), finds) for name, (finds, cfg) in found.items()}
