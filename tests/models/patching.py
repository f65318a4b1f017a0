"""Model: a system call's site becomes a jump while others run it.

Stands for 10-stub §3.4, §6.3, §6.4 and 20-platform §5.1; shows S-044, S-083, S-084, S-085, S-088, S-094, P-035,
P-054, P-055, P-056.

The site's 7 bytes are five cells: byte 0, bytes 1-2, bytes 3-4, byte 5, byte 6. A thread that reaches it fetches
``mov $nr, %eax`` (or the jump), later the ``syscall``; each fetch sees all cells at one moment. What the sentry does for a
thread is part of that thread's program, as in upstream, where each has a task of its own; one sentry thread for all does less.
A call may end with a restart: of the same call, or of a restart block (number 219).

Checked: every call is made exactly once and with its number, restarts included; nobody executes half a jump; no guest
learns of a SIGILL. Left out: the trampoline (interrupts.py), the table's capacity, code that jumps to the syscall itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    atomically,
    choose,
    load,
    store,
    swap,
    wait_until,
)
from tests.models.system import SC, TSO, Memory, Process, System, View

NUMBER, RESTART_SYSCALL, GARBAGE = "nr", "219", "garbage"
CELLS: Final = ("byte 0", "bytes 1-2", "bytes 3-4", "byte 5", "byte 6")
OLD: Final = ("b8", "nr", "nr", "0f", "05")
PATCHING: Final = "06"
PARENT, CHILD = 0, 1


@dataclass(frozen=True)
class Config:
    """Bounds, and which mutant.

    ``calls``: how often each thread calls; ``restarts``: how many of a thread's calls may be restarted; ``refusals``: the
    sentry may refuse to patch (a traced task, a page that cannot be written).
    """

    threads: int = 2
    calls: int = 1
    restarts: int = 0
    fork: bool = False
    refusals: bool = False
    mutant: str = ""


def cells(space: int) -> tuple[Word, ...]:
    """Return the words of a site."""
    return tuple((cell, space) for cell in CELLS)


def jump_bytes(entry: int) -> tuple[str, ...]:
    """Return what a site holds that leads to a table entry."""
    return ("ff", f"24 25:{entry}", f"address:{entry}", PATCHING, f"00:{entry}")


def is_whole_jump(code: tuple[str, ...]) -> bool:
    """Tell whether all cells belong to one and the same jump."""
    return any(code == jump_bytes(entry) for entry in (1, 2))


# ---- the guest's thread ----


@dataclass(frozen=True)
class Thread:
    """Where a thread is in its work: its space, how many calls are left, how many restarts, and which number its call has."""

    space: int
    calls: int
    restarts: int
    owed: str = NUMBER


def site(cfg: Config, thread: Thread) -> Program:
    """Execute the instruction at the site: mov, or the jump."""
    if thread.calls == 0:
        return None
    code = yield from fetch(cfg, thread.space)
    if code[0] == OLD[0]:
        rax = NUMBER if code[1:3] == OLD[1:3] else GARBAGE
        return Jump(behind_mov, (cfg, thread, rax))
    if not is_whole_jump(code):
        raise Violation(f"executes {code}")
    return Jump(serve, (cfg, thread, NUMBER, False))


def fetch(cfg: Config, space: int) -> Program:
    """Fetch the bytes of an instruction. The mutant is a CPU that takes them in two parts, the first byte last."""
    if cfg.mutant != "fetch_in_two_parts":
        return (yield read_site(space))
    rest = yield read_site(space)
    first = yield load((CELLS[0], space))
    return (first, *rest[1:])


def read_site(space: int) -> Op:
    """Read all cells at one moment."""
    return atomically("fetch", cells(space), lambda *code: (code, code))


def behind_mov(cfg: Config, thread: Thread, rax: str) -> Program:
    """Execute what lies behind the mov: the syscall, or the byte 06."""
    code = yield read_site(thread.space)
    if code[3] == PATCHING:
        return Jump(handle_fault, (cfg, thread, rax))
    if code[4] != OLD[4]:
        raise Violation(f"executes {code[3:]}")
    return Jump(classify_syscall, (cfg, thread, rax))


# ---- the stub: sighandler.c ----


def classify_syscall(cfg: Config, thread: Thread, rax: str) -> Program:
    """classify_syscall (sighandler.c): look twice at the site.

    Ours does not rewind a restart block, which is no call of the site.
    """
    first = yield read_site(thread.space)
    if cfg.mutant != "no_second_read":
        second = yield read_site(thread.space)
        if second[3] == PATCHING and (rax != RESTART_SYSCALL or cfg.mutant == "restart_block_rewound"):
            return Jump(site, (cfg, thread))
    return Jump(serve, (cfg, thread, rax, first == OLD and rax == NUMBER))


# ---- the sentry ----


def serve(cfg: Config, thread: Thread, number: str, patchable: bool) -> Program:
    """Context.switch's loop (20-platform §5.1), and the kernel's answer."""
    if number != thread.owed:
        raise Violation(f"the sentry sees call {number} in place of {thread.owed}")
    if patchable:
        yield from patch(cfg, thread.space)
    ends = ("done", "restart", "restart block") if thread.restarts else ("done",)
    end = yield choose("call", *ends)
    if end == "done":
        return Jump(site, (cfg, Thread(thread.space, thread.calls - 1, thread.restarts)))
    owed = NUMBER if end == "restart" else RESTART_SYSCALL
    again = Thread(thread.space, thread.calls, thread.restarts - 1, owed)
    return Jump(behind_mov, (cfg, again, owed))


def patch(cfg: Config, space: int) -> Program:
    """Patch (10-stub §6.3)."""
    if cfg.refusals and (yield choose("patch", "possible", "refused")) == "refused":
        return
    if cfg.mutant != "patched_without_lock":
        yield lock(space)
    code = yield read_site(space)
    if code[0] == OLD[0] or cfg.mutant == "patches_again":
        entry = yield atomically("allocate", [("entries", space)], lambda n: (n + 1, (n + 1,)))
        yield from write_jump(cfg, space, jump_bytes(entry))
    if cfg.mutant != "patched_without_lock":
        yield unlock(space)


def write_jump(cfg: Config, space: int, new: tuple[str, ...]) -> Program:
    """Write three times. The bytes of the second write come in no particular order."""
    if cfg.mutant == "first_byte_first":
        yield store((CELLS[0], space), new[0])
    if cfg.mutant != "no_06_first":
        yield store((CELLS[3], space), new[3])
    if cfg.mutant == "second_write_fails" and (yield choose("write", "done", "failed")) == "failed":
        return
    if cfg.mutant == "first_byte_second":
        yield store((CELLS[0], space), new[0])
    order = yield choose("order", (1, 2, 3, 4), (4, 3, 2, 1), (2, 4, 1, 3))
    while order:
        yield store((CELLS[order[0]], space), new[order[0]])
        order = order[1:]
    yield store((CELLS[0], space), new[0])


def handle_fault(cfg: Config, thread: Thread, rax: str) -> Program:
    """Mend what a SIGILL at byte 5 found (10-stub §6.4)."""
    if cfg.mutant != "fix_up_without_lock":
        yield share(thread.space)
    code = yield read_site(thread.space)
    if cfg.mutant != "fix_up_without_lock":
        yield unshare(thread.space)
    if not is_whole_jump(code):
        raise Violation(f"the guest gets a SIGILL for {code}")
    if rax == RESTART_SYSCALL and cfg.mutant != "restart_block_forgotten":
        return Jump(serve, (cfg, thread, RESTART_SYSCALL, False))
    return Jump(site, (cfg, thread))


def fork(cfg: Config) -> Program:
    """Fork: the child gets a copy of the memory, between pre_fork and post_fork."""
    if cfg.mutant != "fork_without_lock":
        yield share(PARENT)
    yield from copy_site()
    if cfg.mutant != "fork_without_lock":
        yield unshare(PARENT)
    yield swap("forked", True)


def copy_site() -> Program:
    """Copy cell by cell."""
    number = 0
    while number < len(CELLS):
        value = yield load((CELLS[number], PARENT))
        yield store((CELLS[number], CHILD), value)
        del value
        number += 1


def child(cfg: Config, thread: Thread) -> Program:
    """Be the child's thread."""
    yield wait_until(bool, "forked")
    return Jump(site, (cfg, thread))


def lock(space: int) -> Op:
    """Take the table's mutex."""
    return atomically("lock", [("lock", space)], lambda held: (None, (-1,)) if held == 0 else None)


def unlock(space: int) -> Op:
    """Leave it."""
    return atomically("unlock", [("lock", space)], lambda _: (None, (0,)))


def share(space: int) -> Op:
    """Take it together with others that only read."""
    return atomically("share", [("lock", space)], lambda held: (None, (held + 1,)) if held >= 0 else None)


def unshare(space: int) -> Op:
    """Leave it."""
    return atomically("unshare", [("lock", space)], lambda held: (None, (held - 1,)))


# ---- the whole ----


def words(cfg: Config) -> Mapping[Word, Value]:
    """Return the site in parent and child, and the tables. ``lock``: how many share it, -1 = one has it alone."""
    found: dict[Word, Value] = {"forked": False}
    for space in (PARENT, CHILD)[: 1 + cfg.fork]:
        found |= dict(zip(cells(space), OLD, strict=True)) | {("lock", space): 0, ("entries", space): 0}
    return found


def system(cfg: Config, memory: Memory = SC) -> System:
    """Return the model. The work is done when all calls are."""
    first = Thread(PARENT, cfg.calls, cfg.restarts)
    processes = [Process(f"thread {n}", site, (cfg, first)) for n in range(cfg.threads)]
    if cfg.fork:
        processes += [
            Process("fork", fork, (cfg,)),
            Process("child", child, (cfg, replace(first, space=CHILD))),
        ]

    def done(view: View) -> bool:
        return view.ended(*(process.name for process in processes))

    return System(words(cfg), processes, done, memory=memory)


def bounds() -> dict[str, Bound]:
    """Return sizes in which the protocol holds."""
    return {
        "2 threads, 2 calls": Bound(system(Config(calls=2))),
        "2 threads, a restart": Bound(system(Config(restarts=1))),
        "2 threads, a restart, TSO": Bound(system(Config(restarts=1), TSO)),
        "patching is refused at times": Bound(system(Config(calls=2, restarts=1, refusals=True))),
        "3 threads": Bound(system(Config(threads=3))),
        "fork": Bound(system(Config(threads=1, fork=True))),
        "fork, TSO": Bound(system(Config(threads=1, fork=True), TSO)),
        "fork, 2 threads": Bound(system(Config(threads=2, fork=True)), slow=True),
        "3 threads, 2 calls, restarts": Bound(system(Config(3, 2, 1)), slow=True),
    }


def mutants() -> dict[str, Mutant]:
    """Return what goes wrong without each of the protocol's means."""
    two, restarts, forks = Config(), Config(restarts=1), Config(threads=1, fork=True)
    found = {
        "first_byte_first": (Kind.BROKEN, two),
        "first_byte_second": (Kind.BROKEN, two),
        "no_06_first": (Kind.BROKEN, two),
        "no_second_read": (None, Config(calls=2, restarts=1, refusals=True)),
        "fix_up_without_lock": (Kind.BROKEN, two),
        "patched_without_lock": (Kind.BROKEN, Config(calls=2)),
        "patches_again": (Kind.BROKEN, Config(threads=3)),
        "second_write_fails": (Kind.BROKEN, two),
        "restart_block_forgotten": (Kind.BROKEN, restarts),
        "restart_block_rewound": (Kind.BROKEN, replace(restarts, refusals=True)),
        "fork_without_lock": (Kind.BROKEN, forks),
        "fetch_in_two_parts": (Kind.BROKEN, two),
    }
    return {name: Mutant(system(replace(cfg, mutant=name)), finds) for name, (finds, cfg) in found.items()}
