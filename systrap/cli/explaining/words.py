"""The words that sentry and stub share, by name, as they are at a moment: what explain shows before and after each step."""

import struct
from typing import Final, NamedTuple

from systrap.host import mem
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.subprocess import Subprocess


class Word(NamedTuple):
    """A shared word: where it is told to be, its offset and size there, what it is for, and how its value is shown."""

    place: str
    name: str
    offset: int
    size: int
    about: str
    shown: str = "number"


CONTEXT_WORDS: Final = (
    Word("context", "state", abi.STATE, 4, "who has it, and why it came back", "state"),
    Word("context", "interrupt", abi.INTERRUPT, 4, "the sentry wants it back"),
    Word("context", "thread_id", abi.THREAD_ID, 4, "the stub thread that runs it", "id"),
    Word("context", "last_thread_id", abi.LAST_THREAD_ID, 4, "the one that ran it last", "id"),
    Word("context", "sentry_fast_path", abi.SENTRY_FAST_PATH, 4, "how its return is announced", "notify"),
    Word("context", "acked_time", abi.ACKED_TIME, 8, "when a stub thread took it", "time"),
    Word("context", "state_changed_time", abi.STATE_CHANGED_TIME, 8, "when it was given back", "time"),
    Word("context", "fpstate_changed", abi.FPSTATE_CHANGED, 4, "its FP state has to be loaded"),
    Word("context", "err", abi.ERR, 8, "the page fault's error code"),
    *(Word("context", name, abi.PTREGS + 8 * index, 8, "a register", "hex") for name, index in (
        ("rax", 10), ("rbx", 5), ("rdi", 14), ("orig_rax", 15), ("rip", 16))),
)  # fmt: skip
QUEUE_WORDS: Final = (
    Word("queue", "end", abi.QUEUE_END, 4, "next index the sentry writes", "hex"),
    Word("queue", "start", abi.QUEUE_START, 4, "next index a stub thread reads", "hex"),
    Word("queue", "num_active_contexts", abi.QUEUE_ACTIVE_CONTEXTS, 4, "queued or running"),
    Word("queue", "num_active_threads", abi.QUEUE_ACTIVE_THREADS, 4, "stub threads that are awake"),
    Word("queue", "num_spinning_threads", abi.QUEUE_SPINNING_THREADS, 4, "of them, those that look for a context"),
    Word(
        "queue",
        "num_threads_to_wakeup",
        abi.QUEUE_THREADS_TO_WAKEUP,
        4,
        "tokens, the word that parked threads sleep on",
    ),
    Word("queue", "num_awake_contexts", abi.QUEUE_AWAKE_CONTEXTS, 4, "contexts whose task does not sleep"),
    Word("queue", "fast_path_disabled", abi.QUEUE_FAST_PATH_DISABLED, 4, "stub threads may not spin"),
)
RING_WORDS: Final = (
    Word("ready ring", "tail", abi.RING_TAIL, 4, "next index a stub thread writes"),
    Word("ready ring", "bell", abi.RING_BELL, 4, "the word that the sentry sleeps on"),
    Word("ready ring", "waiting", abi.RING_WAITING, 4, "the sentry sleeps"),
)
SYSMSG_WORDS: Final = (
    Word("sysmsg", "state", abi.SYSMSG_STATE, 4, "what the stub thread is doing", "thread"),
    Word("sysmsg", "ret_addr", abi.SYSMSG_RET_ADDR, 8, "where a patched call returns to", "hex"),
    Word("sysmsg", "app_stack", abi.SYSMSG_APP_STACK, 8, "the guest's stack pointer in a patched call", "hex"),
)
_NOTIFY: Final = {abi.NOTIFY_FUTEX: "futex", abi.NOTIFY_NONE: "none", abi.NOTIFY_RING: "ready ring"}

Snapshot = dict[Word, int]


def take(space: Subprocess, context_id: int) -> Snapshot:
    """Read every word once. The slots of queue and ring that will be used next are shown by the indices alone."""
    stub = space.stub
    slot = stub.context_slot(context_id)
    context = mem.view(slot.address, abi.CONTEXT_SIZE)
    queue = mem.view(stub.queue_address, abi.QUEUE_RING)
    found = {word: _read(context, word) for word in CONTEXT_WORDS}
    found |= {word: _read(queue, word) for word in QUEUE_WORDS}
    found |= {word: _read(stub.ring, word) for word in RING_WORDS}
    sysmsg = stub.thread_words(1)
    return found | {word: _read(sysmsg, word) for word in SYSMSG_WORDS}


def _read(memory: "memoryview[int]", word: Word) -> int:
    (value,) = struct.unpack_from("<I" if word.size == 4 else "<Q", memory, word.offset)
    return int(value)


def changes(before: Snapshot, after: Snapshot) -> list[tuple[Word, int, int]]:
    """Return what differs, in the order of the tables."""
    return [(word, value, after[word]) for word, value in before.items() if after[word] != value]


def show(word: Word, value: int, symbolic: bool) -> str:
    """Return a value in the form in which this word is best understood. ``symbolic``: times are not told."""
    if word.shown == "time":
        return "0" if value == 0 else "now" if symbolic else f"{value} ticks"
    if word.shown == "id":
        return "nobody" if value == abi.INVALID_ID else f"thread {value}"
    if word.shown == "notify":
        return _NOTIFY.get(value, hex(value))
    if word.shown in ("state", "thread"):
        names = abi.ContextState if word.shown == "state" else abi.ThreadState
        return names(value).name if value in [member.value for member in names] else hex(value)
    return hex(value) if word.shown == "hex" else str(value)
