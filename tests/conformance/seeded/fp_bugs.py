"""Seeded bugs of the floating point state."""

from typing import Final

from tests.conformance.seeded.image_bugs import HANDLER
from tests.conformance.seeded.mutation import Edit, Mutant
from tests.conformance.seeded.stub_bugs import CALLS, SWITCH

CONTEXT: Final = "systrap/platforms/systrap/context.py"
STATE: Final = "systrap/cli/driver_state.py"

_COPY: Final = "    copy_bytes(ctx->fpstate, (const void *)uc->fpregs, config_arch_state.fp_len);\n"


def _bug(identity: str, what: str, file: str, ours: str, seeded: str) -> Mutant:
    return Mutant(identity, what, (Edit(file, ours, seeded),))


def _lost(identity: str, what: str, code: str) -> Mutant:
    """Return a mutant that damages the saved state by a line of C."""
    return _bug(identity, what, HANDLER, _COPY, _COPY + f"    {code}\n")


MUTANTS: Final = (
    _lost("fp-mxcsr-reset", "MXCSR is reset at every event", "*(u32 *)(ctx->fpstate + 24) = 0x1f80;"),
    _lost("fp-x87-control", "the x87 control word is reset at every event", "*(u16 *)ctx->fpstate = 0x37f;"),
    _lost("fp-x87-stack", "a register of the x87 stack is lost", "*(u64 *)(ctx->fpstate + 32 + 7 * 16) = 0;"),
    _lost("fp-xmm15", "xmm15 is lost", "*(u64 *)(ctx->fpstate + 400) = 0;"),
    _lost("fp-ymm3-high", "the upper half of ymm3 is lost", "*(u64 *)(ctx->fpstate + 576 + 48) = 0;"),
    _bug(
        "fp-legacy-only",
        "only the first 512 bytes are saved",
        HANDLER,
        "uc->fpregs, config_arch_state.fp_len);",
        "uc->fpregs, 512);",
    ),
    _bug(
        "fp-no-avx",
        "the upper halves of YMM are not restored",
        HANDLER,
        "#define FP_FEATURES 0xe7ull",
        "#define FP_FEATURES 0x3ull",
    ),
    _bug(
        "fp-no-avx512",
        "the AVX-512 state is not restored",
        HANDLER,
        "#define FP_FEATURES 0xe7ull",
        "#define FP_FEATURES 0x7ull",
    ),
    _bug(
        "fp-leak",
        "a thread keeps its FP registers for the next context",
        SWITCH,
        (
            "    if (old != (u64)ctx || load_acquire(&ctx->last_thread_id) != sysmsg->thread_id)\n"
            "        ctx->fpstate_changed = 1;\n"
        ),
        "    (void)old;\n",
    ),
    _bug(
        "fp-leak-other-thread",
        "a context that comes to another thread finds that one's older FP registers",
        SWITCH,
        "    if (old != (u64)ctx || load_acquire(&ctx->last_thread_id) != sysmsg->thread_id)\n",
        "    if (old != (u64)ctx)\n",
    ),
    _bug(
        "fp-never-loaded",
        "FP state that the host sets is not loaded",
        CONTEXT,
        "        if self._restore:\n",
        "        if False:\n",
    ),
    _bug(
        "fp-stale",
        "FP state that the host reads is that of the first event",
        CONTEXT,
        "        if self._pull and self.slot is not None:\n            self.fp[:]",
        "        if self._pull and self.slot is not None and self.events < 2:\n            self.fp[:]",
    ),
    _bug(
        "fp-new-inherits",
        "the FP state of a context that enters its space first is not loaded",
        CONTEXT,
        ("        self.space = space\n" "        self._restore = True\n"),
        ("        self.space = space\n" "        self._restore = False\n"),
    ),
    _bug(
        "fp-mask-call",
        "patched calls save the legacy part only",
        CALLS,
        (
            "        mov     $XSAVE_MASK_LOW, %eax\n"
            "        xor     %edx, %edx\n"
            "        mov     __export_arch_state"
        ),
        "        mov     $3, %eax\n        xor     %edx, %edx\n        mov     __export_arch_state",
    ),
    _bug(
        "fp-set-ignored",
        "set_fp of a context that ran is ignored",
        STATE,
        "    context.full_state_changed()\n",
        "    context.full_state_changed() if not context.statistics()['events'] else None\n",
    ),
)
