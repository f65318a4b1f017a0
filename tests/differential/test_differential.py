"""Generated guest code on every variant of systrap, and on ptrace: events, registers, FP state and memory agree.

P-040…P-050, P-054, P-060…P-064, S-… of calls and faults: whatever a snippet does, the platforms answer alike. What is masked, and
why, stands in :data:`tests.differential.trace.MASKS`. SYSTRAP_SEED chooses the seed; each failure says how to run it again.
"""

import os
import secrets
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.differential import generate
from tests.differential.campaign import Comparison, campaign, report, start
from tests.differential.snippet import listing
from tests.differential.variants import ALL, SIGRETURN, STORMS, SYSTRAP, Variant
from tests.differential.worker import UnusableError

SEED = int(os.environ.get("SYSTRAP_SEED") or secrets.randbelow(1 << 32))


def compare(variants: tuple[Variant, ...]) -> Comparison:
    """Return the oracle and variants, or skip: where ptrace does not run there is nothing to compare with."""
    try:
        comparison = start(variants)
    except UnusableError as error:
        pytest.skip(str(error))
    if not comparison.workers:
        comparison.close()
        pytest.skip("; ".join(comparison.unusable))
    return comparison


@pytest.fixture(scope="module")
def comparison() -> Iterator[Comparison]:
    """Return all variants without storms."""
    made = compare(SYSTRAP)
    yield made
    made.close()


def check(comparison: Comparison, count: int) -> None:
    """Compare some snippets of the seed; all must agree."""
    print(f"seed {SEED}")
    reports = campaign(comparison, SEED, 0, count)
    assert not reports, "\n\n".join(reports)


def test_variants_agree(comparison: Comparison) -> None:
    """# P-041, P-046, P-054, P-064: some hundreds in a test of seconds."""
    check(comparison, 150)
    for worker in comparison.workers:
        seen = worker.statistics
        assert seen["SYSCALL"] > 500
        assert {"signal 4", "signal 5", "signal 7", "signal 8", "signal 11"} <= seen.keys()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_anything_that_can_be_drawn_agrees(comparison: Comparison, random: Random) -> None:
    """# P-041: hypothesis looks for it, and shrinks it."""
    snippet = generate.generate(random, generate.cpu_features())
    mismatches = comparison.compare([snippet])
    assert not mismatches, report(mismatches[0], snippet, "hypothesis", listing(snippet))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_agree() -> None:
    """# P-041, P-054: 1,500 snippets on each of eight variants; ``python -m tests.differential --count 10000`` does more."""
    made = compare(SYSTRAP)
    try:
        check(made, 1500)
        assert sum(worker.statistics["snippets"] for worker in made.workers) >= 10_000
    finally:
        made.close()


def test_interrupts_change_nothing() -> None:
    """# P-061, P-074, P-077: the same traces while another thread interrupts at random."""
    made = compare(STORMS)
    try:
        check(made, 1200)
        assert all(worker.statistics["spurious interrupts"] > 100 for worker in made.workers)
    finally:
        made.close()


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=(pytest.mark.slow, pytest.mark.timeout(600)))])
def test_the_other_regime_agrees(count: int) -> None:
    """# P-041, P-061, P-074: guests that are resumed by rt_sigreturn only, with and without interrupts."""
    made = compare(SIGRETURN)
    try:
        check(made, count)
    finally:
        made.close()


def test_sites_are_patched() -> None:
    """# P-054: the variants that patch do so, and those that are told not to do not; else nothing would be compared."""
    made = compare(tuple(variant for variant in SYSTRAP if variant.fast))
    try:
        check(made, 100)
        for worker in made.workers:
            assert (worker.statistics["patched sites"] > 0) == worker.variant.patching
    finally:
        made.close()


def test_ptrace_agrees_with_itself() -> None:
    """The oracle is deterministic, also under interrupts: what differs is then the other platform's."""
    made = compare((ALL["ptrace-storm"],))
    try:
        check(made, 100)
        assert made.workers[0].statistics["spurious interrupts"] > 10
    finally:
        made.close()
