"""The words that sentry and stub share, told by the conformance driver to cases about the ABI itself (docs/halves.md).

Only where a platform has them: a stub's context slots, context queue and threads, as abi.py lays them out. They are read when
the context is the sentry's, so nobody writes them; what the sentry itself has changed since is left out (rax, interrupt).
"""

import struct
from typing import Final

from systrap.arch import x86_64
from systrap.cli.driver_wire import OperationError, Reply, UnsupportedError, word
from systrap.platform import Context
from systrap.platforms.systrap import abi
from systrap.platforms.systrap.context import SystrapContext

CAP: Final = "x.words"

_SLOT: Final = {
    "state": abi.STATE,
    "thread_id": abi.THREAD_ID,
    "last_thread_id": abi.LAST_THREAD_ID,
    "sentry_fast_path": abi.SENTRY_FAST_PATH,
    "fpstate_changed": abi.FPSTATE_CHANGED,
    "signo": abi.SIGNO,
    "siginfo_signo": abi.SIGINFO,
    "siginfo_code": abi.SIGINFO + 8,
    "siginfo_syscall": abi.SIGINFO + 24,
    "siginfo_arch": abi.SIGINFO + 28,
    "err": abi.ERR,
}
"""32-bit words of a slot."""
_SLOT_LONG: Final = {
    "acked_time": abi.ACKED_TIME,
    "state_changed_time": abi.STATE_CHANGED_TIME,
    "siginfo_addr": abi.SIGINFO + 16,
    "orig_rax": abi.PTREGS + 8 * x86_64.ORIG_RAX,
}
_QUEUE: Final = {
    "start": abi.QUEUE_START,
    "end": abi.QUEUE_END,
    "active_threads": abi.QUEUE_ACTIVE_THREADS,
    "spinning_threads": abi.QUEUE_SPINNING_THREADS,
    "threads_to_wakeup": abi.QUEUE_THREADS_TO_WAKEUP,
    "active_contexts": abi.QUEUE_ACTIVE_CONTEXTS,
}


def has_words(context: Context) -> bool:
    """Tell whether a platform's contexts have such words, on this CPU."""
    return isinstance(context, SystrapContext) and context.MACHINE is x86_64.X86_64


def read(context: Context) -> Reply:
    """Return the words of a context that ran, of its queue, and of the thread that it ran on last."""
    if not isinstance(context, SystrapContext):
        raise UnsupportedError(CAP, "this platform shares no words with its stubs")
    slot, space = context.slot, context.space
    if slot is None or space is None:
        raise OperationError("state", "this context has not run yet")
    found = {name: slot.word(offset) for name, offset in _SLOT.items()}
    found |= {name: slot.long(offset) for name, offset in _SLOT_LONG.items()}
    stub = space.stub
    thread: Reply = {"count": word(len(stub.threads))}
    last = found["last_thread_id"]
    if last in stub.threads:
        memory = stub.thread_words(last)
        for name, offset in (("state", abi.SYSMSG_STATE), ("err", abi.SYSMSG_ERR), ("id", abi.SYSMSG_THREAD_ID)):
            thread[name] = word(struct.unpack_from("<I", memory, offset)[0])
    queue: Reply = {name: word(stub.queue[offset >> 2]) for name, offset in _QUEUE.items()}
    return {"slot": {name: word(value) for name, value in found.items()}, "queue": queue, "thread": thread}
