"""Seeded bugs of the stub's other machine code: the syshandler of patched calls, the queue, and the way between contexts."""

from typing import Final

from tests.conformance.seeded.image_bugs import LOADED
from tests.conformance.seeded.mutation import Edit, Mutant

CALLS: Final = "blobs/src/x86_64/syshandler.S"
CALLS_C: Final = "blobs/src/x86_64/syshandler.c"
SWITCH: Final = "blobs/src/x86_64/switch.c"
QUEUE: Final = "blobs/src/context_queue.c"
GIVE: Final = "blobs/src/give_back.c"
SUBMIT: Final = "blobs/src/submit.c"
READY: Final = "blobs/src/next_ready.c"
KICK: Final = "blobs/src/kick.c"


def _bug(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    return Mutant(identity, what, (Edit(file, ours, seeded),))


MUTANTS: Final = (
    _bug("call-r14-unsaved", "a patched call does not save r14", CALLS, "        mov     %r14, CTX_R14(%rcx)\n", ""),
    _bug(
        "call-rbx-lost", "a patched call does not restore rbx", CALLS, LOADED, f"{LOADED}        xor     %ebx, %ebx\n"
    ),
    _bug(
        "call-r8-r9",
        "a patched call swaps its last two arguments",
        CALLS,
        "        mov     %r9, CTX_R9(%rcx)\n        mov     %r8, CTX_R8(%rcx)",
        "        mov     %r8, CTX_R9(%rcx)\n        mov     %r9, CTX_R8(%rcx)",
    ),
    _bug(
        "call-flags-lost",
        "a patched call does not restore the flags",
        CALLS,
        ("        popfq\n" "        mov     (%rsp), %rsp"),
        "        add     $8, %rsp\n        mov     (%rsp), %rsp",
    ),
    _bug(
        "call-fp-unsaved",
        "a patched call does not save the vector registers",
        CALLS,
        "        xsaveopt64 CTX_FPSTATE(%rsi)\n",
        "",
    ),
    _bug(
        "call-fp-unloaded",
        "a patched call does not load the vector registers of the next context",
        CALLS,
        "        jne     load_fp\n",
        "",
    ),
    _bug(
        "call-redzone",
        "a patched call writes below the guest's stack pointer",
        CALLS,
        "        mov     %rax, CTX_RSP(%rcx)\n",
        ("        mov     %rax, CTX_RSP(%rcx)\n" "        movq    $0, -16(%rax)\n"),
    ),
    _bug(
        "call-number-is-32-bits",
        "a patched call's result is cut to 32 bits",
        CALLS,
        LOADED,
        f"{LOADED}        mov     %eax, %eax\n",
    ),
    _bug(
        "call-tls",
        "a patched call does not switch the FS base",
        CALLS_C,
        "    if (load_selectors(sysmsg, ctx) || ctx->ptregs.fs_base != fs_base)\n",
        "    if (load_selectors(sysmsg, ctx))\n",
    ),
    _bug(
        "call-tls-unsaved",
        "a patched call does not save the FS base",
        CALLS_C,
        "    ctx->ptregs.fs_base = fs_base;\n",
        "",
    ),
    _bug(
        "call-ip",
        "a patched call is told with the ip of the call, not behind it",
        CALLS,
        "        mov     %rax, CTX_RIP(%rcx)\n",
        ("        sub     $2, %rax\n" "        mov     %rax, CTX_RIP(%rcx)\n"),
    ),
    _bug(
        "queued-interrupt-dropped",
        "an interrupt of a context that waits for its turn is dropped",
        SWITCH,
        "        if (load_acquire(&ctx->interrupt) == 0)\n            break;",
        "        break;",
    ),
    _bug(
        "told-twice",
        "a context that comes back is told twice",
        GIVE,
        "        return ready_ring() != NULL ? push_ready(ready_ring(), id_of_context(ctx)) : 0;",
        "        if (ready_ring() != NULL) push_ready(ready_ring(), id_of_context(ctx));\n"
        "        return ready_ring() != NULL ? push_ready(ready_ring(), id_of_context(ctx)) : 0;",
    ),
    _bug(
        "event-of-another",
        "a context that comes back is told under its neighbour's number",
        GIVE,
        "push_ready(ready_ring(), id_of_context(ctx))",
        "push_ready(ready_ring(), id_of_context(ctx) ^ 1)",
    ),
    _bug(
        "told-too-early",
        "a context is told before its state is written",
        GIVE,
        "    store_seq_cst(&ctx->state, new_state);\n\n    result = notify_sentry(ctx);",
        "    result = notify_sentry(ctx);\n    for (u32 i = 0; i < 100000; i++)\n        cpu_pause();\n"
        "    store_seq_cst(&ctx->state, new_state);\n",
    ),
    _bug(
        "run-twice",
        "a context is queued twice: two threads run it",
        SUBMIT,
        "    store_seq_cst(&queue->ring[index % RING_ENTRIES], (u64)index << 32 | context_id);\n",
        "    store_seq_cst(&queue->ring[index % RING_ENTRIES], (u64)index << 32 | context_id);\n"
        "    index = fetch_add(&queue->end, 1);\n"
        "    store_seq_cst(&queue->ring[index % RING_ENTRIES], (u64)index << 32 | context_id);\n",
    ),
    _bug(
        "no-kick",
        "a parked stub thread is not woken",
        KICK,
        "        futex_wake_one(&queue->num_threads_to_wakeup);\n",
        "",
    ),
    _bug(
        "one-thread",
        "a space never gets a second thread",
        KICK,
        "    return threads < block->max_threads && threads < contexts;",
        "    return threads == 0;",
    ),
    _bug(
        "no-bell",
        "the stub never rings: a sentry that sleeps is not woken",
        GIVE,
        "    if (load_acquire(&ring->waiting) == 0)\n",
        "    if (load_acquire(&ring->waiting) < 2)\n",
    ),
    _bug(
        "panic-instead",
        "the stub gives up at context numbers above 63",
        QUEUE,
        "    if (id > MAX_CONTEXT_ID)",
        "    if (id > 63)",
    ),
    _bug(
        "ring-wraps-short",
        "the ready ring is read as if it had half its entries",
        READY,
        "load_acquire(&space->ring->slots[space->head % RING_ENTRIES])",
        "load_acquire(&space->ring->slots[space->head % (RING_ENTRIES / 2)])",
    ),
)
