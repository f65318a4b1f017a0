"""Seeded bugs that show only when two sides meet at the wrong moment, with delays that make the moment long."""

from typing import Final

from tests.conformance.seeded.image_bugs import HANDLER
from tests.conformance.seeded.mutation import Edit, Mutant
from tests.conformance.seeded.patch_bugs import TRAP
from tests.conformance.seeded.stub_bugs import CALLS, GIVE, QUEUE, READY, SWITCH


def _delay(turns: int) -> str:
    """Return C that spins so many turns of about 40 ns."""
    return f"for (volatile u32 delay = 0; delay < {turns}; delay++) cpu_pause();"


MUTANTS: Final = (
    Mutant(
        "lost-wake-park",
        "a stub thread goes to sleep without a second look at the queue",
        (
            Edit(QUEUE, "    if (active < load_seq_cst(&queue->num_active_contexts)) {", "    if (0) {"),
            Edit(
                QUEUE,
                "    if (active == STILL_ACTIVE)\n        active = ",
                f"    {_delay(60000)}\n    if (active == STILL_ACTIVE)\n        active = ",
            ),
        ),
        chance=True,
    ),
    Mutant(
        "lost-wake-sentry",
        "the sentry goes to sleep without a second look at the rings",
        (
            Edit(READY, "    full_fence();\n    *found = look(block);\n", "    *found = FOUND_NOTHING;\n"),
            Edit(
                READY,
                "    u64 timeout = has_deadline(block) ? (u64)&block->deadline : 0;\n",
                f"    u64 timeout = has_deadline(block) ? (u64)&block->deadline : 0;\n    {_delay(4000)}\n",
            ),
        ),
        chance=True,
    ),
    Mutant(
        "lost-wake-ring",
        "the stub asks whether the sentry sleeps before it writes its entry",
        (
            Edit(
                GIVE,
                "    u32 index = fetch_add(&ring->tail, 1);\n",
                "    u32 waiting = load_acquire(&ring->waiting);\n"
                f"    {_delay(4000)}\n"
                "    u32 index = fetch_add(&ring->tail, 1);\n",
            ),
            Edit(GIVE, "    if (load_acquire(&ring->waiting) == 0)\n", "    if (waiting == 0)\n"),
        ),
        chance=True,
    ),
    Mutant(
        "fp-leak-exit",
        ("a context that is interrupted on its way out of the stub keeps the FP registers of " "the one before"),
        (
            Edit(HANDLER, "    ctx->fpstate_changed = live ? 0 : 1;", "    ctx->fpstate_changed = 0;"),
            Edit(
                CALLS,
                "        mov     %rax, %rcx\n\n",
                (
                    "        mov     %rax, %rcx\n"
                    "        mov     $80000, %edx\n"
                    "1:      pause\n"
                    "        dec     %edx\n"
                    "        jnz     1b\n"
                    "\n"
                ),
            ),
        ),
        chance=True,
    ),
    Mutant(
        "interrupt-race",
        "an interrupt that comes while a context is taken from the queue is lost",
        (
            Edit(
                SWITCH,
                (
                    "        store_release(&sysmsg->state, THREAD_NONE);\n"
                    "        if (load_acquire(&ctx->interrupt) == 0)\n"
                    "            break;"
                ),
                "        if (load_acquire(&ctx->interrupt) == 0) {\n"
                f"            {_delay(20000)}\n"
                "            store_release(&sysmsg->state, THREAD_NONE);\n"
                "            break;\n"
                "        }",
            ),
        ),
        chance=True,
    ),
    Mutant(
        "patch-torn",
        "a site is patched from its first byte on, without a guard",
        (
            Edit(
                TRAP,
                (
                    "    if not code.write_code(site + 5, new[5:6]):\n"
                    "        return False\n"
                    "    if code.write_code(site + 1, new[1:]):\n"
                    "        if code.write_code(site, new[:1]):\n"
                    "            return True\n"
                ),
                (
                    "    code.write_code(site, new[:1])\n"
                    "    __import__('time').sleep(0.05)\n"
                    "    if code.write_code(site + 1, new[1:]):\n"
                    "        return True\n"
                    "    if False:\n"
                ),
            ),
        ),
        chance=True,
    ),
    Mutant(
        "dequeue-race",
        "two threads take one context",
        (
            Edit(
                QUEUE,
                "        if (!compare_and_swap_u64(slot, entry, INVALID_ID))\n            continue;",
                f"        {_delay(2000)}\n        store_release(slot, INVALID_ID);",
            ),
        ),
        chance=True,
    ),
)
