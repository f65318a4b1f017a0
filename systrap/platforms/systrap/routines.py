"""What the routines of the machine code are for: purpose, registers, and the statements of docs/spec.md that they keep.

For ``systrap disasm``, which shows them above the listing of the build. A test holds the table and the listings together.
"""

from typing import Final, NamedTuple


class Routine(NamedTuple):
    """A routine or a variable of an image. ``registers``: what it takes, keeps and gives; where CPUs differ, x86-64's first.

    ``source``: its file in blobs/src; "{arch}" stands for the CPU's folder.
    """

    purpose: str
    registers: str
    statements: tuple[str, ...]
    source: str


_C: Final = "as C has it"
_BOOT: Final = "{arch}/bootstrap.S"
_KEPT: Final = (
    "r12/x19 request page, r13/x20 next batch, r14/x21 own pid, r15/x22 parent pid, rbx/w23 mode, rbp/w24 current call"
)
_VARIABLE: Final = "a variable: written when the stub image is laid out, read-only from then on"

_BOOTSTRAP: Final = {
    "begin": Routine(
        "first instruction of the source and of every stub process: bind its life to the parent's, then "
        "the birth batch",
        "in: r12/x19 request page, r15/x22 the expected parent pid, rbp/w24 the call to begin with; no stack",
        ("S-121", "S-128", "S-129"),
        _BOOT,
    ),
    "run_batch": Routine("begin with call 0 of the batch that the sentry published", _KEPT, ("S-129",), _BOOT),
    "next_call": Routine(
        "load number and six arguments of the next call from the request page, and make it",
        _KEPT + "; changes the registers of a system call",
        ("S-007", "S-129"),
        _BOOT,
    ),
    "call_done": Routine("go on with the call behind this one", _KEPT, (), _BOOT),
    "move_request": Routine(
        "the call mapped the new request page: it is the request page from here on",
        "r12/x19 := " "result",
        ("S-007",),
        _BOOT,
    ),
    "enter_notify": Routine(
        "the call installed the notify filter: serve in notify mode from the end of this batch on",
        "rbx/w23 := MODE_NOTIFY",
        ("S-107", "S-146"),
        _BOOT,
    ),
    "call_failed": Routine(
        "a call failed: go on if it may, end the batch, or die if this is a birth", _KEPT, ("S-121",), _BOOT
    ),
    "cloned": Routine(
        "behind a clone: the parent's batch is over; a child with its own memory is a stub, one that "
        "shares it a thread",
        "in: rax/x0 result, rdi/x25 the clone's flags",
        ("S-120",),
        _BOOT,
    ),
    "batch_done": Routine("write result and count into the reply page, wake the sentry", _KEPT, ("S-131",), _BOOT),
    "futex_loop": Routine(
        "wait on the request page's number until there is a new batch (no seccomp listener)", _KEPT, ("S-130",), _BOOT
    ),
    "notify_loop": Routine(
        "the doorbell: exit_group(result, done) blocks in a seccomp notification until the sentry answers",
        _KEPT,
        ("S-130", "S-146"),
        _BOOT,
    ),
    "begin_thread": Routine(
        "first instructions of a sysmsg thread: parent check, signal stack, mask, filter, then a " "fault on purpose",
        "in: r9/x5 its thread record; out: all registers zero",
        ("S-122", "S-123", "S-124"),
        _BOOT,
    ),
    "die_pdeathsig": Routine("exit(120): the parent's death cannot be asked for", "", ("S-121",), _BOOT),
    "die_parent": Routine("exit(121): the parent is not the expected one any more", "", ("S-128",), _BOOT),
    "die_count": Routine("exit(122): a batch of more than 63 calls", "", (), _BOOT),
    "die_no_listener": Routine("exit(123): the doorbell answered an error: the sentry is gone", "", ("S-121",), _BOOT),
    "die_birth": Routine("exit(1 + index): a call of the birth batch failed", "in: rbp/w24 the index", (), _BOOT),
    "die": Routine("exit, never exit_group, which is the doorbell", "in: edi/w0 the code", (), _BOOT),
}

_SYSMSG: Final = {
    "restore_rt": Routine(
        "the restorer of the signal handler: rt_sigreturn",
        "in: rsp/sp the signal frame",
        ("S-030",),
        "{arch}/entries.S, x86_64/syshandler.S",
    ),
    "join_active_threads": Routine(
        "count a new thread among those that look for contexts; take the token that woke it",
        _C,
        ("S-064", "S-065"),
        "context_queue.c",
    ),
    "get_context": Routine(
        "take the next context from the queue: spin a while, park on the tokens; no wake-up is lost",
        "in: rdi/x0 sysmsg; out: rax/x0 the context",
        ("S-022", "S-061", "S-064", "S-065", "S-067", "S-074"),
        "context_queue.c",
    ),
    "push_ready": Routine(
        "put a context's number on the ready ring, ring the bell if the sentry sleeps",
        "in: rdi/x0 ring, esi/w1 number; out: rax/x0 0 or -errno",
        ("S-063", "S-065"),
        "give_back.c",
    ),
    "give_back": Routine(
        "publish a context: time stamp, owner, state, then tell the sentry in the way it asked for",
        "in: rdi/x0 sysmsg, rsi/x1 context, edx/w2 state",
        ("S-060", "S-061", "S-062", "S-063", "S-075"),
        "give_back.c",
    ),
    "spinning_queue_push": Routine(
        "note that one more thread spins, from now on", _C, ("S-070", "S-071"), "spinning_queue.c"
    ),
    "spinning_queue_pop": Routine(
        "a spinning thread found work: take the youngest entry away", _C, ("S-070", "S-071"), "spinning_queue.c"
    ),
    "spinning_queue_remove_first": Routine(
        "who finds the oldest entry expired leaves in its name", _C, ("S-067", "S-070", "S-071"), "spinning_queue.c"
    ),
    "die": Routine(
        "fault on purpose, below the lowest address that can be mapped: the stub ends", _C, ("S-140",), "panic.c"
    ),
    "panic": Routine(
        "report code, value and line in sysmsg, give the context back as failed, die",
        "in: edi/w0 code, esi/w1 value, edx/w2 line",
        ("S-140", "S-149"),
        "panic.c",
    ),
    "report": Routine(
        "write the report of a failure, and wake who waits for the context", _C, ("S-140", "S-149"), "panic.c"
    ),
    "syshandler": Routine(
        "the way in of patched call sites: save the guest's registers, switch contexts, restore, go " "back. No signal",
        "in: gs sysmsg, eax the number, rsp this thread's own stack; all others are the guest's",
        ("S-034", "S-040", "S-045", "S-082", "S-092", "S-093"),
        "x86_64/syshandler.S",
    ),
    "ac_is_clear": Routine(
        "syshandler, after the alignment flag was looked at: registers into the context",
        "",
        ("S-093",),
        "x86_64/syshandler.S",
    ),
    "fp_saved": Routine(
        "syshandler, when the FP state is in the context: call the C part",
        "",
        ("S-042", "S-045"),
        "x86_64/syshandler.S",
    ),
    "fp_loaded": Routine(
        "syshandler, when the next context's FP state is loaded: registers from the context, and " "back to its code",
        "",
        ("S-041", "S-042"),
        "x86_64/syshandler.S",
    ),
    "clear_ac": Routine("clear the alignment flag that a guest may have set", "", ("S-093",), "x86_64/syshandler.S"),
    "save_xsave": Routine(
        "save the FP state with XSAVE, where there is no XSAVEOPT", "", ("S-045",), "x86_64/syshandler.S"
    ),
    "save_fxsave": Routine(
        "save the FP state with FXSAVE, on CPUs without XSAVE", "", ("S-045",), "x86_64/syshandler.S"
    ),
    "load_fp": Routine(
        "load the FP state out of the context with XRSTOR", "", ("S-042", "S-045"), "x86_64/syshandler.S"
    ),
    "load_fxrstor": Routine("the same with FXRSTOR", "", ("S-045",), "x86_64/syshandler.S"),
    "syshandler_switch": Routine(
        "syshandler's part in C: give the context back, take the next, decide how to enter it",
        "in: rdi sysmsg; out: rax what is to be done",
        ("S-040", "S-041", "S-054"),
        "x86_64/syshandler.c",
    ),
    "start": Routine(
        "where syshandler would begin on a CPU without call patching: fails loudly", "", ("S-054",), "{arch}/entries.S"
    ),
    "sighandler": Routine(
        "the signal handler: guest registers out of the frame into the context, give it back, take "
        "the next, write that into the frame",
        "in: edi/w0 signal, rsi/x1 siginfo, rdx/x2 ucontext",
        ("S-030", "S-031", "S-035", "S-036", "S-037", "S-038", "S-043", "S-044", "S-045", "S-050", "S-053"),
        "{arch}/sighandler.c",
    ),
    "restore_guest": Routine(
        "write a context's registers, FP state and mask into the signal frame: rt_sigreturn will load them",
        "in: the frame and the context",
        ("S-041", "S-045", "S-046", "S-051"),
        "{arch}/sighandler.c",
    ),
    "switch_context": Routine(
        "give one context back and take the next; notice what came in between",
        "in: rdi/x0 sysmsg, rsi/x1 context, edx/w2 state; out: rax/x0 the next context",
        ("S-040", "S-052", "S-060"),
        "{arch}/switch.c",
    ),
    "read_fs_base": Routine(
        "read the guest's FS base, with the instruction for it or by a system call",
        _C,
        ("S-024", "S-048"),
        "x86_64/switch.c",
    ),
    "write_fs_base": Routine("set it", _C, ("S-024", "S-048"), "x86_64/switch.c"),
    "deep_sleep_timeout": Routine(
        "how long a thread spins before it parks, in ticks", _VARIABLE, ("S-073",), "config.S"
    ),
    "context_region": Routine("address of the context slots", _VARIABLE, ("S-008", "S-025"), "config.S"),
    "stub_start": Routine(
        "address of the stub: what lies above it is not the guest's", _VARIABLE, ("S-002",), "config.S"
    ),
    "arch_state": Routine(
        "which FP instructions this CPU has, and how large the state is", _VARIABLE, ("S-023", "S-024"), "config.S"
    ),
    "context_queue_addr": Routine("address of the context queue", _VARIABLE, ("S-008",), "config.S"),
    "spinning_queue_addr": Routine("address of the spinning queue", _VARIABLE, ("S-008",), "config.S"),
    "disable_syscall_patching": Routine("1: never ask for a site to be patched", _VARIABLE, ("S-087",), "config.S"),
    "sighandler_marked": Routine(
        "the rest of the handler's way in: the thread's state says that it is in stub code",
        "in: ecx the state before",
        ("S-038",),
        "x86_64/signal.S",
    ),
    "handle_signal": Routine(
        "the handler proper: the guest into its context, give it back, wait for the next, put that one into the frame or load it",
        "in: edi signal, rsi siginfo, rdx ucontext, ecx the thread's state before",
        ("S-034", "S-037", "S-038", "S-039"),
        "x86_64/sighandler.c",
    ),
    "save_guest": Routine(
        "copy a guest from the signal's frame into its context", _C, ("S-034",), "x86_64/sighandler.c"
    ),
    "leave_to_guest": Routine(
        "go on with the very context that was interrupted, unless an interrupt came meanwhile",
        _C,
        ("S-039",),
        "x86_64/sighandler.c",
    ),
    "resume_guest": Routine(
        "load a guest from its context without the kernel, and go on there",
        "in: rdi context; does not return",
        ("S-045", "S-046"),
        "x86_64/signal.S",
    ),
    "rdpid": Routine("1: the CPU has the instruction rdpid (ours)", _VARIABLE, (), "config.S"),
    "user_resume": Routine("1: guests are loaded by resume_guest where that can be (ours)", _VARIABLE, (), "config.S"),
    "ready_ring": Routine("address of the ready ring, our extension of the ABI", _VARIABLE, ("S-063",), "config.S"),
}

_SENTRY: Final = {
    "submit": Routine(
        "put a context on a stub's queue; wake a thread if contexts wait that nobody will take",
        "in: the dispatch block; out: eax/w0 0, 1 (another thread is wanted), negative (the queue says it is full)",
        ("S-022", "S-063", "S-065", "S-066"),
        "submit.c",
    ),
    "space_count": Routine(
        "how many spaces the dispatch block lists, at most as many as it has room for", _C, ("S-141",), "kick.c"
    ),
    "kick": Routine(
        "leave a token and wake a thread, if there are more contexts than threads that will look",
        _C,
        ("S-064", "S-065"),
        "kick.c",
    ),
    "kick_unclaimed": Routine("the same for every space where a context waits to be taken", _C, ("S-065",), "kick.c"),
    "kick_stalled": Routine("the same where none was taken since this was last asked", _C, ("S-065",), "kick.c"),
    "busy_threads": Routine("how many stub threads are awake, in all spaces", _C, ("S-072",), "kick.c"),
    "answer": Routine(
        "hand the context over again that next_ready gave last, and wait for the next one: both in one call",
        "in, out: the dispatch block; out: as next_ready, or -EPERM",
        ("S-022", "S-063"),
        "submit.c",
    ),
    "next_ready": Routine(
        "look at the ready rings, spin for a moment, sleep on all bells at once: until a context "
        "came back, or the deadline",
        "in, out: the dispatch block; out: eax/w0 what was found",
        ("S-063", "S-067", "S-072", "S-141"),
        "next_ready.c",
    ),
    "atomic_add32": Routine("add to a word; out: what it was", "in: rdi/x0 address, esi/w1 value", (), "atomics.c"),
    "atomic_xchg32": Routine(
        "exchange a word; a full fence", "in: rdi/x0 address, esi/w1 value", ("S-063",), "atomics.c"
    ),
    "atomic_cas32": Routine(
        "replace a word if it is what is expected", "in: rdi/x0 address, esi/w1 old, edx/w2 new", (), "atomics.c"
    ),
    "load_acquire32": Routine("load a word before everything behind it", "in: rdi/x0 address", ("S-063",), "atomics.c"),
    "load_acquire64": Routine("the same with 64 bits", "in: rdi/x0 address", ("S-063",), "atomics.c"),
    "store_release32": Routine(
        "store a word after everything in front of it", "in: rdi/x0 address, esi/w1 value", ("S-063",), "atomics.c"
    ),
    "store_release64": Routine("the same with 64 bits", "in: rdi/x0 address, rsi/x1 value", ("S-063",), "atomics.c"),
    "fence": Routine("a full fence", "", ("S-063",), "atomics.c"),
    "counter": Routine("read the clock of the contexts' time stamps", "out: rax/x0 ticks", ("S-061",), "atomics.c"),
    "counter_frequency": Routine("ticks of that clock in a second", "out: x0", ("S-073",), "aarch64/frequency.c"),
    "clone_source": Routine(
        "clone the first stub process; no Python runs in the child",
        "in: rdi/x0 its parameters; " "out: pid or -errno",
        ("S-007", "P-033"),
        "clone_source.c",
    ),
    "become_source": Routine(
        "in the child: forget the sentry's memory, set signals and filters up, enter the bootstrap",
        _C,
        ("S-007", "S-011", "S-030", "S-105", "S-126"),
        "clone_source.c",
    ),
    "check": Routine("exit when a system call of the child failed", _C, ("S-121",), "clone_source.c"),
    "enter_bootstrap": Routine(
        "load the registers that `begin` takes, and go there", _C, ("S-129",), "{arch}/arch_source.h"
    ),
    "cpuid": Routine(
        "execute CPUID", "in: rdi four words, eax and ecx in them; out: the same words", ("S-110",), "x86_64/cpuid.c"
    ),
    "dispatch_block": Routine(
        "address of the block that submit and next_ready work with", _VARIABLE, (), "dispatch_config.S"
    ),
}

ROUTINES: Final[dict[str, dict[str, Routine]]] = {"bootstrap": _BOOTSTRAP, "sysmsg": _SYSMSG, "sentry": _SENTRY}
"""By image and name (without the prefix of exports)."""

PURPOSES: Final = {
    "bootstrap": "runs in stub processes: the first instructions of every process and thread there, and the syscall "
    "thread's loop",
    "sysmsg": "runs in stub processes: signal handler, restorer and syshandler; its exports are upstream's ABI",
    "sentry": "runs in the sentry: clones the source, hands contexts over and waits for them",
}
