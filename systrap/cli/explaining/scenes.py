"""The five round trips that explain knows: each is played on a stage (stage.py) and told (tell.py) while it happens."""

from collections.abc import Callable
from typing import Final, NamedTuple

from systrap.arch import x86_64
from systrap.cli.explaining.stage import CODE, NOWHERE, PAGE, Stage
from systrap.cli.explaining.tell import Teller, listing
from systrap.platform import DISPATCH, SECCOMP, Access, Event, EventKind, PlatformError
from systrap.platforms.systrap.usertrap import PATCH_AFTER

ANSWER: Final = 4242

# b8 27 00 00 00 mov $39, %eax; 0f 05 syscall; 48 89 c3 mov %rax, %rbx; eb f4 jmp
_CALLS: Final = bytes.fromhex("b827000000 0f05 4889c3 ebf4")
_CALLS_TEXT: Final = (["mov $39, %eax            39 is getpid", "syscall", "mov %rax, %rbx", "jmp code"], [5, 2, 3, 2])
# 48 8b 07 mov (%rdi), %rax; then a call.
_LOADS: Final = bytes.fromhex("488b07 4889c3 b827000000 0f05 ebf1")
_LOADS_TEXT: Final = (
    ["mov (%rdi), %rax         rdi = nowhere", "mov %rax, %rbx", "mov $39, %eax", "syscall", "jmp code"],
    [3, 3, 5, 2, 2],
)
# b8 27 00 00 00 0f 05 a call first; ff c3 inc %ebx; eb fc jmp back
_SPINS: Final = bytes.fromhex("b827000000 0f05 ffc3 ebfc")
_SPINS_TEXT: Final = (["mov $39, %eax            once, to begin", "syscall", "inc %ebx", "jmp code+0x07"], [5, 2, 2, 2])


class Scene(NamedTuple):
    """A kind of round trip."""

    summary: str
    code: bytes
    text: tuple[list[str], list[int]]
    trap: str
    patching: bool
    play: Callable[[Stage, Teller], None]


def _begin(stage: Stage, tell: Teller, scene: Scene, title: str) -> None:
    """Show the guest, and run it up to its first call, so that the stub has a thread."""
    tell.title(title)
    tell.step("The guest")
    tell.lines(listing(scene.code, *scene.text))
    stage.submit()
    stage.event()
    stage.until_given_back()
    tell.say(
        "It has run up to its first system call already, so that its stub process has a thread, and that thread is "
        "parked: it sleeps on num_threads_to_wakeup. The sentry holds the context. Nobody spins in this story, so that "
        "one thing happens after the other."
    )


def _hand_over(stage: Stage, tell: Teller, prose: str) -> None:
    """Submit while the stub stands still."""
    tell.step("The sentry hands the context over")
    stage.freeze()
    before = stage.look()
    stage.submit()
    after = stage.look()
    tell.say(prose)
    tell.changed(stage, before, after)
    tell.say(
        "(The stub is stopped at this moment, so that this can be seen.) The store to state publishes all that was "
        "written into the context before (S-026). There was no thread awake that would find it, so a token was left and"
        " one was woken by futex: tokens and threads are counted such that no wake-up is lost (S-066, context_queue.c)."
    )


def _answer(stage: Stage, tell: Teller) -> None:
    """Put the answer where the guest expects it, and show that it arrived."""
    tell.step("The answer, and the way back")
    stage.context.regs[x86_64.RAX] = ANSWER
    tell.say(
        f"The sentry writes {ANSWER} into rax: the registers it sees are the context's in shared memory, nothing is "
        "copied. Then it hands the context over as before, and the guest goes on until its next call."
    )
    before = stage.look()
    stage.submit()
    event = stage.event()
    stage.until_given_back()
    tell.changed(stage, before, stage.look(), "context")
    tell.say(
        "rbx has the answer: the guest went on behind its call and did mov %rax, %rbx. It is back with a "
        f"{event.kind.name} event, and the next round begins."
    )


def _frame(stage: Stage, tell: Teller, *more: str) -> None:
    """Show the words of the signal frame; ``more``: those that only tell something of a fault."""
    frame = stage.frame()
    if frame is None:
        raise PlatformError("there is no signal frame on the signal stack")
    tell.step("What the kernel left on the signal stack")
    named = {name: tell.address(stage, value) for name, value in frame.items()}
    tell.say(
        "The signal's frame lies on the stub thread's own stack, where the handler still waits. Guest code never sees "
        "it: its own stack was not touched. From here the handler copied the registers into the context."
    )
    tell.lines([f"{name:10} {named[name]}" for name in ("rax", "rip", "rsp", "eflags", *more, "sigmask")])


def _trapped(stage: Stage, tell: Teller, how: str) -> None:
    _hand_over(
        stage, tell, "submit() writes the context's state, queues its number, and looks whether somebody will take it:"
    )
    tell.step("The guest runs, calls, and is caught")
    before = stage.look()
    stage.thaw()
    stage.until_given_back()
    tell.say(how)
    tell.changed(stage, before, stage.look())
    tell.say(
        "The handler ran on the stub thread: it took the registers out of the signal frame, put the number into "
        "orig_rax and -ENOSYS into rax, wrote the time and the state, and put the context's number on the ready ring. "
        "waiting is 0, so the bell stays silent: the sentry had not gone to sleep. Then the thread found nothing more "
        "to do, and parked."
    )
    _frame(stage, tell)
    _take(stage, tell, stage.event())
    _answer(stage, tell)


def _take(stage: Stage, tell: Teller, event: Event) -> None:
    tell.step("The sentry takes it")
    regs = stage.context.regs
    found = [f"kind     {event.kind.name}"]
    if event.kind is EventKind.SYSCALL:
        found.append(f"number   {regs[x86_64.ORIG_RAX]}")
    if event.info is not None:
        found += [f"signal   {event.info.signo}", f"address  {tell.address(stage, event.info.addr)}",
                  f"access   {event.access.name}"]  # fmt: skip
    found.append(f"rip      {tell.address(stage, regs[x86_64.RIP])}")
    tell.say(
        "next_ready() looks at the ring's next slot, finds the context's number, and asks its own books whether that "
        "context is out at all: the ring lies in memory that guests can write, so its word is checked and never "
        "believed (S-141). Then it reads the state, once:"
    )
    tell.lines(found)


def _play_trapped(stage: Stage, tell: Teller) -> None:
    _begin(stage, tell, SCENES["trapped"], "A system call, trapped by seccomp")
    _trapped(
        stage,
        tell,
        "syscall enters the kernel, which asks the stub's seccomp filter. The instruction lies below the stub, so the "
        "filter answers RET_TRAP: the call is not made, and the thread gets SIGSYS instead (S-010).",
    )


def _play_dispatched(stage: Stage, tell: Teller) -> None:
    _begin(stage, tell, SCENES["dispatched"], "A system call, trapped by syscall user dispatch")
    _trapped(
        stage,
        tell,
        "syscall enters the kernel, which sees that this thread has user dispatch switched on for all code below the "
        "stub (prctl PR_SET_SYSCALL_USER_DISPATCH). It sends SIGSYS before any filter is asked. The filter stays behind"
        " it, for a thread that had lost the setting.",
    )


def _play_patched(stage: Stage, tell: Teller) -> None:
    _begin(stage, tell, SCENES["patched"], "A system call at a patched site")
    tell.step("The site is patched")
    before = stage.code(CODE, 7)
    for _ in range(PATCH_AFTER):
        stage.context.regs[x86_64.RAX] = ANSWER
        stage.submit()
        stage.event()
    stage.until_given_back()
    after = stage.code(CODE, 7)
    entry = int.from_bytes(after[3:7], "little")
    tell.say(
        f"The stub recognises b8 imm32 0f 05 in front of a trapped call. After {PATCH_AFTER} traps at one site the "
        "sentry writes a jump over these seven bytes, through a table of trampolines in the guest's own memory "
        "(usertrap.py tells in which order, since other threads may be running there):"
    )
    # The table has a random place: only its bytes tell, and only where it is not the same story each time.
    table, found = ("table", "…") if tell.symbolic else (hex(entry & -PAGE), after[3:7].hex(" "))
    at = entry & PAGE - 1
    tell.lines(
        [
            f"before  {before.hex(' ')}  mov $39, %eax; syscall",
            f"after   {after[:3].hex(' ')} {found}  jmp *{table}+{at:#x}",
        ]
    )
    tell.lines([f"{table}+{at:#x}  where the entry's code begins: {table}+{at + 8:#x}",
                f"{table}+{at + 8:#x}  {stage.code(entry + 8, 12).hex(' ')}  movl $PREP, %gs:state",
                f"{table}+{at + 20:#x}  {stage.code(entry + 20, 9).hex(' ')}  mov %rsp, %gs:app_stack   …"])  # fmt: skip
    _hand_over(stage, tell, "As for any context:")
    tell.step("The guest runs, and calls the stub")
    state = stage.look()
    stage.thaw()
    stage.until_given_back()
    tell.say(
        "No signal, no kernel: the jump leads into the trampoline, that into syshandler (syshandler.S), which writes "
        "the registers into the context and gives it back. The state says SYSCALL_TRAP, and sysmsg holds what a signal "
        "frame would hold."
    )
    tell.changed(stage, state, stage.look())
    _take(stage, tell, stage.event())
    _answer(stage, tell)


def _play_fault(stage: Stage, tell: Teller) -> None:
    stage.context.regs[x86_64.RDI] = NOWHERE
    tell.title("A page fault")
    tell.step("The guest")
    tell.lines(listing(_LOADS, *_LOADS_TEXT))
    tell.say("It is about to read where nothing is mapped.")
    stage.submit()
    event = stage.event()
    stage.until_given_back()
    tell.step("The guest runs, and faults")
    tell.say(
        "The CPU faults, the kernel finds no mapping and sends SIGSEGV. The handler copies the registers and the "
        "siginfo, and the page fault's error code, from which the sentry knows the kind of access (P-043). rip is that "
        "of the instruction: it did not happen."
    )
    _frame(stage, tell, "trapno", "err", "cr2")
    _take(stage, tell, event)
    tell.step("The sentry maps a page, and lets the instruction run again")
    stage.memory.map_anonymous(NOWHERE, PAGE, Access.READ, "nowhere")
    stage.memory.write(NOWHERE, ANSWER.to_bytes(8, "little"))
    tell.say(
        "A mapping is made in the stub process, by its syscall thread: the sentry writes the call into a shared page, "
        f"that thread makes it. The page holds {ANSWER}. Then the context is handed over unchanged."
    )
    before = stage.look()
    stage.submit()
    stage.event()
    stage.until_given_back()
    tell.changed(stage, before, stage.look(), "context")
    tell.say(
        "rbx has what the page holds: the load was done again, this time with success; the guest went on to its call."
    )


def _play_interrupt(stage: Stage, tell: Teller) -> None:
    _begin(stage, tell, SCENES["interrupt"], "An interrupt")
    tell.step("The guest computes")
    before = stage.look()
    stage.submit()
    stage.until_taken()
    tell.say("It is let run once more, and will never call again. A stub thread has it:")
    tell.changed(stage, before, stage.look())
    tell.step("The sentry wants it back")
    stage.freeze()
    before = stage.look()
    stage.context.interrupt()
    tell.say(
        "interrupt() first sets the flag in the context, with a full fence, then looks which thread runs it, and sends "
        "that thread SIGCHLD. If the thread had not taken the context yet, it would see the flag when it does: one of "
        "the two always finds the other (20-platform §5.5, P-072)."
    )
    tell.changed(stage, before, stage.look())
    tell.step("It comes back")
    tell.hides = ("rbx", "rip")
    before = stage.look()
    stage.thaw()
    stage.until_given_back()
    event = stage.event()
    tell.say(
        "The signal interrupts the loop, the handler gives the context back as it would for a fault, with signal 17 in "
        "it:"
    )
    tell.changed(stage, before, stage.look(), "context", "queue")
    tell.lines([f"kind     {event.kind.name}"])
    tell.say(
        "rip is in the loop, rbx has what was counted so far. The sentry looks at what it wanted to look at, and "
        "submits it again."
    )


SCENES: Final[dict[str, Scene]] = {
    "trapped": Scene("a system call that seccomp traps", _CALLS, _CALLS_TEXT, SECCOMP, False, _play_trapped),
    "dispatched": Scene(
        "a system call that user dispatch traps", _CALLS, _CALLS_TEXT, DISPATCH, False, _play_dispatched
    ),
    "patched": Scene("a system call at a site that was patched", _CALLS, _CALLS_TEXT, SECCOMP, True, _play_patched),
    "fault": Scene("a page fault", _LOADS, _LOADS_TEXT, SECCOMP, False, _play_fault),
    "interrupt": Scene(
        "guest code that computes is fetched back", _SPINS, _SPINS_TEXT, SECCOMP, False, _play_interrupt
    ),
}
"""By name."""


def play(name: str, tell: Teller) -> None:
    """Play one scene. Raises PlatformError, RequirementError where the host cannot."""
    scene = SCENES[name]
    stage = Stage(scene.code, scene.trap, scene.patching)
    try:
        scene.play(stage, tell)
    finally:
        stage.close()
