"""The stub's half of the interrupts' model, and guest code (see interrupts.py)."""

from dataclasses import dataclass
from typing import Final

from tests.models.programs import (
    SIGNAL,
    Jump,
    Op,
    Program,
    Value,
    Violation,
    Word,
    atomically,
    choose,
    fence,
    load,
    store,
    trap,
    wait_until,
)

NONE, SYSCALL, FAULT = "NONE", "SYSCALL", "FAULT"
RUNNING, PREP, INITIALIZING = "NONE", "PREP", "INITIALIZING"
INVALID: Final = "INVALID"
GUEST_CODE: Final = ("guest", "rewound_guest", "trampoline", "rest_of_trampoline")
"""Programs below stub_start."""


PATCHED, TRAPPED, COMPUTES = "patched site", "system call", "computes for ever"
REWOUND = "call at a site that is being patched"


@dataclass(frozen=True)
class Config:
    """Bounds, and which mutant.

    ``rounds``: how often each context is submitted; ``requests``: how often context 0 is interrupted; ``guests``: what guest
    code may do (only context 0 computes for ever).
    """

    threads: int = 2
    rounds: tuple[int, ...] = (2,)
    requests: int = 1
    guests: tuple[str, ...] = (PATCHED, TRAPPED, COMPUTES)
    mutant: str = ""


# ---- guest code ----


def guest(cfg: Config, me: int, context: int) -> Program:
    """Run guest code of a context on a thread: its registers must be its own."""
    loaded = yield run_guest(me, context)
    if loaded != (context, "its version"):
        raise Violation(f"context {context} runs with the floating point state {loaded}")
    del loaded
    what = yield choose("guest", *(each for each in cfg.guests if each != COMPUTES or context == 0))
    if what == PATCHED:
        return Jump(trampoline, (cfg, me, context))
    if what == TRAPPED:
        yield trap("SIGSYS")
    if what == REWOUND:
        yield trap(REWOUND)
    yield wait_until(lambda: False)


def rewound_guest(cfg: Config, me: int, context: int) -> Program:
    """Be guest code again in front of a call that the handler rewound; this time it makes it, or computes for ever."""
    loaded = yield run_guest(me, context)
    if loaded != (context, "its version"):
        raise Violation(f"context {context} goes on with the floating point state {loaded}")
    del loaded
    if (yield choose("guest", TRAPPED, COMPUTES)) == TRAPPED:
        yield trap("SIGSYS")
    yield wait_until(lambda: False)


def run_guest(me: int, context: int) -> Op:
    """Look at the floating point registers, and change them."""

    def run(cpu: Value, version: Value) -> tuple[Value, tuple[Value, ...]]:
        if cpu != (context, version):
            return cpu, (cpu, version)
        return (context, "its version"), ((context, version + 1), version + 1)

    return atomically("run", [("cpu_fp", me), ("version", context)], run)


def trampoline(cfg: Config, me: int, context: int) -> Program:
    """Run the trampoline of a patched site (10-stub §6.2): PREP first. app_stack stands for all that it keeps in sysmsg."""
    if cfg.mutant == "prep_not_first":
        yield store(("app_stack", me), context)
        return Jump(rest_of_trampoline, (cfg, me, context))
    yield store(("thread_state", me), PREP)
    yield store(("app_stack", me), context)
    return Jump(syshandler, (cfg, me))


def rest_of_trampoline(cfg: Config, me: int, context: int) -> Program:
    """Go on after the stack pointer was kept: the mutant only."""
    yield store(("thread_state", me), PREP)
    return Jump(syshandler, (cfg, me))


# ---- the stub: syshandler.S, syshandler.c, sighandler.c, switch.c, give_back.c ----


def syshandler(cfg: Config, me: int) -> Program:
    """__export_syshandler (syshandler.S), syshandler_switch (syshandler.c)."""
    context = yield load(("context", me))
    if (yield load(("app_stack", me))) != context:
        raise Violation(f"syshandler takes another thread's stack pointer for context {context}")
    yield save(me, context, "guest", 0)
    following = yield from switch_context(cfg, me, context, SYSCALL)
    del context
    # The way out: the thread's state is NONE.
    yield load_fp(me, following)
    where = yield load(("registers", following))
    return resume(cfg, me, following, where)


def save(me: int, context: int, where: str, changed: int) -> Op:
    """Copy the registers into the context: one step, for nobody else looks there, and SIGCHLD is dropped or blocked."""
    words: tuple[Word, ...] = (
        ("cpu_fp", me),
        ("registers", context),
        ("fpstate", context),
        ("fpstate_changed", context),
    )
    return atomically("save", words, lambda cpu, *_: (None, (cpu, where, cpu, changed)))


def load_fp(me: int, context: int) -> Op:
    """XRSTOR if fpstate_changed says so. The result is where the context stands."""

    def run(changed: Value, fpstate: Value, cpu: Value, where: Value) -> tuple[Value, tuple[Value, ...]]:
        return where, (changed, fpstate, fpstate if changed else cpu, where)

    words: tuple[Word, ...] = (
        ("fpstate_changed", context),
        ("fpstate", context),
        ("cpu_fp", me),
        ("registers", context),
    )
    return atomically("load_fp", words, run)


def resume(cfg: Config, me: int, context: int, where: str) -> Jump:
    """Return where a context goes on."""
    programs = {
        "guest": guest,
        "rewound_guest": rewound_guest,
        "trampoline": trampoline,
        "rest_of_trampoline": rest_of_trampoline,
    }
    return Jump(programs.get(where, half_restored), (cfg, me, context))


def half_restored(cfg: Config, me: int, context: int) -> Program:
    """Be a guest whose registers were taken on the way out of syshandler."""
    yield fence()
    raise Violation(f"context {context} goes on with registers of the stub")


def sighandler(cfg: Config, me: int, interrupted: str, signal: str) -> Program:
    """Sighandler (sighandler.c), entered from ``interrupted``; 10-stub §3.1. SIGCHLD is blocked meanwhile."""
    state = yield load(("thread_state", me))
    if state == INITIALIZING:
        following = yield from switch_context(cfg, me, None, NONE)
        return (yield from restore_guest(cfg, me, following))
    if signal == SIGNAL and state != RUNNING and cfg.mutant != "signal_counts_in_stub_code":
        return None
    del state
    context = yield load(("context", me))
    live = signal != SIGNAL or interrupted in GUEST_CODE or cfg.mutant == "always_live"
    if live:
        yield save(me, context, interrupted if signal == SIGNAL else "guest", 0)
    else:
        yield store(("fpstate_changed", context), int(cfg.mutant != "fp_not_captured_but_unchanged"))
    following = yield from switch_context(cfg, me, context, FAULT if signal == SIGNAL else SYSCALL)
    del context
    return (yield from restore_guest(cfg, me, following))


def restore_guest(cfg: Config, me: int, context: int) -> Program:
    """restore_guest (sighandler.c), and rt_sigreturn: the frame's floating point image is what the thread had."""
    where = yield load_fp(me, context)
    return resume(cfg, me, context, where)


def switch_context(cfg: Config, me: int, context: int | None, new_state: str) -> Program:
    """switch_context (switch.c); 10-stub §3.3. Ours looks at the floating point state before it gives a context back again."""
    old = yield load(("context", me))
    while True:
        if context is not None:
            yield from give_back(me, context, new_state)
        context = None
        context = yield from get_context(cfg, me)
        if cfg.mutant != "fp_forgotten_when_it_bounces":
            yield from note_foreign_fp(cfg, me, old, context)
        if not (yield from is_interrupted(cfg, me, context)):
            break
        yield store(("thread_state", me), PREP)
        yield store(("interrupt", context), 0)
        new_state = FAULT
    if cfg.mutant == "fp_forgotten_when_it_bounces":
        yield from note_foreign_fp(cfg, me, old, context)
    return context


def is_interrupted(cfg: Config, me: int, context: int) -> Program:
    """Part of switch_context: state NONE, then the look at the flag."""
    if cfg.mutant == "no_second_look":
        yield store(("thread_state", me), RUNNING)
        return False
    if cfg.mutant == "flag_before_state":
        flag = yield load(("interrupt", context))
        yield store(("thread_state", me), RUNNING)
        return flag != 0
    yield store(("thread_state", me), RUNNING)
    return (yield load(("interrupt", context))) != 0


def note_foreign_fp(cfg: Config, me: int, old: int | None, context: int) -> Program:
    """Note whether this thread's registers hold another floating point state than this context's: part of switch_context."""
    foreign = old != context and cfg.mutant != "old_context_not_compared"
    if not foreign and cfg.mutant != "last_thread_not_compared":
        foreign = (yield load(("last_thread_id", context))) != me
    if foreign:
        yield store(("fpstate_changed", context), 1)


def give_back(me: int, context: int, new_state: str) -> Program:
    """give_back (give_back.c)."""
    yield store(("thread_id", context), INVALID)
    owner = yield hand_over(me, context, new_state)
    if owner != me:
        raise Violation(f"thread {me} gives context {context} back, which {owner} has")


def hand_over(me: int, context: int, new_state: str) -> Op:
    """Exchange the state, with what that publishes. The result is who had the context."""
    words: tuple[Word, ...] = (("state", context), ("owner", context), ("last_thread_id", context))
    return atomically("swap", words, lambda state, owner, last: (owner, (new_state, "sentry", me)))


def get_context(cfg: Config, me: int) -> Program:
    """get_context, own_context (context_queue.c)."""
    yield store(("thread_state", me), PREP)
    context = yield dequeue(cfg, me)
    yield store(("thread_id", context), me)
    if cfg.mutant != "no_locked_instruction":
        # fetch_sub(num_spinning_threads), or fetch_add(num_active_threads)
        yield fence()
    return context


def dequeue(cfg: Config, me: int) -> Op:
    """Wait for a context and take it: owner (the model's) and sysmsg.context, which only this thread looks at."""

    def run(queue: Value, _: Value, *owners: Value) -> tuple[Value, tuple[Value, ...]] | None:
        if not queue:
            return None
        first = queue[0]
        return first, (queue[1:], first, *(me if c == first else owner for c, owner in enumerate(owners)))

    return atomically("dequeue", ["queue", ("context", me), *(("owner", c) for c in range(len(cfg.rounds)))], run)


def thread(cfg: Config, me: int) -> Program:
    """Be born: a thread's first signal."""
    yield trap("SIGSEGV")
