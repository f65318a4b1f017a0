"""Images with one upstream defect put back: built from a copy of blobs/src in which a few words are replaced.

Each edit must find its text exactly once. When a source changes so that it does not, the mutant has to be written anew: it
says so, instead of passing for caught. Where the compiler (the package ziglang, blobs/build.py) is missing, tests that need
a mutant are skipped; those of our own image are not.
"""

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from blobs import build
from systrap.platforms.systrap import blob
from tests.blobs.stub import Stub, new_world, running_stub


class Edit(NamedTuple):
    """A replacement in one source file, named as below blobs/src."""

    file: str
    ours: str
    original: str


class Mutant(NamedTuple):
    """An image, and the edits that give it a defect."""

    image: str
    edits: tuple[Edit, ...]


_WAKE: Final = "futex_wake_one(&ctx->state);\n}"
_DENIED_WAKE: Final = "syscall6(NR_futex, (u64)&ctx->state, FUTEX_WAKE, 1, 0, 0, 666);\n}"
_DENIED: Final = Edit("panic.c", _WAKE, _DENIED_WAKE)

MUTANTS: Final = {
    "BUG-FP": Mutant(
        "sysmsg", (Edit("x86_64/sighandler.c", "fpstate_changed = live ? 0 : 1;", "fpstate_changed = 0;"),)
    ),
    "FP-BOUNCE": Mutant(
        "sysmsg",
        (Edit("x86_64/switch.c", "ctx->fpstate_changed = 1;\n        ctx->signo", ";\n        ctx->signo"),),
    ),
    "STORE-LOAD": Mutant(
        "sysmsg",
        (
            Edit("give_back.c", "store_seq_cst(&ctx->state", "store_release(&ctx->state"),
            Edit("panic.c", "store_seq_cst(&ctx->state", "store_release(&ctx->state"),
        ),
    ),
    # What the register holds is left to chance upstream; here it is what the test puts into an unused word.
    "PROBE-REGISTER": Mutant("sysmsg", (Edit("x86_64/sighandler.c", "u64 value = 0;", "u64 value = sysmsg->debug;"),)),
    "PANIC-WAKE": Mutant("sysmsg", (_DENIED,)),
    "PANIC-WAKE in syshandler": Mutant(
        "sysmsg", (_DENIED, Edit("x86_64/sighandler.c", "if (sysmsg->err != 0)", "if (0)"))
    ),
    "PANIC-POINTER": Mutant("sysmsg", (Edit("panic.c", "!is_context(ctx) ||", "(void)is_context, "),)),
    "DF-AC: DF in syshandler": Mutant("sysmsg", (Edit("x86_64/syshandler.S", "        cld\n", ""),)),
    "DF-AC: AC in syshandler": Mutant("sysmsg", (Edit("x86_64/syshandler.S", "        jc      clear_ac\n", ""),)),
    "DF-AC: AC in the handler": Mutant("sysmsg", (Edit("x86_64/sighandler.c", "(EFLAGS_AC | EFLAGS_NT))\n", "0)\n"),)),
    "ARM-RECORD-WALK": Mutant(
        "sysmsg",
        (
            Edit(
                "aarch64/frame.h",
                "if (size < sizeof(struct record) || size % RECORD_ALIGNMENT != 0 || size > FRAME_RECORDS_SIZE - offset)",
                "if (0)",
            ),
        ),
    ),
    "XFEATURES": Mutant("sysmsg", (Edit("x86_64/sighandler.c", "FP_FEATURES 0xe7ull", "FP_FEATURES 0xfffffffffff9fdffull"),)),
}  # fmt: skip
"""By the id of the defect in docs/upstream-defects.md, and what of it where there are several."""

REGIME: Final = {
    "no mark at entry": Mutant(
        "sysmsg", (Edit("x86_64/signal.S", "        movl    $SYSMSG_THREAD_PREP, SYSMSG_STATE(%rax)\n", ""),)
    ),
    "the entry is taken for a way out": Mutant(
        "sysmsg",
        (Edit("x86_64/sighandler.c", "uc->gregs.rip >= (u64)sighandler_begin && uc", "sysmsg == NULL && uc"),),
    ),
    "NONE is not put back": Mutant(
        "sysmsg",
        (
            Edit(
                "x86_64/sighandler.c",
                "finds the state as it was. */\n        store_release(&sysmsg->state, THREAD_NONE);",
                "finds PREP. */",
            ),
        ),
    ),
    "no second look": Mutant(
        "sysmsg",
        (Edit("x86_64/sighandler.c", "config_user_resume == 0 || load_acquire(&ctx->interrupt) == 0", "true"),),
    ),
    "not in memory before NONE": Mutant(
        "sysmsg",
        (
            Edit(
                "x86_64/sighandler.c",
                "    save_registers(&ctx->ptregs, &uc->gregs);\n    ctx->ptregs.orig_rax = (u64)-1;\n    store",
                "    (void)uc;\n    store",
            ),
        ),
    ),
    "SIGCHLD nests in its handler": Mutant(
        "sentry", (Edit("clone_source.c", "handled[i] == SIGCHLD ? &interrupt", "SIGCHLD == 0 ? &interrupt"),)
    ),
}
"""The regime user_resume with one of its means taken out (signal.S): ours, not upstream's."""


@functools.cache
def mutant(name: str) -> blob.Image:
    """Build a mutant, once in a run. Skips the test where there is no compiler."""
    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(f"no mutant images: {error}")
    image, edits = (MUTANTS | REGIME)[name]
    sources = next(sources for sources in build.IMAGES if sources.name == image)
    arch = build.ARCHES[0]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        copy = Path(folder) / "src"
        shutil.copytree(build.SOURCES, copy)
        for edit in edits:
            put_back(copy / edit.file, edit)
        patch.setattr(build, "SOURCES", copy)
        flat, _ = build.build_image(arch, sources, Path(folder))
    assert flat.data != blob.load(image).data, f"mutant {name} is the very image we have"
    return blob.Image(image, flat.data, flat.exports, arch.parameters)


def put_back(source: Path, edit: Edit) -> None:
    """Replace our text by the original's."""
    text = source.read_text()
    found = text.count(edit.ours)
    assert found == 1, f"{edit.file} has {edit.ours!r} {found} times, not once: it changed, so must the mutant"
    source.write_text(text.replace(edit.ours, edit.original))


@contextlib.contextmanager
def loaded(name: str | None) -> Iterator[None]:
    """Let blob.load() find a mutant in the place of our image; None: our own."""
    if name is None:
        yield
        return
    image, load = mutant(name), blob.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blob, "load", lambda wanted: image if wanted == image.name else load(wanted))
        yield


@contextlib.contextmanager
def stub_of(name: str | None, user_resume: bool = False) -> Iterator[Stub]:
    """Run a stub with one sysmsg thread on a mutant, or on our own image (None)."""
    with loaded(name), new_world(user_resume=user_resume) as world, running_stub(world) as stub:
        stub.start_thread(1)
        yield stub
