"""The suite finds seeded bugs, each by the cases that its row names (issue 4, point 5).

A sample runs always; all of them, and ten rounds of those that depend on timing, when slow tests do. By hand:
``python -m tests.conformance.seeded --repeat 10``.
"""

from pathlib import Path

import pytest

from blobs import build
from conformance.verdict import Status
from systrap import platform
from systrap.platform import RequirementError
from tests.conformance.seeded import hunt
from tests.conformance.seeded.expected import CAUGHT_BY
from tests.conformance.seeded.mutation import ROOT, Edit, Mutant, StaleError, build_image, edited
from tests.conformance.seeded.table import BY_ID, MUTANTS

SAMPLE = (
    "load-r9",
    "call-rbx-lost",
    "fp-leak",
    "interrupt-of-another",
    "fault-code",
    "map-offset",
    "patch-number",
    "wire-id-small",
)
ROUNDS = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where images are built, on a host that runs the platform."""
    try:
        platform.lookup("systrap").new(platform.Options()).close()
    except RequirementError as error:
        pytest.skip(f"the systrap platform does not run on this host: {error}")
    return tmp_path_factory.mktemp("images")


def need_compiler(mutant: Mutant) -> None:
    """Skip where the compiler is missing that a mutant's image needs."""
    if mutant.image_edits:
        try:
            build.check_compiler()
        except build.BuildError as error:
            pytest.skip(str(error))


def test_the_table() -> None:
    """At least forty, each with a case that is there, and of every kind of source: C, assembly, Python, the wire."""
    assert len(MUTANTS) >= 40
    assert len(BY_ID) == len(MUTANTS)
    assert CAUGHT_BY.keys() == BY_ID.keys()
    for mutant in MUTANTS:
        assert mutant.caught_by, mutant.id
        assert {*mutant.caught_by, *mutant.control} <= hunt.ITEMS.keys(), mutant.id
        assert not set(mutant.caught_by) & set(mutant.control), mutant.id
    kinds = {edit.file.rpartition(".")[2] for mutant in MUTANTS for edit in mutant.edits}
    assert kinds == {"py", "c", "S"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_edits_find_their_text(mutant: Mutant) -> None:
    """A source that changed takes its mutants along, or this says which are stale."""
    for file in {edit.file for edit in mutant.edits}:
        text = (ROOT / file).read_text(encoding="utf-8")
        changed = edited(text, [edit for edit in mutant.edits if edit.file == file])
        assert changed != text
        if file.endswith(".py"):
            compile(changed, file, "exec")


@pytest.mark.parametrize("identity", SAMPLE)
def test_a_sample_is_found(images: Path, identity: str) -> None:
    mutant = BY_ID[identity]
    need_compiler(mutant)
    result = hunt.hunt(mutant, images)
    assert result.found, result.missed


def test_what_counts_as_missed(images: Path) -> None:
    """A mutant that changes nothing, and one that breaks its control, too."""
    harmless = hunt.hunt(Mutant("none", "", (), ("SYS-ARGS-001",)), images)
    assert harmless.missed == ("SYS-ARGS-001 is pass",)
    mutant = BY_ID["map-offset"]
    broad = hunt.hunt(mutant._replace(control=mutant.caught_by), images)
    assert any(line.startswith("the control MEM-OFFSET-001 is fail") for line in broad.missed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_seeded_bug_is_found(images: Path) -> None:
    """All of them; and without a bug every named case passes."""
    mutants = [mutant for mutant in MUTANTS if not mutant.chance]
    need_compiler(mutants[0])
    bad = hunt.healthy(mutants, images, hunt.default_jobs())
    assert not bad, [(verdict.case.id, verdict.reason) for verdict in bad]
    missed = [
        (found.mutant.id, found.missed)
        for found in hunt.hunt_all(mutants, images, hunt.default_jobs())
        if not found.found
    ]
    assert not missed


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.chance], ids=lambda mutant: mutant.id)
def test_bugs_of_timing_are_found_every_time(images: Path, mutant: Mutant) -> None:
    """Lost wake-ups, FP state that leaks, torn patches: ten runs out of ten, with the delays that the mutants insert."""
    need_compiler(mutant)
    results = [hunt.hunt(mutant, images, seed) for seed in range(ROUNDS)]
    assert [result.missed for result in results if not result.found] == []


def test_a_stale_edit_is_told(tmp_path: Path) -> None:
    with pytest.raises(StaleError, match="0 times, not once"):
        edited("some text", [Edit("a.py", "other text", "")])
    with pytest.raises(StaleError, match="2 times, not once"):
        edited("a a", [Edit("a.py", "a", "")])
    mutant = Mutant("x", "", (Edit("blobs/src/nowhere.c", "a", "b"),), ())
    with pytest.raises(StaleError, match="a source of no image"):
        build_image(mutant, tmp_path)
    assert Status.PASS not in hunt.FOUND
