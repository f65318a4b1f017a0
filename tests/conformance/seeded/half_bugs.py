"""Seeded bugs of one half: words that a stub owes its sentry, and words that a sentry owes its stub.

The first are found by cases that look at the words (ABI-…), the others against a scripted stub (SENTRY-…).
"""

from typing import Final

from tests.conformance.seeded.fp_bugs import CONTEXT
from tests.conformance.seeded.image_bugs import HANDLER
from tests.conformance.seeded.mutation import Edit, Mutant
from tests.conformance.seeded.platform_bugs import ABI, DISPATCHER, FAULTS, SPACE
from tests.conformance.seeded.stub_bugs import CALLS_C, GIVE, KICK, QUEUE, SUBMIT


def _stub(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    return Mutant(f"stub-{identity}", what, (Edit(file, ours, seeded),))


def _sentry(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    control = ("SENTRY-CALL-001",)
    return Mutant(f"sentry-{identity}", what, (Edit(file, ours, seeded),), control=control, half=True)


_SIGNAL: Final = "        tid = space.stub.threads.get(slot.thread_id())\n"

MUTANTS: Final = (
    _stub(
        "last-thread",
        "the stub does not say which thread ran a context",
        GIVE,
        "    store_release(&ctx->last_thread_id, sysmsg->thread_id);\n",
        "",
    ),
    _stub(
        "acked",
        "the stub does not say when it took a context",
        QUEUE,
        "    store_release(&ctx->acked_time, counter());\n",
        "",
    ),
    _stub(
        "changed",
        "the stub does not say when it gave a context back",
        GIVE,
        "    store_release(&ctx->state_changed_time, counter());\n",
        "",
    ),
    _stub(
        "active-contexts",
        "the stub does not count contexts out",
        GIVE,
        "    fetch_sub(&context_queue()->num_active_contexts, 1);\n",
        "",
    ),
    _stub(
        "orig-rax",
        "a fault looks like a system call by orig_rax",
        HANDLER,
        ("    ctx->ptregs.orig_rax = (u64)-1;\n" "    *new_state = CONTEXT_FAULT;"),
        "    *new_state = CONTEXT_FAULT;",
    ),
    _stub(
        "asleep",
        "a thread that sleeps does not say so",
        QUEUE,
        "    store_release(&sysmsg->state, THREAD_ASLEEP);\n",
        "",
    ),
    _stub(
        "need-trap",
        "the stub offers sites for patching that load another number",
        HANDLER,
        "(s32)immediate == trapped_number && immediate == number",
        "(immediate != 0 || trapped_number || number)",
    ),
    _stub(
        "fp-changed",
        "the stub marks its own FP state as the sentry's",
        HANDLER,
        "ctx->fpstate_changed = live ? 0 : 1;",
        "ctx->fpstate_changed = 1;",
    ),
    _stub("call-signo", "a patched call does not say SIGSYS", CALLS_C, "    ctx->signo = SIGSYS;\n", ""),
    _sentry(
        "entry",
        "an entry of the queue carries the wrong index",
        SUBMIT,
        "(u64)index << 32 | context_id",
        "(u64)(index + 1) << 32 | context_id",
    )._replace(control=("SENTRY-QUEUE-001",)),
    _sentry(
        "active",
        "the sentry does not count contexts in",
        SUBMIT,
        "    fetch_add(&queue->num_active_contexts, 1);\n",
        "",
    ),
    _sentry(
        "no-token",
        "no token is left for a parked thread",
        KICK,
        "        fetch_add(&queue->num_threads_to_wakeup, 1);\n",
        "",
    ),
    _sentry(
        "token-always",
        "a token is left although threads are awake",
        KICK,
        "    if (active_threads + tokens + 1 <= contexts) {",
        "    if (active_threads + tokens + 1 <= contexts + 9) {",
    ),
    _sentry(
        "state", "the state of the last run stays", SUBMIT, "    store_release(&ctx->state, CONTEXT_NONE);\n", ""
    )._replace(control=("SENTRY-QUEUE-001",)),
    _sentry("acked", "the time of the last run stays", SUBMIT, "    store_relaxed(&ctx->acked_time, 0);\n", ""),
    _sentry(
        "no-flag",
        "an interrupt is a signal only",
        DISPATCHER,
        "        self._code.exchange32(slot.address + abi.INTERRUPT, 1)\n",
        "",
    ),
    _sentry("no-signal", "an interrupt is a flag only", DISPATCHER, _SIGNAL, "        tid = None\n"),
    _sentry(
        "signals-all",
        "an interrupt signals every thread",
        DISPATCHER,
        _SIGNAL,
        "        for other in space.stub.threads.values():\n"
        "            process.tgkill(other, other, abi.SIGCHLD)\n" + _SIGNAL,
    ),
    _sentry(
        "signals-first",
        "an interrupt signals the first thread, whoever runs the context",
        DISPATCHER,
        _SIGNAL,
        "        tid = space.stub.threads.get(1) if slot.acked() else None\n",
    ),
    _sentry(
        "flag-stays",
        "the flag of an interrupt stays for the next run",
        ABI,
        "        self._u32[INTERRUPT >> 2] = 0\n",
        "        return\n",
    ),
    _sentry(
        "bad-thread",
        "a context that still names a thread is believed",
        CONTEXT,
        "        if thread_id != abi.INVALID_ID:\n",
        "        if False:\n",
    ),
    _sentry(
        "bad-state",
        "any state is a system call",
        CONTEXT,
        '        return self._condemn(f"context state {state:#x}")\n',
        "        return SYSCALL_EVENT\n",
    ),
    _sentry(
        "bad-signal",
        "any signal is a fault",
        CONTEXT,
        "        if info.signo not in abi.SIGNALS:\n",
        "        if False:\n",
    ),
    _sentry(
        "access",
        "write faults are told as reads",
        FAULTS,
        ("        return Access.WRITE\n" "    if err & _PAGE_FAULT_FETCH"),
        ("        return Access.READ\n" "    if err & _PAGE_FAULT_FETCH"),
    ),
    _sentry(
        "fp-again",
        "the FP image is given to the stub at every run",
        CONTEXT,
        "        if self._restore:\n",
        "        if True:\n",
    ),
    _sentry(
        "queue-zero",
        "the ring begins with zeros",
        ABI,
        'struct.pack("<Q", INVALID_ID) * QUEUE_ENTRIES',
        'struct.pack("<Q", 0) * QUEUE_ENTRIES',
    ),
    _sentry(
        "meddles",
        "the sentry writes to a context while the stub has it",
        DISPATCHER,
        "            futex.wait(slot.address + abi.STATE, ContextState.NONE, timeout)\n",
        (
            "            futex.wait(slot.address + abi.STATE, ContextState.NONE, timeout)\n"
            "            slot.regs[24] += 1\n"
        ),
    ),
    _sentry("same-slot", "two contexts share a slot", SPACE, "            self._next_id += 1\n", ""),
)
